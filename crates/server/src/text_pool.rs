//! Parsing, templating and tokenising, away from the threads that serve connections.

use std::num::NonZero;
use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::access::Call;
use crate::error::ApiError;

/// At most so many text jobs at once; the others wait in order of arrival.
#[derive(Debug)]
pub(crate) struct TextPool {
    permits: Arc<Semaphore>,
    /// Whose blocking threads do the work; without one the caller's.
    runtime: OnceLock<Handle>,
}

impl TextPool {
    /// As many jobs at once as there are cores.
    pub(crate) fn new() -> Self {
        let num_cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { permits: Arc::new(Semaphore::new(num_cores)), runtime: OnceLock::new() }
    }

    /// Has the work of all connections done by the threads of this runtime, the first that is named: each
    /// worker's own would be as many again, and keep memory.
    pub(crate) fn run_on(&self, runtime: Handle) {
        self.runtime.get_or_init(|| runtime);
    }

    /// Runs `job` on a blocking thread. A caller that goes away while waiting costs nothing.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let call = Call::current();
        let runtime = self.runtime.get().cloned().unwrap_or_else(Handle::current);
        let job = runtime.spawn_blocking(move || {
            let _permit = permit;
            call.run_here(job)
        });
        match job.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(ApiError::unavailable("draining", "The server is shutting down.")),
        }
    }
}
