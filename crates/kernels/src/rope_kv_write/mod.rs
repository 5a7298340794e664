//! From one packed qkv row to a rotated query and a cache entry: optional RMSNorm of each query
//! and key head, rotary position embedding, and the write of key and value into paged blocks.
//!
//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-rotation form of
//! transformers and GPT-NeoX: with `h = head_dim / 2` and the angle of pair `i` at the token's
//! position, `y[i] = x[i] cos - x[i + h] sin` and `y[i + h] = x[i + h] cos + x[i] sin`.
//! The norm rounds to the dtype of qkv as [`crate::rms_norm`] does; the rotation is computed in f32
//! and rounded once. A cache of e4m3 gets what one of the dtype of qkv would, rounded to it.
//!
//! On the CPU this is one op for q and one in-place op for each cache tensor, since candle's
//! in-place ops write one tensor. On a CUDA device the first op launches one kernel for all three,
//! and it cannot refuse a position or a slot, which only the device knows: a token whose position or
//! slot is beyond the end is padding there, with a query of zeros.

mod cpu;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::paged_attention::KvCacheLayer;
use crate::rms_norm::Gain;
use crate::views::{expect_cache, expect_dims, expect_like, match_element};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use float8::F8E4M3;

/// The slot of a token whose key and value are not kept: padding.
pub const NO_SLOT: u32 = u32::MAX;

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
    /// Weight of the RMSNorm of each query head (Qwen3), in the dtype of qkv. `[head_dim]`
    pub q_norm: Option<&'a Tensor>,
    /// Weight of the RMSNorm of each key head, in the dtype of qkv. `[head_dim]`
    pub k_norm: Option<&'a Tensor>,
    /// What the weights of both norms mean.
    pub norm_gain: Gain,
    /// Epsilon of both norms.
    pub norm_eps: f32,
    /// `[max_pos, head_dim / 2]` f32
    pub cos: &'a Tensor,
    /// `[max_pos, head_dim / 2]` f32
    pub sin: &'a Tensor,
    /// Factor on the queries of a position, which comes behind the rotation. `[max_pos]` f32
    pub q_scale: Option<&'a Tensor>,
    /// Row of `cos` and `sin` for each token. `[tokens]` u32
    pub positions: &'a Tensor,
    /// Where each token's key and value go: block * block_size + offset, distinct, or [`NO_SLOT`].
    /// `[tokens]` u32
    pub slots: &'a Tensor,
}

/// Writes keys and values into the cache in place and returns the queries.
///
/// qkv `[tokens, (heads + 2 * kv_heads) * head_dim]` f32 or bf16 (on a CUDA device f16, too): all query
/// heads, all key heads, all value heads. The cache tensors `[num_blocks, kv_heads, block_size, head_dim]` have its dtype or
/// e4m3, where numbers beyond 448 become 448.
/// Returns q `[tokens, heads, head_dim]`.
///
/// # Errors
/// A shape or dtype that does not fit, a strided input, a position beyond the tables or a slot
/// beyond the cache; the cache is then unchanged.
pub fn rope_kv_write(qkv: &Tensor, cache: &KvCacheLayer, args: &RopeKvWrite) -> Result<Tensor> {
    let HeadShape { num_heads, num_kv_heads, .. } = args.heads;
    let num_slots = check(qkv, cache, args)?;
    let q = qkv.apply_op1_no_bwd(&WriteAll { args, cache, num_slots })?;
    if !qkv.device().is_cpu() {
        return Ok(q);
    }
    let norm = args.k_norm;
    cache.key.inplace_op2(qkv, &WriteHeads { args, first_head: num_heads, rotate: true, norm })?;
    let first_head = num_heads + num_kv_heads;
    cache.value.inplace_op2(qkv, &WriteHeads { args, first_head, rotate: false, norm: None })?;
    Ok(q)
}

