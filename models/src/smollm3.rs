//! SmolLM3: Llama's mathematics and tensor names (see `llama.rs`), but some layers have no rotary positions (NoPE,
//! arXiv:2305.19466): those with a 0 in `no_rope_layers`, or every `no_rope_layer_interval`th. These have the
//! `sliding_window`, if there is one.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::{DecoderConfig, layer_windows};
use serde_json::{Value, json};

use crate::{llama, with_defaults};

const NAME: &str = "SmolLM3ForCausalLM";

/// transformers' where config.json does not say.
const DEFAULT_INTERVAL: usize = 4;

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let defaults =
        json!({"tie_word_embeddings": true, "num_key_value_heads": 4, "rope_theta": 2e6});
    let json = with_defaults(json, defaults);
    let config = llama::config(&json)?;
    let json = ConfigReader::new(&json)?;
    let rope_layers = rope_layers(&json, config.num_layers)?;
    let window = json.count("sliding_window")?;
    let window = if json.flag("use_sliding_window")? { window } else { None };
    Ok(DecoderConfig {
        windows: layer_windows(&json, config.num_layers, window, |layer| !rope_layers[layer])?,
        rope_layers,
        ..config
    })
}

/// Of each layer, whether it has rotary positions.
fn rope_layers(json: &ConfigReader, num_layers: usize) -> Result<Vec<bool>, ConfigError> {
    let key = "no_rope_layers";
    let Some(list) = json.get(key) else {
        let interval = json.count("no_rope_layer_interval")?.unwrap_or(DEFAULT_INTERVAL);
        return Ok((1..=num_layers).map(|layer| !layer.is_multiple_of(interval)).collect());
    };
    let invalid = || json.invalid(key, "a list of num_hidden_layers times 0 or 1");
    let list = list.as_array().filter(|list| list.len() >= num_layers).ok_or_else(invalid)?;
    let has_rope = |one: &Value| match one.as_u64() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(invalid()),
    };
    list[..num_layers].iter().map(has_rope).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As published for SmolLM3-3B, without the list that says what the interval says.
    fn smollm3_3b() -> Value {
        json!({
            "architectures": [NAME], "attention_bias": false, "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 11008, "max_position_embeddings": 65536,
            "max_window_layers": 28, "mlp_bias": false, "no_rope_layer_interval": 4,
            "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 5e6, "sliding_window": null,
            "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 128_256,
        })
    }

    #[test]
    fn every_fourth_layer_has_no_rotary_positions() {
        let config = config(&smollm3_3b()).unwrap();
        let spec = config.spec(NAME);
        assert_eq!(spec.num_parameters / 1_000_000, 3_075, "{}", spec.num_parameters);
        assert_eq!(spec.num_rotary_tables, 2);
        let without: Vec<usize> = (0..36).filter(|layer| !config.rope_layers[*layer]).collect();
        assert_eq!(without, [3, 7, 11, 15, 19, 23, 27, 31, 35]);
        assert_eq!(config.windows, [None; 36]);
    }

    #[test]
    fn lists_say_which_layers_have_them() {
        let mut json = smollm3_3b();
        json["num_hidden_layers"] = 3.into();
        json["no_rope_layers"] = json!([0, 1, 0, 1]);
        json["use_sliding_window"] = true.into();
        json["sliding_window"] = 40.into();
        let config = super::config(&json).unwrap();
        assert_eq!(config.rope_layers, [false, true, false]);
        assert_eq!(config.windows, [Some(40), None, Some(40)]);
        for list in [json!([0, 1]), json!([0, 1, 2]), json!("0"), json!([true, true, true])] {
            json["no_rope_layers"] = list;
            let error = super::config(&json).unwrap_err().to_string();
            assert!(error.contains("`no_rope_layers` must be a list"), "{error}");
        }
    }
}
