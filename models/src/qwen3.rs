//! Qwen3, dense (arXiv:2505.09388).
//!
//! Llama's mathematics and tensor names (see `llama.rs`), but each head of q and k goes through an
//! RMSNorm before rotation, and `head_dim` is independent of `hidden_size`:
//! ```text
//! model.layers.N.self_attn.{q,k}_norm.weight    [head_dim]
//! ```
//! `attention_bias` adds `.bias` to the four projections of attention.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::DecoderConfig;
use serde_json::Value;

const NAME: &str = "Qwen3ForCausalLM";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

/// Without experts.
pub(crate) fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let json = ConfigReader::new(json)?;
    let attention_bias = json.flag("attention_bias")?;
    Ok(DecoderConfig {
        qkv_bias: attention_bias,
        out_bias: attention_bias,
        qk_norm: true,
        ..DecoderConfig::parse(&json)?
    })
}
