//! The CUDA kernels of RMSNorm, on the host, against the reference of the CPU op.

use super::Gain;
use super::cuda::{NormParams, plan};
use super::tests::{GAINS, TOLERANCE, reference};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device, to_bytes};
use crate::testing::{assert_close, tensor};
use candle_core::{DType, Device, Error, Result, Tensor};

/// (rows, hidden): one element; less than a pack; no whole packs; packs of more than one sweep.
const SHAPES: [(usize, usize); 7] =
    [(1, 1), (3, 7), (2, 64), (5, 896), (2, 1027), (2, 8192), (1, 40_000)];

/// Returns the normed rows and, with a residual, the sums. Inputs lie `offset` elements into memory.
fn run(
    x: &Tensor,
    residual: Option<&Tensor>,
    (weight, gain): (&Tensor, Gain),
    offset: usize,
) -> Result<(Tensor, Option<Tensor>)> {
    let dtype = x.dtype();
    let (rows, hidden) = x.dims2()?;
    let out = on_device(|device| {
        let x = Input::new(device, x, offset)?;
        let weight = Input::new(device, weight, offset)?;
        let residual = residual.map(|residual| Input::new(device, residual, offset)).transpose()?;
        let bytes = rows * hidden * dtype.size_in_bytes();
        let (normed, sums) = (device.output::<u8>(bytes), device.output::<u8>(bytes));
        let params = NormParams {
            x: x.address(),
            residual: residual.as_ref().map_or(0, Input::address),
            weight: weight.address(),
            normed: normed.address(),
            sums: if residual.is_some() { sums.address() } else { 0 },
            hidden: hidden as i32,
            eps: 1e-6,
            is_zero_centred: (gain == Gain::OnePlusWeight).into(),
        };
        launch(device, &plan(rows, hidden, dtype, residual.is_some())?, &params)
            .map_err(Error::wrap)?;
        Ok([Some(normed.read()), residual.map(|_| sums.read())].into_iter().flatten().collect())
    })?;
    let sums = out.get(1).map(|sums| from_bytes(sums, x.dims(), dtype)).transpose()?;
    Ok((from_bytes(&out[0], x.dims(), dtype)?, sums))
}

#[test]
fn kernels_equal_the_reference() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for (rows, hidden) in SHAPES {
            for offset in [0, 1] {
                let x = tensor(1, &[rows, hidden], dtype, &Device::Cpu)?;
                let residual = tensor(2, &[rows, hidden], dtype, &Device::Cpu)?;
                let weight = tensor(3, &[hidden], dtype, &Device::Cpu)?;
                for gain in GAINS {
                    let (normed, _) = run(&x, None, (&weight, gain), offset)?;
                    assert_close(&normed, &reference(&x, &weight, gain, 1e-6)?, TOLERANCE);
                    let (normed, sums) = run(&x, Some(&residual), (&weight, gain), offset)?;
                    let expected = (&x + &residual)?;
                    assert_eq!(to_bytes(&sums.expect("asked for"))?, to_bytes(&expected)?);
                    let alone = run(&expected, None, (&weight, gain), offset)?.0;
                    assert_eq!(to_bytes(&normed)?, to_bytes(&alone)?);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_row_is_the_same_wherever_it_lies() -> Result<()> {
    for hidden in [130, 1024] {
        let x = tensor(1, &[5, hidden], DType::BF16, &Device::Cpu)?;
        let weight = tensor(2, &[hidden], DType::BF16, &Device::Cpu)?;
        let scale = (&weight, Gain::Weight);
        let all = run(&x, None, scale, 0)?.0;
        for (row, offset) in [(0, 3), (4, 0), (4, 1)] {
            let alone = run(&x.narrow(0, row, 1)?, None, scale, offset)?.0;
            assert_eq!(to_bytes(&alone)?, to_bytes(&all.narrow(0, row, 1)?)?);
        }
    }
    Ok(())
}
