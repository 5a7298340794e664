//! The head of a model that scores: one more layer, then a number a label.

use candle_core::{DType, Result, Tensor};
use kernels::unary::gelu;

use super::layer_norm::LayerNorm;
use super::linear::Linear;

/// `out(norm(act(dense(x))))`.
#[derive(Debug)]
pub struct ClassificationHead {
    /// `[hidden, hidden]`
    pub dense: Linear,
    /// What its results go through.
    pub activation: HeadActivation,
    /// Behind that, if the model has one.
    pub norm: Option<LayerNorm>,
    /// `[hidden, labels]`
    pub out: Linear,
}

/// The activation of a [`ClassificationHead`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadActivation {
    /// `tanh(x)`
    Tanh,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
}

impl ClassificationHead {
    /// A state a prompt, `[prompts, hidden]`, to `[prompts, labels]` f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.dense.forward(x)?;
        let x = match self.activation {
            HeadActivation::Tanh => x.tanh()?,
            HeadActivation::Gelu => gelu(x)?,
        };
        let x = self.norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))?;
        self.out.forward(&x)?.to_dtype(DType::F32)
    }
}
