//! Ctrl-C: the first ends the measurement and shows what there is, the second ends the program.

use anyhow::{Context, Result};
use tokio::sync::watch;

/// Becomes true at the first Ctrl-C. To be called within the runtime.
pub(crate) fn watch_for_interrupt() -> Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = signal(SignalKind::interrupt()).context("Ctrl-C cannot be handled")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        signals.recv().await;
        eprintln!("\nending; Ctrl-C again leaves at once");
        // Nobody listens any more when the results are being printed.
        let _ = sender.send(true);
        signals.recv().await;
        std::process::exit(130);
    });
    Ok(receiver)
}
