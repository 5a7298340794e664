//! What every handler shares: the configuration, the model once it is loaded, how far the server
//! is from its end, and how many requests are in flight.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use text::TextModel;
use tokio::sync::watch;

use crate::access::{Access, Call};
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::generator::Generator;
use crate::metrics::Metrics;
use crate::responses::Responses;
use crate::terms::Terms;
use crate::text_pool::TextPool;

/// A model that answers requests.
pub struct ServedModel {
    names: Vec<String>,
    generator: Arc<dyn Generator>,
    text: Arc<TextModel>,
    created: u64,
    longest_token: usize,
}

impl ServedModel {
    /// `names` are what requests may call it; the first is what responses say. At least one.
    pub fn new(names: Vec<String>, generator: Arc<dyn Generator>, text: Arc<TextModel>) -> Self {
        assert!(!names.is_empty(), "a served model has a name");
        let tokenizer = text.tokenizer();
        let ids = 0..tokenizer.vocab_size() as u32;
        let longest_token = ids.map(|id| tokenizer.token_bytes(id).len()).max().unwrap_or(1);
        Self { names, generator, text, created: unix_seconds(), longest_token }
    }

    /// The names requests may use, the reported one first.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The engine.
    pub fn generator(&self) -> &Arc<dyn Generator> {
        &self.generator
    }

    /// Tokenizer, templates, defaults.
    pub fn text(&self) -> &Arc<TextModel> {
        &self.text
    }

    /// When it was loaded, in seconds since 1970.
    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// No token stands for more bytes than this.
    pub(crate) fn longest_token(&self) -> usize {
        self.longest_token
    }

    /// 404 unless a request may call the model so, 403 unless its key may; without a name it means the
    /// only one.
    pub(crate) fn check_name(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(name) if !self.names.iter().any(|served| served == name) => {
                Err(ApiError::unknown_model(name, &self.names))
            }
            name => Call::current().check_model(name.unwrap_or(&self.names[0])),
        }
    }
}

impl std::fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedModel").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The server's state. Clones share it.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    config: ServerConfig,
    model: RwLock<ModelState>,
    /// `/ready` says no, so that nothing more is sent here.
    stopping: AtomicBool,
    /// What is sent here all the same is refused.
    draining: AtomicBool,
    /// Turns true when requests still in flight must end.
    cut: watch::Sender<bool>,
    in_flight: watch::Sender<usize>,
    metrics: Arc<Metrics>,
    text_pool: TextPool,
    access: Access,
    responses: Responses,
}

enum ModelState {
    Loading,
    Loaded(Arc<ServedModel>),
    Failed(String),
}

impl App {
    /// A server that listens while its model loads.
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(Inner {
            text_pool: TextPool::new(config.num_text_threads),
            access: Access::new(&config.api_keys),
            responses: Responses::new(config.response_store),
            config,
            model: RwLock::new(ModelState::Loading),
            stopping: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            cut: watch::Sender::new(false),
            in_flight: watch::Sender::new(0),
            metrics: Arc::new(Metrics::default()),
        }))
    }

    /// The model is loaded: `/ready` says so and requests are taken.
    pub fn set_model(&self, model: ServedModel) {
        self.set(ModelState::Loaded(Arc::new(model)));
    }

    /// Changes the text side of the model; requests that run go on with the one before. Whether there
    /// is a model.
    pub fn update_text<E>(
        &self,
        update: impl FnOnce(&TextModel) -> Result<TextModel, E>,
    ) -> Result<bool, E> {
        let Ok(model) = self.loaded() else { return Ok(false) };
        let text = Arc::new(update(model.text())?);
        let (names, generator) = (model.names.clone(), Arc::clone(&model.generator));
        let ServedModel { created, longest_token, .. } = *model;
        self.set_model(ServedModel { names, generator, text, created, longest_token });
        Ok(true)
    }

    /// Loading failed: requests, `/ready` and `/health` say why.
    pub fn set_failed(&self, reason: impl Into<String>) {
        self.set(ModelState::Failed(reason.into()));
    }

    fn set(&self, state: ModelState) {
        *self.0.model.write().unwrap_or_else(PoisonError::into_inner) = state;
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

    /// The model, or 503 with the reason why there is none. A draining server still has one.
    pub(crate) fn loaded(&self) -> Result<Arc<ServedModel>, ApiError> {
        match &*self.0.model.read().unwrap_or_else(PoisonError::into_inner) {
            ModelState::Loaded(model) => Ok(Arc::clone(model)),
            ModelState::Loading => {
                Err(ApiError::unavailable("loading", "The model is still loading."))
            }
            ModelState::Failed(reason) => {
                let message = format!("The model could not be loaded: {reason}");
                Err(ApiError { retry_after: None, ..ApiError::unavailable("failed", message) })
            }
        }
    }

    /// The model, if new requests are taken.
    pub(crate) fn ready(&self) -> Result<Arc<ServedModel>, ApiError> {
        self.unless(&self.0.draining)
    }

    /// Whether new requests should be sent here.
    pub(crate) fn wants_requests(&self) -> Result<(), ApiError> {
        self.unless(&self.0.stopping).map(drop)
    }

    fn unless(&self, ending: &AtomicBool) -> Result<Arc<ServedModel>, ApiError> {
        let model = self.loaded()?;
        if ending.load(Ordering::Acquire) {
            let message = "The server is shutting down and takes no more requests.";
            return Err(ApiError::unavailable("draining", message));
        }
        if !model.generator.is_alive() {
            return Err(engine::EngineError::Stopped.into());
        }
        Ok(model)
    }

    /// Why the process is of no more use, if so: loading failed or the engine has ended.
    pub(crate) fn fault(&self) -> Option<ApiError> {
        match self.loaded() {
            Ok(model) if model.generator.is_alive() => None,
            // Draining ends the engine too, in good order.
            Ok(_) if self.0.draining.load(Ordering::Acquire) => None,
            Ok(_) => Some(engine::EngineError::Stopped.into()),
            Err(error) if error.code == Some("loading") => None,
            Err(error) => Some(error),
        }
    }

    /// Counts a request, which runs on these terms, until the guard is dropped.
    pub(crate) fn enter(&self, terms: Terms) -> InFlight {
        self.0.in_flight.send_modify(|count| *count += 1);
        InFlight { app: self.clone(), terms }
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
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
