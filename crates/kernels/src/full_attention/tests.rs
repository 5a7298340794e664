//! Attention that looks both ways against a plain f64 reference, and sequences alone.

use super::{FullAttention, full_attention};
use crate::testing::{Tolerance, assert_close, ids, kinds, message, tensor, to_bits, to_f64};
use candle_core::{DType, Device, Result, Tensor};

/// Scores reach 20, of which f32 keeps 2e-6.
const TOLERANCE: Tolerance = Tolerance { f32: 5e-6, bf16: 4e-3 };
/// Of tensor cores, for which weights are rounded, and queries and keys that were rotated.
pub(super) fn tolerance_of_tiles(rotates: bool) -> Tolerance {
    Tolerance { f32: 5e-6, bf16: if rotates { 4e-2 } else { 8e-3 } }
}
/// Around the rows taken together and the lanes.
pub(super) const LENS: [usize; 6] = [1, 2, 5, 16, 37, 130];

/// Heads and elements of each: for every kernel of a GPU one that fills it, or one that does not.
pub(super) const HEADS: [(usize, usize); 6] =
    [(1, 8), (3, 20), (2, 32), (2, 64), (1, 96), (1, 130)];

pub(super) struct Case {
    pub(super) qkv: Tensor,
    pub(super) starts: Tensor,
    tables: [Tensor; 2],
    num_heads: usize,
    head_dim: usize,
}

pub(super) fn case(
    (num_heads, head_dim): (usize, usize),
    dtype: DType,
    device: &Device,
) -> Result<Case> {
    let mut starts = vec![0];
    for len in LENS {
        starts.push(starts[starts.len() - 1] + len as u32);
    }
    let tokens = starts[LENS.len()] as usize;
    // Large enough for a softmax that is not flat.
    let qkv = (tensor(1, &[tokens, 3 * num_heads * head_dim], dtype, device)? * 2.0)?;
    let table = |seed| tensor(seed, &[130, head_dim / 2], DType::F32, device);
    Ok(Case {
        qkv,
        starts: ids(&starts, device)?,
        tables: [table(2)?, table(3)?],
        num_heads,
        head_dim,
    })
}

impl Case {
    pub(super) fn args(&self, window: Option<usize>, rotates: bool) -> FullAttention<'_> {
        FullAttention {
            num_heads: self.num_heads,
            scale: 0.3,
            starts: &self.starts,
            max_len: 130,
            window,
            rotary: rotates.then_some((&self.tables[0], &self.tables[1])),
        }
    }

    pub(super) fn reference(&self, args: &FullAttention) -> Result<Vec<f64>> {
        let (heads, dim) = (self.num_heads, self.head_dim);
        let qkv = to_f64(&self.qkv)?;
        let [cos, sin] = [to_f64(&self.tables[0])?, to_f64(&self.tables[1])?];
        let part = |token: usize, part: usize, head: usize| {
            qkv[((token * 3 + part) * heads + head) * dim..][..dim].to_vec()
        };
        let rotated = |x: Vec<f64>, position: usize| {
            if args.rotary.is_none() {
                return x;
            }
            let half = dim / 2;
            let angle = |i: usize| (cos[position * half + i], sin[position * half + i]);
            let low = (0..half).map(|i| x[i] * angle(i).0 - x[i + half] * angle(i).1);
            let high = (0..half).map(|i| x[i + half] * angle(i).0 + x[i] * angle(i).1);
            low.chain(high).collect()
        };
        let mut out = Vec::new();
        let mut start = 0;
        for len in LENS {
            for row in 0..len {
                for head in 0..heads {
                    let q = rotated(part(start + row, 0, head), row);
                    let sees = |key: &usize| args.window.is_none_or(|w| row.abs_diff(*key) <= w);
                    let keys: Vec<usize> = (0..len).filter(sees).collect();
                    let weight = |key: &usize| {
                        let k = rotated(part(start + key, 1, head), *key);
                        let score: f64 = q.iter().zip(&k).map(|(q, k)| q * k).sum();
                        (score * f64::from(args.scale)).exp()
                    };
                    let weights: Vec<f64> = keys.iter().map(weight).collect();
                    let sum: f64 = weights.iter().sum();
                    let values: Vec<_> =
                        keys.iter().map(|key| part(start + key, 2, head)).collect();
                    out.extend((0..dim).map(|i| {
                        let terms = weights.iter().zip(&values);
                        terms.map(|(weight, value)| weight * value[i]).sum::<f64>() / sum
                    }));
                }
            }
            start += len;
        }
        Ok(out)
    }
}

#[test]
fn equals_the_reference() -> Result<()> {
    for (device, dtype) in kinds() {
        for heads in HEADS {
            let case = case(heads, dtype, &device)?;
            for (window, rotates) in
                [(None, false), (None, true), (Some(3), true), (Some(40), false)]
            {
                let args = case.args(window, rotates);
                let on_tiles = tolerance_of_tiles(rotates);
                let tolerance = if device.is_cpu() { TOLERANCE } else { on_tiles };
                let y = full_attention(&case.qkv, &args)?;
                assert_eq!(y.dtype(), dtype);
                assert_close(&y, &case.reference(&args)?, tolerance);
            }
        }
    }
    Ok(())
}

#[test]
fn a_sequence_is_the_same_in_any_batch() -> Result<()> {
    for (device, dtype) in kinds() {
        let case = case((2, 32), dtype, &device)?;
        let args = case.args(Some(20), true);
        let all = full_attention(&case.qkv, &args)?;
        let mut start = 0;
        for len in LENS {
            let starts = ids(&[0, len as u32], &device)?;
            let args = FullAttention { starts: &starts, ..args };
            let alone = full_attention(&case.qkv.narrow(0, start, len)?, &args)?;
            assert_eq!(to_bits(&alone)?, to_bits(&all.narrow(0, start, len)?)?, "{len}");
            start += len;
        }
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let case = case((2, 32), DType::F32, &Device::Cpu)?;
    let args = case.args(None, true);
    let says = |args: &FullAttention, says: &str| {
        let message = message(full_attention(&case.qkv, args));
        assert!(message.contains(says), "{message}");
    };
    says(&FullAttention { num_heads: 5, ..args }, "not 3 times 5 heads");
    for starts in [&[0, 5][..], &[1, 191], &[0, 7, 3, 191], &[]] {
        let starts = ids(starts, &Device::Cpu)?;
        says(&FullAttention { starts: &starts, ..args }, "starts must rise from 0 to the 191 rows");
    }
    says(&FullAttention { max_len: 129, ..args }, "a sequence has 130 rows, max_len is 129");
    let short = case.tables[0].narrow(0, 0, 129)?;
    says(
        &FullAttention { rotary: Some((&short, &short)), ..args },
        "130 rows, the rotary tables 129",
    );
    says(&FullAttention { rotary: Some((&case.tables[0], &short)), ..args }, "sin must have shape");
    Ok(())
}
