//! Rotation and cache write against a plain f64 reference.

use super::{HeadShape, RopeKvWrite, rope_kv_write};
use crate::paged_attention::KvCacheLayer;
use crate::rms_norm::Gain;
use crate::testing::{
    DTYPES, Tolerance, assert_close, devices, ids, message, tensor, to_bits, to_e4m3, to_f64,
};
use candle_core::{DType, Device, Result, Tensor};

const TOLERANCE: Tolerance = Tolerance { f32: 2e-6, bf16: 1.2e-2 };
const NUM_BLOCKS: usize = 40;
const MAX_POS: usize = 300;

/// The tensors of one call.
pub(super) struct Case {
    pub(super) heads: HeadShape,
    pub(super) block_size: usize,
    pub(super) qkv: Tensor,
    pub(super) cache: KvCacheLayer,
    pub(super) norm: Option<Tensor>,
    pub(super) norm_gain: Gain,
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    pub(super) q_scale: Option<Tensor>,
    pub(super) positions: Vec<u32>,
    pub(super) slots: Vec<u32>,
}

/// What a call should give.
pub(super) struct Expected {
    pub(super) queries: Vec<f64>,
    pub(super) key: Vec<f64>,
    pub(super) value: Vec<f64>,
}

impl Case {
    pub(super) fn new(
        heads: HeadShape,
        tokens: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let HeadShape { num_heads, num_kv_heads, head_dim } = heads;
        let block_size = [1, 8, 16, 32][(tokens + num_heads) % 4];
        let cache_dims = [NUM_BLOCKS, num_kv_heads, block_size, head_dim];
        let angles = tensor(9, &[MAX_POS, head_dim / 2], DType::F32, device)?;
        Ok(Self {
            heads,
            block_size,
            qkv: tensor(1, &[tokens, (num_heads + 2 * num_kv_heads) * head_dim], dtype, device)?,
            cache: KvCacheLayer {
                key: tensor(2, &cache_dims, dtype, device)?,
                value: tensor(3, &cache_dims, dtype, device)?,
            },
            norm: None,
            norm_gain: Gain::Weight,
            cos: (&angles * 3.0)?.cos()?,
            sin: (&angles * 3.0)?.sin()?,
            q_scale: None,
            positions: (0..tokens).map(|i| (i * 37 % MAX_POS) as u32).collect(),
            // 7 has no factor in common with the number of slots: all are distinct.
            slots: (0..tokens).map(|i| ((i * 7 + 3) % (NUM_BLOCKS * block_size)) as u32).collect(),
        })
    }

    fn run(&self) -> Result<Tensor> {
        let device = self.qkv.device();
        let args = RopeKvWrite {
            heads: self.heads,
            q_norm: self.norm.as_ref(),
            k_norm: self.norm.as_ref(),
            norm_gain: self.norm_gain,
            norm_eps: 1e-6,
            cos: &self.cos,
            sin: &self.sin,
            q_scale: self.q_scale.as_ref(),
            positions: &ids(&self.positions, device)?,
            slots: &ids(&self.slots, device)?,
        };
        rope_kv_write(&self.qkv, &self.cache, &args)
    }

    /// A head as it should be: normalised, then rotated.
    fn rotated(&self, x: &[f64], token: usize) -> Result<Vec<f64>> {
        let mut x = x.to_vec();
        if let Some(weight) = &self.norm {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            for (x, weight) in x.iter_mut().zip(to_f64(weight)?) {
                let gain = f64::from(u8::from(self.norm_gain == Gain::OnePlusWeight)) + weight;
                *x *= gain / (mean + 1e-6).sqrt();
            }
        }
        let half = x.len() / 2;
        let position = self.positions[token] as usize;
        let (cos, sin) = (to_f64(&self.cos.get(position)?)?, to_f64(&self.sin.get(position)?)?);
        let first = (0..half).map(|i| x[i] * cos[i] - x[i + half] * sin[i]);
        let second = (0..half).map(|i| x[i + half] * cos[i] + x[i] * sin[i]);
        Ok(first.chain(second).collect())
    }

