//! Layer normalisation (arXiv:1607.06450).

use candle_core::{Result, Tensor};
use kernels::layer_norm::layer_norm;

use crate::weights::{Weights, WeightsError};

/// `(x - mean) / sqrt(var + eps) * weight + bias` over the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
}

impl LayerNorm {
    /// Loads `{name}.weight` and, if `has_bias`, `{name}.bias`, of `len` elements; old checkpoints
    /// call them `gamma` and `beta`.
    pub fn load(
        weights: &mut Weights,
        name: &str,
        len: usize,
        has_bias: bool,
        eps: f32,
    ) -> std::result::Result<Self, WeightsError> {
        let is_old = !weights.contains(&format!("{name}.weight"))
            && weights.contains(&format!("{name}.gamma"));
        let (weight, bias) = if is_old { ("gamma", "beta") } else { ("weight", "bias") };
        let mut load = |part: &str| weights.tensor(&format!("{name}.{part}"), &[len]);
        Ok(Self { weight: load(weight)?, bias: has_bias.then(|| load(bias)).transpose()?, eps })
    }

    /// Normalises each row. `[tokens, len]`
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, self.bias.as_ref(), self.eps)
    }
}
