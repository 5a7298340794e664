//! The CUDA kernels of layer normalisation, on the host, against the reference of the CPU op.

use super::cuda::{LayerNormParams, plan};
use super::tests::{TOLERANCE_FAR, reference};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device};
use crate::testing::{assert_close, tensor};
use candle_core::{Device, Error, Result, Tensor};

/// Less than a pack; no whole packs; packs of more than one sweep.
const SHAPES: [(usize, usize); 6] = [(1, 2), (3, 7), (2, 64), (5, 384), (2, 1027), (1, 20_000)];

fn run(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, offset: usize) -> Result<Tensor> {
    let dtype = x.dtype();
    let (rows, hidden) = x.dims2()?;
    let out = on_device(|device| {
        let x = Input::new(device, x, offset)?;
        let weight = Input::new(device, weight, offset)?;
        let bias = bias.map(|bias| Input::new(device, bias, offset)).transpose()?;
        let out = device.output::<u8>(rows * hidden * dtype.size_in_bytes());
        let params = LayerNormParams {
            x: x.address(),
            weight: weight.address(),
            bias: bias.as_ref().map_or(0, Input::address),
            y: out.address(),
            hidden: hidden as i32,
            eps: 1e-5,
        };
        launch(device, &plan(rows, hidden, dtype)?, &params).map_err(Error::wrap)?;
        Ok(vec![out.read()])
    })?;
    from_bytes(&out[0], x.dims(), dtype)
}

#[test]
fn kernels_equal_the_reference() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for (rows, hidden) in SHAPES {
            for offset in [0, 1] {
                let x = (tensor(1, &[rows, hidden], dtype, &Device::Cpu)? + 4.0)?;
                let weight = tensor(2, &[hidden], dtype, &Device::Cpu)?;
                let bias = tensor(3, &[hidden], dtype, &Device::Cpu)?;
                for bias in [None, Some(&bias)] {
                    let normed = run(&x, &weight, bias, offset)?;
                    let expected = reference(&x, &weight, bias, 1e-5)?;
                    assert_close(&normed, &expected, TOLERANCE_FAR);
                }
            }
        }
    }
    Ok(())
}
