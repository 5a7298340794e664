//! The gated activation against a plain f64 reference.

use super::{Activation, gated_activation};
use crate::testing::{DTYPES, Tolerance, assert_close, devices, message, tensor, to_f64};
use candle_core::{DType, Device, Result};

pub(super) const TOLERANCE: Tolerance = Tolerance { f32: 1e-6, bf16: 4e-3 };

pub(super) fn reference(gate_up: &[f64], intermediate: usize, activation: Activation) -> Vec<f64> {
    let activate = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x / 2.0 * (1.0 + z.tanh())
        }
    };
    gate_up
        .chunks(2 * intermediate)
        .flat_map(|row| (0..intermediate).map(move |i| activate(row[i]) * row[intermediate + i]))
        .collect()
}

#[test]
fn equals_the_reference() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                for (tokens, intermediate) in [(1, 1), (3, 16), (2, 45), (7, 640), (64, 512)] {
                    let x = tensor(1, &[tokens, 2 * intermediate], dtype, &device)?;
                    let x = (x * 8.0)?;
                    let y = gated_activation(&x, activation)?;
                    assert_eq!((y.dims(), y.dtype()), (&[tokens, intermediate][..], dtype));
                    let expected = reference(&to_f64(&x)?, intermediate, activation);
                    assert_close(&y, &expected, TOLERANCE);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn large_gates_neither_overflow_nor_vanish() -> Result<()> {
    for device in devices() {
        let x = candle_core::Tensor::new(
            &[[-1e4f32, -200.0, 200.0, 1e4, 1.0, 1.0, 1.0, 1.0]],
            &device,
        )?;
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let y: Vec<f32> = gated_activation(&x, activation)?.flatten_all()?.to_vec1()?;
            assert_eq!(y, [0.0, 0.0, 200.0, 1e4]);
        }
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let x = tensor(1, &[8, 4], DType::F32, &Device::Cpu)?;
    let odd = message(gated_activation(&x.narrow(1, 0, 3)?, Activation::Silu));
    assert!(odd.contains("even last dimension"), "{odd}");
    let strided = message(gated_activation(&x.t()?, Activation::Silu));
    assert!(strided.contains("gate_up must be contiguous"), "{strided}");
    Ok(())
}
