//! The Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415), not approximated:
//! `y = x / 2 * (1 + erf(x / sqrt(2)))`, computed in f32 and rounded once.

mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::views::match_element;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Each element of x, f32 or bf16 (on a CUDA device f16, too), of any shape.
///
/// # Errors
/// Another dtype, or a strided input.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Gelu)
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match_element!(x.dtype(), "x", E => cpu::gelu::<E>(x, layout)?);
        Ok((out, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((cuda::forward::gelu(x, layout)?, layout.shape().clone()))
    }
}
