//! What the requests of all pooling routes may say.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use text::{Cut, Side};

use super::body::{check_fields, read};
use super::field_names::field_names;
use super::refused::Route;
use crate::error::ApiError;
use crate::openapi::{Schemas, request};

/// A request of a pooling route, with the fields of that route alone.
#[derive(Debug)]
pub(crate) struct PoolingRequest<F> {
    pub(crate) pooling: PoolingFields,
    pub(crate) fields: F,
}

impl<F: DeserializeOwned + JsonSchema> PoolingRequest<F> {
    /// Reads a body; every fault names its field.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let honoured = [field_names::<PoolingFields>(), field_names::<F>()];
        check_fields(body, Route::Pooling, &honoured)?;
        Ok(Self { pooling: read(body)?, fields: read(body)? })
    }

    /// What [`Self::parse`] takes.
    pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
        let parts = [schemas.fields::<PoolingFields>(), schemas.fields::<F>()];
        request(parts, Route::Pooling)
    }
}

/// Fields of `/v1/embeddings`, `/v1/rerank` and `/v1/score`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct PoolingFields {
    /// A served name; left out, the only model there is.
    pub(crate) model: Option<String>,
    /// vLLM: cut what is longer; -1 is the context length.
    truncate_prompt_tokens: Option<i64>,
    /// vLLM: where it is cut: `right`, the default, keeps the beginning.
    truncation_side: Option<TruncationSide>,
    /// vLLM: whether vectors are scaled to length 1, or scores to 0 to 1.
    pub(crate) use_activation: Option<bool>,
    /// vLLM: lower runs first.
    pub(crate) priority: Option<i32>,
    /// vLLM: share cached prefixes only with requests of the same salt.
    pub(crate) cache_salt: Option<String>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    user: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum TruncationSide {
    Left,
    Right,
}

impl PoolingFields {
    /// How prompts are cut, if they are; `truncates` is what the model does if nothing is said.
    pub(crate) fn cut(
        &self,
        max_model_len: usize,
        truncates: bool,
    ) -> Result<Option<Cut>, ApiError> {
        let max_len = match self.truncate_prompt_tokens {
            None if truncates => max_model_len,
            None => return Ok(None),
            Some(-1) => max_model_len,
            Some(limit) => match usize::try_from(limit) {
                Ok(limit) if (1..=max_model_len).contains(&limit) => limit,
                _ => {
                    let message = format!(
                        "'truncate_prompt_tokens' is {limit}; it may be 1 to {max_model_len}, or \
                         -1 for the most."
                    );
                    return Err(ApiError::invalid("truncate_prompt_tokens", message));
                }
            },
        };
        let side = match self.truncation_side {
            Some(TruncationSide::Left) => Side::Left,
            Some(TruncationSide::Right) | None => Side::Right,
        };
        Ok(Some(Cut { max_len, side }))
    }
}
