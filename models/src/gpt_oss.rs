//! gpt-oss (arXiv:2508.10925): gpt-oss-20b and gpt-oss-120b, in MXFP4 as published or in 16 bits.
//!
//! Llama's mathematics and tensor names (see `llama.rs`), but every layer has a mixture of experts in place of the
//! MLP, all projections have biases, and every other layer has a window of `sliding_window` tokens:
//! ```text
//! scores  = softmax([q k / sqrt(head_dim), sink of the head]), of which the last is left out behind it
//! experts : the `num_experts_per_tok` of which the logits are largest, with their softmax as weights
//! expert  = down (clamp(up) + 1) g / (1 + exp(-1.702 g)), where g = clamp(gate)
//! ```
//! Gates are clamped from above at `swiglu_limit`, what they gate from both sides. The experts of a layer are one tensor,
//! in which output features of gate and up take turns:
//! ```text
//! model.layers.N.self_attn.sinks                                  [heads]
//! model.layers.N.mlp.router.{weight,bias}                         [num_local_experts, hidden_size]
//! model.layers.N.mlp.experts.gate_up_proj                         [num_local_experts, hidden_size, 2 intermediate_size]
//! model.layers.N.mlp.experts.down_proj                            [num_local_experts, intermediate_size, hidden_size]
//! model.layers.N.mlp.experts.{gate_up,down}_proj_bias             [num_local_experts, outputs]
//! model.layers.N.mlp.experts.{gate_up,down}_proj_{blocks,scales}  in MXFP4 [num_local_experts, outputs, inputs / 32, ..]
//! ```

use candle_core::DType;
use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::{
    Activation, DecoderConfig, ExpertNames, ExpertTensors, ExpertsConfig, layer_windows,
};
use serde_json::{Value, json};

use crate::with_defaults;

const NAME: &str = "GptOssForCausalLM";

/// transformers' where config.json does not say; null means none.
const DEFAULT_WINDOW: usize = 128;

/// Of all that there are.
const SWIGLU_ALPHA: f64 = 1.702;

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let window_is_said = json.get("sliding_window").is_some();
    let defaults = json!({"attention_bias": true, "rope_theta": 150_000, "swiglu_limit": 7.0});
    let json = with_defaults(json, defaults);
    let json = ConfigReader::new(&json)?;
    let has_bias = json.flag("attention_bias")?;
    // transformers has a default here too, which no file counts on.
    if json.get("rope_parameters").is_none() {
        json.required("rope_scaling", json.nested("rope_scaling")?)?;
    }
    if json.number("swiglu_alpha")?.is_some_and(|alpha| alpha != SWIGLU_ALPHA) {
        return Err(json.invalid("swiglu_alpha", "1.702"));
    }
    let config = DecoderConfig::parse(&json)?;
    let names = ExpertNames {
        block: "mlp",
        router: "router",
        router_bias: Some("bias"),
        tensors: ExpertTensors::Together,
    };
    let experts = ExpertsConfig::of_every_layer(&json, &config, names)?;
    // Published files do not say it.
    let says_dtype = ["dtype", "torch_dtype"].iter().any(|key| json.get(key).is_some());
    let limit = json.required("swiglu_limit", json.number("swiglu_limit")?)? as f32;
    let window = if window_is_said { json.count("sliding_window")? } else { Some(DEFAULT_WINDOW) };
    Ok(DecoderConfig {
        // Every other layer, beginning with the first.
        windows: layer_windows(&json, config.num_layers, window, |layer| layer % 2 == 0)?,
        activation: Activation::ClampedSwiglu { limit },
        experts: Some(ExpertsConfig { has_bias: true, ..experts }),
        has_sinks: true,
        qkv_bias: has_bias,
        out_bias: has_bias,
        fits_f16: false,
        dtype: if says_dtype { config.dtype } else { DType::BF16 },
        ..config
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::weights::Quantized;

    /// As published.
    fn published(num_layers: usize, num_experts: usize) -> Value {
        json!({
            "architectures": [NAME], "attention_bias": true, "attention_dropout": 0.0,
            "eos_token_id": 200_002, "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu",
            "hidden_size": 2880, "initial_context_length": 4096, "initializer_range": 0.02,
            "intermediate_size": 2880, "max_position_embeddings": 131_072, "model_type": "gpt_oss",
            "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": num_layers,
            "num_key_value_heads": 8, "num_local_experts": num_experts,
            "output_router_logits": false, "pad_token_id": 199_999,
            "quantization_config": {
                "modules_to_not_convert": [
                    "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                    "lm_head",
                ],
                "quant_method": "mxfp4",
            },
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false,
            },
            "rope_theta": 150_000, "router_aux_loss_coef": 0.9, "sliding_window": 128,
            "swiglu_limit": 7.0, "tie_word_embeddings": false, "use_cache": true,
            "vocab_size": 201_088,
        })
    }

    #[test]
    fn the_published_ones_have_the_published_sizes() {
        for (num_layers, num_experts, all, active) in
            [(24, 32, 20_914_757_184, 4_190_000_000), (36, 128, 116_829_156_672, 5_750_000_000)]
        {
            let spec = config(&published(num_layers, num_experts)).unwrap().spec(NAME);
            assert_eq!(spec.num_parameters, all);
            assert!(
                spec.active_parameters().abs_diff(active) < 10_000_000,
                "{}",
                spec.active_parameters()
            );
            assert_eq!(spec.max_position_embeddings, 131_072);
            assert_eq!(spec.window.unwrap().num_layers, num_layers / 2);
            assert_eq!((spec.quantized, spec.dtype), (Some(Quantized::Mxfp4), DType::BF16));
        }
    }

    #[test]
    fn what_is_absent_has_the_defaults_of_transformers() {
        let whole = config(&published(24, 32)).unwrap();
        let mut json = published(24, 32);
        let keys = ["attention_bias", "rope_theta", "sliding_window", "swiglu_limit"];
        for key in keys {
            json.as_object_mut().unwrap().remove(key);
        }
        let config = config(&json).unwrap();
        assert_eq!((config.qkv_bias, &config.windows), (true, &whole.windows));
        assert_eq!((config.activation, config.rope), (whole.activation, whole.rope));
    }

    #[test]
    fn numbers_that_cannot_be_are_named() {
        for (key, value) in [
            ("num_local_experts", json!(1_000)),
            ("num_experts_per_tok", json!(33)),
            ("swiglu_limit", json!("7")),
            ("swiglu_alpha", json!(2.0)),
            ("rope_scaling", Value::Null),
            ("layer_types", json!(["full_attention"])),
        ] {
            let mut json = published(24, 32);
            json[key] = value;
            let error = config(&json).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
    }
}
