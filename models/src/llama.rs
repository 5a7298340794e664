//! Llama 2 (arXiv:2307.09288) and Llama 3 (arXiv:2407.21783), and what shares their architecture:
//! Yi, SmolLM2, TinyLlama, DeepSeek-R1-Distill-Llama.
//!
//! ```text
//! h = embed_tokens[ids]
//! each layer:  h += o_proj(attention(rope(q), rope(k), v))   q, k, v = {q,k,v}_proj(norm(h))
//!              h += down_proj(silu(gate_proj(x)) * up_proj(x))    x = norm(h)
//! logits = lm_head(norm(h))
//! ```
//!
//! Tensors, `N` counting layers, each ending in `.weight`:
//! ```text
//! model.embed_tokens                                  [vocab, hidden]
//! model.layers.N.input_layernorm                      [hidden]
//! model.layers.N.self_attn.q_proj                     [heads * head_dim, hidden]
//! model.layers.N.self_attn.{k,v}_proj                 [kv_heads * head_dim, hidden]
//! model.layers.N.self_attn.o_proj                     [hidden, heads * head_dim]
//! model.layers.N.post_attention_layernorm             [hidden]
//! model.layers.N.mlp.{gate,up}_proj                   [intermediate, hidden]
//! model.layers.N.mlp.down_proj                        [hidden, intermediate]
//! model.norm                                          [hidden]
//! lm_head                                             [vocab, hidden]   unless tie_word_embeddings
//! ```
//! `attention_bias` adds `.bias` to the four projections of attention, `mlp_bias` to those of the
//! MLP. Llama 3.1 and later stretch the rotation frequencies (`rope_type` "llama3").

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::DecoderConfig;
use serde_json::Value;

const NAME: &str = "LlamaForCausalLM";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

/// With the biases that `config.json` says.
pub(crate) fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let json = ConfigReader::new(json)?;
    let attention_bias = json.flag("attention_bias")?;
    Ok(DecoderConfig {
        qkv_bias: attention_bias,
        out_bias: attention_bias,
        mlp_bias: json.flag("mlp_bias")?,
        ..DecoderConfig::parse(&json)?
    })
}
