//! RMSNorm (arXiv:1910.07467), alone or fused with the residual addition before it.

use candle_core::{Result, Tensor};
use kernels::rms_norm::{Gain, add_rms_norm, rms_norm};

use crate::weights::{Weights, WeightsError};

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension, or `(1 + weight)`.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    gain: Gain,
    eps: f32,
}

impl RmsNorm {
    /// Loads `{name}.weight` of `len` elements.
    pub fn load(
        weights: &mut Weights,
        name: &str,
        len: usize,
        gain: Gain,
        eps: f32,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self::new(weights.tensor(&format!("{name}.weight"), &[len])?, gain, eps))
    }

    /// Of this weight. `[len]`
    pub(super) fn new(weight: Tensor, gain: Gain, eps: f32) -> Self {
        Self { weight, gain, eps }
    }

    /// Normalises each row. `[tokens, len]`
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        rms_norm(x, &self.weight, self.gain, self.eps)
    }

    /// Adds `x` to the residual stream: the normalised sum, and the sum. `[tokens, len]` each
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        add_rms_norm(x, residual, &self.weight, self.gain, self.eps)
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
