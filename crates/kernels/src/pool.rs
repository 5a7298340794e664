//! The one bounded thread pool that every op computes on.

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::OnceLock;
use std::{fmt, thread};

static POOL: OnceLock<ThreadPool> = OnceLock::new();

/// The pool could not be made as asked.
#[derive(Debug)]
pub enum PoolError {
    /// It exists already with this many threads, asked for or by first use.
    AlreadyStarted(usize),
    /// The system gave no threads.
    Threads(rayon::ThreadPoolBuildError),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted(num) => write!(f, "the pool has {num} threads already"),
            Self::Threads(error) => write!(f, "cannot start the pool's threads: {error}"),
        }
    }
}

impl std::error::Error for PoolError {}

/// Starts the pool with `num_threads` threads. Without this call the first op starts it with one
/// thread a core.
///
/// # Errors
/// [`PoolError::AlreadyStarted`] if it runs with another number, [`PoolError::Threads`].
pub fn init(num_threads: usize) -> Result<(), PoolError> {
    let pool = build(num_threads).map_err(PoolError::Threads)?;
    let num_running = POOL.get_or_init(|| pool).current_num_threads();
    if num_running == num_threads { Ok(()) } else { Err(PoolError::AlreadyStarted(num_running)) }
}

/// Threads that ops compute on.
pub fn num_threads() -> usize {
    pool().current_num_threads()
}

fn pool() -> &'static ThreadPool {
    POOL.get_or_init(|| {
        let num_threads = thread::available_parallelism().map_or(1, usize::from);
        build(num_threads).expect("the system gives the threads of the pool")
    })
}

fn build(num_threads: usize) -> Result<ThreadPool, rayon::ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .thread_name(|index| format!("kernels-{index}"))
        .build()
}

/// Below this many elementary operations handing work to another thread (10 to 20 µs) costs more
/// than it saves.
const MIN_PARALLEL_WORK: usize = 1 << 17;

/// Calls `f` with 0..num_tasks, in parallel if `work` (elementary operations of all tasks
/// together, roughly) makes it worth while.
pub fn for_each_task(num_tasks: usize, work: usize, f: impl Fn(usize) + Send + Sync) {
    if num_tasks < 2 || work < MIN_PARALLEL_WORK || num_threads() < 2 {
        (0..num_tasks).for_each(f);
    } else {
        pool().install(|| (0..num_tasks).into_par_iter().with_max_len(1).for_each(f));
    }
}

/// Calls `f` with the index and the elements of each of `parts`, in parallel as [`for_each_task`] says.
pub fn for_each_part<T: Send>(
    parts: Vec<&mut [T]>,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    if parts.len() < 2 || work < MIN_PARALLEL_WORK || num_threads() < 2 {
        parts.into_iter().enumerate().for_each(|(index, part)| f(index, part));
    } else {
        pool().install(|| {
            let parts = parts.into_par_iter().with_max_len(1).enumerate();
            parts.for_each(|(index, part)| f(index, part));
        });
    }
}

/// Calls `f` with the index and the elements of each row of `width`, in parallel as
/// [`for_each_task`] says. Rows are handed out in runs.
pub fn for_each_row<T: Send>(
    out: &mut [T],
    width: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    let rows = out.len().checked_div(width).unwrap_or(0);
    if rows < 2 || work < MIN_PARALLEL_WORK || num_threads() < 2 {
        out.chunks_mut(width.max(1)).enumerate().for_each(|(row, chunk)| f(row, chunk));
    } else {
        let run = rows.div_ceil(4 * num_threads());
        pool().install(|| {
            out.par_chunks_mut(width).with_min_len(run).enumerate().for_each(|(row, c)| f(row, c));
        });
    }
}
