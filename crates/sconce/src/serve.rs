//! `sconce serve`: listens at once, loads the model meanwhile, drains on SIGTERM.

use crate::cli::LogFormat;
use crate::config::{Config, Listen};
use crate::load::{self, Loaded};
use crate::reload::Reload;
use anyhow::{Context, Result, anyhow};
use engine::EngineHandle;
use server::{App, ServedModel};
use std::collections::hash_map::RandomState;
use std::future::{Future, pending};
use std::hash::BuildHasher;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::thread;
use text::TextModel;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// Serves until a signal ends the process, or the model cannot be loaded.
pub(crate) fn run(config: Config) -> Result<()> {
    start_log(&config)?;
    let listener = bind(&config.listen)?;
    let address = listener.local_addr().context("the listener's address")?;
    tracing::info!("listening on http://{address}, loading {}", config.model.name);
    if !address.ip().is_loopback()
        && config.server.api_keys.is_empty()
        && config.api_keys_file.is_none()
    {
        tracing::warn!(
            "everybody who reaches {address} may use the model: --api-key or --api-keys-file ask for a \
             key"
        );
    }
    block_on(host(listener, config, end_signal()?))
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
    let listener = bind(&Listen { host: [127, 0, 0, 1].into(), port: 0 })?;
    let base = format!("http://{}/v1", listener.local_addr().context("the listener's address")?);
    let loaded = load::load(&config)?;
    thread::Builder::new().name("server".to_owned()).spawn(move || {
        let app = App::new(config.server.clone());
        app.set_model(served(&config, loaded.engine, loaded.text));
        // Ends with the process; an error shows in the terminal as a refused connection.
        drop(block_on(async { serve(listener, app, pending()).await }));
    })?;
    Ok(Local { base, key })
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the network threads cannot be started")?.block_on(future)
}

/// Listens while a thread loads the model; a model that cannot be loaded ends the server.
async fn host(listener: TcpListener, config: Config, end: impl Future<Output = ()>) -> Result<()> {
    let app = App::new(config.server.clone());
    let config = Arc::new(config);
    let files = Arc::new(OnceLock::new());
    let reload = Reload { app: app.clone(), config: config.clone(), files: files.clone() };
    reload.start()?;
    let (failed, failure) = oneshot::channel();
    let loading = app.clone();
    thread::Builder::new().name("load".to_owned()).spawn(move || match load::load(&config) {
        Ok(Loaded { engine, text, files: of_model }) => {
            loading.set_model(served(&config, engine, text));
            files.get_or_init(|| of_model);
        }
        // Without a receiver the server has ended already.
        Err(error) => drop(failed.send(error)),
    })?;
    let failure = async {
        match failure.await {
            Ok(error) => error,
            // Dropped unused: loaded, or the loader panicked, which its message on stderr tells.
            Err(_) => pending().await,
        }
    };
    tokio::select! {
        done = serve(listener, app, end) => done,
        error = failure => Err(error),
    }
}

async fn serve(listener: TcpListener, app: App, end: impl Future<Output = ()>) -> Result<()> {
    listener.set_nonblocking(true).context("the listener")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("the listener")?;
    let done = server::serve(listener, app.clone(), end).await.context("serving");
    app.flush_access_log().await;
    done
}

fn served(config: &Config, engine: EngineHandle, text: TextModel) -> ServedModel {
    let names = config.model.served_names.clone();
    ServedModel::new(names, Arc::new(engine), Arc::new(text))
}

fn bind(listen: &Listen) -> Result<TcpListener> {
    let address = SocketAddr::new(listen.host, listen.port);
    TcpListener::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow!(
            "port {} is in use: stop what listens there, or choose another with --port",
            listen.port
        ),
        std::io::ErrorKind::AddrNotAvailable => {
            anyhow!("--host {}: this machine has no such address", listen.host)
        }
        std::io::ErrorKind::PermissionDenied => {
            anyhow!("port {} needs more rights: choose one above 1023 with --port", listen.port)
        }
        _ => anyhow!("cannot listen on {address}: {error}"),
    })
}

/// Resolves at the first SIGTERM or Ctrl-C; a second one ends the process at once.
fn end_signal() -> Result<impl Future<Output = ()>> {
    let (sender, first) = oneshot::channel();
    let wait = async move {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut next =
            async || tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () };
        next().await;
        tracing::info!("draining; a second signal ends at once");
        let _ = sender.send(());
        next().await;
        std::process::exit(130)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done: std::io::Result<()> = runtime.and_then(|runtime| runtime.block_on(wait));
        if let Err(error) = done {
            tracing::error!("signals are not handled: {error}");
        }
    })?;
    Ok(async {
        if first.await.is_err() {
            pending::<()>().await;
        }
    })
}

fn start_log(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("--log-level {}", config.log_level))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Pretty => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
