//! Threads that compute the tasks of one call at a time, together with the thread that calls.
//!
//! An op of a small model takes less time than it takes to wake a thread. So a worker that has nothing to
//! do first spins, as the next op of the step comes soon, and sleeps when none came. A caller waits only
//! for workers that have begun a task: one that wakes up late finds the call closed.

use parking_lot::Mutex;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::{fmt, io, ptr};

thread_local! {
    /// Whose task this thread is computing.
    static COMPUTES_FOR: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// The workers, as many as were asked for less the caller.
///
/// As many tasks as there are threads run at the same time, so that they may wait for each other. A task may
/// use another pool.
pub struct ForkJoin {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the call that has the workers. Fair, so that of several engines none starves.
    turn: Mutex<()>,
}

/// What callers and workers look at.
#[repr(align(128))]
struct Shared {
    /// In the upper half the number of the call, then whether it is [open](OPEN) and whether the workers
    /// are to [stop](STOP), below that how many of them have [joined](JOINED) it and not left.
    state: AtomicU64,
    /// The open call. Written while none is open and no worker has joined.
    call: UnsafeCell<*const Call<'static>>,
}

const JOINED: u64 = 1;
const ALL_JOINED: u64 = STOP - 1;
const STOP: u64 = 1 << 30;
const OPEN: u64 = 1 << 31;
const NUMBER: u64 = 1 << 32;

// SAFETY: the call is written by the one thread whose turn it is, and read by workers that have joined
// it, before which they see it as it was when it was opened; see `ForkJoin::run` for how long it lives.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

/// Tasks to be computed. It lies on the caller's stack.
struct Call<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    num_tasks: usize,
    next: AtomicUsize,
    caller: Thread,
    /// Of the first task that panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Call<'_> {
    /// Computes tasks of a pool's call until none is left.
    fn compute(&self, pool: &Shared) {
        let before = COMPUTES_FOR.replace(pool);
        let computed = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= self.num_tasks {
                    break;
                }
                (self.task)(index);
            }
        }));
        COMPUTES_FOR.set(before);
        if let Err(panic) = computed {
            self.next.store(self.num_tasks, Ordering::Relaxed);
            self.panic.lock().get_or_insert(panic);
        }
    }
}

impl ForkJoin {
    /// Starts all threads but one, which `name` names.
    ///
    /// # Errors
    /// A system that gives no threads.
    pub fn new(name: &str, num_threads: usize) -> io::Result<Self> {
        let shared = Shared { state: AtomicU64::new(0), call: UnsafeCell::new(ptr::null()) };
        let mut pool = Self { shared: Arc::new(shared), workers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..num_threads {
            let shared = pool.shared.clone();
            let thread = thread::Builder::new().name(format!("{name}-{index}"));
            pool.workers.push(thread.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// Threads that compute a call, the caller's among them.
    pub fn num_threads(&self) -> usize {
        1 + self.workers.len()
    }

    /// Calls `task` with 0..num_tasks, in any order, and returns when all are done. A task that calls this
    /// computes alone, as all threads have their work already.
    ///
    /// # Panics
    /// If a task does; tasks that nobody has begun are then left out.
    pub fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let is_nested = ptr::eq(COMPUTES_FOR.get(), &raw const *self.shared);
        if self.workers.is_empty() || num_tasks < 2 || is_nested {
            return (0..num_tasks).for_each(task);
        }
        let call = Call {
            task,
            num_tasks,
            next: AtomicUsize::new(0),
            caller: thread::current(),
            panic: Mutex::new(None),
        };
        let turn = self.turn.lock();
        self.shared.open(&call);
        for worker in &self.workers[..self.workers.len().min(num_tasks - 1)] {
            worker.thread().unpark();
        }
        call.compute(&self.shared);
        self.shared.close();
        drop(turn);
        if let Some(panic) = call.panic.into_inner() {
            resume_unwind(panic);
        }
    }
}

impl fmt::Debug for ForkJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForkJoin of {} threads", self.num_threads())
    }
}

impl Drop for ForkJoin {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            worker.join().expect("a worker catches what its tasks panic with");
        }
    }
}

impl Shared {
    /// Shows `call` to the workers, who may use it until [`close`](Self::close) returns.
    fn open(&self, call: &Call<'_>) {
        let call: *const Call<'_> = call;
        // SAFETY: it is this thread's turn, and the call before was closed. The call outlives its use.
        unsafe { *self.call.get() = call.cast() };
        let number = self.state.load(Ordering::Relaxed) & !(NUMBER - 1);
        self.state.store(number.wrapping_add(NUMBER) | OPEN, Ordering::Release);
    }

