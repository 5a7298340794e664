//! Rotary position embedding and KV cache write.

use crate::paged_attention::KvCacheLayer;
use candle_core::{Result, Tensor};

/// How a packed qkv row divides into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads, a multiple of `num_kv_heads`.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Elements of a head, even.
    pub head_dim: usize,
}

/// Everything of [`rope_kv_write`] but the activations and the cache.
#[derive(Debug, Clone, Copy)]
pub struct RopeKvWrite<'a> {
    /// How a row of qkv divides.
    pub heads: HeadShape,
    /// Weight of the RMSNorm of each query head (Qwen3). `[head_dim]`
    pub q_norm: Option<&'a Tensor>,
    /// Weight of the RMSNorm of each key head. `[head_dim]`
    pub k_norm: Option<&'a Tensor>,
    /// Epsilon of both norms.
    pub norm_eps: f32,
    /// `[max_pos, head_dim / 2]` f32
    pub cos: &'a Tensor,
    /// `[max_pos, head_dim / 2]` f32
    pub sin: &'a Tensor,
    /// Row of `cos` and `sin` for each token. `[tokens]` u32
    pub positions: &'a Tensor,
    /// Where each token's key and value go: block * block_size + offset; distinct. `[tokens]` u32
    pub slots: &'a Tensor,
}

/// qkv `[tokens, (heads + 2 * kv_heads) * head_dim]` to q `[tokens, heads, head_dim]`.
pub fn rope_kv_write(qkv: &Tensor, cache: &KvCacheLayer, args: &RopeKvWrite) -> Result<Tensor> {
    let _ = (qkv, cache, args);
    candle_core::bail!("rope_kv_write is being written")
}
