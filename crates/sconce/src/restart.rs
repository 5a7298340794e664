//! A server whose engine has ended begins anew in its place: the same process id, arguments and
//! environment, and everything else from the start. A CUDA context is of no use after a fault such as an
//! illegal address, and nothing but the end of the process's image clears it (CUDA Runtime API,
//! `cudaErrorIllegalAddress`).

use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Restarts older than this are forgotten.
const WINDOW: Duration = Duration::from_mins(10);
/// So many in the window, and it is not the device's passing fault: the process ends.
const MAX_IN_WINDOW: usize = 3;
/// What a server tells the one that takes its place.
pub(crate) const VARIABLE: &str = "SCONCE_RESTARTED";

/// What came before this process image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Restarts {
    /// Where the last one listened, if at a port.
    pub(crate) port: Option<u16>,
    /// Seconds since 1970.
    times: Vec<u64>,
}

impl Restarts {
    /// From the variable's text: the port (0: none), then the times.
    ///
    /// # Errors
    /// It is not what a server writes there.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let numbers: Result<Vec<u64>, _> = text.split(' ').map(str::parse).collect();
        let numbers = numbers.with_context(|| {
            format!("{VARIABLE} is for a server that takes another's place: unset it")
        })?;
        let (port, times) = numbers.split_first().context("split gives one text at least")?;
        let port = u16::try_from(*port).ok().filter(|port| *port > 0);
        Ok(Self { port, times: times.to_vec() })
    }

    /// When the newest began, in seconds since 1970.
    pub(crate) fn last(&self) -> Option<u64> {
        self.times.last().copied()
    }

    /// With one more at `now`; none if that is one too many.
    fn with(mut self, now: u64) -> Option<Self> {
        self.times.retain(|time| now.saturating_sub(*time) < WINDOW.as_secs());
        (self.times.len() < MAX_IN_WINDOW).then(|| {
            self.times.push(now);
            self
        })
    }

    fn text(&self) -> String {
        let port = u64::from(self.port.unwrap_or(0));
        let numbers = std::iter::once(port).chain(self.times.iter().copied());
        numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Replaces the process. Returns if it has been replaced too often of late, or cannot be.
    pub(crate) fn begin_anew(self, address: Option<SocketAddr>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Some(restarts) = self.with(now) else {
            let minutes = WINDOW.as_secs() / 60;
            tracing::error!("it began anew {MAX_IN_WINDOW} times within {minutes} min and ends");
            return;
        };
        let restarts = Self { port: address.map(|address| address.port()), ..restarts };
        tracing::warn!("the server begins anew in its place");
        let error = match std::env::current_exe() {
            Ok(path) => {
                let arguments = std::env::args_os().skip(1);
                Command::new(path).args(arguments).env(VARIABLE, restarts.text()).exec()
            }
            Err(error) => error,
        };
        tracing::error!("it cannot begin anew and ends: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_restarts_are_granted_in_ten_minutes() {
        let restarts = Restarts::parse("8000 1000 1100").unwrap();
        assert_eq!(restarts, Restarts { port: Some(8000), times: vec![1000, 1100] });
        let third = restarts.with(1599).unwrap();
        assert_eq!(third.text(), "8000 1000 1100 1599");
        assert_eq!(third.clone().with(1599), None);
        assert_eq!(third.with(1600).unwrap().times, [1100, 1599, 1600]);
    }

    #[test]
    fn what_is_written_is_read() {
        let none = Restarts::default().with(7).unwrap();
        assert_eq!(none.text(), "0 7");
        assert_eq!(Restarts::parse("0 7").unwrap(), none);
        for text in ["", "yes", "8000,7"] {
            let error = format!("{:#}", Restarts::parse(text).unwrap_err());
            assert!(error.contains(VARIABLE), "{error}");
        }
    }
}
