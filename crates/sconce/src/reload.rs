//! SIGHUP: keys, limits and chat templates are read again and the access log's file is opened anew.
//! Requests that run go on with what they began with. What is broken is logged, once, and changes
//! nothing.

use crate::config::Config;
use crate::keys;
use crate::model_files::ModelFiles;
use crate::signals::Reloads;
use anyhow::{Context, Result, anyhow};
use server::App;
use std::sync::{Arc, OnceLock};

/// What a server reads at its start and again.
#[derive(Debug, Clone)]
pub(crate) struct Reload {
    pub(crate) app: App,
    pub(crate) config: Arc<Config>,
    /// Of each model, once it is loaded.
    pub(crate) files: Arc<[OnceLock<ModelFiles>]>,
}

impl Reload {
    /// The first time: what is broken ends the process.
    pub(crate) fn first(&self) -> Result<()> {
        self.read_keys()?;
        if let Some(log) = &self.config.access_log {
            let path = log.path.as_ref().map_or("-".into(), |path| path.display().to_string());
            self.app.start_access_log(log).with_context(|| format!("--access-log {path}"))?;
        }
        Ok(())
    }

    /// Later times.
    pub(crate) fn again_by(&self, reloads: &mut Reloads) {
        let reload = self.clone();
        reloads.add("access log", move || {
            reload.app.reopen_access_log();
            Ok(reload.config.access_log.is_some())
        });
        let reload = self.clone();
        reloads.add("keys", move || reload.read_keys());
        let reload = self.clone();
        reloads.add("chat templates", move || reload.read_templates());
    }

    fn read_keys(&self) -> Result<bool> {
        let Some(path) = &self.config.api_keys_file else { return Ok(false) };
        let set = self.app.set_keys(&keys::read(path)?);
        let num_keys =
            set.map_err(|error| anyhow!("--api-keys-file {}: {error}", path.display()))?;
        tracing::debug!(num_keys, "keys are read");
        Ok(true)
    }

    fn read_templates(&self) -> Result<bool> {
        let mut is_any = false;
        for (choice, files) in self.config.models.iter().zip(&*self.files) {
            // A model that is still loading reads them anyway.
            let Some(files) = files.get() else { continue };
            let name = &choice.served_names[0];
            let updated = self.app.update_text(name, |text| files.with_templates(choice, text));
            is_any |= updated.with_context(|| format!("chat template of {name}"))?;
        }
        Ok(is_any)
    }
}
