//! What this thread got of the machine: time on a core, and time waiting for one.

use std::time::{Duration, Instant};

/// Reads the scheduler's account of the thread at two moments.
#[derive(Debug)]
pub(crate) struct CpuClock {
    begun: Instant,
    account: Option<(Duration, Duration)>,
}

/// Shares of the time between, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CpuShare {
    pub(crate) running: f64,
    /// Ready to run, but the cores were taken.
    pub(crate) waiting: f64,
}

impl CpuClock {
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now(), account: account() }
    }

    /// Only Linux keeps this account where every program can read it.
    pub(crate) fn stop(&self) -> Option<CpuShare> {
        let wall = self.begun.elapsed().as_secs_f64();
        let ((before_run, before_wait), (run, wait)) = (self.account?, account()?);
        let share = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() / wall;
        Some(CpuShare { running: share(before_run, run), waiting: share(before_wait, wait) })
    }
}

fn account() -> Option<(Duration, Duration)> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten().map(Duration::from_nanos);
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_busy_thread_runs_or_waits() {
        let clock = CpuClock::start();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        let share = clock.stop().unwrap();
        assert!(share.running > 0.0 && share.running + share.waiting > 0.5, "{share:?}");
    }
}
