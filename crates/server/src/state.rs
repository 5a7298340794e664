//! What every handler shares: the configuration, the models as they are loaded, how far the server
//! is from its end, and how many requests are in flight.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use engine::EngineError;
use opentelemetry::global::BoxedTracer;
use text::TextModel;
use tokio::sync::watch;

use crate::access::Access;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::metrics::HttpMetrics;
use crate::registry::Registry;
use crate::responses::Responses;
use crate::served_model::ServedModel;
use crate::terms::Terms;
use crate::text_pool::TextPool;

/// The server's state. Clones share it.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    config: ServerConfig,
    /// Replaced as a whole: a request holds the lock for no longer than it takes to share it.
    registry: RwLock<Arc<Registry>>,
    /// `/ready` says no, so that nothing more is sent here.
    stopping: AtomicBool,
    /// What is sent here all the same is refused.
    draining: AtomicBool,
    /// Turns true when requests still in flight must end.
    cut: watch::Sender<bool>,
    in_flight: watch::Sender<usize>,
    http_metrics: HttpMetrics,
    tracer: OnceLock<BoxedTracer>,
    text_pool: TextPool,
    access: Access,
    responses: Responses,
}

impl App {
    /// A server that listens while its models load.
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(Inner {
            text_pool: TextPool::new(),
            access: Access::new(&config.api_keys),
            responses: Responses::new(config.response_store),
            config,
            registry: RwLock::default(),
            stopping: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            cut: watch::Sender::new(false),
            in_flight: watch::Sender::new(0),
            http_metrics: HttpMetrics::default(),
            tracer: OnceLock::new(),
        }))
    }

    /// A model of these names, the reported one first, is going to be loaded: `/ready` waits for it.
    pub fn expect_model(&self, names: Vec<String>) {
        self.change(|registry| registry.expect(names));
    }

    /// The model is loaded, and requests for it are taken. It takes the place of one of the same
    /// names.
    pub fn set_model(&self, model: ServedModel) {
        self.change(|registry| registry.set(model));
    }

    /// Changes the text side of the model of this name; requests that run go on with the one before.
    /// Whether there is such a model.
    pub fn update_text<E>(
        &self,
        name: &str,
        update: impl FnOnce(&TextModel) -> Result<TextModel, E>,
    ) -> Result<bool, E> {
        let registry = self.registry();
        let is_meant = |model: &&Arc<ServedModel>| model.names().iter().any(|own| own == name);
        let Some(model) = registry.loaded().find(is_meant) else { return Ok(false) };
        let text = update(model.text())?;
        self.set_model(model.with_text(text));
        Ok(true)
    }

    /// Loading the model of these names failed: requests for it, `/ready` and `/health` say why.
    pub fn set_failed(&self, names: Vec<String>, reason: impl Into<String>) {
        self.change(|registry| registry.set_failed(names, reason.into()));
    }

    fn change(&self, change: impl FnOnce(&mut Registry)) {
        let mut registry = self.0.registry.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut registry));
    }

    /// The models as they are now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.0.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says on `/ready` that nothing more should be sent here. What is sent is still served.
    pub fn start_stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Stops taking requests; those in flight go on.
    pub fn start_draining(&self) {
        self.start_stopping();
        self.0.draining.store(true, Ordering::Release);
    }

    /// Ends the requests in flight with an error event.
    pub fn cut(&self) {
        self.0.cut.send_replace(true);
    }

    /// Resolves when no request is in flight.
    pub async fn idle(&self) {
        let mut in_flight = self.0.in_flight.subscribe();
        // The sender lives in `self`, so the wait cannot end with an error.
        let _ = in_flight.wait_for(|count| *count == 0).await;
    }

    /// The models, or 503 with the reason if none is loaded. A draining server still has them.
    pub(crate) fn loaded(&self) -> Result<Arc<Registry>, ApiError> {
        let registry = self.registry();
        registry.check_any()?;
        Ok(registry)
    }

    /// The models, if new requests are taken and one at least is loaded.
    pub(crate) fn ready(&self) -> Result<Arc<Registry>, ApiError> {
        let registry = self.loaded()?;
        unless(&self.0.draining)?;
        Ok(registry)
    }

    /// Whether new requests should be sent here, for whatever model.
    pub(crate) fn wants_requests(&self) -> Result<(), ApiError> {
        let registry = self.registry();
        registry.check_all()?;
        unless(&self.0.stopping)?;
        if !registry.is_alive() {
            return Err(EngineError::Stopped.into());
        }
        if registry.is_restarting() {
            let message = "The engine is restarting after a fault.";
            return Err(ApiError::unavailable("restarting", message));
        }
        Ok(())
    }

    /// Whether an engine is getting up again after a fault; what is sent meanwhile waits.
    pub(crate) fn is_restarting(&self) -> bool {
        self.registry().is_restarting()
    }

    /// Why the process is of no more use, if so: loading failed or an engine has ended.
    pub(crate) fn fault(&self) -> Option<ApiError> {
        let registry = self.registry();
        // Draining ends the engines, too, in good order.
        if !registry.is_alive() && !self.0.draining.load(Ordering::Acquire) {
            return Some(EngineError::Stopped.into());
        }
        registry.check_all().err().filter(|error| error.code != Some("loading"))
    }

    /// Counts a request, which runs on these terms, until the guard is dropped.
    fn enter(&self, terms: Terms) -> InFlight {
        self.0.in_flight.send_modify(|count| *count += 1);
        InFlight { app: self.clone(), terms }
    }

    /// How every request to a model begins: it is counted from now on, and what takes time with large
    /// inputs runs on the text pool. Returns what was prepared, and when the request arrived.
    pub(crate) async fn admit<T: Send + 'static>(
        &self,
        terms: Terms,
        prepare: impl FnOnce(&Registry) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(T, (InFlight, Instant)), ApiError> {
        let arrived = Instant::now();
        let in_flight = self.enter(terms);
        let models = self.ready()?;
        let prepared = self.text_pool().run(move || prepare(&models)).await?;
        Ok((prepared, (in_flight, arrived)))
    }

    /// Requests in flight.
    pub(crate) fn num_in_flight(&self) -> usize {
        *self.0.in_flight.borrow()
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub(crate) fn http_metrics(&self) -> &HttpMetrics {
        &self.0.http_metrics
    }

    /// Spans of requests go to this tracer; the first counts.
    pub fn set_tracer(&self, tracer: BoxedTracer) {
        self.0.tracer.get_or_init(|| tracer);
    }

    pub(crate) fn tracer(&self) -> Option<&BoxedTracer> {
        self.0.tracer.get()
    }

    pub(crate) fn text_pool(&self) -> &TextPool {
        &self.0.text_pool
    }

    pub(crate) fn access(&self) -> &Access {
        &self.0.access
    }

    pub(crate) fn responses(&self) -> &Responses {
        &self.0.responses
    }

    pub(crate) fn cut_signal(&self) -> watch::Receiver<bool> {
        self.0.cut.subscribe()
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// 503 once the server is ending.
fn unless(ending: &AtomicBool) -> Result<(), ApiError> {
    if ending.load(Ordering::Acquire) {
        let message = "The server is shutting down and takes no more requests.";
        return Err(ApiError::unavailable("draining", message));
    }
    Ok(())
}

/// A request in flight; shutting down waits for it.
#[derive(Debug)]
pub(crate) struct InFlight {
    app: App,
    pub(crate) terms: Terms,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.app.0.in_flight.send_modify(|count| *count -= 1);
    }
}

/// Now, in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
