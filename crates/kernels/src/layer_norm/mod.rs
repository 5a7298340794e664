//! Layer normalisation (Ba et al. 2016, arXiv:1607.06450).
//!
//! `y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension, computed in f32
//! and rounded once.

mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::views::{expect_dims, expect_like, match_element};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// Normalises the last dimension.
///
/// x `[.., hidden]`, weight and bias `[hidden]` are all f32 or all bf16 (on a CUDA device f16, too). Returns the shape and dtype
/// of x.
///
/// # Errors
/// A shape or dtype that does not fit, or a strided input.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    let Some(&hidden) = x.dims().last() else {
        bail!("x must have at least one dimension");
    };
    for (tensor, name) in [(Some(weight), "weight"), (bias, "bias")] {
        let Some(tensor) = tensor else { continue };
        expect_dims(tensor, &[hidden], name)?;
        expect_like((tensor, name), (x, "x"))?;
    }
    x.apply_op2_no_bwd(weight, &LayerNorm { bias, eps })
}

struct LayerNorm<'a> {
    bias: Option<&'a Tensor>,
    eps: f32,
}

impl CustomOp2 for LayerNorm<'_> {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = match_element!(x.dtype(), "x", E => {
            cpu::layer_norm::<E>((x, x_layout), (weight, weight_layout), self.bias, self.eps)?
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
        let (x, weight) = ((x, x_layout), (weight, weight_layout));
        let out = cuda::forward::layer_norm(x, weight, self.bias, self.eps)?;
        Ok((out, x_layout.shape().clone()))
    }
}
