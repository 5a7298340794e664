//! GLM-4.5 (arXiv:2508.06471), GLM-4.5-Air, GLM-4.6 and GLM-4.7.
//!
//! Llama's mathematics and tensor names (see `llama.rs`), with biases in the projections of queries, keys and values;
//! half of each head is rotated, and with `use_qk_norm` each head of q and k goes through an RMSNorm before. Behind
//! the first `first_k_dense_replace` layers, experts are in place of the MLP, and an MLP beside them that all tokens
//! go to. A token goes to the `num_experts_per_tok` whose sigmoids, with their bias, are largest; their weights are
//! the sigmoids, with `norm_topk_prob` divided by their sum, times `routed_scaling_factor` (DeepSeek-V3,
//! arXiv:2412.19437):
//! ```text
//! model.layers.N.mlp.gate.weight                                  [n_routed_experts, hidden_size]
//! model.layers.N.mlp.gate.e_score_correction_bias                 [n_routed_experts] f32
//! model.layers.N.mlp.experts.E.{gate,up}_proj.weight              [moe_intermediate_size, hidden_size]
//! model.layers.N.mlp.experts.E.down_proj.weight                   [hidden_size, moe_intermediate_size]
//! model.layers.N.mlp.shared_experts.{gate,up,down}_proj.weight    n_shared_experts times as wide
//! ```
//! The layers behind `num_hidden_layers`, which guess tokens further ahead, are not loaded.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::{DecoderConfig, ExpertNames, ExpertTensors, ExpertsConfig, Gate, Score};
use serde_json::{Value, json};

use crate::with_defaults;

const NAME: &str = "Glm4MoeForCausalLM";

const NUM_EXPERTS: &str = "n_routed_experts";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    // transformers', of what files leave out.
    let defaults =
        json!({"num_key_value_heads": 8, "partial_rotary_factor": 0.5, "norm_topk_prob": true});
    let json = with_defaults(json, defaults);
    let json = ConfigReader::new(&json)?;
    let config = DecoderConfig::parse(&json)?;
    let count = |key: &str| json.required(key, json.count(key)?);
    if let Some(groups) = json.count("n_group")?.filter(|groups| *groups != 1) {
        return Err(json.unsupported("n_group", &groups.to_string(), "1"));
    }
    let dense = json.count_or_zero("first_k_dense_replace")?.unwrap_or(1);
    let size = count("moe_intermediate_size")?;
    let num_shared = json.count_or_zero("n_shared_experts")?.unwrap_or(1);
    let experts = ExpertsConfig {
        num_experts: count(NUM_EXPERTS)?,
        gate: Gate {
            per_token: count("num_experts_per_tok")?,
            score: Score::Sigmoid,
            is_normalised: json.flag("norm_topk_prob")?,
            factor: json.number("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        },
        intermediate_size: size,
        shared_size: Some(num_shared * size).filter(|size| *size > 0),
        layers: (0..config.num_layers).map(|layer| layer >= dense).collect(),
        has_bias: false,
        names: ExpertNames {
            block: "mlp",
            router: "gate",
            router_bias: Some("e_score_correction_bias"),
            tensors: ExpertTensors::Each { gate: "gate_proj", up: "up_proj", down: "down_proj" },
        },
    };
    experts.check(&json, NUM_EXPERTS)?;
    Ok(DecoderConfig {
        qkv_bias: json.flag("attention_bias")?,
        qk_norm: json.flag("use_qk_norm")?,
        experts: Some(experts),
        ..config
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As published for GLM-4.5-Air.
    fn glm_4_5_air() -> Value {
        json!({
            "architectures": [NAME], "attention_bias": true, "attention_dropout": 0.0,
            "eos_token_id": [151_329, 151_336, 151_338], "first_k_dense_replace": 1,
            "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
            "intermediate_size": 10944, "max_position_embeddings": 131_072,
            "model_type": "glm4_moe", "moe_intermediate_size": 1408, "n_group": 1,
            "n_routed_experts": 128, "n_shared_experts": 1, "norm_topk_prob": true,
            "num_attention_heads": 96, "num_experts_per_tok": 8, "num_hidden_layers": 46,
            "num_key_value_heads": 8, "num_nextn_predict_layers": 1,
            "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5, "rope_scaling": null,
            "rope_theta": 1_000_000, "routed_scaling_factor": 1.0, "tie_word_embeddings": false,
            "topk_group": 1, "torch_dtype": "bfloat16", "use_qk_norm": false,
            "vocab_size": 151_552,
        })
    }

    #[test]
    fn the_published_one_has_the_published_size() {
        let config = config(&glm_4_5_air()).unwrap();
        let spec = config.spec(NAME);
        assert_eq!(spec.num_parameters / 1_000_000_000, 106, "{}", spec.num_parameters);
        // Said to be 12: embeddings are not counted there.
        let active = spec.active_parameters() - spec.num_gathered;
        assert_eq!(active / 100_000_000, 128, "{active}");
        let experts = spec.experts.unwrap();
        assert_eq!((experts.num_layers, experts.shared_size), (45, 1408));
        assert_eq!(config.rope.num_rotated(config.head_dim), 64);
    }

    #[test]
    fn what_a_file_leaves_out_has_the_defaults_of_transformers() {
        let mut json = glm_4_5_air();
        for key in [
            "first_k_dense_replace",
            "n_shared_experts",
            "norm_topk_prob",
            "n_group",
            "num_key_value_heads",
            "partial_rotary_factor",
            "routed_scaling_factor",
        ] {
            json[key] = Value::Null;
        }
        // Air says nothing else.
        let (left_out, said) = (config(&json).unwrap(), config(&glm_4_5_air()).unwrap());
        assert_eq!(left_out.experts, said.experts);
        assert_eq!((left_out.rope, left_out.num_kv_heads), (said.rope, said.num_kv_heads));
        json["first_k_dense_replace"] = 0.into();
        json["n_shared_experts"] = 0.into();
        let experts = config(&json).unwrap().experts.unwrap();
        assert_eq!((experts.layers, experts.shared_size), (vec![true; 46], None));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value) in [
            ("n_group", json!(8)),
            ("n_routed_experts", json!(0)),
            ("num_experts_per_tok", json!(129)),
            ("moe_intermediate_size", Value::Null),
            ("routed_scaling_factor", json!("1")),
        ] {
            let mut json = glm_4_5_air();
            json[key] = value;
            let error = config(&json).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
    }
}
