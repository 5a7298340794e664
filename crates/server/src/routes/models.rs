//! `GET /v1/models` and `/v1/models/{id}`.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::path_id::PathId;
use crate::access::Call;
use crate::anthropic::models::{ModelPage, info};
use crate::error::ApiError;
use crate::served_model::ServedModel;
use crate::state::App;

#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// vLLM: the name that this one stands for.
    root: String,
    parent: Option<String>,
    /// vLLM: tokens that prompt and answer may have together.
    max_model_len: usize,
}

/// All names of the models that are loaded and that the key may use, of each the reported one first.
pub(crate) async fn list(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let models = app.loaded()?;
    let call = Call::current();
    let names = models.loaded().flat_map(|model| model.names().iter().map(move |id| (model, id)));
    let names = names.filter(|(_, name)| call.may_use(name));
    if is_anthropics(&headers) {
        let data = names.map(|(model, name)| info(model, name)).collect();
        return Ok(Json(ModelPage::new(data)).into_response());
    }
    let data = names.map(|(model, name)| card(model, name)).collect();
    Ok(Json(ModelList { object: "list", data }).into_response())
}

/// One of them. Names may hold slashes.
pub(crate) async fn show(
    State(app): State<App>,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let model = app.loaded()?.named(Some(&id))?;
    if is_anthropics(&headers) {
        return Ok(Json(info(&model, &id)).into_response());
    }
    Ok(Json(card(&model, &id)).into_response())
}

/// Whether the client is one of Anthropic's, whose models look different under the same path.
fn is_anthropics(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

fn card(model: &ServedModel, id: &str) -> ModelCard {
    ModelCard {
        id: id.to_owned(),
        object: "model",
        created: model.created(),
        owned_by: "sconce",
        root: model.names()[0].clone(),
        parent: None,
        max_model_len: model.generator().max_model_len(),
    }
}
