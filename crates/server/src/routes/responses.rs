//! `/v1/responses`: create, and by id retrieve, cancel, delete, list the input.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::path_id::PathId;
use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::generation::Generation;
use crate::openai::request_fields::StreamOptions;
use crate::registry::Registry;
use crate::responses::running::{Entered, Keep, Running};
use crate::responses::translate::{Prepared, prepare};
use crate::sse;
use crate::state::App;
use crate::terms::Terms;

/// Items of a page of `input_items`: by default and at most, as at OpenAI.
const PAGE: usize = 20;
const MAX_PAGE: usize = 100;

/// Parameters of a query, in order.
type Parameters = Query<Vec<(String, String)>>;

/// Handles one request. Dropping the future, as when the client goes away, aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    terms: Terms,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let owner = app.responses().owner();
    let store = Arc::clone(&app.responses().store);
    let prepared = move |models: &Registry| prepare(models, &store, &body, owner);
    let (prepared, entered) = app.admit(terms, prepared).await?;
    let Prepared { model, job, answer, streams, stores, input, previous } = prepared;
    let mut generation = Generation::start(&app, &model, &job, entered)?;
    let store = Arc::clone(&app.responses().store);
    let keep = stores.then_some(Keep { store, previous, input });
    let running = Running::new(answer, owner, generation.canceller(), keep);
    let running = app.responses().running.enter(running);
    if streams {
        // Each delta brings the usage so far; a response that is cancelled has it, too.
        let options =
            StreamOptions { continuous_usage_stats: Some(true), ..StreamOptions::default() };
        let heartbeat = app.config().heartbeat;
        return Ok(sse::stream_response(generation, running, options, heartbeat));
    }
    whole(generation, &running).await
}

/// The answer of `/v1/responses/input_tokens`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct InputTokens {
    #[schemars(extend("const" = "response.input_tokens"))]
    object: &'static str,
    input_tokens: usize,
}

/// Counts the tokens of the prompt that `create` would make, and generates nothing.
pub(crate) async fn input_tokens(
    State(app): State<App>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<InputTokens>, ApiError> {
    let models = app.ready()?;
    let (store, owner) = (Arc::clone(&app.responses().store), app.responses().owner());
    let job = move || {
        let prepared = prepare(&models, &store, &body, owner)?;
        let input_tokens = prepared.job.prompts.iter().map(|prompt| prompt.ids.len()).sum();
        Ok(InputTokens { object: "response.input_tokens", input_tokens })
    };
    app.text_pool().run(job).await.map(Json)
}

/// The response that is not streamed: the same fold, shown at its end.
async fn whole(mut generation: Generation, running: &Entered) -> Result<Response, ApiError> {
    while let Some(delta) = generation.next().await {
        match delta {
            Ok(delta) => running.take(delta, generation.usage()),
            Err(_) if running.is_over() => break, // It was cancelled.
            Err(error) => return Err(error),
        }
    }
    Ok(json_text(running.object()))
}

/// A response that is kept, or at work and to be kept.
pub(crate) async fn retrieve(
    State(app): State<App>,
    PathId(id): PathId,
    Query(parameters): Parameters,
) -> Result<Response, ApiError> {
    for (name, value) in &parameters {
        match (name.as_str(), value.as_str()) {
            ("stream" | "include_obfuscation", "false" | "") | ("include" | "include[]", _) => {}
            (name, _) => return Err(ApiError::unsupported(name)),
        }
    }
    let owner = app.responses().owner();
    if let Some(response) = app.responses().store.response(Instant::now(), owner, &id) {
        return Ok(json_text(response.to_string()));
    }
    match app.responses().running.get(owner, &id) {
        Some(running) if running.is_kept() => Ok(json_text(running.object())),
        _ => Err(not_found(&id)),
    }
}

/// Stops a response at work. One that has ended is shown as it is.
pub(crate) async fn cancel(
    State(app): State<App>,
    PathId(id): PathId,
) -> Result<Response, ApiError> {
    let owner = app.responses().owner();
    if let Some(running) = app.responses().running.get(owner, &id) {
        return Ok(json_text(running.cancel()));
    }
    let response = app.responses().store.response(Instant::now(), owner, &id);
    response.map(|response| json_text(response.to_string())).ok_or_else(|| not_found(&id))
}

/// Forgets a response.
pub(crate) async fn delete(
    State(app): State<App>,
    PathId(id): PathId,
) -> Result<Json<Value>, ApiError> {
    let owner = app.responses().owner();
    if app.responses().store.remove(Instant::now(), owner, &id) {
        return Ok(Json(json!({"id": id, "object": "response", "deleted": true})));
    }
    if app.responses().running.get(owner, &id).is_some() {
        let message = format!("The response '{id}' has not ended: cancel it first.");
        return Err(ApiError::invalid("response_id", message));
    }
    Err(not_found(&id))
}

/// The items of the request that a response answered, the last first.
pub(crate) async fn input_items(
    State(app): State<App>,
    PathId(id): PathId,
    Query(parameters): Parameters,
) -> Result<Json<Value>, ApiError> {
    let page = Page::read(&parameters)?;
    let owner = app.responses().owner();
    let turn = app.responses().store.turn(Instant::now(), owner, &id);
    let items = turn.ok_or_else(|| not_found(&id))?.input();
    page.of(items).map(Json)
}

/// Which items are wanted.
#[derive(Debug)]
struct Page {
    limit: usize,
    ascending: bool,
    after: Option<String>,
}

impl Page {
    fn read(parameters: &[(String, String)]) -> Result<Self, ApiError> {
        let mut page = Self { limit: PAGE, ascending: false, after: None };
        for (name, value) in parameters {
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        let message =
                            format!("'limit' is '{value}'; it must be between 1 and {MAX_PAGE}.");
                        ApiError::invalid("limit", message)
                    })?;
                }
                "order" if ["asc", "desc"].contains(&value.as_str()) => {
                    page.ascending = value == "asc";
                }
                "order" => {
                    let message = format!("'order' is '{value}'; it may be 'asc' or 'desc'.");
                    return Err(ApiError::invalid("order", message));
                }
                "after" => page.after = Some(value.clone()),
                "include" | "include[]" => {} // What it may ask for is there, or cannot be.
                name => return Err(ApiError::unsupported(name)),
            }
        }
        Ok(page)
    }

    fn of(self, mut items: Vec<Value>) -> Result<Value, ApiError> {
        if !self.ascending {
            items.reverse();
        }
        if let Some(after) = self.after {
            let Some(at) = items.iter().position(|item| item["id"] == after.as_str()) else {
                let message = format!("'after' is '{after}', which is the id of no item here.");
                return Err(ApiError::invalid("after", message));
            };
            items.drain(..=at);
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let id = |item: Option<&Value>| item.map_or_else(|| json!(""), |item| item["id"].clone());
        let (first_id, last_id) = (id(items.first()), id(items.last()));
        Ok(json!({
            "object": "list", "data": items, "first_id": first_id, "last_id": last_id,
            "has_more": has_more,
        }))
    }
}

fn json_text(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn not_found(id: &str) -> ApiError {
    let message = format!("Response with id '{id}' not found.");
    let error = ApiError::new(StatusCode::NOT_FOUND, message);
    ApiError { param: Some("response_id".into()), code: Some("response_not_found"), ..error }
}
