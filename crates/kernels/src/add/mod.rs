//! The sum of two tensors, rounded once, to the nearest.
//!
//! candle 0.11's own `+` cuts the sum of two bf16 off on aarch64 instead of rounding it.

mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

pub(crate) use cpu::AddRow;

use crate::views::{expect_dims, expect_like, match_element};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// `x + y`, of any one shape, both f32 or both bf16 (on a CUDA device f16, too). Returns the shape and dtype of x.
///
/// # Errors
/// A shape or dtype that does not fit, or a strided input.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    expect_dims(y, x.dims(), "y")?;
    expect_like((y, "y"), (x, "x"))?;
    x.apply_op2_no_bwd(y, &Add)
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = match_element!(x.dtype(), "x", E => {
            cpu::add::<E>((x, x_layout), (y, y_layout))?
        });
        Ok((out, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        y: &CudaStorage,
        y_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let out = cuda::forward::add((x, x_layout), (y, y_layout))?;
        Ok((out, x_layout.shape().clone()))
    }
}