    /// Queries and the whole cache as they should be afterwards.
    pub(super) fn expected(&self) -> Result<Expected> {
        let HeadShape { num_heads, num_kv_heads, head_dim } = self.heads;
        let mut key = to_f64(&self.cache.key)?;
        let mut value = to_f64(&self.cache.value)?;
        let mut queries = Vec::new();
        let qkv = to_f64(&self.qkv)?;
        for (token, row) in qkv.chunks(qkv.len() / self.slots.len()).enumerate() {
            let heads: Vec<&[f64]> = row.chunks(head_dim).collect();
            let scale =
                self.q_scale.as_ref().map(|scale| scale.get(self.positions[token] as usize));
            let scale = scale.map_or(Ok(1.0), |scale| scale?.to_scalar::<f32>())?;
            for head in &heads[..num_heads] {
                queries.extend(self.rotated(head, token)?.iter().map(|x| x * f64::from(scale)));
            }
            let slot = self.slots[token] as usize;
            let (block, offset) = (slot / self.block_size, slot % self.block_size);
            for head in 0..num_kv_heads {
                let at = ((block * num_kv_heads + head) * self.block_size + offset) * head_dim;
                let rotated = self.rotated(heads[num_heads + head], token)?;
                key[at..at + head_dim].copy_from_slice(&rotated);
                value[at..at + head_dim].copy_from_slice(heads[num_heads + num_kv_heads + head]);
            }
        }
        Ok(Expected { queries, key, value })
    }

    /// Runs the op and compares queries and the whole cache.
    fn check(&self) -> Result<()> {
        let HeadShape { num_heads, head_dim, .. } = self.heads;
        let expected = self.expected()?;
        let q = self.run()?;
        assert_eq!(q.dims(), [self.slots.len(), num_heads, head_dim]);
        expected.check(&q, &self.cache);
        Ok(())
    }
}

impl KvCacheLayer {
    /// The same done to keys and values.
    pub(super) fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { key: f(&self.key)?, value: f(&self.value)? })
    }
}

impl Expected {
    pub(super) fn check(&self, queries: &Tensor, cache: &KvCacheLayer) {
        assert_close(queries, &self.queries, TOLERANCE);
        assert_close(&cache.key, &self.key, TOLERANCE);
        assert_close(&cache.value, &self.value, Tolerance { f32: 0.0, bf16: 0.0 });
    }
}

/// Of the queries of each position.
pub(super) fn scales(device: &Device) -> Result<Tensor> {
    tensor(7, &[MAX_POS], DType::F32, device)? + 1.0
}

#[test]
fn equals_the_reference() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for (num_heads, num_kv_heads, head_dim) in
                [(1, 1, 2), (2, 1, 8), (6, 2, 24), (8, 1, 64), (3, 3, 128), (16, 8, 40)]
            {
                for tokens in [1, 5, 33] {
                    let heads = HeadShape { num_heads, num_kv_heads, head_dim };
                    let mut case = Case::new(heads, tokens, dtype, &device)?;
                    case.check()?;
                    case.norm = Some(tensor(5, &[head_dim], dtype, &device)?);
                    case.check()?;
                    case.q_scale = Some(scales(&device)?);
                    case.check()?;
                }
            }
        }
    }
    Ok(())
}

