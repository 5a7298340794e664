//! Attention that looks both ways, for whole sequences of unlike lengths back to back.
//!
//! `o = softmax(scale * q K^T) V` over all keys of the row's own sequence, or with a window over those
//! at most so far away. Queries and keys may be rotated by their positions first (RoFormer,
//! arXiv:2104.09864). Nothing is padded: the result of a row depends on its own sequence alone, bit
//! for bit.

mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::views::{expect_dims, match_element};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

/// Which rows belong to which sequence, and what they see.
#[derive(Debug, Clone, Copy)]
pub struct FullAttention<'a> {
    /// Heads of queries, of keys and of values.
    pub num_heads: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Rows of each sequence: `starts[i]..starts[i + 1]`. `[seqs + 1]` u32
    pub starts: &'a Tensor,
    /// Rows of the longest sequence, or more: a CUDA device is asked before it knows the starts.
    pub max_len: usize,
    /// How far away a key may be that a row sees; `None` for any.
    pub window: Option<usize>,
    /// Cosines and sines of each position's angles. `[positions, head_dim / 2]` f32 each
    pub rotary: Option<(&'a Tensor, &'a Tensor)>,
}

/// Attends. qkv `[tokens, 3 * heads * head_dim]` f32 or bf16 (on a CUDA device f16, too), queries first, then keys, then values.
/// Returns `[tokens, heads * head_dim]`.
///
/// # Errors
/// A shape or dtype that does not fit, a strided input, starts that do not rise from 0 to the tokens,
/// a sequence longer than `max_len` or the rotary tables. On a CUDA device only the device knows the starts.
pub fn full_attention(qkv: &Tensor, args: &FullAttention) -> Result<Tensor> {
    let (_, width) = qkv.dims2()?;
    if args.num_heads == 0 || width % (3 * args.num_heads) != 0 {
        bail!("qkv has {width} columns, which are not 3 times {} heads", args.num_heads);
    }
    if let Some((cos, sin)) = args.rotary {
        let head_dim = width / (3 * args.num_heads);
        let (positions, _) = cos.dims2()?;
        if args.max_len > positions {
            let len = args.max_len;
            bail!("a sequence has {len} rows, the rotary tables {positions} positions");
        }
        for (table, name) in [(cos, "cos"), (sin, "sin")] {
            expect_dims(table, &[positions, head_dim / 2], name)?;
            if table.dtype() != DType::F32 {
                bail!("{name} must be F32, it is {:?}", table.dtype());
            }
        }
    }
    qkv.apply_op1_no_bwd(&Attend { args })
}

struct Attend<'a> {
    args: &'a FullAttention<'a>,
}

impl CustomOp1 for Attend<'_> {
    fn name(&self) -> &'static str {
        "full_attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let out = match_element!(qkv.dtype(), "qkv", E => {
            cpu::full_attention::<E>((qkv, layout), self.args)?
        });
        Ok((out, (tokens, width / 3).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let out = cuda::forward::full_attention((qkv, layout), self.args)?;
        Ok((out, (tokens, width / 3).into()))
    }
}
