//! Granite 3: Llama's mathematics and tensor names (see `llama.rs`), with four factors that make what its parts give
//! as large as training wants it (maximal update parametrisation, arXiv:2203.03466):
//! ```text
//! h       = embedding_multiplier embed_tokens[ids]
//! scores  = attention_multiplier q k
//! each layer:  h += residual_multiplier o_proj(attention(..))
//!              h += residual_multiplier down_proj(..)
//! logits  = lm_head(norm(h)) / logits_scaling
//! ```

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::DecoderConfig;
use serde_json::Value;

use crate::llama;

const NAME: &str = "GraniteForCausalLM";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let reader = ConfigReader::new(json)?;
    let factor = |key: &str| Ok(reader.number(key)?.unwrap_or(1.0) as f32);
    let other_than_one = |factor: f32| Some(factor).filter(|factor| *factor != 1.0);
    Ok(DecoderConfig {
        attention_scale: factor("attention_multiplier")?,
        embedding_scale: other_than_one(factor("embedding_multiplier")?),
        branch_scale: other_than_one(factor("residual_multiplier")?),
        logits_scale: other_than_one(factor("logits_scaling")?.recip()),
        ..llama::config(json)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As published for granite-3.3-2b-instruct.
    fn granite_2b() -> Value {
        json!({
            "architectures": [NAME], "attention_bias": false, "attention_multiplier": 0.015_625,
            "embedding_multiplier": 12.0, "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 8192, "logits_scaling": 8.0, "max_position_embeddings": 131_072,
            "mlp_bias": false, "num_attention_heads": 32, "num_hidden_layers": 40,
            "num_key_value_heads": 8, "residual_multiplier": 0.22, "rms_norm_eps": 1e-5,
            "rope_scaling": null, "rope_theta": 1e7, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "vocab_size": 49_159,
        })
    }

    #[test]
    fn factors_are_those_of_the_file_or_one() {
        let config = |json: &Value| super::config(json).unwrap();
        let published = config(&granite_2b());
        assert_eq!(published.spec(NAME).num_parameters / 1_000_000, 2_533);
        assert_eq!(published.attention_scale, 1.0 / 64.0);
        assert_eq!(published.embedding_scale, Some(12.0));
        assert_eq!(published.branch_scale, Some(0.22));
        assert_eq!(published.logits_scale, Some(0.125));
        let mut json = granite_2b();
        for key in ["attention", "embedding", "residual"] {
            json[format!("{key}_multiplier")] = Value::Null;
        }
        json["logits_scaling"] = Value::Null;
        let plain = config(&json);
        assert_eq!(plain.attention_scale, 1.0);
        assert_eq!([plain.embedding_scale, plain.branch_scale, plain.logits_scale], [None; 3]);
        json["logits_scaling"] = json!(0);
        let error = super::config(&json).unwrap_err().to_string();
        assert!(error.contains("`logits_scaling`"), "{error}");
    }
}
