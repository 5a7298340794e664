//! Mistral 7B (arXiv:2310.06825), Mistral Nemo and Mistral Small, and what shares their architecture: Zephyr,
//! OpenHermes-Mistral, E5-Mistral. Of Mistral Small since 3.1, which also sees, the language model is served.
//!
//! Llama's mathematics and tensor names (see `llama.rs`), without biases. With a `sliding_window` a token sees
//! so many of the last tokens in every layer, itself included. `head_dim` is independent of `hidden_size`.
//!
//! Ministral 3 and Devstral Small 2 stretch rotary positions by YaRN, and multiply queries by
//! `1 + llama_4_scaling_beta ln(1 + floor(position / original_max_position_embeddings))`.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::DecoderConfig;
use serde_json::{Value, json};

use crate::text_config::of_text;
use crate::with_defaults;

const NAME: &str = "MistralForCausalLM";
const MINISTRAL_NAME: &str = "Ministral3ForCausalLM";
const WITH_VISION_NAME: &str = "Mistral3ForConditionalGeneration";

/// transformers' where config.json does not say; those without a window say null.
const DEFAULT_WINDOW: usize = 4096;

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

pub(crate) const MINISTRAL: Architecture = decoder!(MINISTRAL_NAME, ministral);

pub(crate) const WITH_VISION: Architecture = decoder!(WITH_VISION_NAME, config_beside_vision);

fn config_beside_vision(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let text = of_text(json)?;
    let reader = ConfigReader::new(&text)?;
    match reader.text("model_type")? {
        None | Some("mistral") => config(&text),
        Some("ministral3") => ministral(&text),
        // Others may be put there, with other mathematics.
        Some(other) => Err(reader.unsupported("model_type", other, "ministral3, mistral")),
    }
}

fn ministral(json: &Value) -> Result<DecoderConfig, ConfigError> {
    // transformers', of what files leave out.
    let defaults = json!({"num_key_value_heads": 8, "head_dim": 128, "sliding_window": null});
    let json = with_defaults(json, defaults);
    let reader = ConfigReader::new(&json)?;
    // It has a default here too, which no file counts on.
    reader.required("rope_parameters", reader.nested("rope_parameters")?)?;
    config(&json)
}

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let window_is_said = json.get("sliding_window").is_some();
    let json = ConfigReader::new(json)?;
    let window = if window_is_said { json.count("sliding_window")? } else { Some(DEFAULT_WINDOW) };
    let config = DecoderConfig::parse(&json)?;
    Ok(DecoderConfig { windows: vec![window; config.num_layers], ..config })
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::layers::QueryScale;
    use engine::weights::Quantized;

    /// As published for Ministral-3-14B-Instruct-2512, without what it sees with.
    fn ministral_14b() -> Value {
        json!({
            "architectures": [WITH_VISION_NAME], "dtype": "bfloat16", "model_type": "mistral3",
            "quantization_config": {
                "activation_scheme": "static", "dequantize": false, "quant_method": "fp8",
                "modules_to_not_convert":
                    ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
                "weight_block_size": null,
            },
            "text_config": {
                "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
                "hidden_size": 5120, "intermediate_size": 16384,
                "max_position_embeddings": 262_144, "model_type": "ministral3",
                "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
                "rms_norm_eps": 1e-5,
                "rope_parameters": {
                    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0,
                    "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0,
                    "original_max_position_embeddings": 16384, "rope_theta": 1e9,
                    "rope_type": "yarn", "type": "yarn",
                },
                "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 131_072,
            },
            "vision_config": {"hidden_size": 1024},
        })
    }

    #[test]
    fn ministral_is_read_as_published() {
        let config = config_beside_vision(&ministral_14b()).unwrap();
        let spec = config.spec(WITH_VISION_NAME);
        assert_eq!(spec.num_parameters / 10_000_000, 1_350, "{}", spec.num_parameters);
        assert_eq!(spec.max_position_embeddings, 262_144);
        let scale = QueryScale { beta: 0.1, original_len: 16_384.0 };
        assert_eq!(config.rope.q_scale, Some(scale));
        assert_eq!((config.windows, config.quantized), (vec![None; 40], Some(Quantized::Fp8Rows)));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let mut json = ministral_14b();
        json["text_config"]["model_type"] = "mistral4".into();
        let error = config_beside_vision(&json).unwrap_err().to_string();
        assert!(error.contains("`model_type` = mistral4 is not supported"), "{error}");
        let mut json = ministral_14b();
        json["text_config"]["rope_parameters"] = Value::Null;
        let error = config_beside_vision(&json).unwrap_err().to_string();
        assert_eq!(error, "config.json: `rope_parameters` is missing");
    }
}