/// What the cache of the dtype of qkv gets, rounded once more.
#[test]
fn a_cache_of_e4m3_gets_what_a_wide_one_does() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for (num_heads, num_kv_heads, head_dim) in [(1, 1, 2), (6, 2, 24), (3, 3, 128)] {
                let heads = HeadShape { num_heads, num_kv_heads, head_dim };
                let mut case = Case::new(heads, 9, dtype, &device)?;
                case.norm = Some(tensor(5, &[head_dim], dtype, &device)?);
                // Some numbers are too large for e4m3.
                case.qkv = (&case.qkv * 500.0)?;
                let wide = case.cache.map(Tensor::copy)?;
                case.cache = case.cache.map(to_e4m3)?;
                let q = case.run()?;
                let narrow = std::mem::replace(&mut case.cache, wide);
                assert_eq!(to_bits(&case.run()?)?, to_bits(&q)?);
                // What is written is rounded; what was there was rounded before.
                let expected = case.cache.map(to_e4m3)?;
                assert_eq!(to_bits(&narrow.key)?, to_bits(&expected.key)?);
                assert_eq!(to_bits(&narrow.value)?, to_bits(&expected.value)?);
            }
        }
    }
    Ok(())
}

#[test]
fn a_token_is_the_same_in_any_batch() -> Result<()> {
    for device in devices() {
        let heads = HeadShape { num_heads: 8, num_kv_heads: 4, head_dim: 64 };
        let all = Case::new(heads, 36, DType::BF16, &device)?;
        let q = all.run()?;
        for token in [0, 13, 35] {
            let mut alone = Case::new(heads, 36, DType::BF16, &device)?;
            alone.qkv = all.qkv.narrow(0, token, 1)?;
            alone.positions = vec![all.positions[token]];
            alone.slots = vec![all.slots[token]];
            assert_eq!(to_bits(&alone.run()?)?, to_bits(&q.narrow(0, token, 1)?)?);
            let slot = all.slots[token] as usize;
            let (block, offset) = (slot / all.block_size, slot % all.block_size);
            let written = |cache: &Tensor| cache.get(block)?.narrow(1, offset, 1);
            assert_eq!(to_bits(&written(&alone.cache.key)?)?, to_bits(&written(&all.cache.key)?)?);
        }
    }
    Ok(())
}

#[test]
fn bad_positions_and_slots_leave_the_cache_alone() -> Result<()> {
    // A device that cannot refuse them takes them for padding.
    let heads = HeadShape { num_heads: 2, num_kv_heads: 2, head_dim: 16 };
    let mut case = Case::new(heads, 4, DType::F32, &Device::Cpu)?;
    let before = (to_bits(&case.cache.key)?, to_bits(&case.cache.value)?);
    case.positions[2] = MAX_POS as u32;
    let error = message(case.run());
    assert!(error.contains("position 300 of token 2 is out of range"), "{error}");
    case.positions[2] = 0;
    case.slots[3] = (NUM_BLOCKS * case.block_size) as u32;
    let error = message(case.run());
    assert!(error.contains("of token 3 is out of range: there are"), "{error}");
    assert_eq!(before, (to_bits(&case.cache.key)?, to_bits(&case.cache.value)?));
    Ok(())
}

#[test]
fn wrong_shapes_are_named() -> Result<()> {
    let heads = HeadShape { num_heads: 4, num_kv_heads: 2, head_dim: 16 };
    let case = || Case::new(heads, 5, DType::F32, &Device::Cpu);
    let mut wrong = case()?;
    wrong.heads.num_kv_heads = 3;
    assert!(message(wrong.run()).contains("a row of qkv has 128 elements"));
    wrong = case()?;
    wrong.cache.value = wrong.cache.value.transpose(1, 2)?.contiguous()?.transpose(1, 2)?;
    assert!(message(wrong.run()).contains("cache.value must be contiguous"));
    wrong = case()?;
    wrong.cos = wrong.cos.narrow(0, 0, 7)?;
    assert!(message(wrong.run()).contains("sin must have shape [7, 8]"));
    wrong = case()?;
    wrong.norm = Some(tensor(1, &[16], DType::BF16, &Device::Cpu)?);
    assert!(message(wrong.run()).contains("q_norm must be F32"));
    wrong = case()?;
    wrong.slots.pop();
    assert!(message(wrong.run()).contains("slots must have shape [5]"));
    Ok(())
}
