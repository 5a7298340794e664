//! Qwen3 with experts (arXiv:2505.09388): Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder.
//!
//! Qwen3's mathematics and tensor names (see `qwen3.rs`), but most or all layers have a mixture of experts in
//! place of the MLP. A token goes to the `num_experts_per_tok` of which its logits are largest:
//! ```text
//! model.layers.N.mlp.gate.weight                               [num_experts, hidden_size]
//! model.layers.N.mlp.experts.E.{gate,up}_proj.weight           [moe_intermediate_size, hidden_size]
//! model.layers.N.mlp.experts.E.down_proj.weight                [hidden_size, moe_intermediate_size]
//! ```
//! Their weights are the softmax over all logits, with `norm_topk_prob` over the chosen ones.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::{DecoderConfig, ExpertNames, ExpertTensors, ExpertsConfig, Gate};
use serde_json::Value;

use crate::qwen3;

const NAME: &str = "Qwen3MoeForCausalLM";

const NEW_NAME: &str = "num_local_experts";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let config = qwen3::config(json)?;
    let json = ConfigReader::new(json)?;
    let count = |key: &str| json.required(key, json.count(key)?);
    // transformers 5 writes the second.
    let has_new_name = json.get("num_experts").is_none() && json.get(NEW_NAME).is_some();
    let key = if has_new_name { NEW_NAME } else { "num_experts" };
    let experts = ExpertsConfig {
        num_experts: count(key)?,
        gate: Gate {
            is_normalised: json.flag("norm_topk_prob")?,
            ..Gate::softmax(count("num_experts_per_tok")?)
        },
        intermediate_size: count("moe_intermediate_size")?,
        shared_size: None,
        layers: layers_with_experts(&json, config.num_layers)?,
        has_bias: false,
        names: ExpertNames {
            block: "mlp",
            router: "gate",
            router_bias: None,
            tensors: ExpertTensors::Each { gate: "gate_proj", up: "up_proj", down: "down_proj" },
        },
    };
    experts.check(&json, key)?;
    Ok(DecoderConfig { experts: Some(experts), ..config })
}

/// Every `decoder_sparse_step`th layer that is not among `mlp_only_layers`.
fn layers_with_experts(json: &ConfigReader, num_layers: usize) -> Result<Vec<bool>, ConfigError> {
    let step = json.count("decoder_sparse_step")?.unwrap_or(1);
    let key = "mlp_only_layers";
    let invalid = || json.invalid(key, "a list of numbers of layers");
    let mut layers: Vec<bool> = (1..=num_layers).map(|n| n.is_multiple_of(step)).collect();
    if let Some(list) = json.get(key) {
        for layer in list.as_array().ok_or_else(invalid)? {
            let layer = layer.as_u64().and_then(|layer| layers.get_mut(layer as usize));
            *layer.ok_or_else(invalid)? = false;
        }
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As published for Qwen3-30B-A3B.
    fn qwen3_30b() -> Value {
        json!({
            "architectures": [NAME], "decoder_sparse_step": 1, "head_dim": 128,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
            "max_position_embeddings": 40960, "mlp_only_layers": [], "moe_intermediate_size": 768,
            "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
            "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "vocab_size": 151_936,
        })
    }

    #[test]
    fn the_published_one_has_the_published_size() {
        let spec = config(&qwen3_30b()).unwrap().spec(NAME);
        assert_eq!(spec.num_parameters / 100_000_000, 305, "{}", spec.num_parameters);
        assert_eq!(spec.active_parameters() / 100_000_000, 33, "{}", spec.active_parameters());
        assert_eq!(spec.experts.unwrap().num_layers, 48);
    }

    #[test]
    fn layers_have_experts_or_an_mlp() {
        let mut json = qwen3_30b();
        json["num_hidden_layers"] = 6.into();
        json["decoder_sparse_step"] = 2.into();
        json["mlp_only_layers"] = json!([3]);
        let layers = config(&json).unwrap().experts.unwrap().layers;
        assert_eq!(layers, [false, true, false, false, false, true]);
        for list in [json!([6]), json!(["0"]), json!("0")] {
            json["mlp_only_layers"] = list;
            let error = config(&json).unwrap_err().to_string();
            assert!(error.contains("`mlp_only_layers` must be a list"), "{error}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_named() {
        for (key, value) in
            [("num_experts", 1_000), ("num_experts", 7), ("num_experts_per_tok", 129)]
        {
            let mut json = qwen3_30b();
            json[key] = value.into();
            let error = config(&json).unwrap_err().to_string();
            assert!(error.contains("`num_experts"), "{error}");
        }
    }
}
