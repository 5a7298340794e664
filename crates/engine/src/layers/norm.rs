//! RMSNorm (arXiv:1910.07467), alone or fused with the residual addition before it.

use candle_core::{Result, Tensor};
use kernels::rms_norm::{add_rms_norm, rms_norm};

use crate::weights::{Weights, WeightsError};

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// Loads `{name}.weight` of `len` elements.
    pub fn load(
        weights: &mut Weights,
        name: &str,
        len: usize,
        eps: f32,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self { weight: weights.tensor(&format!("{name}.weight"), &[len])?, eps })
    }

    /// Normalises each row. `[tokens, len]`
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        rms_norm(x, &self.weight, self.eps)
    }

    /// Adds `x` to the residual stream: the normalised sum, and the sum. `[tokens, len]` each
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        add_rms_norm(x, residual, &self.weight, self.eps)
    }

    /// For kernels that normalise themselves. `[len]`
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// What is added to the mean of squares.
    pub(super) fn eps(&self) -> f32 {
        self.eps
    }
}
