//! The CUDA kernels of the gated activation, on the host, against the reference of the CPU op.

use super::Activation;
use super::cuda::{GateParams, plan};
use super::tests::{ACTIVATIONS, CLAMPED, CLAMPED_ROW, TOLERANCE, assert_clamped, reference};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device};
use crate::testing::{assert_close, tensor, to_f64};
use candle_core::{Device, Error, Result, Tensor};

fn run(gate_up: &Tensor, activation: Activation, offset: usize) -> Result<Tensor> {
    let dtype = gate_up.dtype();
    let (rows, width) = gate_up.dims2()?;
    let intermediate = width / 2;
    let out = on_device(|device| {
        let gate_up = Input::new(device, gate_up, offset)?;
        let out = device.output::<u8>(rows * intermediate * dtype.size_in_bytes());
        let params = GateParams::new([gate_up.address(), out.address()], intermediate, activation);
        let plan = plan(rows, intermediate, dtype, activation)?;
        launch(device, &plan, &params).map_err(Error::wrap)?;
        Ok(vec![out.read()])
    })?;
    from_bytes(&out[0], &[rows, intermediate], dtype)
}

#[test]
fn kernels_equal_the_reference() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for activation in ACTIVATIONS {
            for (rows, intermediate) in [(1, 1), (3, 16), (2, 45), (7, 640), (2, 3072), (1, 1032)] {
                for offset in [0, 1] {
                    let x = tensor(1, &[rows, 2 * intermediate], dtype, &Device::Cpu)?;
                    let x = (x * 8.0)?;
                    let expected = reference(&to_f64(&x)?, intermediate, activation);
                    assert_close(&run(&x, activation, offset)?, &expected, TOLERANCE);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn large_gates_neither_overflow_nor_vanish() -> Result<()> {
    let x = Tensor::new(&[[-1e4f32, -200.0, 200.0, 1e4, 1.0, 1.0, 1.0, 1.0]], &Device::Cpu)?;
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let y: Vec<f32> = run(&x, activation, 0)?.flatten_all()?.to_vec1()?;
        assert_eq!(y, [0.0, 0.0, 200.0, 1e4]);
    }
    Ok(())
}

#[test]
fn both_halves_are_clamped() -> Result<()> {
    assert_clamped(&run(&Tensor::new(&[CLAMPED_ROW], &Device::Cpu)?, CLAMPED, 0)?)
}
