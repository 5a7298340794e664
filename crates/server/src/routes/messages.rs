//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's API in front of chat.

use std::mem;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::chat;
use crate::anthropic::conversation::LateSystem;
use crate::anthropic::errors::{prompt_too_long, respelled};
use crate::anthropic::request::MessagesRequest;
use crate::anthropic::response::MessagesWire;
use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::generation::{Generation, Job};
use crate::openai::chat_request::ChatRequest;
use crate::openai::request_fields::StreamOptions;
use crate::prompt::{ChatPrompt, PromptField};
use crate::registry::Registry;
use crate::served_model::ServedModel;
use crate::sse;
use crate::state::App;
use crate::terms::Terms;

/// A request that has passed every check, ready to be submitted.
struct Prepared {
    job: Job,
    wire: MessagesWire,
    stream: Option<StreamOptions>,
}

/// The answer of `/v1/messages/count_tokens`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TokenCount {
    input_tokens: usize,
}

/// Answers one request. Dropping the future aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    terms: Terms,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let prepared = move |models: &Registry| {
        let request = MessagesRequest::parse(&body)?;
        let model = models.generating(Some(&request.model))?;
        Ok((prepare(&model, &request)?, model))
    };
    let prepared = move |models: &Registry| prepared(models).map_err(|error| respelled(&error));
    let ((Prepared { job, wire, stream }, model), entered) = app.admit(terms, prepared).await?;
    let generation = Generation::start(&app, &model, &job, entered)?;
    sse::answer(generation, wire, stream, app.config().heartbeat).await
}

/// Counts the tokens of the prompt that `create` would make, and generates nothing.
pub(crate) async fn count_tokens(
    State(app): State<App>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<TokenCount>, ApiError> {
    let models = app.ready()?;
    let job = move || {
        let request = MessagesRequest::parse(&body).map_err(|error| respelled(&error))?;
        let model = models.find(Some(&request.model))?;
        let (_, prompt) = read(&model, &request).map_err(|error| respelled(&error))?;
        Ok(TokenCount { input_tokens: prompt.ids.len() })
    };
    app.text_pool().run(job).await.map(Json)
}

fn prepare(model: &ServedModel, request: &MessagesRequest) -> Result<Prepared, ApiError> {
    let asked = request.max_tokens()?;
    let (chat, prompt) = read(model, request)?;
    let sampling = chat::sampling(model, &chat)?;
    let (num_tokens, context) = (prompt.ids.len(), model.generator().max_model_len());
    if num_tokens >= context {
        return Err(prompt_too_long(num_tokens, context));
    }
    // As at Anthropic, the context may end an answer before `max_tokens` does; Claude Code asks
    // every model for 32000.
    let max_tokens = model.max_tokens(num_tokens, None, Some(asked), PromptField::Messages)?;
    let wire = MessagesWire::new(model, max_tokens < asked);
    let job = chat::job(model, &chat, sampling, prompt, max_tokens)?;
    Ok(Prepared { job, wire, stream: chat.request.stream_options() })
}

/// The chat that `request` asks for, and its prompt.
fn read(
    model: &ServedModel,
    request: &MessagesRequest,
) -> Result<(ChatRequest, ChatPrompt), ApiError> {
    let late_system = request.late_system()?;
    let read_with = |late: LateSystem| {
        let mut chat = ChatRequest::parse(&request.chat(late, model.text())?)?;
        let (conversation, salt) =
            (mem::take(&mut chat.conversation), chat.request.cache_salt.as_deref());
        let prompt = model.read_chat(conversation, &chat.tools, false, salt)?;
        Ok((chat, prompt))
    };
    match read_with(LateSystem::System) {
        Ok((_, prompt)) if !says_all(&prompt.text, &late_system) => read_with(LateSystem::User),
        Err(_) if !late_system.is_empty() => read_with(LateSystem::User),
        read => read,
    }
}

/// Whether `prompt` has all `texts`, one behind the other; looks at it once.
fn says_all(prompt: &str, texts: &[&str]) -> bool {
    let mut rest = prompt;
    texts.iter().map(|text| text.trim()).all(|text| match rest.find(text) {
        Some(at) => {
            rest = &rest[at + text.len()..];
            true
        }
        None => false,
    })
}
