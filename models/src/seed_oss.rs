//! Seed-OSS: Llama's mathematics and tensor names (see `llama.rs`), with biases in the projections of queries, keys
//! and values.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::DecoderConfig;
use serde_json::{Value, json};

use crate::with_defaults;

const NAME: &str = "SeedOssForCausalLM";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    // transformers', of what files leave out.
    let json = with_defaults(
        json,
        json!({"attention_bias": true, "num_key_value_heads": 8, "head_dim": 128}),
    );
    let json = ConfigReader::new(&json)?;
    Ok(DecoderConfig {
        qkv_bias: json.flag("attention_bias")?,
        out_bias: json.flag("attention_out_bias")?,
        mlp_bias: json.flag("mlp_bias")?,
        ..DecoderConfig::parse(&json)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_one_has_the_published_size() {
        let json = json!({
            "architectures": [NAME], "attention_bias": true, "attention_out_bias": false,
            "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 27648,
            "max_position_embeddings": 524_288, "mlp_bias": false, "model_type": "seed_oss",
            "num_attention_heads": 80, "num_hidden_layers": 64, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-6, "rope_scaling": {"rope_type": "default"}, "rope_theta": 1e7,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 155_136,
        });
        let spec = config(&json).unwrap().spec(NAME);
        assert_eq!(spec.num_parameters / 10_000_000, 3_615, "{}", spec.num_parameters);
    }
}
