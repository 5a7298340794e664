//! Linear layer, merged from one projection or several that share their input.

use candle_core::{Result, Tensor};
use kernels::decode_step;
use kernels::linear::Matrix;

use crate::weights::{Weights, WeightsError};

/// `y = x W^T + b`, with the outputs of the merged projections side by side.
#[derive(Debug)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    /// Loads `{prefix}.{name}.weight`, and `.bias` if `has_bias`, for each `(name, out_features)`;
    /// `{name}.weight` with an empty prefix.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        projections: &[(&str, usize)],
        in_features: usize,
        has_bias: bool,
    ) -> std::result::Result<Self, WeightsError> {
        let named = |kind: &str| -> Vec<(String, usize)> {
            let dot = if prefix.is_empty() { "" } else { "." };
            let name = |part: &str| format!("{prefix}{dot}{part}.{kind}");
            projections.iter().map(|(part, rows)| (name(part), *rows)).collect()
        };
        // The rows as read are dropped once they are packed, before the next layer is read.
        let weight = weights.linear(&named("weight"), in_features)?;
        let bias = has_bias.then(|| weights.stacked(&named("bias"), &[])).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Loads the upper and the lower half of `{name}.weight`, and of `.bias` if `has_bias`: two layers
    /// of `out_features` each.
    pub fn load_halves(
        weights: &mut Weights,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
    ) -> std::result::Result<[Self; 2], WeightsError> {
        let mut half = |which| -> std::result::Result<Self, WeightsError> {
            let shape = [2 * out_features, in_features];
            let weight = weights.tensor_sharded(&format!("{name}.weight"), &shape, 0, which, 2)?;
            let weight = weights.matrix(&weight)?;
            let bias = || weights.tensor_sharded(&format!("{name}.bias"), &shape[..1], 0, which, 2);
            let bias = has_bias.then(bias).transpose()?;
            Ok(Self { weight, bias })
        };
        Ok([half(0)?, half(1)?])
    }

    /// For kernels that multiply themselves.
    pub(super) fn operands(&self) -> decode_step::Linear<'_> {
        decode_step::Linear { weight: &self.weight, bias: self.bias.as_ref() }
    }

    /// `[tokens, in]` to `[tokens, sum of out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.forward(x, self.bias.as_ref())
    }
}
