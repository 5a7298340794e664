//! Qwen2 (arXiv:2407.10671) and Qwen2.5 (arXiv:2412.15115).
//!
//! Llama's mathematics and tensor names (see `llama.rs`); q, k and v always have a bias:
//! ```text
//! model.layers.N.self_attn.q_proj.bias        [heads * head_dim]
//! model.layers.N.self_attn.{k,v}_proj.bias    [kv_heads * head_dim]
//! ```

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::DecoderConfig;
use serde_json::Value;

const NAME: &str = "Qwen2ForCausalLM";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    Ok(DecoderConfig { qkv_bias: true, ..DecoderConfig::parse(&ConfigReader::new(json)?)? })
}
