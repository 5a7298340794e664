//! The gated activation of a GLU feed-forward block (Shazeer 2020, arXiv:2002.05202).

use candle_core::{Result, Tensor};

/// What the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`
    GeluTanh,
}

/// gate_up `[tokens, 2 * intermediate]`, gate first, to `[tokens, intermediate]`.
pub fn gated_activation(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let _ = (gate_up, activation);
    candle_core::bail!("gated_activation is being written")
}
