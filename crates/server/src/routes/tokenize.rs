//! `POST /tokenize` and `/detokenize`, in vLLM's shapes.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::openai::body::{check_fields, read};
use crate::openai::chat_request::Conversation;
use crate::openai::field_names::field_names;
use crate::openai::refused::Route;
use crate::openai::sampling_fields::check_ids;
use crate::openai::tool_fields::ToolFields;
use crate::openapi::{Schemas, request};
use crate::prompt::PromptField;
use crate::served_model::ServedModel;
use crate::state::App;

/// Fields of `/tokenize` beside those of a conversation.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct TokenizeFields {
    model: Option<String>,
    /// Instead of `messages`.
    prompt: Option<String>,
    /// Also return each token as the vocabulary writes it.
    return_token_strs: Option<bool>,
}

impl TokenizeFields {
    /// What the route takes, the fields of a conversation included.
    pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
        let parts = [
            schemas.fields::<Self>(),
            schemas.fields::<ToolFields>(),
            schemas.fields::<Conversation>(),
        ];
        request(parts, Route::Tokenize)
    }
}

impl DetokenizeFields {
    /// What the route takes.
    pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
        request([schemas.fields::<Self>()], Route::Tokenize)
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct DetokenizeFields {
    model: Option<String>,
    tokens: Vec<u32>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Detokenized {
    prompt: String,
}

/// Text or messages to ids, exactly as the generation routes do it.
pub(crate) async fn tokenize(
    State(app): State<App>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<Tokenized>, ApiError> {
    let models = app.ready()?;
    let trust_template = app.config().trust_request_chat_template;
    let job = move || {
        let honoured = [
            field_names::<TokenizeFields>(),
            field_names::<ToolFields>(),
            field_names::<Conversation>(),
        ];
        check_fields(&body, Route::Tokenize, &honoured)?;
        let fields: TokenizeFields = read(&body)?;
        let conversation: Conversation = read(&body)?;
        let model = models.find(fields.model.as_deref())?;
        let tokens = match fields.prompt {
            Some(_) if conversation.messages.is_some() => {
                let message = "Give 'prompt' or 'messages', not both.";
                return Err(ApiError::invalid("prompt", message));
            }
            Some(text) => {
                let add_special_tokens = conversation.add_special_tokens != Some(false);
                model.encode(&text, add_special_tokens, PromptField::Prompt)?
            }
            None if conversation.messages.is_none() => {
                let message = "Missing required field 'prompt' (or 'messages').";
                return Err(ApiError::invalid("prompt", message));
            }
            None => {
                let tools = read::<ToolFields>(&body)?;
                model.read_chat(conversation, &tools, trust_template, None)?.ids
            }
        };
        Ok(tokenized(&model, tokens, fields.return_token_strs == Some(true)))
    };
    app.text_pool().run(job).await.map(Json)
}

fn tokenized(model: &ServedModel, tokens: Vec<u32>, with_strings: bool) -> Tokenized {
    let tokenizer = model.text().tokenizer();
    let piece = |&id: &u32| tokenizer.piece(id).unwrap_or_default();
    Tokenized {
        count: tokens.len(),
        max_model_len: model.generator().max_model_len(),
        token_strs: with_strings.then(|| tokens.iter().map(piece).collect()),
        tokens,
    }
}

/// Ids to text, special tokens included.
pub(crate) async fn detokenize(
    State(app): State<App>,
    JsonBytes(body): JsonBytes,
) -> Result<Json<Detokenized>, ApiError> {
    let models = app.ready()?;
    let job = move || {
        check_fields(&body, Route::Tokenize, &[field_names::<DetokenizeFields>()])?;
        let fields: DetokenizeFields = read(&body)?;
        let model = models.find(fields.model.as_deref())?;
        check_ids("tokens", &fields.tokens, model.generator().vocab_size())?;
        let prompt = model.text().decode(&fields.tokens, false);
        let prompt = prompt.map_err(|error| ApiError::invalid("tokens", error.to_string()))?;
        Ok(Detokenized { prompt })
    };
    app.text_pool().run(job).await.map(Json)
}
