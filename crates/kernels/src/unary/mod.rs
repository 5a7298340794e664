//! Functions of each element alone, in place, computed in f32 and rounded once.

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
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

/// Puts `x / 2 * (1 + erf(x / sqrt(2)))` for each element: the Gaussian error linear unit (Hendrycks and
/// Gimpel 2016, arXiv:1606.08415), not approximated.
///
/// x, here and below, is f32 or bf16 (on a CUDA device f16, too), of any shape, and who else holds it sees
/// it change.
///
/// # Errors
/// Another dtype, or a strided input.
pub fn gelu(x: Tensor) -> Result<Tensor> {
    apply(x, Unary::Gelu)
}

/// Puts `factor x` for each element; the factor is not rounded.
///
/// # Errors
/// As [`gelu`].
pub fn scale(x: Tensor, factor: f32) -> Result<Tensor> {
    apply(x, Unary::Scale(factor))
}

/// Puts `cap tanh(x / cap)` for each element, as Gemma 2 does with its logits (arXiv:2408.00118).
///
/// # Errors
/// As [`gelu`].
pub fn soft_cap(x: Tensor, cap: f32) -> Result<Tensor> {
    apply(x, Unary::SoftCap(cap))
}

fn apply(x: Tensor, function: Unary) -> Result<Tensor> {
    x.inplace_op1(&function)?;
    Ok(x)
}

#[derive(Debug, Clone, Copy)]
enum Unary {
    Gelu,
    Scale(f32),
    SoftCap(f32),
}

impl InplaceOp1 for Unary {
    fn name(&self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::Scale(_) => "scale",
            Self::SoftCap(_) => "soft_cap",
        }
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match_element!(x.dtype(), "x", E => cpu::apply::<E>(x, layout, *self))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &mut CudaStorage, layout: &Layout) -> Result<()> {
        cuda::forward::apply(x, layout, *self)
    }
}
