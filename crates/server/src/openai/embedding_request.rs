//! `POST /v1/embeddings`: its fields.

use schemars::JsonSchema;
use serde::Deserialize;

use super::prompt::Prompt;

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
