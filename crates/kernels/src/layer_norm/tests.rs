//! Layer normalisation against a plain f64 reference.

use super::layer_norm;
use crate::testing::{Tolerance, assert_close, kinds, message, tensor, to_bits, to_f64};
use candle_core::{DType, Device, Result, Tensor};

/// Of values that are far from zero.
pub(super) const TOLERANCE_FAR: Tolerance = Tolerance { f32: 2e-5, bf16: 4e-3 };
const SHAPES: [&[usize]; 6] = [&[2], &[1, 5], &[3, 7], &[2, 3, 64], &[5, 384], &[2, 1027]];

pub(super) fn reference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Vec<f64>> {
    let (x, weight) = (to_f64(x)?, to_f64(weight)?);
    let bias = bias.map_or(Ok(vec![0.0; weight.len()]), to_f64)?;
    let row = |row: &[f64]| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
        let normed = row.iter().map(|x| (x - mean) / (var + eps).sqrt());
        let terms = normed.zip(&weight).zip(&bias);
        terms.map(|((x, weight), bias)| x * weight + bias).collect::<Vec<_>>()
    };
    Ok(x.chunks(weight.len()).flat_map(row).collect())
}

#[test]
fn equals_the_reference() -> Result<()> {
    for (device, dtype) in kinds() {
        for dims in SHAPES {
            let hidden = dims[dims.len() - 1];
            // Far from zero, so that a sum of squares alone would lose the variance.
            let x = (tensor(1, dims, dtype, &device)? + 4.0)?;
            let weight = tensor(2, &[hidden], dtype, &device)?;
            let bias = tensor(3, &[hidden], dtype, &device)?;
            for bias in [None, Some(&bias)] {
                let y = layer_norm(&x, &weight, bias, 1e-5)?;
                assert_eq!((y.dims(), y.dtype()), (dims, dtype));
                assert_close(&y, &reference(&x, &weight, bias, 1e-5)?, TOLERANCE_FAR);
            }
        }
    }
    Ok(())
}

#[test]
fn a_row_is_the_same_in_any_batch() -> Result<()> {
    let x = tensor(1, &[300, 130], DType::BF16, &Device::Cpu)?;
    let weight = tensor(2, &[130], DType::BF16, &Device::Cpu)?;
    let all = layer_norm(&x, &weight, None, 1e-6)?;
    for row in [0, 17, 299] {
        let alone = layer_norm(&x.narrow(0, row, 1)?, &weight, None, 1e-6)?;
        assert_eq!(to_bits(&alone)?, to_bits(&all.narrow(0, row, 1)?)?);
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let x = tensor(1, &[4, 8], DType::F32, &Device::Cpu)?;
    let weight = tensor(2, &[8], DType::F32, &Device::Cpu)?;
    let narrow = weight.to_dtype(DType::BF16)?;
    let says = |weight: &Tensor, bias: Option<&Tensor>, says: &str| {
        let message = message(layer_norm(&x, weight, bias, 1e-6));
        assert!(message.contains(says), "{message}");
    };
    says(&weight.narrow(0, 0, 7)?, None, "weight must have shape");
    says(&weight, Some(&weight.narrow(0, 0, 7)?), "bias must have shape");
    says(&narrow, None, "weight must be F32");
    says(&weight, Some(&narrow), "bias must be F32");
    Ok(())
}
