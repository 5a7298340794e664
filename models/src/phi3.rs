//! Phi-3 (arXiv:2404.14219) and Phi-4 (arXiv:2412.08905), of short contexts and of long ones.
//!
//! Llama's mathematics (see `llama.rs`), with a `sliding_window` in every layer if there is one, but queries, keys
//! and values are one tensor, and so are gate and up:
//! ```text
//! model.layers.N.self_attn.qkv_proj.weight   [(heads + 2 kv_heads) head_dim, hidden_size]
//! model.layers.N.mlp.gate_up_proj.weight     [2 intermediate_size, hidden_size]
//! ```
//!
//! Those of long contexts have LongRoPE's two lists of factors on rotary wavelengths. transformers takes one or the
//! other by how long a sequence has become, which what lies in the cache does not follow; here, as in vLLM, it is
//! `max_model_len` that decides. Phi-4-mini rotates a part of each head.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::DecoderConfig;
use serde_json::Value;

const NAME: &str = "Phi3ForCausalLM";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let json = ConfigReader::new(json)?;
    let config = DecoderConfig::parse(&json)?;
    let windows = vec![json.count("sliding_window")?; config.num_layers];
    Ok(DecoderConfig { windows, merged_projections: true, ..config })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn phi_4_mini_has_the_published_size() {
        let factors = vec![1.0; 48];
        let json = json!({
            "architectures": [NAME], "attention_bias": false, "attention_dropout": 0.0,
            "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
            "max_position_embeddings": 131_072, "model_type": "phi3", "num_attention_heads": 24,
            "num_hidden_layers": 32, "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {"long_factor": factors, "short_factor": factors, "type": "longrope"},
            "rope_theta": 10000.0, "sliding_window": 262_144, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "vocab_size": 200_064,
        });
        let config = config(&json).unwrap();
        assert_eq!(config.spec(NAME).num_parameters, 3_836_021_760);
        assert_eq!(config.rope.num_rotated(config.head_dim), 96);
    }
}
