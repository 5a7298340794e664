//! Mistral 7B (arXiv:2310.06825), Mistral Nemo and Mistral Small, and what shares their architecture: Zephyr,
//! OpenHermes-Mistral, E5-Mistral. Of Mistral Small since 3.1, which also sees, the language model is served.
//!
//! Llama's mathematics and tensor names (see `llama.rs`), without biases. With a `sliding_window` a token sees
//! so many of the last tokens in every layer, itself included. `head_dim` is independent of `hidden_size`.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::DecoderConfig;
use serde_json::Value;

use crate::text_config::of_text;

const NAME: &str = "MistralForCausalLM";
const WITH_VISION_NAME: &str = "Mistral3ForConditionalGeneration";

/// transformers' where config.json does not say; those without a window say null.
const DEFAULT_WINDOW: usize = 4096;

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

pub(crate) const WITH_VISION: Architecture = decoder!(WITH_VISION_NAME, config_beside_vision);

fn config_beside_vision(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let text = of_text(json)?;
    let reader = ConfigReader::new(&text)?;
    // Others have been put there since, with other mathematics.
    if let Some(other) = reader.text("model_type")?.filter(|kind| *kind != "mistral") {
        return Err(reader.unsupported("model_type", other, "mistral"));
    }
    config(&text)
}

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let window_is_said = json.get("sliding_window").is_some();
    let json = ConfigReader::new(json)?;
    let window = if window_is_said { json.count("sliding_window")? } else { Some(DEFAULT_WINDOW) };
    let config = DecoderConfig::parse(&json)?;
    Ok(DecoderConfig { windows: vec![window; config.num_layers], ..config })
}
