//! The sampler.

mod batch;

pub use batch::{Ragged, RaggedVec, SampleBatch, SampleRow};
use candle_core::{Result, Tensor};

/// The token sampled for a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub id: u32,
    /// Present if [`SampleRow::num_top`] asked for it.
    pub logprobs: Option<RowLogprobs>,
}

/// Natural-log probabilities of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowLogprobs {
    /// Of the token in question.
    pub logprob: f32,
    /// 1 for the most likely token; of equal ones the lower id ranks first.
    pub rank: u32,
    /// The most likely tokens, in the order of their rank.
    pub top: Vec<(u32, f32)>,
}

/// Samples one token a row. logits `[rows, vocab]` f32
pub fn sample(logits: &Tensor, batch: &SampleBatch) -> Result<Vec<Sampled>> {
    let _ = (logits, batch);
    candle_core::bail!("sample is being written")
}

/// Log-probabilities of one given token a row. logits `[rows, vocab]` f32
pub fn score(logits: &Tensor, targets: &[u32], num_top: u32) -> Result<Vec<RowLogprobs>> {
    let _ = (logits, targets, num_top);
    candle_core::bail!("score is being written")
}
