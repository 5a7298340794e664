//! `sconce serve`: listens at once, loads the model meanwhile, drains on SIGTERM.

use crate::config::Config;
use crate::listen::{Bound, Listen, Place, raise_file_limit};
use crate::load::{self, Loaded};
use crate::logging;
use crate::model_choice::ModelChoice;
use crate::model_files::ModelFiles;
use crate::notify::Notify;
use crate::reload::Reload;
use crate::signals::{self, Reloads};
use crate::telemetry::Telemetry;
use anyhow::{Context, Result};
use engine::EngineHandle;
use server::{App, ServedModel};
use std::collections::hash_map::RandomState;
use std::future::{Future, pending};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// An engine has ended though nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("the engine of {model} ended: {fault}")]
struct EngineEnded {
    model: String,
    fault: String,
}

/// Serves until a signal ends the process, or the model cannot be loaded. If an engine ends, the process
/// begins anew.
pub(crate) fn run(mut config: Config) -> Result<()> {
    logging::start(&config)?;
    for name in &config.unknown_variables {
        tracing::warn!(
            "{name} is set and no setting has that name: `sconce serve --help` lists those that have one"
        );
    }
    let telemetry = Telemetry::from_env()?;
    let notify = Notify::new(config.notify_socket.as_deref()).context("NOTIFY_SOCKET")?;
    config.server.max_connections = raise_file_limit(config.server.max_connections);
    let bound = Bound::new(&config.listen)?;
    let (url, names) = (bound.url(&config.listen), config.model_names());
    let (address, restarts) = (bound.address(), std::mem::take(&mut config.restarts));
    let has_keys = !config.server.api_keys.is_empty() || config.api_keys_file.is_some();
    let is_open = config.listen.admits_anybody() && !has_keys;
    let config = Arc::new(config);
    let app = App::new(config.server.clone());
    if let Some(telemetry) = &telemetry {
        app.set_tracer(telemetry.tracer());
    }
    for model in &config.models {
        app.expect_model(model.served_names.clone());
    }
    let files = config.models.iter().map(|_| OnceLock::new()).collect();
    let reload = Reload { app, config, files };
    reload.first()?;
    let mut reloads = Reloads::default();
    if let Some(tls) = bound.tls.clone() {
        reloads.add("TLS files", move || Ok(tls.reload()?));
    }
    reload.again_by(&mut reloads);
    let signal = signals::listen(reloads)?;
    // Whoever reads this may send a signal at once.
    tracing::info!("listening on {url}, loading {names}");
    notify.status(&format!("loading {names}"));
    if is_open {
        tracing::warn!(
            "everybody who reaches {url} may use what is served: --api-key or --api-keys-file ask for a key"
        );
    }
    let stopping = notify.clone();
    let end = async move {
        signal.await;
        stopping.stopping();
    };
    let done = block_on(host(bound, reload, notify, end));
    if let Some(telemetry) = telemetry {
        telemetry.shut_down();
    }
    if done.as_ref().is_err_and(anyhow::Error::is::<EngineEnded>) {
        restarts.begin_anew(address);
    }
    done
}

/// A server of this process alone, for `sconce chat`.
#[derive(Debug)]
pub(crate) struct Local {
    /// Base URL, with `/v1`.
    pub(crate) base: String,
    /// The key that keeps other users of the machine out.
    pub(crate) key: String,
}

/// Starts a server on a free loopback port and waits until its model is loaded.
pub(crate) fn start_local(mut config: Config) -> Result<Local> {
    let key = format!("{:016x}", RandomState::new().hash_one("a key for one process"));
    config.server.api_keys = vec![key.clone()];
    let bound = Bound::new(&Listen { place: Place::Tcp(([127, 0, 0, 1], 0).into()), tls: None })?;
    let base = format!("http://{}/v1", bound.address().context("the listener's address")?);
    let loaded = load::load_only(&config)?;
    thread::Builder::new().name("server".to_owned()).spawn(move || {
        let app = App::new(config.server.clone());
        app.set_model(served(&config.models[0], loaded).0);
        // Ends with the process; an error shows in the terminal as a refused connection.
        drop(block_on(async { serve(bound, app, pending()).await }));
    })?;
    Ok(Local { base, key })
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the thread that accepts connections cannot be started")?.block_on(future)
}

