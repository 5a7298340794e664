//! The CUDA kernels of GELU, on the host, against the tables of the CPU op.

use super::cuda::{GeluParams, plan};
use super::tests::{TOLERANCE, points};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device};
use crate::testing::{assert_close, tensor};
use candle_core::{DType, Device, Error, Result, Tensor};

fn run(x: &Tensor, offset: usize) -> Result<Tensor> {
    let (dtype, len) = (x.dtype(), x.elem_count());
    let out = on_device(|device| {
        let x = Input::new(device, x, offset)?;
        let out = device.output::<u8>(len * dtype.size_in_bytes());
        let params = GeluParams { x: x.address(), y: out.address(), len: len as u64 };
        launch(device, &plan(len, dtype)?, &params).map_err(Error::wrap)?;
        Ok(vec![out.read()])
    })?;
    from_bytes(&out[0], x.dims(), dtype)
}

#[test]
fn kernels_equal_the_tables() -> Result<()> {
    for dtype in CUDA_DTYPES {
        let (x, expected): (Vec<f32>, Vec<f64>) = points().unzip();
        let x = Tensor::new(x, &Device::Cpu)?.to_dtype(dtype)?;
        for offset in [0, 1] {
            assert_close(&run(&x, offset)?, &expected, TOLERANCE);
        }
    }
    Ok(())
}

#[test]
fn kernels_equal_the_cpu_on_odd_lengths() -> Result<()> {
    for len in [1, 5, 1_024, 3_001] {
        let x = (tensor(1, &[len], DType::F32, &Device::Cpu)? * 5.0)?;
        let expected: Vec<f32> = super::gelu(&x)?.to_vec1()?;
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        assert_close(&run(&x, 1)?, &expected, TOLERANCE);
    }
    Ok(())
}
