//! GELU against tabulated values of the normal distribution, the others against f64, and rows alone.

use super::{Unary, apply, gelu};
use crate::testing::{Tolerance, assert_close, kinds, message, tensor, to_bits, to_f64};
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

/// Near zero a soft cap has the absolute error of a cap of 30.
pub(super) const WIDE_TOLERANCE: Tolerance = Tolerance { f32: 6e-6, bf16: 4e-3 };

/// x and its GELU, on both sides of zero.
pub(super) fn points() -> impl Iterator<Item = (f32, f64)> {
    let points = NORMAL.iter().flat_map(|&(x, p)| [(x, p), (-x, 1.0 - p)]);
    points.map(|(x, p)| (x, f64::from(x) * p))
}

/// Every function with an operand.
pub(super) const WITH_OPERANDS: [Unary; 3] =
    [Unary::Scale(33.5), Unary::SoftCap(30.0), Unary::SoftCap(0.5)];

/// What they are of each element.
pub(super) fn reference(x: &Tensor, function: Unary) -> Result<Vec<f64>> {
    let reference = |x: f64| match function {
        Unary::Gelu => unreachable!("it has tables"),
        Unary::Scale(factor) => f64::from(factor) * x,
        Unary::SoftCap(cap) => f64::from(cap) * (x / f64::from(cap)).tanh(),
    };
    Ok(to_f64(x)?.into_iter().map(reference).collect())
}

/// Small numbers, and some whose exponential is none.
pub(super) fn wide(dtype: DType, device: &Device) -> Result<Tensor> {
    let x = tensor(1, &[3, 501], DType::F32, device)?;
    let edges = Tensor::new(&[0f32, -0.0, 1e-6, 40.0, -40.0, 3e4, -3e4], device)?;
    Tensor::cat(&[&(x.flatten_all()? * 20.0)?, &edges], 0)?.to_dtype(dtype)
}

#[test]
fn gelu_equals_the_tables() -> Result<()> {
    for (device, dtype) in kinds() {
        let (x, expected): (Vec<f32>, Vec<f64>) = points().unzip();
        let x = Tensor::new(x, &device)?.to_dtype(dtype)?;
        assert_close(&gelu(x)?, &expected, TOLERANCE);
    }
    Ok(())
}

#[test]
fn the_others_equal_the_reference() -> Result<()> {
    for (device, dtype) in kinds() {
        for function in WITH_OPERANDS {
            let x = wide(dtype, &device)?;
            let expected = reference(&x, function)?;
            assert_close(&apply(x, function)?, &expected, WIDE_TOLERANCE);
        }
    }
    Ok(())
}

#[test]
fn an_element_is_the_same_in_any_tensor() -> Result<()> {
    let x = tensor(1, &[40, 500], DType::F32, &Device::Cpu)?;
    for function in [Unary::Gelu, Unary::Scale(3.0), Unary::SoftCap(2.0)] {
        let all = apply(x.copy()?, function)?;
        assert_eq!(all.dims(), [40, 500]);
        for row in [0, 17, 39] {
            let alone = apply(x.narrow(0, row, 1)?.copy()?, function)?;
            assert_eq!(to_bits(&alone)?, to_bits(&all.narrow(0, row, 1)?)?);
        }
    }
    Ok(())
}

/// As PyTorch does with a number.
#[test]
fn a_factor_is_not_rounded() -> Result<()> {
    let x = Tensor::full(51f32, 1, &Device::Cpu)?.to_dtype(DType::BF16)?;
    let scaled = apply(x, Unary::Scale(0.22))?;
    assert_eq!(
        to_f64(&scaled)?,
        [11.25],
        "of 11.22; rounded to bf16 the factor gives 11.206, and 11.1875"
    );
    Ok(())
}

/// A view changes where it is, and nowhere else.
#[test]
fn it_is_done_in_place() -> Result<()> {
    let x = tensor(1, &[3, 5], DType::F32, &Device::Cpu)?;
    let before = to_f64(&x)?;
    apply(x.narrow(0, 1, 1)?, Unary::Scale(2.0))?;
    for (i, (before, after)) in before.iter().zip(to_f64(&x)?).enumerate() {
        assert_eq!(after, if i / 5 == 1 { 2.0 * before } else { *before });
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let x = tensor(1, &[4, 8], DType::F32, &Device::Cpu)?;
    assert!(message(gelu(x.t()?)).contains("x must be contiguous"));
    assert!(message(gelu(x.to_dtype(DType::U32)?)).contains("x must be f32 or bf16"));
    Ok(())
}
