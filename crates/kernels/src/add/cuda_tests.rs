//! The CUDA kernels of the sum, on the host: each element is rounded once.

use super::cuda::{AddParams, plan};
use crate::cuda::testing::{CUDA_DTYPES, Input, launch, on_device, to_bytes};
use crate::testing::tensor;
use candle_core::{DType, Device, Error, Result};

#[test]
fn kernels_round_the_sum_once() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for len in [1, 7, 896, 5_003] {
            for offset in [0, 1] {
                let x = tensor(1, &[len], dtype, &Device::Cpu)?;
                let y = tensor(2, &[len], dtype, &Device::Cpu)?;
                let given = on_device(|device| {
                    let (x, y) = (Input::new(device, &x, offset)?, Input::new(device, &y, offset)?);
                    let out = device.output::<u8>(len * dtype.size_in_bytes());
                    let sums = out.address();
                    let params =
                        AddParams { x: x.address(), y: y.address(), sums, len: len as u64 };
                    launch(device, &plan(len, dtype)?, &params).map_err(Error::wrap)?;
                    Ok(vec![out.read()])
                })?;
                let expected = (x.to_dtype(DType::F32)? + y.to_dtype(DType::F32)?)?;
                assert_eq!(given[0], to_bytes(&expected.to_dtype(dtype)?)?);
            }
        }
    }
    Ok(())
}
