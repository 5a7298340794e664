//! Linear layer, merged from one projection or several that share their input.
//!
//! Of several ranks each may have some of the output features (column parallel) or some of the inputs
//! (row parallel), as in Shoeybi et al. 2019, arXiv:1909.08053.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::collectives::Communicator;
use kernels::decode_step;
use kernels::linear::Matrix;

use crate::weights::{RowsOf, Weights, WeightsError};

/// `y = x W^T + b`, with the outputs of the merged projections side by side.
#[derive(Debug)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
    /// What adds up the ranks' results, if each has some of the inputs.
    sum: Option<Arc<Communicator>>,
}

/// A projection, and which of its output features are wanted.
#[derive(Debug, Clone)]
pub(super) struct Projection<'a> {
    /// Of its tensors.
    pub(super) name: &'a str,
    /// Output features that it has.
    pub(super) out_features: usize,
    /// Those of the rank.
    pub(super) part: Range<usize>,
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
        let whole = |&(name, out_features): &(_, usize)| Projection {
            name,
            out_features,
            part: 0..out_features,
        };
        let projections: Vec<_> = projections.iter().map(whole).collect();
        Self::load_parts(weights, prefix, &projections, in_features, has_bias)
    }

    /// The same of some output features: the rank's, whose results stay with it.
    pub(super) fn load_parts(
        weights: &mut Weights,
        prefix: &str,
        projections: &[Projection],
        in_features: usize,
        has_bias: bool,
    ) -> std::result::Result<Self, WeightsError> {
        let named = |kind: &str| -> Vec<RowsOf> {
            let dot = if prefix.is_empty() { "" } else { "." };
            let rows_of = |projection: &Projection| {
                let name = format!("{prefix}{dot}{}.{kind}", projection.name);
                RowsOf::some(name, projection.out_features, projection.part.clone())
            };
            projections.iter().map(rows_of).collect()
        };
        // The rows as read are dropped once they are packed, before the next layer is read.
        let weight = weights.linear(&named("weight"), in_features, 0..in_features)?;
        let bias = has_bias.then(|| weights.stacked(&named("bias"), &[])).transpose()?;
        Ok(Self { weight, bias, sum: None })
    }

    /// Loads `{prefix}.{name}` for the inputs that the rank has: the results of all ranks are added up, so
    /// that each has all of it.
    pub(super) fn load_summed(
        weights: &mut Weights,
        prefix: &str,
        name: &str,
        [in_features, out_features]: [usize; 2],
        has_bias: bool,
    ) -> std::result::Result<Self, WeightsError> {
        let rows_of = |kind| [RowsOf::all(format!("{prefix}.{name}.{kind}"), out_features)];
        let inputs = weights.part(in_features);
        let weight = weights.linear(&rows_of("weight"), in_features, inputs)?;
        // It is added once.
        let has_bias = has_bias && weights.rank().0 == 0;
        let bias = has_bias.then(|| weights.stacked(&rows_of("bias"), &[])).transpose()?;
        Ok(Self { weight, bias, sum: weights.communicator().cloned() })
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
        let mut half = |which| {
            let part = which * out_features..(which + 1) * out_features;
            let projection = Projection { name, out_features: 2 * out_features, part };
            Self::load_parts(weights, "", &[projection], in_features, has_bias)
        };
        Ok([half(0)?, half(1)?])
    }

    /// Leaves it to the caller to add up what the ranks have.
    pub(super) fn without_sum(self) -> Self {
        Self { sum: None, ..self }
    }

    /// For kernels that multiply themselves.
    pub(super) fn operands(&self) -> decode_step::Linear<'_> {
        decode_step::Linear { weight: &self.weight, bias: self.bias.as_ref() }
    }

    /// `[tokens, in]` to `[tokens, sum of out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x, self.bias.as_ref())?;
        match &self.sum {
            None => Ok(y),
            Some(ranks) => ranks.all_reduce(&y),
        }
    }
}
