//! Attention over paged keys and values.

use candle_core::Tensor;

/// Keys and values of one layer, in fixed blocks.
#[derive(Debug, Clone)]
pub struct KvCacheLayer {
    /// `[num_blocks, num_kv_heads, block_size, head_dim]`
    pub key: Tensor,
    /// `[num_blocks, num_kv_heads, block_size, head_dim]`
    pub value: Tensor,
}
