//! How many ranks a model can be shared out to.

use kernels::collectives::{MAX_RANKS, part};

use super::{EngineOptions, OptionError, in_range};
use crate::model::ModelSpec;

impl EngineOptions {
    /// Ranks that the model is shared out to.
    ///
    /// # Errors
    /// [`OptionError::OutOfRange`]
    pub fn num_ranks(&self) -> Result<usize, OptionError> {
        let num_ranks = self.tensor_parallel_size.unwrap_or(1);
        in_range("--tensor-parallel-size", num_ranks, (1, MAX_RANKS), "GPUs of one machine")
    }
}

/// The same, of a model that can be shared out to as many.
pub(super) fn num_ranks_of(
    options: &EngineOptions,
    spec: &ModelSpec,
) -> Result<usize, OptionError> {
    let num_ranks = options.num_ranks()?;
    check_ranks(num_ranks, spec)?;
    Ok(num_ranks)
}

/// Refuses a number of ranks that a model cannot be shared out to evenly.
pub(crate) fn check_ranks(num_ranks: usize, spec: &ModelSpec) -> Result<(), OptionError> {
    if num_ranks == 1 {
        return Ok(());
    }
    if spec.is_encoder() {
        return Err(OptionError::Encoder("--tensor-parallel-size", "they have no parts"));
    }
    let with_experts = spec.experts.map_or(0, |experts| experts.num_layers);
    let mlp = (with_experts < spec.num_layers).then_some(spec.intermediate_size);
    let of_experts =
        spec.experts.iter().flat_map(|experts| [experts.intermediate_size, experts.shared_size]);
    let inner: Vec<usize> = mlp.into_iter().chain(of_experts).filter(|size| *size > 0).collect();
    let fits = |ranks: usize| {
        let shares_keys =
            spec.num_kv_heads.is_multiple_of(ranks) || ranks.is_multiple_of(spec.num_kv_heads);
        spec.num_heads.is_multiple_of(ranks)
            && shares_keys
            && inner.iter().all(|inner| inner.is_multiple_of(ranks))
            && !part(spec.vocab_size, ranks - 1, ranks).is_empty()
    };
    if fits(num_ranks) {
        return Ok(());
    }
    let possible: Vec<_> =
        (1..=MAX_RANKS).filter(|ranks| fits(*ranks)).map(|ranks| ranks.to_string()).collect();
    Err(OptionError::Ranks {
        num_ranks,
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        intermediate_sizes: inner.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
        possible: possible.join(", "),
    })
}
