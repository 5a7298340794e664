//! The CUDA kernel of rotation and cache write, on the host, against the reference of the CPU op.

use super::HeadShape;
use super::cuda::{RopeParams, group, plan};
use super::tests::{Case, scales};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device, to_bytes};
use crate::paged_attention::KvCacheLayer;
use crate::rms_norm::Gain;
use crate::testing::{ids, tensor, to_e4m3};
use candle_core::{DType, Device, Error, Result, Tensor};

/// Returns the queries and the cache as it is afterwards. Tensors lie `offset` elements into memory.
fn run(case: &Case, offset: usize) -> Result<(Tensor, KvCacheLayer)> {
    let (dtype, tokens) = (case.qkv.dtype(), case.slots.len());
    let HeadShape { num_heads, num_kv_heads, head_dim } = case.heads;
    let out = on_device(|device| {
        let input = |tensor: &Tensor| Input::new(device, tensor, offset);
        let (qkv, cos, sin) = (input(&case.qkv)?, input(&case.cos)?, input(&case.sin)?);
        let q_scale = case.q_scale.as_ref().map(input).transpose()?;
        let norm = case.norm.as_ref().map(input).transpose()?;
        let norm_address = norm.as_ref().map_or(0, Input::address);
        let positions = input(&ids(&case.positions, &Device::Cpu)?)?;
        let slots = input(&ids(&case.slots, &Device::Cpu)?)?;
        let key = Input::writable(device, &case.cache.key, offset)?;
        let value = Input::writable(device, &case.cache.value, offset)?;
        let q = device.output::<u8>(tokens * num_heads * head_dim * dtype.size_in_bytes());
        let params = RopeParams {
            qkv: qkv.address(),
            q: q.address(),
            key: key.address(),
            value: value.address(),
            q_norm: norm_address,
            k_norm: norm_address,
            cos: cos.address(),
            sin: sin.address(),
            q_scale: q_scale.as_ref().map_or(0, Input::address),
            positions: positions.address(),
            slots: slots.address(),
            num_heads: num_heads as i32,
            num_kv_heads: num_kv_heads as i32,
            head_dim: head_dim as i32,
            block_size: case.block_size as i32,
            group: group(case.heads, dtype)? as i32,
            max_pos: case.cos.dims()[0] as u32,
            num_slots: (case.cache.key.dims()[0] * case.block_size) as u32,
            norm_eps: 1e-6,
            is_zero_centred: (case.norm_gain == Gain::OnePlusWeight).into(),
        };
        let plan = plan(tokens, case.heads, dtype, case.cache.key.dtype())?;
        launch(device, &plan, &params).map_err(Error::wrap)?;
        Ok(vec![q.read(), key.read(), value.read()])
    })?;
    let cache_dims = case.cache.key.dims();
    let cache_dtype = case.cache.key.dtype();
    let cache = KvCacheLayer {
        key: from_bytes(&out[1], cache_dims, cache_dtype)?,
        value: from_bytes(&out[2], cache_dims, cache_dtype)?,
    };
    Ok((from_bytes(&out[0], &[tokens, num_heads, head_dim], dtype)?, cache))
}

/// Calls `check` with cases of every dtype, of odd shapes and of vectors that are not aligned.
fn for_each_case(check: impl Fn(Case, usize) -> Result<()>) -> Result<()> {
    for dtype in CUDA_DTYPES {
        for (num_heads, num_kv_heads, head_dim) in
            [(1, 1, 2), (2, 1, 8), (6, 2, 24), (8, 1, 64), (3, 3, 128), (16, 8, 40), (2, 1, 256)]
        {
            for (tokens, offset) in [(1, 0), (5, 1), (9, 0)] {
                let heads = HeadShape { num_heads, num_kv_heads, head_dim };
                check(Case::new(heads, tokens, dtype, &Device::Cpu)?, offset)?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_kernel_equals_the_reference() -> Result<()> {
    for_each_case(|mut case, offset| {
        let (q, cache) = run(&case, offset)?;
        case.expected()?.check(&q, &cache);
        let head_dim = case.cache.key.dim(3)?;
        case.norm = Some(tensor(5, &[head_dim], case.qkv.dtype(), &Device::Cpu)?);
        for gain in [Gain::Weight, Gain::OnePlusWeight] {
            case.norm_gain = gain;
            let (q, cache) = run(&case, offset)?;
            case.expected()?.check(&q, &cache);
        }
        case.q_scale = Some(scales(&Device::Cpu)?);
        let (q, cache) = run(&case, offset)?;
        case.expected()?.check(&q, &cache);
        Ok(())
    })
}

/// What the cache of the dtype of qkv gets, rounded once more.
#[test]
fn a_cache_of_e4m3_gets_what_a_wide_one_does() -> Result<()> {
    for_each_case(|mut case, offset| {
        let dtype = case.qkv.dtype();
        // Some numbers are too large for e4m3.
        case.qkv = (&case.qkv * 500.0)?;
        case.cache = case.cache.map(|cache| cache.to_dtype(DType::F8E4M3))?;
        let (q, narrow) = run(&case, offset)?;
        case.cache = case.cache.map(|cache| cache.to_dtype(dtype))?;
        let (wide_q, wide) = run(&case, offset)?;
        assert_eq!(to_bytes(&q)?, to_bytes(&wide_q)?);
        let expected = wide.map(to_e4m3)?;
        assert_eq!(to_bytes(&narrow.key)?, to_bytes(&expected.key)?);
        assert_eq!(to_bytes(&narrow.value)?, to_bytes(&expected.value)?);
        Ok(())
    })
}

#[test]
fn padded_tokens_write_nothing() -> Result<()> {
    for dtype in CUDA_DTYPES {
        let heads = HeadShape { num_heads: 4, num_kv_heads: 2, head_dim: 64 };
        let mut case = Case::new(heads, 6, dtype, &Device::Cpu)?;
        case.norm = Some(tensor(5, &[64], dtype, &Device::Cpu)?);
        let (all, _) = run(&case, 0)?;
        let before = [to_bytes(&case.cache.key)?, to_bytes(&case.cache.value)?];
        let (max_pos, num_slots) = (case.cos.dims()[0], case.cache.key.dims()[0] * case.block_size);
        case.slots = vec![u32::MAX, num_slots as u32, 3, u32::MAX, u32::MAX, 4];
        case.positions[2] = max_pos as u32;
        case.positions[3] = u32::MAX;
        case.positions[5] = u32::MAX;
        let (q, cache) = run(&case, 0)?;
        assert_eq!([to_bytes(&cache.key)?, to_bytes(&cache.value)?], before);
        assert!(to_bytes(&q)?.iter().all(|&byte| byte == 0), "a padded query is zero");
        assert_ne!(to_bytes(&q)?, to_bytes(&all)?);
    }
    Ok(())
}
