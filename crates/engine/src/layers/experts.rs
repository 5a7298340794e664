//! Mixture of experts in place of the MLP: each token goes to a few of many gated MLPs (Mixtral,
//! arXiv:2401.04088).

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
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
    /// Router and projections have biases.
    pub has_bias: bool,
    /// What their tensors are called.
    pub names: ExpertNames,
}

impl ExpertsConfig {
    /// Of every layer and as wide as its MLP would be: `num_local_experts`, of which a token goes to
    /// `num_experts_per_tok` with weights that add up to 1; without biases.
    ///
    /// # Errors
    /// The key that is wrong or missing.
    pub fn of_every_layer(
        json: &ConfigReader,
        config: &DecoderConfig,
        names: ExpertNames,
    ) -> std::result::Result<Self, ConfigError> {
        let count = |key: &str| json.required(key, json.count(key)?);
        let experts = Self {
            num_experts: count("num_local_experts")?,
            per_token: count("num_experts_per_tok")?,
            intermediate_size: config.intermediate_size,
            is_normalised: true,
            layers: vec![true; config.num_layers],
            has_bias: false,
            names,
        };
        experts.check(json, "num_local_experts")?;
        Ok(experts)
    }

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

/// Names of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertNames {
    /// Behind the layer's.
    pub block: &'static str,
    /// Behind the block's, what chooses.
    pub router: &'static str,
    /// Those of the experts.
    pub tensors: ExpertTensors,
}

/// How the tensors of experts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertTensors {
    /// One by one, behind `{block}.experts.N`.
    Each {
        /// The projection that is activated.
        gate: &'static str,
        /// The one that it gates.
        up: &'static str,
        /// The one behind both.
        down: &'static str,
    },
    /// Those of all experts in `{block}.experts.gate_up_proj`, where output features of gate and up take turns, and
    /// `{block}.experts.down_proj`; transposed, or in MXFP4.
    Together,
}

/// Rows of each expert's tensors.
struct ExpertRows {
    gate_up: Vec<Vec<RowsOf>>,
    down: Vec<Vec<RowsOf>>,
}

impl ExpertsConfig {
    /// `suffix` is behind the names; `part` the inner features of the rank.
    fn rows(&self, prefix: &str, hidden: usize, part: &Range<usize>, suffix: &str) -> ExpertRows {
        let (experts, inner) = (self.num_experts, self.intermediate_size);
        match self.names.tensors {
            ExpertTensors::Each { gate, up, down } => {
                let named = |n: usize, name: &str| format!("{prefix}.experts.{n}.{name}.{suffix}");
                let gate_up = |n| {
                    let rows_of = |name| RowsOf::some(named(n, name), inner, part.clone());
                    vec![rows_of(gate), rows_of(up)]
                };
                let down = |n| vec![RowsOf::all(named(n, down), hidden)];
                ExpertRows {
                    gate_up: (0..experts).map(gate_up).collect(),
                    down: (0..experts).map(down).collect(),
                }
            }
            ExpertTensors::Together => {
                let suffix = if suffix == BIAS { "_bias" } else { "" };
                let rows_of =
                    |name: &str, outputs: usize, rows: Range<usize>, step: usize| RowsOf {
                        name: format!("{prefix}.experts.{name}{suffix}"),
                        total: experts * outputs,
                        rows,
                        step,
                        experts: Some(experts),
                    };
                let gate_up = |n: usize| {
                    let (start, end) = (2 * (n * inner + part.start), 2 * (n * inner + part.end));
                    let every_second = |start| rows_of("gate_up_proj", 2 * inner, start..end, 2);
                    vec![every_second(start), every_second(start + 1)]
                };
                let down = |n| vec![rows_of("down_proj", hidden, n * hidden..(n + 1) * hidden, 1)];
                ExpertRows {
                    gate_up: (0..experts).map(gate_up).collect(),
                    down: (0..experts).map(down).collect(),
                }
            }
        }
    }
}

const WEIGHT: &str = "weight";
const BIAS: &str = "bias";

/// `sum(weight_e * down_e(act(gate_e(x)) * up_e(x)))` over the experts e that the router chooses.
#[derive(Debug)]
pub(super) struct MixtureOfExperts {
    router: Matrix,
    /// `[experts]` f32
    router_bias: Option<Tensor>,
    gate_up: Experts,
    down: Experts,
    activation: Activation,
    per_token: usize,
    is_normalised: bool,
    /// What adds up the ranks' results, each of which has a part of every expert.
    sum: Option<Arc<Communicator>>,
}

impl MixtureOfExperts {
    /// Loads the router and the experts of a layer under `prefix`.
    pub(super) fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &DecoderConfig,
        experts: &ExpertsConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let (hidden, inner, num_experts) =
            (config.hidden_size, experts.intermediate_size, experts.num_experts);
        let prefix = format!("{prefix}.{}", experts.names.block);
        let router = format!("{prefix}.{}", experts.names.router);
        let part = weights.part(inner);
        let rows = experts.rows(&prefix, hidden, &part, WEIGHT);
        let (mut router_bias, mut gate_up_bias, mut down_bias) = (None, None, None);
        if experts.has_bias {
            let biases = experts.rows(&prefix, hidden, &part, BIAS);
            let stacked = |weights: &mut Weights, rows: Vec<Vec<RowsOf>>| {
                let bias = weights.stacked(&rows.concat(), &[])?;
                Ok::<_, WeightsError>(bias.reshape((num_experts, ()))?)
            };
            let bias = weights.tensor(&format!("{router}.{BIAS}"), &[num_experts])?;
            router_bias = Some(bias.to_dtype(DType::F32)?);
            gate_up_bias = Some(stacked(weights, biases.gate_up)?);
            // It is added once.
            if weights.rank().0 == 0 {
                down_bias = Some(stacked(weights, biases.down)?);
            }
        }
        // It is small, and what it says decides much: it stays as it is.
        let router = weights.tensor(&format!("{router}.{WEIGHT}"), &[num_experts, hidden])?;
        Ok(Self {
            router: weights.matrix(&router)?,
            router_bias,
            gate_up: weights.experts(&rows.gate_up, hidden, 0..hidden, gate_up_bias)?,
            down: weights.experts(&rows.down, inner, part, down_bias)?,
            activation: config.activation,
            per_token: experts.per_token,
            is_normalised: experts.is_normalised,
            sum: weights.communicator().cloned(),
        })
    }

    /// `[tokens, hidden]` to the same.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let logits = self.router.forward_f32(x)?; // [tokens, experts]
        let bias = self.router_bias.as_ref();
        let routing = Routing::new(&logits, bias, self.per_token, self.is_normalised)?;
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
