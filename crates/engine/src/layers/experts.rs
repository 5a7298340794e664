//! Mixture of experts in place of the MLP: each token goes to a few of many gated MLPs (Mixtral,
//! arXiv:2401.04088).

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::collectives::Communicator;
use kernels::experts::{Experts, Gate, MAX_EXPERTS, Routing};
use kernels::gated_activation::{Activation, gated_activation};
use kernels::linear::Matrix;

use super::decoder_config::DecoderConfig;
use super::mlp::Mlp;
use crate::architecture::{ConfigError, ConfigReader};
use crate::weights::{RowsOf, Weights, WeightsError};

/// What an architecture says of its experts.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsConfig {
    /// How many there are in a layer, those aside that all tokens go to.
    pub num_experts: usize,
    /// What chooses among them.
    pub gate: Gate,
    /// Width of each.
    pub intermediate_size: usize,
    /// Width of an MLP, `shared_experts`, that all tokens go to, if there is one.
    pub shared_size: Option<usize>,
    /// Of each layer, whether it has experts; else it has an MLP.
    pub layers: Vec<bool>,
    /// Projections have biases.
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
            gate: Gate::softmax(count("num_experts_per_tok")?),
            intermediate_size: config.intermediate_size,
            shared_size: None,
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
        if self.gate.per_token > self.num_experts {
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
    /// Behind the router's, its bias, if it has one.
    pub router_bias: Option<&'static str>,
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

/// `sum(weight_e * down_e(act(gate_e(x)) * up_e(x)))` over the experts e that the router chooses, and an MLP that
/// all tokens go to.
#[derive(Debug)]
pub(super) struct MixtureOfExperts {
    router: Matrix,
    /// `[experts]` f32
    router_bias: Option<Tensor>,
    gate_up: Experts,
    down: Experts,
    shared: Option<Mlp>,
    activation: Activation,
    gate: Gate,
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
        let (mut gate_up_bias, mut down_bias) = (None, None);
        if experts.has_bias {
            let biases = experts.rows(&prefix, hidden, &part, BIAS);
            let stacked = |weights: &mut Weights, rows: Vec<Vec<RowsOf>>| {
                let bias = weights.stacked(&rows.concat(), &[])?;
                Ok::<_, WeightsError>(bias.reshape((num_experts, ()))?)
            };
            gate_up_bias = Some(stacked(weights, biases.gate_up)?);
            // It is added once.
            if weights.rank().0 == 0 {
                down_bias = Some(stacked(weights, biases.down)?);
            }
        }
        let router_bias = experts.names.router_bias.map(|name| {
            // What is added to scores may be large beside what tells them apart: it stays as it is.
            weights.tensor_f32(&format!("{router}.{name}"), &[num_experts])
        });
        let shared = experts
            .shared_size
            .map(|inner| Mlp::load(weights, &format!("{prefix}.shared_experts"), config, inner));
        // It is small, and what it says decides much: it stays as it is.
        let router = weights.tensor(&format!("{router}.{WEIGHT}"), &[num_experts, hidden])?;
        Ok(Self {
            router: weights.matrix(&router)?,
            router_bias: router_bias.transpose()?,
            gate_up: weights.experts(&rows.gate_up, hidden, 0..hidden, gate_up_bias)?,
            down: weights.experts(&rows.down, inner, part, down_bias)?,
            // Of several ranks the results are added up with those of the others' experts.
            shared: shared.transpose()?.map(Mlp::without_sum),
            activation: config.activation,
            gate: experts.gate,
            sum: weights.communicator().cloned(),
        })
    }

    /// `[tokens, hidden]` to the same.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let logits = self.router.forward_f32(x)?; // [tokens, experts]
        let routing = Routing::new(&logits, self.router_bias.as_ref(), self.gate)?;
        let gate_up = self.gate_up.forward_tokens(x, &routing)?; // [rows, 2 * intermediate]
        let gated = gated_activation(&gate_up, self.activation)?;
        drop(gate_up);
        let y = self.down.forward_rows(&gated, &routing)?; // [rows, hidden]
        drop(gated);
        let shared = self.shared.as_ref().map(|shared| shared.forward(x)).transpose()?;
        let y = routing.combine(&y, shared.as_ref())?;
        match &self.sum {
            None => Ok(y),
            Some(ranks) => ranks.all_reduce(&y),
        }
    }
}
