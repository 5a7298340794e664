//! GELU against tabulated values of the normal distribution, and rows alone.

use super::gelu;
use crate::testing::{Tolerance, assert_close, kinds, message, tensor, to_bits};
use candle_core::{DType, Device, Result, Tensor};

/// x, and the probability that a normal variable is at most x (Abramowitz and Stegun 1964, 26.1).
const NORMAL: [(f32, f64); 9] = [
    (0.0, 0.5),
    (0.25, 0.598_706_325_682_923_7),
    (0.5, 0.691_462_461_274_013_1),
    (1.0, 0.841_344_746_068_542_9),
    (1.5, 0.933_192_798_731_141_9),
    (2.0, 0.977_249_868_051_820_8),
    (3.0, 0.998_650_101_968_369_9),
    (4.0, 0.999_968_328_758_166_9),
    (40.0, 1.0),
];

pub(super) const TOLERANCE: Tolerance = Tolerance { f32: 3e-7, bf16: 4e-3 };

/// x and its GELU, on both sides of zero.
pub(super) fn points() -> impl Iterator<Item = (f32, f64)> {
    let points = NORMAL.iter().flat_map(|&(x, p)| [(x, p), (-x, 1.0 - p)]);
    points.map(|(x, p)| (x, f64::from(x) * p))
}

#[test]
fn equals_the_tables() -> Result<()> {
    for (device, dtype) in kinds() {
        let (x, expected): (Vec<f32>, Vec<f64>) = points().unzip();
        let x = Tensor::new(x, &device)?.to_dtype(dtype)?;
        assert_close(&gelu(&x)?, &expected, TOLERANCE);
    }
    Ok(())
}

#[test]
fn an_element_is_the_same_in_any_tensor() -> Result<()> {
    let x = tensor(1, &[40, 500], DType::F32, &Device::Cpu)?;
    let all = gelu(&x)?;
    assert_eq!(all.dims(), [40, 500]);
    for row in [0, 17, 39] {
        let alone = gelu(&x.narrow(0, row, 1)?)?;
        assert_eq!(to_bits(&alone)?, to_bits(&all.narrow(0, row, 1)?)?);
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let x = tensor(1, &[4, 8], DType::F32, &Device::Cpu)?;
    assert!(message(gelu(&x.t()?)).contains("x must be contiguous"));
    assert!(message(gelu(&x.to_dtype(DType::U32)?)).contains("x must be f32 or bf16"));
    Ok(())
}
