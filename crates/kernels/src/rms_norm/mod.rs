//! Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467), alone or fused with
//! the residual addition before it.
//!
//! `y = round(x / sqrt(mean(x^2) + eps)) * weight` over the last dimension. The mean is taken in
//! f32. `round` is to the dtype of x, before the weight is multiplied: this is what transformers
//! does, and costs nothing. In bf16 the result is so equal to theirs but for the order of the sum.
//! Of a zero-centred weight it is `x / sqrt(mean(x^2) + eps) * (1 + weight)`, rounded once, as there.

mod cpu;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

pub(crate) use cpu::{Scale, norm_factor};

use crate::views::{expect_dims, expect_like, match_element};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// What a normalised row is multiplied by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gain {
    /// The weight.
    #[default]
    Weight,
    /// One more than the weight, which is stored around zero (Gemma).
    OnePlusWeight,
}

/// Normalises the last dimension.
///
/// x `[.., hidden]` and weight `[hidden]` are both f32 or both bf16. Returns the shape and dtype of x.
///
/// # Errors
/// A shape or dtype that does not fit, or a strided input.
pub fn rms_norm(x: &Tensor, weight: &Tensor, gain: Gain, eps: f32) -> Result<Tensor> {
    check(x, weight)?;
    x.apply_op2_no_bwd(weight, &RmsNorm { gain, eps })
}

/// Adds, then normalises: `s = x + residual`; returns `(rms_norm(s), s)`.
///
/// x and residual `[.., hidden]`, weight `[hidden]`, all f32 or all bf16. s is rounded to that dtype
/// before it is normalised, so that the pair equals the two separate operations.
///
/// # Errors
/// A shape or dtype that does not fit, or a strided input.
pub fn add_rms_norm(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    gain: Gain,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    check(x, weight)?;
    expect_dims(residual, x.dims(), "residual")?;
    expect_like((residual, "residual"), (x, "x"))?;
    let both = x.apply_op2_no_bwd(residual, &AddRmsNorm { weight, gain, eps })?; // [2, .., hidden]
    Ok((both.get(0)?, both.get(1)?))
}

fn check(x: &Tensor, weight: &Tensor) -> Result<()> {
    let Some(&hidden) = x.dims().last() else {
        bail!("x must have at least one dimension");
    };
    expect_dims(weight, &[hidden], "weight")?;
    expect_like((weight, "weight"), (x, "x"))
}

struct RmsNorm {
    gain: Gain,
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = match_element!(x.dtype(), "x", E => {
            cpu::rms_norm::<E>((x, x_layout), (weight, weight_layout), self)?
        });
        Ok((out, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let out = cuda::forward::rms_norm((x, x_layout), (weight, weight_layout), self)?;
        Ok((out, x_layout.shape().clone()))
    }
}

/// Returns the normed sum and the sum as one tensor, because an op has one output.
struct AddRmsNorm<'a> {
    weight: &'a Tensor,
    gain: Gain,
    eps: f32,
}

impl CustomOp2 for AddRmsNorm<'_> {
    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = match_element!(x.dtype(), "x", E => {
            cpu::add_rms_norm::<E>((x, x_layout), (residual, residual_layout), self)?
        });
        Ok((out, [&[2], x_layout.dims()].concat().into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        residual: &CudaStorage,
        residual_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let residual = (residual, residual_layout);
        let out = cuda::forward::add_rms_norm((x, x_layout), residual, self)?;
        Ok((out, [&[2], x_layout.dims()].concat().into()))
    }
}
