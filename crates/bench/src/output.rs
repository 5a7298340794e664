//! What commands print for people.

use std::io::{ErrorKind, Write, stdout};

use anyhow::{Context, Result};

/// Nobody reads the output any more, as behind `| head`: no fault of anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputClosed;

impl std::fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads the output")
    }
}

impl std::error::Error for OutputClosed {}

/// Writes to the standard output, at once.
///
/// # Errors
/// [`OutputClosed`], or a disk that takes no more.
pub fn say(text: &str) -> Result<()> {
    let mut stdout = stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        done => done.context("the standard output"),
    }
}
