//! Who may use the server, how much of it, and what is written down about it.
//!
//! `keys.rs` finds a request's key, `limits.rs` counts what it uses, `guard.rs` is the layer around
//! the routes, `call.rs` what handlers see of it, `log.rs` the access log, `usage.rs` the metrics.

mod call;
mod guard;
mod keys;
mod limits;
mod log;
mod usage;
mod window;

use std::io;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::time::timeout;

pub(crate) use self::call::{Account, Call};
pub(crate) use self::guard::{LIMIT_HEADERS, guard};
use self::keys::KeySet;
pub use self::keys::{KeySpec, Scope, new_key};
use self::log::AccessLog;
pub use self::log::AccessLogConfig;
pub(crate) use self::usage::Tokens;
use crate::metrics::Page;
use crate::state::App;

/// How long the end of the process waits for the access log.
const FLUSH_TIME: Duration = Duration::from_secs(3);

/// Keys and the access log.
#[derive(Debug)]
pub(crate) struct Access {
    /// Given as they are, for the whole run.
    plain: Vec<String>,
    keys: RwLock<Arc<KeySet>>,
    log: OnceLock<AccessLog>,
    /// What the limits' times count from.
    origin: Instant,
}

impl Access {
    pub(crate) fn new(plain: &[String]) -> Self {
        Self {
            plain: plain.to_vec(),
            keys: RwLock::new(Arc::new(KeySet::plain(plain))),
            log: OnceLock::new(),
            origin: Instant::now(),
        }
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn log(&self) -> Option<&AccessLog> {
        self.log.get()
    }

    fn origin(&self) -> Instant {
        self.origin
    }

    /// Adds keys and log to the page that Prometheus scrapes.
    pub(crate) fn render(&self, page: &mut Page) {
        usage::render(&self.keys(), page);
        if let Some(log) = self.log() {
            let help = "Requests that the access log lost.";
            page.family(("counter", "sconce:access_log_dropped_total", help), |samples| {
                samples.plain(log.dropped() as f64);
            });
        }
    }
}

impl App {
    /// Takes these keys beside those of the configuration, instead of the ones before; requests that
    /// run go on. Returns how many there are. An error changes nothing and says which key is at fault.
    pub fn set_keys(&self, specs: &[KeySpec]) -> Result<usize, String> {
        let access = self.access();
        let mut keys = access.keys.write().unwrap_or_else(PoisonError::into_inner);
        *keys = Arc::new(KeySet::plain(&access.plain).with(specs, &keys)?);
        Ok(keys.keys.len())
    }

    /// Begins the access log; once.
    pub fn start_access_log(&self, config: &AccessLogConfig) -> io::Result<()> {
        let log = AccessLog::start(config)?;
        assert!(self.access().log.set(log).is_ok(), "there is one access log");
        Ok(())
    }

    /// Opens the access log's file anew, which may have been moved away.
    pub fn reopen_access_log(&self) {
        if let Some(log) = self.access().log() {
            log.reopen();
        }
    }

    /// Resolves when the access log has written what has ended so far, or cannot for some seconds.
    pub async fn flush_access_log(&self) {
        if let Some(log) = self.access().log()
            && timeout(FLUSH_TIME, log.flush()).await.is_err()
        {
            tracing::error!("the access log is not written in time");
        }
    }
}
