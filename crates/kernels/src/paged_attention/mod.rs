//! Attention over paged keys and values.

use candle_core::{Result, Tensor};

/// Keys and values of one layer, in fixed blocks.
#[derive(Debug, Clone)]
pub struct KvCacheLayer {
    /// `[num_blocks, num_kv_heads, block_size, head_dim]`
    pub key: Tensor,
    /// `[num_blocks, num_kv_heads, block_size, head_dim]`
    pub value: Tensor,
}

/// Which rows belong to which sequence, and where its keys lie.
#[derive(Debug, Clone, Copy)]
pub struct PagedAttention<'a> {
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Rows of each sequence: `q_starts[i]..q_starts[i + 1]`. `[seqs + 1]` u32
    pub q_starts: &'a Tensor,
    /// Keys each sequence's last row sees, itself included. `[seqs]` u32
    pub context_lens: &'a Tensor,
    /// Blocks of each sequence in order, padded. `[seqs, max_blocks]` u32
    pub block_tables: &'a Tensor,
}

/// q `[tokens, heads, head_dim]` to `[tokens, heads * head_dim]`.
pub fn paged_attention(q: &Tensor, cache: &KvCacheLayer, args: &PagedAttention) -> Result<Tensor> {
    let _ = (q, cache, args);
    candle_core::bail!("paged_attention is being written")
}
