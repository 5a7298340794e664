//! Attention that looks both ways on a CUDA device: tiles of rows on tensor cores, or a warp a row.

use crate::cuda::{Launch, of_dtype};
use candle_core::{DType, Result, bail};

/// `FullAttentionParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct FullAttentionParams {
    /// `[tokens, 3, heads, head_dim]`
    pub(super) qkv: u64,
    /// `[seqs + 1]` u32
    pub(super) starts: u64,
    /// `[positions, head_dim / 2]` f32 each, 0 without
    pub(super) cos: u64,
    pub(super) sin: u64,
    /// `[tokens, heads, head_dim]`
    pub(super) out: u64,
    pub(super) num_heads: i32,
    pub(super) head_dim: i32,
    /// How far away a key may be.
    pub(super) window: i32,
    /// On the scores, times log2(e).
    pub(super) factor: f32,
}

/// Sequences, rows of the longest, heads, elements of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) num_seqs: usize,
    pub(super) max_len: usize,
    pub(super) num_heads: usize,
    pub(super) head_dim: usize,
}

const TILE: usize = 64;
const TILE_THREADS: usize = 128;
const PADDING: usize = 8;
const PLAIN_THREADS: usize = 128;
const ROWS_OF_PLAIN: usize = PLAIN_THREADS / 32;
/// Elements of a head that a warp's lanes hold.
const MOST_ELEMENTS: usize = 256;
/// Of a dimension of a grid.
const MOST_BLOCKS: usize = 65_535;

/// A launch for at least one row of a sequence.
pub(super) fn plan(sizes: Sizes, dtype: DType) -> Result<Launch> {
    let Sizes { num_seqs, max_len, num_heads, head_dim } = sizes;
    if head_dim > MOST_ELEMENTS || num_heads > MOST_BLOCKS || num_seqs > MOST_BLOCKS {
        bail!(
            "{num_seqs} sequences of {num_heads} heads of {head_dim} are more than {MOST_BLOCKS} of either, \
             or of {MOST_ELEMENTS} elements"
        );
    }
    let tiled = [32, 64, 128].into_iter().find(|dim| head_dim <= *dim);
    let function = match (dtype, tiled) {
        (DType::BF16, Some(32)) => "full_attention_bf16_32",
        (DType::BF16, Some(64)) => "full_attention_bf16_64",
        (DType::BF16, Some(_)) => "full_attention_bf16_128",
        (DType::F16, Some(32)) => "full_attention_f16_32",
        (DType::F16, Some(64)) => "full_attention_f16_64",
        (DType::F16, Some(_)) => "full_attention_f16_128",
        _ => {
            let functions =
                ["full_attention_rows_f32", "full_attention_rows_f16", "full_attention_rows_bf16"];
            let function = of_dtype(dtype, functions, "qkv")?;
            let blocks = [max_len.div_ceil(ROWS_OF_PLAIN), num_heads, num_seqs];
            return Ok(Launch::new(function, blocks, PLAIN_THREADS, 0));
        }
    };
    let width = tiled.unwrap_or(MOST_ELEMENTS) + PADDING;
    // Queries, keys and values.
    let shared_bytes = 3 * TILE * width * dtype.size_in_bytes();
    let blocks = [max_len.div_ceil(TILE), num_heads, num_seqs];
    Ok(Launch::new(function, blocks, TILE_THREADS, shared_bytes))
}

/// Of a window, and of the factor on the scores, as the kernel has them.
pub(super) fn window_and_factor(window: Option<usize>, scale: f32) -> (i32, f32) {
    let window = window.and_then(|window| i32::try_from(window).ok());
    (window.unwrap_or(i32::MAX), scale * std::f32::consts::LOG2_E)
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::super::FullAttention;
    use super::{FullAttentionParams, Sizes, plan, window_and_factor};
    use crate::cuda::{Module, address, allocate, launch, module, tensor_address};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result};

    static MODULE: Module = module!("full_attention");

    /// qkv `[tokens, 3 * heads * head_dim]` to `[tokens, heads * head_dim]`.
    pub(crate) fn full_attention(
        (qkv, layout): (&CudaStorage, &Layout),
        args: &FullAttention,
    ) -> Result<CudaStorage> {
        let (tokens, width) = layout.shape().dims2()?;
        let (output, out) = allocate(qkv.device(), qkv.dtype(), tokens * width / 3)?;
        let (num_heads, num_seqs) = (args.num_heads, args.starts.dims1()?.saturating_sub(1));
        let head_dim = width / 3 / num_heads;
        let [cos, sin] = match args.rotary {
            None => [0, 0],
            Some((cos, sin)) => [tensor_address(cos, "cos")?, tensor_address(sin, "sin")?],
        };
        let (window, factor) = window_and_factor(args.window, args.scale);
        let params = FullAttentionParams {
            qkv: address(qkv, layout, "qkv")?,
            starts: tensor_address(args.starts, "starts")?,
            cos,
            sin,
            out,
            num_heads: num_heads as i32,
            head_dim: head_dim as i32,
            window,
            factor,
        };
        let sizes = Sizes { num_seqs, max_len: args.max_len, num_heads, head_dim };
        if tokens > 0 && num_seqs > 0 {
            launch(qkv.device(), &MODULE, &plan(sizes, qkv.dtype())?, &params)?;
        }
        Ok(output)
    }
}
