//! Signals: SIGTERM and Ctrl-C end the process in good order, SIGHUP reads again what may have
//! changed. The one place that SIGHUP comes to.

use anyhow::Result;
use std::future::{Future, pending};
use std::io::{self, IsTerminal};
use std::thread;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Something that SIGHUP reads again; whether it has changed. What cannot be used is left as it was.
type Reload = Box<dyn Fn() -> Result<bool> + Send>;

/// All that SIGHUP reads again, in the order in which it was added.
#[derive(Default)]
pub(crate) struct Reloads(Vec<(&'static str, Reload)>);

impl Reloads {
    /// `what` is for the log.
    pub(crate) fn add(
        &mut self,
        what: &'static str,
        reload: impl Fn() -> Result<bool> + Send + 'static,
    ) {
        self.0.push((what, Box::new(reload)));
    }

    fn run(&self) {
        tracing::info!("SIGHUP: reading again what may have changed");
        for (what, reload) in &self.0 {
            match reload() {
                Ok(true) => tracing::info!("{what}: reloaded"),
                Ok(false) => tracing::info!("{what}: unchanged"),
                Err(error) => {
                    let error = format!("{error:#}").replace('\n', " ");
                    tracing::error!("{what}: not reloaded: {error}");
                }
            }
        }
    }
}

/// Resolves at the first SIGTERM or Ctrl-C; a second one ends the process at once. SIGHUP runs
/// `reloads`. Signals that come once this has returned are heard.
pub(crate) fn listen(reloads: Reloads) -> Result<impl Future<Output = ()>> {
    let (sender, first) = oneshot::channel();
    let (hears, heard) = std::sync::mpsc::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done: io::Result<()> =
            runtime.and_then(|runtime| runtime.block_on(wait(&reloads, &hears, sender)));
        if let Err(error) = done {
            tracing::error!("signals are not handled: {error}");
        }
    })?;
    // If the thread ends without a word, it has told why.
    let _ = heard.recv();
    Ok(async {
        if first.await.is_err() {
            pending::<()>().await;
        }
    })
}

async fn wait(
    reloads: &Reloads,
    hears: &std::sync::mpsc::Sender<()>,
    first: oneshot::Sender<()>,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let _ = hears.send(());
    let mut first = Some(first);
    let had_terminal = io::stderr().is_terminal();
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {
                // It was the terminal that hung up: nobody is left to end the server.
                if had_terminal && !io::stderr().is_terminal() {
                    std::process::exit(129);
                }
                // Reads files: nothing else waits on this thread.
                reloads.run();
                continue;
            }
        }
        let Some(first) = first.take() else { std::process::exit(130) };
        tracing::info!("draining; a second signal ends at once");
        // Without a receiver the server has ended already.
        let _ = first.send(());
    }
}
