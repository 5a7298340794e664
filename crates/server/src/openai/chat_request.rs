//! `POST /v1/chat/completions`: its fields.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body::{check_fields, read};
use super::field_names::field_names;
use super::message::Message;
use super::refused::Route;
use super::request_fields::RequestFields;
use super::sampling_fields::{MAX_TOP_LOGPROBS, SamplingFields, integer};
use super::structured_fields::StructuredFields;
use super::tool_fields::ToolFields;
use crate::error::ApiError;
use crate::openapi::{Schemas, request};

/// The name of the field that bounds reasoning.
pub(crate) const THINKING_BUDGET: &str = "thinking_token_budget";

/// The whole request.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) request: RequestFields,
    pub(crate) sampling: SamplingFields,
    pub(crate) structured: StructuredFields,
    pub(crate) tools: ToolFields,
    pub(crate) conversation: Conversation,
    pub(crate) chat: ChatFields,
}

/// Fields that make the prompt; `/tokenize` takes them too.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct Conversation {
    /// At least one.
    pub(crate) messages: Option<Vec<Message>>,
    /// vLLM: open the assistant's turn after the last message; true by default.
    pub(crate) add_generation_prompt: Option<bool>,
    /// vLLM: leave the last message open, for the model to go on with it.
    pub(crate) continue_final_message: Option<bool>,
    /// vLLM: let the tokenizer add its special tokens around the rendered chat; false by default.
    pub(crate) add_special_tokens: Option<bool>,
    /// vLLM: a template of the request's own, where the operator allows it.
    pub(crate) chat_template: Option<String>,
    /// vLLM: further variables for the template.
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
}

/// Fields of this route alone.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct ChatFields {
    /// The newer name of `max_tokens`.
    #[schemars(range(min = 1))]
    max_completion_tokens: Option<i64>,
    /// Report log-probabilities.
    logprobs: Option<bool>,
    /// With this many alternatives, 0 to 20.
    #[schemars(range(min = 0, max = MAX_TOP_LOGPROBS))]
    top_logprobs: Option<i64>,
    /// vLLM: a block of reasoning is closed once there are so many tokens of it.
    #[schemars(range(min = 0))]
    thinking_token_budget: Option<i64>,
}

impl ChatRequest {
    /// Reads a body; every fault names its field.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let honoured = [
            field_names::<RequestFields>(),
            field_names::<SamplingFields>(),
            field_names::<StructuredFields>(),
            field_names::<ToolFields>(),
            field_names::<Conversation>(),
            field_names::<ChatFields>(),
        ];
        check_fields(body, Route::Chat, &honoured)?;
        let request = Self {
            request: read(body)?,
            sampling: read(body)?,
            structured: read(body)?,
            tools: read(body)?,
            conversation: read(body)?,
            chat: read(body)?,
        };
        request.request.validate()?;
        Ok(request)
    }

    /// What [`Self::parse`] takes.
    pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
        let parts = [
            schemas.fields::<RequestFields>(),
            schemas.fields::<SamplingFields>(),
            schemas.fields::<StructuredFields>(),
            schemas.fields::<ToolFields>(),
            schemas.fields::<Conversation>(),
            schemas.fields::<ChatFields>(),
        ];
        let mut schema = request(parts, Route::Chat);
        schema["required"] = json!(["messages"]);
        schema["properties"]["max_tokens"]["minimum"] = 1.into();
        schema
    }

    /// The longest answer asked for: either name, or `None` for what the context leaves.
    pub(crate) fn max_tokens(&self) -> Result<Option<usize>, ApiError> {
        let old = integer("max_tokens", self.sampling.max_tokens, 1, i64::MAX)?;
        let new = self.chat.max_completion_tokens;
        let new = integer("max_completion_tokens", new, 1, i64::MAX)?;
        if let (Some(old), Some(new)) = (old, new)
            && old != new
        {
            let message = format!(
                "'max_tokens' is {old} and 'max_completion_tokens' is {new}; give one of them."
            );
            return Err(ApiError::invalid("max_completion_tokens", message));
        }
        Ok(new.or(old).map(|count| count as usize))
    }

    /// How many tokens the model may think for, if that is bounded.
    pub(crate) fn thinking_budget(&self) -> Result<Option<usize>, ApiError> {
        let budget = self.chat.thinking_token_budget;
        let budget = integer(THINKING_BUDGET, budget, 0, i64::MAX)?;
        Ok(budget.map(|count| count as usize))
    }

    /// The number of alternatives at each position, or `None` for no log-probabilities.
    pub(crate) fn logprobs(&self) -> Result<Option<u32>, ApiError> {
        let top = integer("top_logprobs", self.chat.top_logprobs, 0, MAX_TOP_LOGPROBS)?;
        match (self.chat.logprobs == Some(true), top) {
            (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => {
                let message = "'top_logprobs' is only allowed when 'logprobs' is true.";
                Err(ApiError::invalid("top_logprobs", message))
            }
        }
    }
}
