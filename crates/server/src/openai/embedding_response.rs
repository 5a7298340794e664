//! What `/v1/embeddings` answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Serialize;

use super::embedding_request::EncodingFormat;

/// A vector for each input, in its order.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EmbeddingList {
    object: &'static str,
    data: Vec<Item>,
    model: String,
    usage: PoolingUsage,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Embedding")]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

/// Tokens read.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub(crate) struct PoolingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl PoolingUsage {
    pub(crate) fn new(prompt_tokens: usize) -> Self {
        Self { prompt_tokens, total_tokens: prompt_tokens }
    }
}

impl EmbeddingList {
    pub(crate) fn new(
        vectors: Vec<Vec<f32>>,
        format: EncodingFormat,
        model: String,
        usage: PoolingUsage,
    ) -> Self {
        let embedding = |(index, vector)| Item {
            object: "embedding",
            index,
            embedding: encoded(vector, format),
        };
        let data = vectors.into_iter().enumerate().map(embedding).collect();
        Self { object: "list", data, model, usage }
    }
}

fn encoded(vector: Vec<f32>, format: EncodingFormat) -> Vector {
    match format {
        EncodingFormat::Float => Vector::Float(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}
