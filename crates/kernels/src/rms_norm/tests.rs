//! RMSNorm against a plain f64 reference.

use super::{Gain, add_rms_norm, rms_norm};
use crate::testing::{DTYPES, Tolerance, assert_close, devices, message, tensor, to_bits, to_f64};
use candle_core::{DType, Device, Result, Tensor};

pub(super) const TOLERANCE: Tolerance = Tolerance { f32: 1e-6, bf16: 8e-3 };
const SHAPES: [&[usize]; 6] = [&[1], &[1, 1], &[3, 7], &[2, 3, 64], &[5, 896], &[2, 1027]];

pub(super) const GAINS: [Gain; 2] = [Gain::Weight, Gain::OnePlusWeight];

pub(super) fn reference(x: &Tensor, weight: &Tensor, gain: Gain, eps: f64) -> Result<Vec<f64>> {
    let (x, mut weight) = (to_f64(x)?, to_f64(weight)?);
    if gain == Gain::OnePlusWeight {
        for weight in &mut weight {
            *weight += 1.0;
        }
    }
    Ok(x.chunks(weight.len())
        .flat_map(|row| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            let factor = 1.0 / (mean + eps).sqrt();
            row.iter().zip(&weight).map(move |(x, weight)| x * factor * weight)
        })
        .collect())
}

#[test]
fn equals_the_reference() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for dims in SHAPES {
                let hidden = dims[dims.len() - 1];
                let x = tensor(1, dims, dtype, &device)?;
                let weight = tensor(2, &[hidden], dtype, &device)?;
                for gain in GAINS {
                    let y = rms_norm(&x, &weight, gain, 1e-6)?;
                    assert_eq!((y.dims(), y.dtype()), (dims, dtype));
                    assert_close(&y, &reference(&x, &weight, gain, 1e-6)?, TOLERANCE);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn with_addition_it_equals_the_two_steps() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for dims in SHAPES {
                let x = tensor(1, dims, dtype, &device)?;
                let residual = tensor(2, dims, dtype, &device)?;
                let weight = tensor(3, &dims[dims.len() - 1..], dtype, &device)?;
                // Not `+` in bf16, which candle cuts off on aarch64.
                let expected = (x.to_dtype(DType::F32)? + residual.to_dtype(DType::F32)?)?;
                let expected = expected.to_dtype(dtype)?;
                for gain in GAINS {
                    let (normed, sum) = add_rms_norm(&x, &residual, &weight, gain, 1e-5)?;
                    assert_eq!(sum.dims(), dims);
                    assert_eq!(to_bits(&sum)?, to_bits(&expected)?);
                    let alone = rms_norm(&expected, &weight, gain, 1e-5)?;
                    assert_eq!(to_bits(&normed)?, to_bits(&alone)?);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_row_is_the_same_in_any_batch() -> Result<()> {
    for device in devices() {
        let x = tensor(1, &[300, 130], DType::BF16, &device)?;
        let weight = tensor(2, &[130], DType::BF16, &device)?;
        let all = rms_norm(&x, &weight, Gain::Weight, 1e-6)?;
        for row in [0, 17, 299] {
            let alone = rms_norm(&x.narrow(0, row, 1)?, &weight, Gain::Weight, 1e-6)?;
            assert_eq!(to_bits(&alone)?, to_bits(&all.narrow(0, row, 1)?)?);
        }
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let x = tensor(1, &[4, 8], DType::F32, &Device::Cpu)?;
    let weight = tensor(2, &[8], DType::F32, &Device::Cpu)?;
    let narrow = weight.to_dtype(DType::BF16)?;
    let gain = Gain::Weight;
    assert!(
        message(rms_norm(&x, &weight.narrow(0, 0, 7)?, gain, 1e-6))
            .contains("weight must have shape")
    );
    assert!(message(rms_norm(&x, &narrow, gain, 1e-6)).contains("weight must be F32"));
    let turned = tensor(1, &[8, 4], DType::F32, &Device::Cpu)?.t()?;
    assert!(message(rms_norm(&turned, &weight, gain, 1e-6)).contains("x must be contiguous"));
    assert!(
        message(add_rms_norm(&x, &turned, &weight, gain, 1e-6))
            .contains("residual must be contiguous")
    );
    let ids = Tensor::zeros((4, 8), DType::U32, &Device::Cpu)?;
    let message = message(rms_norm(&ids, &ids.get(0)?, gain, 1e-6));
    assert!(message.contains("x must be f32 or bf16"), "{message}");
    Ok(())
}
