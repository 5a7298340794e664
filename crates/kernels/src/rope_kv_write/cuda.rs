//! Norm, rotation and cache write on a CUDA device: one launch for queries, keys and values.

use super::HeadShape;
use crate::cuda::{Launch, WARP, of_dtype, pack_len};
use candle_core::{DType, Result, bail};

/// `RopeParams` of `kernel.cu`; addresses of contiguous tensors.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RopeParams {
    /// `[tokens, (heads + 2 * kv_heads) * head_dim]`
    pub(crate) qkv: u64,
    /// `[tokens, heads, head_dim]`
    pub(crate) q: u64,
    /// `[num_blocks, kv_heads, block_size, head_dim]`
    pub(crate) key: u64,
    /// As key.
    pub(crate) value: u64,
    /// `[head_dim]`, 0 for none
    pub(crate) q_norm: u64,
    /// `[head_dim]`, 0 for none
    pub(crate) k_norm: u64,
    /// `[max_pos, head_dim / 2]` f32
    pub(crate) cos: u64,
    /// As cos.
    pub(crate) sin: u64,
    /// `[max_pos]` f32, 0 for none
    pub(crate) q_scale: u64,
    /// `[tokens]`
    pub(crate) positions: u64,
    /// `[tokens]`; a token whose slot or position is beyond the end is padding: its query is zero,
    /// and nothing is written to the cache.
    pub(crate) slots: u64,
    pub(crate) num_heads: i32,
    pub(crate) num_kv_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) block_size: i32,
    /// Lanes of a head, from [`group`].
    pub(crate) group: i32,
    pub(crate) max_pos: u32,
    pub(crate) num_slots: u32,
    pub(crate) norm_eps: f32,
    /// 1 where the norms' weights are stored around zero.
    pub(crate) is_zero_centred: i32,
}

const MAX_THREADS: usize = 256;

/// Lanes that share a head: one for 16 bytes of each half.
pub(crate) fn group(heads: HeadShape, dtype: DType) -> Result<usize> {
    let group = (heads.head_dim / 2).div_ceil(pack_len(dtype)).next_power_of_two();
    if group > WARP {
        let most = 2 * WARP * pack_len(dtype);
        bail!("head_dim is {}, on a CUDA device it may be {most} in {dtype:?}", heads.head_dim);
    }
    Ok(group)
}

/// A launch for at least one token, of qkv and into a cache of these dtypes.
pub(crate) fn plan(
    tokens: usize,
    heads: HeadShape,
    dtype: DType,
    cache_dtype: DType,
) -> Result<Launch> {
    let lanes = (heads.num_heads + 2 * heads.num_kv_heads) * group(heads, dtype)?;
    let threads = lanes.next_multiple_of(WARP).min(MAX_THREADS);
    let functions = match cache_dtype {
        DType::F8E4M3 => {
            ["rope_kv_write_f32_e4m3", "rope_kv_write_f16_e4m3", "rope_kv_write_bf16_e4m3"]
        }
        _ => ["rope_kv_write_f32", "rope_kv_write_f16", "rope_kv_write_bf16"],
    };
    let function = of_dtype(dtype, functions, "qkv")?;
    Ok(Launch::new(function, [tokens, lanes.div_ceil(threads), 1], threads, 0))
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{RopeParams, group, plan};
    use crate::cuda::{Module, address, allocate, launch, module, tensor_address};
    use crate::rms_norm::Gain;
    use crate::rope_kv_write::WriteAll;
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result, Tensor};

    static MODULE: Module = module!("rope_kv_write");

    /// Writes the cache and returns the queries. `[tokens, heads, head_dim]`
    pub(crate) fn rope_kv_write(
        (qkv, layout): (&CudaStorage, &Layout),
        op: &WriteAll,
    ) -> Result<CudaStorage> {
        let (args, heads) = (op.args, op.args.heads);
        let (tokens, dtype) = (layout.dims()[0], qkv.dtype());
        let len = tokens * heads.num_heads * heads.head_dim;
        let (out, q) = allocate(qkv.device(), dtype, len)?;
        let optional = |tensor: Option<&Tensor>, name| match tensor {
            Some(tensor) => tensor_address(tensor, name),
            None => Ok(0),
        };
        let params = RopeParams {
            qkv: address(qkv, layout, "qkv")?,
            q,
            key: tensor_address(&op.cache.key, "cache.key")?,
            value: tensor_address(&op.cache.value, "cache.value")?,
            q_norm: optional(args.q_norm, "q_norm")?,
            k_norm: optional(args.k_norm, "k_norm")?,
            cos: tensor_address(args.cos, "cos")?,
            sin: tensor_address(args.sin, "sin")?,
            q_scale: optional(args.q_scale, "q_scale")?,
            positions: tensor_address(args.positions, "positions")?,
            slots: tensor_address(args.slots, "slots")?,
            num_heads: heads.num_heads as i32,
            num_kv_heads: heads.num_kv_heads as i32,
            head_dim: heads.head_dim as i32,
            block_size: op.cache.key.dims()[2] as i32,
            group: group(heads, dtype)? as i32,
            max_pos: args.cos.dims()[0] as u32,
            num_slots: op.num_slots as u32,
            norm_eps: args.norm_eps,
            is_zero_centred: (args.norm_gain == Gain::OnePlusWeight).into(),
        };
        if tokens > 0 {
            let plan = plan(tokens, heads, dtype, op.cache.key.dtype())?;
            launch(qkv.device(), &MODULE, &plan, &params)?;
        }
        Ok(out)
    }
}
