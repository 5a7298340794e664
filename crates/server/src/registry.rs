//! The models of the process by name, and how far each is from answering.

use std::sync::Arc;

use engine::EngineError;

use crate::access::Call;
use crate::error::ApiError;
use crate::served_model::ServedModel;

/// All models, as they are at one moment: a request sees one registry from its start to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    /// In the order in which they are listed.
    places: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    /// What requests may call the model, the reported name first.
    names: Vec<String>,
    state: ModelState,
}

#[derive(Debug, Clone)]
enum ModelState {
    Loading,
    Loaded(Arc<ServedModel>),
    Failed(String),
}

impl Registry {
    /// Keeps a place for a model that is going to be loaded.
    pub(crate) fn expect(&mut self, names: Vec<String>) {
        self.put(names, ModelState::Loading);
    }

    /// The model is loaded.
    pub(crate) fn set(&mut self, model: ServedModel) {
        self.put(model.names().to_vec(), ModelState::Loaded(Arc::new(model)));
    }

    /// The model could not be loaded.
    pub(crate) fn set_failed(&mut self, names: Vec<String>, reason: String) {
        self.put(names, ModelState::Failed(reason));
    }

    /// Puts it in the place that is kept for these names, or in a new one.
    fn put(&mut self, names: Vec<String>, state: ModelState) {
        if let Some(place) = self.places.iter_mut().find(|place| place.names == names) {
            place.state = state;
            return;
        }
        let is_taken = |name| self.places.iter().any(|place| place.names.contains(name));
        assert!(!names.iter().any(is_taken), "{names:?}: a name stands for one model");
        self.places.push(Place { names, state });
    }

    /// The model that a request asks for, if it answers: [`Self::named`], or 503 if its engine has
    /// ended.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let model = self.named(name)?;
        if model.generator().is_alive() { Ok(model) } else { Err(EngineError::Stopped.into()) }
    }

    /// 404 unless a model has this name, 403 unless the request's key may use it so, 503 unless it is
    /// loaded. Without a name the only one is meant.
    pub(crate) fn named(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let place = match (name, self.places.as_slice()) {
            (Some(name), places) => {
                let mut places = places.iter();
                let place = places.find(|place| place.names.iter().any(|own| own == name));
                place.ok_or_else(|| ApiError::unknown_model(name, self.names()))?
            }
            (None, [only]) => only,
            (None, _) => return Err(ApiError::which_model(self.names())),
        };
        Call::current().check_model(name.unwrap_or(&place.names[0]))?;
        place.model().map(Arc::clone)
    }

    /// Those that are loaded, in order.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Arc<ServedModel>> {
        self.places.iter().filter_map(|place| place.model().ok())
    }

    /// 503 with the reason unless one is loaded.
    pub(crate) fn check_any(&self) -> Result<(), ApiError> {
        if self.loaded().next().is_some() { Ok(()) } else { self.check_all() }
    }

    /// 503 with the reason unless all are loaded.
    pub(crate) fn check_all(&self) -> Result<(), ApiError> {
        if self.places.is_empty() {
            return Err(loading("The model is still loading.".to_owned()));
        }
        self.places.iter().try_for_each(|place| place.model().map(drop))
    }

    /// Whether those that are loaded answer.
    pub(crate) fn is_alive(&self) -> bool {
        self.loaded().all(|model| model.generator().is_alive())
    }

    /// Whether an engine is getting up again after a fault.
    pub(crate) fn is_restarting(&self) -> bool {
        self.loaded().any(|model| model.generator().is_restarting())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.places.iter().flat_map(|place| &place.names).map(String::as_str)
    }
}

impl Place {
    fn model(&self) -> Result<&Arc<ServedModel>, ApiError> {
        let name = &self.names[0];
        match &self.state {
            ModelState::Loaded(model) => Ok(model),
            ModelState::Loading => Err(loading(format!("The model '{name}' is still loading."))),
            ModelState::Failed(reason) => {
                let message = format!("The model '{name}' could not be loaded: {reason}");
                Err(ApiError { retry_after: None, ..ApiError::unavailable("failed", message) })
            }
        }
    }
}

fn loading(message: String) -> ApiError {
    ApiError::unavailable("loading", message)
}
