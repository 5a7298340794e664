//! The one bounded thread pool that every op computes on.

use crate::disjoint::DisjointMut;
use crate::fork_join::ForkJoin;
use std::sync::OnceLock;
use std::{fmt, io, thread};

static POOL: OnceLock<ForkJoin> = OnceLock::new();

/// The pool could not be made as asked.
#[derive(Debug)]
pub enum PoolError {
    /// It exists already with this many threads, asked for or by first use.
    AlreadyStarted(usize),
    /// The system gave no threads.
    Threads(io::Error),
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

/// Starts the pool with `num_threads` threads, of which the one that calls an op is one. Without this call
/// the first op starts it with one thread a core.
///
/// # Errors
/// [`PoolError::AlreadyStarted`] if it runs with another number, [`PoolError::Threads`].
pub fn init(num_threads: usize) -> Result<(), PoolError> {
    let pool = ForkJoin::new("kernels", num_threads).map_err(PoolError::Threads)?;
    let num_running = POOL.get_or_init(|| pool).num_threads();
    if num_running == num_threads { Ok(()) } else { Err(PoolError::AlreadyStarted(num_running)) }
}

/// Threads that ops compute on.
pub fn num_threads() -> usize {
    pool().num_threads()
}

fn pool() -> &'static ForkJoin {
    POOL.get_or_init(|| {
        let num_threads = thread::available_parallelism().map_or(1, usize::from);
        ForkJoin::new("kernels", num_threads).expect("the system gives the threads of the pool")
    })
}

/// Below this many elementary operations sharing work with other threads (some microseconds, if they are
/// awake) costs more than it saves.
const MIN_PARALLEL_WORK: usize = 1 << 14;

/// Calls `f` with 0..num_tasks, in parallel if `work` (elementary operations of all tasks
/// together, roughly) makes it worth while.
pub fn for_each_task(num_tasks: usize, work: usize, f: impl Fn(usize) + Sync) {
    if work < MIN_PARALLEL_WORK {
        (0..num_tasks).for_each(f);
    } else {
        pool().run(num_tasks, &f);
    }
}

/// Calls `f` with the index and the elements of each of `parts`, in parallel as [`for_each_task`] says.
pub fn for_each_part<T: Send>(
    mut parts: Vec<&mut [T]>,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let num_parts = parts.len();
    let parts = DisjointMut::new(&mut parts);
    for_each_task(num_parts, work, |i| {
        // SAFETY: each task has its own part.
        let part = unsafe { parts.slice(i..i + 1) };
        f(i, part[0]);
    });
}

/// Calls `f` with the index and the elements of each row of `width`, in parallel as
/// [`for_each_task`] says. Rows are handed out in runs. A last row may be shorter.
pub fn for_each_row<T: Send>(
    out: &mut [T],
    width: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let (len, width) = (out.len(), width.max(1));
    if work < MIN_PARALLEL_WORK {
        return out.chunks_mut(width).enumerate().for_each(|(row, out)| f(row, out));
    }
    let run = len.div_ceil(width).div_ceil(4 * num_threads()).max(1);
    let out = DisjointMut::new(out);
    for_each_task(len.div_ceil(run * width), work, |i| {
        let start = i * run * width;
        // SAFETY: each task has its own run of rows.
        let rows = unsafe { out.slice(start..len.min(start + run * width)) };
        rows.chunks_mut(width).enumerate().for_each(|(row, out)| f(i * run + row, out));
    });
}
