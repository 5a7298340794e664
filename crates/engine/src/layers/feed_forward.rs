//! Feed-forward blocks with GELU: the plain one, and one whose activated half gates the other.

use candle_core::{Result, Tensor};
use kernels::unary::gelu;

use super::linear::Linear;

/// `down(gelu(up(x)))`, or with a gate `down(gelu(up(x)) * gate(x))`.
#[derive(Debug)]
pub struct FeedForward {
    /// `[hidden, intermediate]`
    pub up: Linear,
    /// `[hidden, intermediate]`
    pub gate: Option<Linear>,
    /// `[intermediate, hidden]`
    pub down: Linear,
}

impl FeedForward {
    /// `[tokens, hidden]` to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let activated = gelu(self.up.forward(x)?)?;
        match &self.gate {
            None => self.down.forward(&activated),
            Some(gate) => self.down.forward(&(activated * gate.forward(x)?)?),
        }
    }
}
