//! Gated MLP (GLU variants, arXiv:2002.05202) with gate and up merged into one product.

use candle_core::{Result, Tensor};
use kernels::decode_step;
use kernels::gated_activation::{Activation, gated_activation};

use super::decoder_config::DecoderConfig;
use super::linear::{Linear, Projection};
use crate::weights::{Weights, WeightsError};

/// `down(act(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct Mlp {
    gate_up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    /// Loads `gate_proj` and `up_proj`, or `gate_up_proj`, and `down_proj` under `prefix`, of `inner` features
    /// between them.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &DecoderConfig,
        inner: usize,
    ) -> std::result::Result<Self, WeightsError> {
        let hidden = config.hidden_size;
        let part = weights.part(inner);
        let projection = |name, first| {
            if config.merged_projections {
                let part = first + part.start..first + part.end;
                Projection { name: "gate_up_proj", out_features: 2 * inner, part }
            } else {
                Projection { name, out_features: inner, part: part.clone() }
            }
        };
        let gate_up = [projection("gate_proj", 0), projection("up_proj", inner)];
        let (bias, down) = (config.mlp_bias, [inner, hidden]);
        Ok(Self {
            gate_up: Linear::load_parts(weights, prefix, &gate_up, hidden, bias)?,
            down: Linear::load_summed(weights, prefix, "down_proj", down, bias)?,
            activation: config.activation,
        })
    }

    /// Leaves it to the caller to add up what the ranks have.
    pub(super) fn without_sum(self) -> Self {
        Self { down: self.down.without_sum(), ..self }
    }

    /// Gate with up, and down, for kernels that multiply themselves.
    pub(super) fn operands(&self) -> [decode_step::Linear<'_>; 2] {
        [self.gate_up.operands(), self.down.operands()]
    }

    /// What the gate goes through.
    pub(super) fn activation(&self) -> Activation {
        self.activation
    }

    /// `[tokens, hidden]` to the same.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(x)?; // [tokens, 2 * intermediate]
        self.down.forward(&gated_activation(&gate_up, self.activation)?)
    }
}