/// Listens while a thread loads the models. One that cannot be loaded, or whose engine fails for good,
/// ends the server.
async fn host(
    bound: Bound,
    Reload { app, config, files }: Reload,
    notify: Notify,
    end: impl Future<Output = ()>,
) -> Result<()> {
    // The first failure is reason enough; what comes after it is not waited for.
    let (failed, mut failure) = mpsc::channel(1);
    let fail = move |error: anyhow::Error| drop(failed.try_send(error));
    let engines = Arc::new(Mutex::new(Vec::<EngineHandle>::new()));
    let (running, ended) = std::sync::mpsc::channel::<()>();
    let (loading, started) = (app.clone(), Arc::clone(&engines));
    thread::Builder::new().name("load".to_owned()).spawn(move || {
        let mut num_loaded = 0;
        let loaded = load::load(&config, |index, loaded| {
            let choice = &config.models[index];
            watch(choice.name.clone(), loaded.engine.clone(), running.clone(), fail.clone());
            started.lock().unwrap_or_else(PoisonError::into_inner).push(loaded.engine.clone());
            let (model, of_model) = served(choice, loaded);
            loading.set_model(model);
            files[index].get_or_init(|| of_model);
            num_loaded = index + 1;
        });
        match loaded {
            Ok(()) => notify.ready(&format!("serving {}", config.model_names())),
            Err(error) => {
                let names = config.models[num_loaded].served_names.clone();
                loading.set_failed(names, format!("{error:#}"));
                fail(error);
            }
        }
    })?;
    let mut fault = None;
    let end = async {
        tokio::select! {
            () = end => {}
            Some(error) = failure.recv() => fault = Some(error),
        }
    };
    let done = serve(bound, app, end).await;
    // A GPU's driver ends with the process, and a step that is under way would fail by that.
    let engines = std::mem::take(&mut *engines.lock().unwrap_or_else(PoisonError::into_inner));
    engines.iter().for_each(EngineHandle::shutdown);
    if !engines.is_empty() {
        let _ = tokio::task::spawn_blocking(move || ended.recv_timeout(LAST_STEP)).await;
    }
    fault.map_or(done, Err)
}

/// How long the end of the process waits for the steps under way.
const LAST_STEP: Duration = Duration::from_secs(2);

/// Waits for the end of an engine, and tells of it if nobody asked for it. Until then it is `running`.
fn watch(
    name: String,
    engine: EngineHandle,
    running: std::sync::mpsc::Sender<()>,
    fail: impl FnOnce(anyhow::Error) + Send + 'static,
) {
    let wait = move || {
        engine.join();
        drop(running);
        if let Some(fault) = engine.fault() {
            let fault = fault.to_owned();
            fail(EngineEnded { model: name, fault }.into());
        }
    };
    if let Err(error) = thread::Builder::new().name("watch".to_owned()).spawn(wait) {
        tracing::error!("should an engine end, nobody will notice: {error}");
    }
}

async fn serve(bound: Bound, app: App, end: impl Future<Output = ()>) -> Result<()> {
    let (listener, _file) = bound.into_listener().context("the listener")?;
    let done = server::serve(listener, app.clone(), end).await.context("serving");
    app.flush_access_log().await;
    done
}

fn served(choice: &ModelChoice, loaded: Loaded) -> (ServedModel, ModelFiles) {
    let Loaded { engine, text, files, pooling } = loaded;
    let model = ServedModel::new(choice.served_names.clone(), Arc::new(engine), Arc::new(text));
    let model = match pooling {
        Some(rules) => model.with_pooling(rules),
        None => model,
    };
    (model, files)
}
