//! Mixture of experts in place of the MLP: each token goes to a few of many gated MLPs (Mixtral,
//! arXiv:2401.04088).

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::collectives::Communicator;
use kernels::experts::{Experts, MAX_EXPERTS, Routing};
use kernels::gated_activation::{Activation, gated_activation};
use kernels::linear::Matrix;

use super::decoder_config::DecoderConfig;
use crate::architecture::{ConfigError, ConfigReader};
use crate::weights::{RowsOf, Weights, WeightsError};

/// What an architecture says of its experts.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsConfig {
    /// How many there are in a layer.
    pub num_experts: usize,
    /// How many a token goes to.
    pub per_token: usize,
    /// Width of each.
    pub intermediate_size: usize,
    /// The weights of a token's experts add up to 1.
    pub is_normalised: bool,
    /// Of each layer, whether it has experts; else it has an MLP.
    pub layers: Vec<bool>,
    /// What their tensors are called.
    pub names: ExpertNames,
}

impl ExpertsConfig {
    /// Refuses numbers that do not go together, of which `key` is that of experts.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self, config: &ConfigReader, key: &str) -> std::result::Result<(), ConfigError> {
        if self.num_experts > MAX_EXPERTS {
            return Err(config.invalid(key, &format!("{MAX_EXPERTS} at most")));
        }
        if self.per_token > self.num_experts {
            let expected = format!("at most {key} = {}", self.num_experts);
            return Err(config.invalid("num_experts_per_tok", &expected));
        }
        Ok(())
    }
}

/// Names of tensors, of experts behind `{block}.experts.N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertNames {
    /// Behind the layer's; the router is its `gate`.
    pub block: &'static str,
    /// Of the projection that is activated.
    pub gate: &'static str,
    /// Of the one that it gates.
    pub up: &'static str,
    /// Of the one behind both.
    pub down: &'static str,
}

/// `sum(weight_e * down_e(act(gate_e(x)) * up_e(x)))` over the experts e that the router chooses.
#[derive(Debug)]
pub(super) struct MixtureOfExperts {
    router: Matrix,
    gate_up: Experts,
    down: Experts,
    activation: Activation,
    per_token: usize,
    is_normalised: bool,
    /// What adds up the ranks' results, each of which has a part of every expert.
    sum: Option<Arc<Communicator>>,
}

impl MixtureOfExperts {
    /// Loads `{block}.gate` and `{block}.experts` under `prefix`.
    pub(super) fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &DecoderConfig,
        experts: &ExpertsConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let (hidden, inner) = (config.hidden_size, experts.intermediate_size);
        let (prefix, names) = (format!("{prefix}.{}", experts.names.block), experts.names);
        let named = |n: usize, name: &str| format!("{prefix}.experts.{n}.{name}.weight");
        let part = weights.part(inner);
        let gate_up = |n| {
            [names.gate, names.up].map(|name| RowsOf {
                name: named(n, name),
                total: inner,
                rows: part.clone(),
            })
        };
        let gate_up: Vec<_> = (0..experts.num_experts).map(gate_up).collect();
        let down = |n| [RowsOf::all(named(n, names.down), hidden)];
        let down: Vec<_> = (0..experts.num_experts).map(down).collect();
        // It is small, and what it says decides much: it stays as it is.
        let router =
            weights.tensor(&format!("{prefix}.gate.weight"), &[experts.num_experts, hidden])?;
        Ok(Self {
            router: weights.matrix(&router)?,
            gate_up: weights.experts(&gate_up, hidden, 0..hidden)?,
            down: weights.experts(&down, inner, part)?,
            activation: config.activation,
            per_token: experts.per_token,
            is_normalised: experts.is_normalised,
            sum: weights.communicator().cloned(),
        })
    }

    /// `[tokens, hidden]` to the same.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let logits = self.router.forward_f32(x)?; // [tokens, experts]
        let routing = Routing::new(&logits, self.per_token, self.is_normalised)?;
        let gate_up = self.gate_up.forward_tokens(x, &routing)?; // [rows, 2 * intermediate]
        let gated = gated_activation(&gate_up, self.activation)?;
        drop(gate_up);
        let y = routing.combine(&self.down.forward_rows(&gated, &routing)?)?;
        match &self.sum {
            None => Ok(y),
            Some(ranks) => ranks.all_reduce(&y),
        }
    }
}
