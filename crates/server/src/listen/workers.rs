//! The threads that connections live on.

use std::num::NonZero;
use std::sync::Arc;
use std::{io, thread};

use tokio::runtime::{Builder, Runtime};

use super::CONNECTION_THREADS;

/// One for so many cores, which have other work, too.
const CORES_A_WORKER: usize = 4;
/// One writes more than 100,000 chunks a second: with more of them each would have little to do, and be woken
/// for every step of an engine all the same.
const MAX_WORKERS: usize = 4;

/// Each a thread with a runtime of its own. A connection stays with its thread: where any thread takes
/// whatever is due, a stream's state, and what the kernel knows of its socket, are in another core's caches
/// most of the time, and a chunk takes half as long again.
#[derive(Debug)]
pub(super) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    /// Of the flavour for many threads, with one: the other is woken by a call to the system for each event
    /// of a step, on the engine's time, and this one for the first.
    runtime: Runtime,
    /// Shared with each of its connections.
    place: Place,
}

/// A connection's place on a worker, until it is dropped.
pub(super) type Place = Arc<()>;

impl Workers {
    pub(super) fn start() -> io::Result<Self> {
        let num_cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::start_some(num_cores.div_ceil(CORES_A_WORKER).min(MAX_WORKERS))
    }

    fn start_some(num_workers: usize) -> io::Result<Self> {
        let start = |_| {
            let mut builder = Builder::new_multi_thread();
            let builder = builder.worker_threads(1).thread_name(CONNECTION_THREADS);
            let runtime = builder.enable_all().build()?;
            Ok(Worker { runtime, place: Place::default() })
        };
        (0..num_workers).map(start).collect::<io::Result<_>>().map(Self)
    }

    /// The worker that has fewest connections, and a place for one more there.
    pub(super) fn place(&self) -> (&Runtime, Place) {
        let least = self.0.iter().min_by_key(|worker| Arc::strong_count(&worker.place));
        let worker = least.expect("there are workers");
        (&worker.runtime, Arc::clone(&worker.place))
    }
}

impl Drop for Workers {
    /// Whoever serves is a task, and may not wait for threads.
    fn drop(&mut self) {
        for worker in self.0.drain(..) {
            worker.runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_where_fewest_are_and_gives_its_place_back() {
        let workers = Workers::start_some(3).expect("threads");
        let loads = || -> Vec<_> {
            workers.0.iter().map(|worker| Arc::strong_count(&worker.place) - 1).collect()
        };
        let mut places: Vec<_> = (0..6).map(|_| workers.place().1).collect();
        assert_eq!(loads(), [2, 2, 2]);
        // Two of the second worker's.
        places.remove(4);
        places.remove(1);
        assert_eq!(loads(), [2, 0, 2]);
        places.extend([workers.place().1, workers.place().1]);
        assert_eq!(loads(), [2, 2, 2]);
    }
}
