//! Phi-3 (arXiv:2404.14219), those of short contexts, and Phi-4 (arXiv:2412.08905).
//!
//! Llama's mathematics (see `llama.rs`), with a `sliding_window` in every layer if there is one, but queries, keys
//! and values are one tensor, and so are gate and up:
//! ```text
//! model.layers.N.self_attn.qkv_proj.weight   [(heads + 2 kv_heads) head_dim, hidden_size]
//! model.layers.N.mlp.gate_up_proj.weight     [2 intermediate_size, hidden_size]
//! ```

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
