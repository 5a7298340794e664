//! The gated activation against a plain f64 reference.

use super::{Activation, gated_activation};
use crate::testing::{DTYPES, Tolerance, assert_close, devices, message, tensor, to_f64};
use candle_core::{DType, Device, Result, Tensor};

pub(super) const TOLERANCE: Tolerance = Tolerance { f32: 1e-6, bf16: 4e-3 };

pub(super) const CLAMPED: Activation = Activation::ClampedSwiglu { limit: 3.0 };
pub(super) const ACTIVATIONS: [Activation; 3] = [Activation::Silu, Activation::GeluTanh, CLAMPED];

pub(super) fn reference(gate_up: &[f64], intermediate: usize, activation: Activation) -> Vec<f64> {
    let gated = |gate: f64, up: f64| match activation {
        Activation::Silu => gate / (1.0 + (-gate).exp()) * up,
        Activation::GeluTanh => {
            let z = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
            gate / 2.0 * (1.0 + z.tanh()) * up
        }
        Activation::ClampedSwiglu { limit } => {
            let limit = f64::from(limit);
            let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
            gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
        }
    };
    gate_up
        .chunks(2 * intermediate)
        .flat_map(|row| (0..intermediate).map(move |i| gated(row[i], row[intermediate + i])))
        .collect()
}

#[test]
fn equals_the_reference() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for activation in ACTIVATIONS {
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

/// Gates, and what they gate, on either side of the limit; what is no number stays none.
pub(super) const CLAMPED_ROW: [f32; 8] = [-1e4, 1e4, 3.0, 1.0, 1e4, -1e4, -1e4, f32::NAN];

pub(super) fn assert_clamped(y: &Tensor) -> Result<()> {
    let y: Vec<f32> = y.flatten_all()?.to_vec1()?;
    let most = 3.0 / (1.0 + (-1.702f32 * 3.0).exp());
    let expected = [0.0, -2.0 * most, -2.0 * most];
    for (y, expected) in y.iter().zip(expected) {
        assert!((y - expected).abs() < 1e-5, "{y} {expected}");
    }
    assert!(y[3].is_nan());
    Ok(())
}

#[test]
fn both_halves_are_clamped() -> Result<()> {
    for device in devices() {
        assert_clamped(&gated_activation(&Tensor::new(&[CLAMPED_ROW], &device)?, CLAMPED)?)?;
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
