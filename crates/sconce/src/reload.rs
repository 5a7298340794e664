//! SIGHUP: keys, limits and chat templates are read again and the access log's file is opened anew.
//! Requests that run go on with what they began with. What is broken is logged, once, and changes
//! nothing.

use crate::config::Config;
use crate::keys;
use crate::load::ModelFiles;
use anyhow::{Context, Result, anyhow};
use server::App;
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use tokio::signal::unix::{SignalKind, signal};

/// What a server reads at its start and again.
#[derive(Debug, Clone)]
pub(crate) struct Reload {
    pub(crate) app: App,
    pub(crate) config: Arc<Config>,
    /// Of the model, once it is loaded.
    pub(crate) files: Arc<OnceLock<ModelFiles>>,
}

impl Reload {
    /// The first time: what is broken ends the process. Then at every SIGHUP.
    pub(crate) fn start(self) -> Result<()> {
        self.read_keys()?;
        if let Some(log) = &self.config.access_log {
            let path = log.path.as_ref().map_or("-".into(), |path| path.display().to_string());
            self.app.start_access_log(log).with_context(|| format!("--access-log {path}"))?;
        }
        let mut hangups = signal(SignalKind::hangup()).context("SIGHUP")?;
        let had_terminal = std::io::stderr().is_terminal();
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                // It was the terminal that hung up: nobody is left to end the server.
                if had_terminal && !std::io::stderr().is_terminal() {
                    std::process::exit(129);
                }
                let reload = self.clone();
                // A panic is told on stderr, and the next signal tries again.
                drop(tokio::task::spawn_blocking(move || reload.again()).await);
            }
        });
        Ok(())
    }

    fn again(&self) {
        self.app.reopen_access_log();
        for done in [self.read_keys(), self.read_templates()] {
            match done {
                Ok(Some(done)) => tracing::info!("SIGHUP: {done}"),
                Ok(None) => {}
                Err(error) => {
                    let error = format!("{error:#}").replace('\n', " ");
                    tracing::error!("SIGHUP: {error}; what was read before is kept");
                }
            }
        }
    }

    fn read_keys(&self) -> Result<Option<String>> {
        let Some(path) = &self.config.api_keys_file else { return Ok(None) };
        let set = self.app.set_keys(&keys::read(path)?);
        let num_keys =
            set.map_err(|error| anyhow!("--api-keys-file {}: {error}", path.display()))?;
        Ok(Some(format!("{num_keys} keys")))
    }

    fn read_templates(&self) -> Result<Option<String>> {
        // A model that is still loading reads them anyway.
        let Some(files) = self.files.get() else { return Ok(None) };
        let updated = self.app.update_text(|text| files.with_templates(&self.config.model, text));
        Ok(updated.context("chat template")?.then(|| "chat templates".to_owned()))
    }
}
