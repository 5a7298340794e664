//! Self-attention that looks both ways, with merged q, k and v.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::full_attention::{FullAttention as Args, full_attention};

use super::linear::Linear;
use super::rope::RotaryEmbedding;
use crate::encoder::EncoderBatch;

/// Attention over whole sequences, each row over all of its own or over those near it.
#[derive(Debug)]
pub struct FullAttention {
    /// To queries, keys and values. `[hidden, 3 * hidden]`
    pub qkv: Linear,
    /// Of the heads' results. `[hidden, hidden]`
    pub out: Linear,
    /// Heads of queries, of keys and of values.
    pub num_heads: usize,
    /// How far away a token may be that a row sees; `None` for any.
    pub window: Option<usize>,
    /// Rotary positions, if the model has them.
    pub rotary: Option<Arc<RotaryEmbedding>>,
}

impl FullAttention {
    /// `[tokens, hidden]` to the same.
    pub fn forward(&self, x: &Tensor, batch: &EncoderBatch) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?; // [tokens, 3 * hidden]
        let head_dim = x.dim(1)? / self.num_heads;
        let args = Args {
            num_heads: self.num_heads,
            scale: (head_dim as f32).sqrt().recip(),
            starts: &batch.starts,
            max_len: batch.max_len,
            window: self.window,
            rotary: self.rotary.as_ref().map(|rotary| (rotary.cos(), rotary.sin())),
        };
        self.out.forward(&full_attention(&qkv, &args)?)
    }
}