    /// Lets no more workers join, and waits until those that have are done.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::Acquire);
        let mut wait = Wait::default();
        while state & ALL_JOINED > 0 {
            wait.again();
            state = self.state.load(Ordering::Acquire);
        }
    }

    fn work(&self) {
        let mut wait = Wait::default();
        let mut last = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state & STOP > 0 {
                break;
            }
            if state & OPEN == 0 || state / NUMBER == last {
                wait.again();
                continue;
            }
            let joined = state + JOINED;
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            if self.state.compare_exchange_weak(state, joined, success, failure).is_err() {
                continue;
            }
            last = state / NUMBER;
            // SAFETY: the call was open when this thread joined, so that its caller waits for it to leave.
            let call = unsafe { &**self.call.get() };
            call.compute(self);
            let caller = call.caller.clone();
            let before = self.state.fetch_sub(JOINED, Ordering::Release);
            // The call may be gone from here on.
            if before & (OPEN | ALL_JOINED) == JOINED {
                caller.unpark();
            }
            wait = Wait::default();
        }
    }
}

/// Waits for others: spinning for some microseconds, then letting threads run that wait for this core, as
/// those do that send tokens, then asleep until it is unparked.
#[derive(Default)]
struct Wait {
    rounds: u32,
}

impl Wait {
    const SPINNING: u32 = 40;
    /// About a hundred microseconds where no other thread wants the core. What a small model does between two
    /// steps, when nothing is to be computed, takes less.
    const YIELDING: u32 = 440;

    fn again(&mut self) {
        if self.rounds < Self::SPINNING {
            (0..8).for_each(|_| spin_loop());
        } else if self.rounds < Self::YIELDING {
            thread::yield_now();
        } else {
            thread::park();
        }
        self.rounds = (self.rounds + 1).min(Self::YIELDING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    /// How often each task was computed.
    fn counts(pool: &ForkJoin, num_tasks: usize) -> Vec<u32> {
        let counts: Vec<_> = (0..num_tasks).map(|_| AtomicU32::new(0)).collect();
        pool.run(num_tasks, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicU32::into_inner).collect()
    }

    #[test]
    fn each_task_is_computed_once() {
        for num_threads in [1, 2, 5] {
            let pool = ForkJoin::new("test", num_threads).unwrap();
            assert_eq!(pool.num_threads(), num_threads);
            for num_tasks in (0..200).chain([10_000]) {
                assert_eq!(counts(&pool, num_tasks), vec![1; num_tasks]);
            }
        }
    }

    /// Also by workers that have fallen asleep in between.
    #[test]
    fn tasks_are_computed_by_all_threads() {
        let pool = ForkJoin::new("test", 3).unwrap();
        for pause in [0, 0, 30] {
            thread::sleep(Duration::from_millis(pause));
            let arrived = AtomicUsize::new(0);
            pool.run(3, &|_| {
                arrived.fetch_add(1, Ordering::SeqCst);
                // Each thread has one task, or this would never end.
                while arrived.load(Ordering::SeqCst) < 3 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn callers_take_turns() {
        let pool = ForkJoin::new("test", 3).unwrap();
        thread::scope(|scope| {
            for num_tasks in [2, 7, 64] {
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        assert_eq!(counts(pool, num_tasks), vec![1; num_tasks]);
                    }
                });
            }
        });
    }

    #[test]
    fn a_task_may_have_tasks() {
        let pool = ForkJoin::new("test", 3).unwrap();
        let num_computed = AtomicUsize::new(0);
        pool.run(8, &|_| {
            pool.run(8, &|_| {
                num_computed.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(num_computed.into_inner(), 64);
    }

    /// Tasks that wait for each other have tasks for another pool each.
    #[test]
    fn a_task_may_have_tasks_for_another_pool() {
        let (ranks, pool) = (ForkJoin::new("ranks", 3).unwrap(), ForkJoin::new("test", 2).unwrap());
        for _ in 0..200 {
            let arrived = AtomicUsize::new(0);
            let num_computed = AtomicUsize::new(0);
            ranks.run(3, &|_| {
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < 3 {
                    thread::yield_now();
                }
                pool.run(16, &|_| {
                    num_computed.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(num_computed.into_inner(), 48);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ForkJoin::new("test", 3).unwrap();
        for panicking in [0, 50, 99] {
            let run = || pool.run(100, &|i| assert_ne!(i, panicking, "task {i}"));
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert!(panic.downcast_ref::<String>().unwrap().contains(&format!("task {panicking}")));
            assert_eq!(counts(&pool, 100), vec![1; 100]);
        }
    }

    #[test]
    fn who_waits_long_sleeps() {
        let waiter = thread::spawn(|| {
            let mut wait = Wait::default();
            (0..=Wait::YIELDING).for_each(|_| wait.again());
        });
        thread::sleep(Duration::from_millis(50));
        assert!(!waiter.is_finished());
        waiter.thread().unpark();
        waiter.join().unwrap();
    }
}