/// Checks everything but the values of positions and slots; returns the number of slots.
fn check(qkv: &Tensor, cache: &KvCacheLayer, args: &RopeKvWrite) -> Result<usize> {
    let HeadShape { num_heads, num_kv_heads, head_dim } = args.heads;
    if num_heads == 0 || num_kv_heads == 0 || head_dim == 0 || head_dim % 2 == 1 {
        bail!("heads must be present and have an even head_dim: {:?}", args.heads);
    }
    let &[tokens, width] = qkv.dims() else {
        bail!("qkv must have two dimensions, its shape is {:?}", qkv.dims());
    };
    if width != (num_heads + 2 * num_kv_heads) * head_dim {
        bail!("a row of qkv has {width} elements, which {:?} does not give", args.heads);
    }
    let (num_blocks, _, block_size, _) = cache.key.dims4()?;
    let cache_dims = [num_blocks, num_kv_heads, block_size, head_dim];
    for (tensor, name) in [(&cache.key, "cache.key"), (&cache.value, "cache.value")] {
        expect_dims(tensor, &cache_dims, name)?;
        expect_cache((tensor, name), (qkv, "qkv"))?;
        // The keys must not be written before it is known that the values can be.
        crate::views::contiguous(tensor.layout(), name)?;
    }
    expect_like((&cache.value, "cache.value"), (&cache.key, "cache.key"))?;
    let max_pos = args.cos.dims().first().copied().unwrap_or(0);
    for (tensor, name) in [(args.cos, "cos"), (args.sin, "sin")] {
        expect_dims(tensor, &[max_pos, head_dim / 2], name)?;
        if tensor.dtype() != DType::F32 {
            bail!("{name} must be F32, it is {:?}", tensor.dtype());
        }
    }
    if let Some(q_scale) = args.q_scale {
        expect_dims(q_scale, &[max_pos], "q_scale")?;
        if q_scale.dtype() != DType::F32 {
            bail!("q_scale must be F32, it is {:?}", q_scale.dtype());
        }
    }
    for (tensor, name) in [(args.positions, "positions"), (args.slots, "slots")] {
        expect_dims(tensor, &[tokens], name)?;
    }
    for (tensor, name) in [(args.q_norm, "q_norm"), (args.k_norm, "k_norm")] {
        let Some(tensor) = tensor else { continue };
        expect_dims(tensor, &[head_dim], name)?;
        expect_like((tensor, name), (qkv, "qkv"))?;
    }
    Ok(num_blocks * block_size)
}

/// On the CPU it reads the query heads; it runs first, and so also checks all positions and slots.
struct WriteAll<'a> {
    args: &'a RopeKvWrite<'a>,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "in-place ops write it"))]
    cache: &'a KvCacheLayer,
    num_slots: usize,
}

impl CustomOp1 for WriteAll<'_> {
    fn name(&self) -> &'static str {
        "rope_kv_write q"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        cpu::check_values(self.args, self.num_slots)?;
        let HeadShape { num_heads, head_dim, .. } = self.args.heads;
        let out = match_element!(qkv.dtype(), "qkv", E => {
            cpu::rotate_queries::<E>((qkv, layout), self.args)?
        });
        Ok((out, (layout.dims()[0], num_heads, head_dim).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, qkv: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let HeadShape { num_heads, head_dim, .. } = self.args.heads;
        let out = cuda::forward::rope_kv_write((qkv, layout), self)?;
        Ok((out, (layout.dims()[0], num_heads, head_dim).into()))
    }
}

/// Reads the key or the value heads and writes them to their slots.
struct WriteHeads<'a> {
    args: &'a RopeKvWrite<'a>,
    first_head: usize,
    rotate: bool,
    norm: Option<&'a Tensor>,
}

impl InplaceOp2 for WriteHeads<'_> {
    fn name(&self) -> &'static str {
        "rope_kv_write kv"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
    ) -> Result<()> {
        let (cache, qkv) = ((cache, cache_layout), (qkv, qkv_layout));
        match_element!(qkv.0.dtype(), "qkv", E => match cache.0.dtype() {
            DType::F8E4M3 => cpu::write_heads::<E, F8E4M3>(cache, qkv, self),
            _ => cpu::write_heads::<E, E>(cache, qkv, self),
        })
    }
}
