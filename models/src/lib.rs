//! The architectures: one file each, and the registry that the binary gives to the engine.

/// The row of a decoder by its name and what reads its `config.json`.
macro_rules! decoder {
    ($name:expr, $config:path) => {
        engine::architecture::Architecture {
            name: $name,
            spec: |json| Ok($config(json)?.spec($name)),
            load: |json, weights, max_model_len| {
                let config = $config(json)?;
                Ok(Box::new(engine::layers::Decoder::load(weights, &config, max_model_len)?))
            },
        }
    };
}

mod bert;
mod bert_config;
mod gemma;
mod glm4_moe;
mod gpt_oss;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod modernbert;
mod modernbert_config;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod roberta;
mod seed_oss;
mod smollm3;
pub mod spark;
mod text_config;

use engine::architecture::{Architecture, ConfigError};
use engine::encoder::EncoderArchitecture;
use serde_json::Value;

/// A row per architecture.
pub fn registry() -> &'static [Architecture] {
    &[
        gemma::GEMMA,
        gemma::GEMMA_2,
        gemma::GEMMA_3,
        gemma::GEMMA_3_WITH_VISION,
        glm4_moe::ARCHITECTURE,
        gpt_oss::ARCHITECTURE,
        granite::ARCHITECTURE,
        llama::ARCHITECTURE,
        mistral::ARCHITECTURE,
        mistral::MINISTRAL,
        mistral::WITH_VISION,
        mixtral::ARCHITECTURE,
        phi3::ARCHITECTURE,
        qwen2::ARCHITECTURE,
        qwen3::ARCHITECTURE,
        qwen3_moe::ARCHITECTURE,
        seed_oss::ARCHITECTURE,
        smollm3::ARCHITECTURE,
    ]
}

/// A row per architecture that reads prompts whole and gives vectors or scores.
pub fn encoders() -> impl Iterator<Item = &'static EncoderArchitecture> {
    bert::ROWS.iter().chain(&roberta::ROWS).chain(&modernbert::ROWS)
}

/// What a `config.json` describes.
#[derive(Debug, Clone, Copy)]
pub enum Found {
    /// A language model.
    Generator(&'static Architecture),
    /// A language model that was saved as its trunk, without a head to generate with.
    Trunk(&'static Architecture),
    /// An encoder.
    Encoder(&'static EncoderArchitecture),
}

/// Looks for the architecture, also by the name of its trunk (`LlamaModel`).
pub fn find(config: &Value) -> Result<Found, ConfigError> {
    let names = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
    for name in names.filter_map(Value::as_str) {
        if let Some(row) = encoders().find(|row| row.name == name) {
            return Ok(Found::Encoder(row));
        }
        let is_trunk = |row: &&Architecture| {
            let family = row.name.strip_suffix("ForCausalLM");
            family.is_some() && family == name.strip_suffix("Model")
        };
        if let Some(row) = registry().iter().find(is_trunk) {
            return Ok(Found::Trunk(row));
        }
    }
    Architecture::find(registry(), config).map(Found::Generator)
}

/// With these where it has none.
fn with_defaults(json: &Value, defaults: Value) -> Value {
    let mut json = json.clone();
    if let (Value::Object(json), Value::Object(defaults)) = (&mut json, defaults) {
        for (key, value) in defaults {
            if json.get(&key).is_none_or(Value::is_null) {
                json.insert(key, value);
            }
        }
    }
    json
}
