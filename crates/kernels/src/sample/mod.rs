//! The sampler: from logits to one token a row, with log-probabilities on request.
//!
//! Steps of a row, in this order:
//! 1. Penalties. With `c` the occurrences in the output: a positive logit of a token in prompt or
//!    output is divided by the repetition penalty, a negative one multiplied (Keskar et al. 2019,
//!    arXiv:1909.05858); then `c * frequency + [c > 0] * presence` is subtracted (OpenAI).
//! 2. Bias is added, banned ids and those outside the mask become impossible.
//! 3. The log-probabilities that are reported are those of the softmax of these logits.
//! 4. Temperature divides the logits; 0 takes the most likely token and skips the rest.
//! 5. min-p drops tokens less likely than `min_p` times the most likely one (Nguyen et al. 2024,
//!    arXiv:2407.01082), top-k keeps the k most likely of the rest (Fan et al. 2018,
//!    arXiv:1805.04833), top-p the fewest of those that reach `top_p` of their probability
//!    (Holtzman et al. 2019, arXiv:1904.09751).
//! 6. One uniform number, philox of (seed, position), picks a token by inverse CDF over what is
//!    left, in the order of the vocabulary.
//!
//! Wherever tokens are ranked, the lower of two ids with one logit comes first: top-k keeps exactly
//! k. Steps 4 to 6 are in the order of vLLM; it adds the bias before the penalties, which differs
//! only if both a bias and a repetition penalty meet on a token: here the bias is what OpenAI says,
//! a constant added to the logit that is sampled from.

mod batch;
mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
mod keep;
mod philox;
mod record;
mod scan;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "cuda", test))]
mod upload;

pub use batch::{Ragged, RaggedVec, SampleBatch, SampleRow};
pub(crate) use record::is_fault;
pub use record::{PendingRecords, read_records};
#[cfg(any(feature = "cuda", test))]
use upload::Upload;

use crate::views::slice;
use std::fmt;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// The token sampled for a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub id: u32,
    /// Present if [`SampleRow::num_top`] asked for it.
    pub logprobs: Option<TokenLogprobs>,
}

/// Why a row gives no token. Its neighbours are not concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFault {
    /// A logit is NaN or infinite: the model has failed.
    NotFinite,
    /// Mask and banned tokens leave no token.
    NothingPossible,
}

/// What a row gives.
pub type SampledRow = std::result::Result<Sampled, RowFault>;

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFinite => "the logits hold NaN or infinity: the model has failed",
            Self::NothingPossible => "no token is possible",
        })
    }
}

/// Natural-log probabilities at one position, of the distribution before temperature, top-k,
/// top-p and min-p, after penalties, bias and mask.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token itself.
    pub logprob: f32,
    /// 1 for the most likely token; of equal ones the lower id ranks first.
    pub rank: u32,
    /// The most likely tokens in the order of their rank; fewer than asked for if fewer are possible.
    pub top: Vec<(u32, f32)>,
}

/// Samples one token a row. Returns the rows' records `[rows, width]` u32, for [`read_records`]; the first
/// column has the ids.
///
/// logits `[rows, vocab]` f32; `batch.rows` has an entry for each row. On a CUDA device penalties,
/// bias, bans and masks are applied to them in place: they are spent.
///
/// # Errors
/// A shape or dtype that does not fit, a strided input, lists that do not fit the rows, an id beyond
/// the vocabulary, a parameter out of range. A row that cannot be sampled from is none: its record
/// says so.
pub fn sample(logits: &Tensor, batch: &SampleBatch) -> Result<Tensor> {
    let (num_rows, vocab_size) = dims(logits)?;
    batch.check(num_rows, vocab_size)?;
    logits.apply_op1_no_bwd(&Sample { batch })
}

/// Log-probabilities of one given token a row, and of the `num_top` most likely ones. Returns
/// records as [`sample`] does.
///
/// logits `[rows, vocab]` f32, as the model gave them; one target id a row.
///
/// # Errors
/// As [`sample`].
pub fn score(logits: &Tensor, targets: &[u32], num_top: u32) -> Result<Tensor> {
    let (num_rows, vocab_size) = dims(logits)?;
    if targets.len() != num_rows {
        bail!("targets must be one for each of {num_rows} rows, there are {}", targets.len());
    }
    if let Some(row) = targets.iter().position(|&id| id as usize >= vocab_size) {
        bail!("target {} of row {row} is beyond the vocabulary of {vocab_size}", targets[row]);
    }
    logits.apply_op1_no_bwd(&Score { targets, num_top })
}

/// Returns (rows, vocab).
fn dims(logits: &Tensor) -> Result<(usize, usize)> {
    let (num_rows, vocab_size) = logits.dims2()?;
    if vocab_size == 0 {
        bail!("logits must have a vocabulary");
    }
    Ok((num_rows, vocab_size))
}

struct Sample<'a> {
    batch: &'a SampleBatch<'a>,
}

impl CustomOp1 for Sample<'_> {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let vocab_size = layout.shape().dims2()?.1;
        let rows = cpu::sample(slice(logits, layout, "logits")?, vocab_size, self.batch);
        Ok(records(&rows, self.batch.rows.iter().filter_map(|row| row.num_top).max()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let vocab_size = layout.dims()[1];
        cuda::forward::sample((logits, layout), |upload| upload.fill(self.batch, vocab_size))
    }
}

struct Score<'a> {
    targets: &'a [u32],
    num_top: u32,
}

impl CustomOp1 for Score<'_> {
    fn name(&self) -> &'static str {
        "score"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let vocab_size = layout.shape().dims2()?.1;
        let logits = slice(logits, layout, "logits")?;
        let rows = cpu::score(logits, vocab_size, self.targets, self.num_top);
        Ok(records(&rows, Some(self.num_top)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let vocab_size = layout.dims()[1];
        cuda::forward::sample((logits, layout), |upload| {
            upload.fill_targets(self.targets, self.num_top, vocab_size)
        })
    }
}

fn records(rows: &[SampledRow], num_top: Option<u32>) -> (CpuStorage, Shape) {
    let width = record::width(num_top);
    (CpuStorage::U32(record::write(rows, width)), (rows.len(), width).into())
}
