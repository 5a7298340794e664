//! `POST /v1/embeddings`: its fields.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::body::{check_fields, read};
use super::completion_request::Prompt;
use super::field_names::field_names;
use super::pooling_fields::PoolingFields;
use super::refused::Route;
use crate::error::ApiError;
use crate::openapi::{Schemas, request};

/// The whole request.
#[derive(Debug)]
pub(crate) struct EmbeddingRequest {
    pub(crate) pooling: PoolingFields,
    pub(crate) embedding: EmbeddingFields,
}

/// Fields of this route alone.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct EmbeddingFields {
    pub(crate) input: Prompt,
    /// As numbers, the default, or as the bytes of 32-bit floats.
    pub(crate) encoding_format: Option<EncodingFormat>,
    /// How many elements a vector shall have.
    pub(crate) dimensions: Option<u64>,
    /// vLLM: let the tokenizer add its special tokens to texts; true by default.
    pub(crate) add_special_tokens: Option<bool>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    Float,
    /// Of the little-endian bytes.
    Base64,
}

impl EmbeddingRequest {
    /// Reads a body; every fault names its field.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let honoured = [field_names::<PoolingFields>(), field_names::<EmbeddingFields>()];
        check_fields(body, Route::Pooling, &honoured)?;
        Ok(Self { pooling: read(body)?, embedding: read(body)? })
    }

    /// What [`Self::parse`] takes.
    pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
        let parts = [schemas.fields::<PoolingFields>(), schemas.fields::<EmbeddingFields>()];
        request(parts, Route::Pooling)
    }
}
