//! `POST /v1/completions`: its fields.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::body::{check_fields, read};
use super::field_names::field_names;
use super::prompt::Prompt;
use super::refused::Route;
use super::request_fields::RequestFields;
use super::sampling_fields::{MAX_TOP_LOGPROBS, SamplingFields, integer};
use super::structured_fields::StructuredFields;
use crate::error::ApiError;
use crate::openapi::{Schemas, request};

/// Answers are this long when the request does not say, as at OpenAI.
pub(crate) const DEFAULT_MAX_TOKENS: usize = 16;

/// The whole request.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) request: RequestFields,
    pub(crate) sampling: SamplingFields,
    pub(crate) structured: StructuredFields,
    pub(crate) completion: CompletionFields,
}

/// Fields of this route alone.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CompletionFields {
    pub(crate) prompt: Prompt,
    /// Put the prompt before the answer, with its log-probabilities if those are asked for.
    pub(crate) echo: Option<bool>,
    /// Report log-probabilities with this many alternatives, 0 to 20.
    #[schemars(range(min = 0, max = MAX_TOP_LOGPROBS))]
    logprobs: Option<i64>,
    /// Only as large as `n`: this server does not sample more choices than it returns.
    best_of: Option<i64>,
    /// vLLM: let the tokenizer add its special tokens (BOS) to text prompts; true by default.
    pub(crate) add_special_tokens: Option<bool>,
}

impl CompletionRequest {
    /// Reads a body; every fault names its field.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let honoured = [
            field_names::<RequestFields>(),
            field_names::<SamplingFields>(),
            field_names::<StructuredFields>(),
            field_names::<CompletionFields>(),
        ];
        check_fields(body, Route::Completions, &honoured)?;
        let request = Self {
            request: read(body)?,
            sampling: read(body)?,
            structured: read(body)?,
            completion: read(body)?,
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
            schemas.fields::<CompletionFields>(),
        ];
        request(parts, Route::Completions)
    }

    /// The longest answer; `None` asks for the default.
    pub(crate) fn max_tokens(&self) -> Result<Option<usize>, ApiError> {
        let max_tokens = integer("max_tokens", self.sampling.max_tokens, 0, i64::MAX)?;
        Ok(max_tokens.map(|count| count as usize))
    }

    /// The number of alternatives at each position, or `None` for no log-probabilities.
    pub(crate) fn logprobs(&self) -> Result<Option<u32>, ApiError> {
        let top = integer("logprobs", self.completion.logprobs, 0, MAX_TOP_LOGPROBS)?;
        Ok(top.map(|count| count as u32))
    }

    /// Refuses a `best_of` other than `n`.
    pub(crate) fn check_best_of(&self, n: usize) -> Result<(), ApiError> {
        match self.completion.best_of {
            Some(best_of) if best_of != n as i64 => {
                let message =
                    format!("'best_of' is {best_of}; only the value of 'n', {n}, is supported.");
                Err(ApiError::invalid("best_of", message))
            }
            _ => Ok(()),
        }
    }
}
