//! The CUDA kernels, on the host, against the references of the CPU op.

use super::Unary;
use super::cuda::plan;
use super::tests::{TOLERANCE, WIDE_TOLERANCE, WITH_OPERANDS, points, reference, wide};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device};
use crate::testing::{assert_close, tensor};
use candle_core::{DType, Device, Error, Result, Tensor};

fn run(x: &Tensor, function: Unary, offset: usize) -> Result<Tensor> {
    let (dtype, len) = (x.dtype(), x.elem_count());
    let out = on_device(|device| {
        let x = Input::writable(device, x, offset)?;
        let (plan, params) = plan(function, x.address(), len, dtype)?;
        launch(device, &plan, &params).map_err(Error::wrap)?;
        Ok(vec![x.read()])
    })?;
    from_bytes(&out[0], x.dims(), dtype)
}

#[test]
fn gelu_equals_the_tables() -> Result<()> {
    for dtype in CUDA_DTYPES {
        let (x, expected): (Vec<f32>, Vec<f64>) = points().unzip();
        let x = Tensor::new(x, &Device::Cpu)?.to_dtype(dtype)?;
        for offset in [0, 1] {
            assert_close(&run(&x, Unary::Gelu, offset)?, &expected, TOLERANCE);
        }
    }
    Ok(())
}

#[test]
fn the_others_equal_the_reference() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for function in WITH_OPERANDS {
            // f16 ends at 65,504.
            let x = (wide(dtype, &Device::Cpu)? * if dtype == DType::F16 { 0.05 } else { 1.0 })?;
            let expected = reference(&x, function)?;
            for offset in [0, 1] {
                assert_close(&run(&x, function, offset)?, &expected, WIDE_TOLERANCE);
            }
        }
    }
    Ok(())
}

#[test]
fn gelu_equals_the_cpu_on_odd_lengths() -> Result<()> {
    for len in [1, 5, 1_024, 3_001] {
        let x = (tensor(1, &[len], DType::F32, &Device::Cpu)? * 5.0)?;
        let expected: Vec<f32> = super::gelu(x.copy()?)?.to_vec1()?;
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        assert_close(&run(&x, Unary::Gelu, 1)?, &expected, TOLERANCE);
    }
    Ok(())
}
