//! The sampler on the CPU: rows in parallel, a few vectorised passes over each.

use super::keep::{Ranked, rank_of, top};
use super::philox::uniform;
use super::scan::{BLOCK, Extremes, block_sum, extremes, fill_weights, first_index, total};
use super::{RowFault, SampleBatch, SampleRow, Sampled, SampledRow, TokenLogprobs};
use crate::pool::for_each_row;
use std::cell::RefCell;

/// Passes over a row times operations on an element, roughly.
const OPERATIONS_PER_LOGIT: usize = 32;

/// Working memory of a thread: as large as a vocabulary, so that it is kept.
#[derive(Default)]
struct Scratch {
    logits: Vec<f32>,
    weights: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// logits `[rows, vocab]`; the batch is checked.
pub(super) fn sample(logits: &[f32], vocab_size: usize, batch: &SampleBatch) -> Vec<SampledRow> {
    each_row(logits, vocab_size, |row, logits, scratch| sample_row(logits, batch, row, scratch))
}

/// logits `[rows, vocab]`; targets are below vocab.
pub(super) fn score(
    logits: &[f32],
    vocab_size: usize,
    targets: &[u32],
    num_top: u32,
) -> Vec<SampledRow> {
    each_row(logits, vocab_size, |row, logits, scratch| {
        let (id, extremes) = (targets[row], checked_extremes(logits)?);
        let logprobs = logprobs(logits, extremes, id, num_top, &mut scratch.weights);
        Ok(Sampled { id, logprobs: Some(logprobs) })
    })
}

/// Calls `f` for every row, in parallel.
fn each_row(
    logits: &[f32],
    vocab_size: usize,
    f: impl Fn(usize, &[f32], &mut Scratch) -> SampledRow + Send + Sync,
) -> Vec<SampledRow> {
    let mut rows = vec![Err(RowFault::NothingPossible); logits.len() / vocab_size];
    for_each_row(&mut rows, 1, logits.len() * OPERATIONS_PER_LOGIT, |row, result| {
        let logits = &logits[row * vocab_size..][..vocab_size];
        result[0] = SCRATCH.with_borrow_mut(|scratch| f(row, logits, scratch));
    });
    rows
}

fn sample_row(
    logits: &[f32],
    batch: &SampleBatch,
    row: usize,
    scratch: &mut Scratch,
) -> SampledRow {
    let Scratch { logits: edited, weights } = scratch;
    let params = &batch.rows[row];
    let logits = if batch.edits(row) {
        edited.clear();
        edited.extend_from_slice(logits);
        edit(edited, logits, batch, row);
        edited
    } else {
        logits
    };
    let extremes = checked_extremes(logits)?;
    let id = if params.temperature == 0.0 {
        first_index(logits, extremes.max) as u32
    } else {
        draw(logits, extremes, params, weights)
    };
    let logprobs = params.num_top.map(|num_top| logprobs(logits, extremes, id, num_top, weights));
    Ok(Sampled { id, logprobs })
}

/// Applies penalties, bias, bans and mask. `original` are the logits as the model gave them.
fn edit(logits: &mut [f32], original: &[f32], batch: &SampleBatch, row: usize) {
    let SampleRow { repetition_penalty, presence_penalty, frequency_penalty, mask, .. } =
        batch.rows[row];
    let repeated = |id: u32| {
        let x = original[id as usize];
        if x > 0.0 { x / repetition_penalty } else { x * repetition_penalty }
    };
    // Each is set from the original, so that a token in both lists is not penalised twice.
    for &id in batch.prompt_tokens.row(row) {
        logits[id as usize] = repeated(id);
    }
    for &(id, count) in batch.output_counts.row(row) {
        let penalty = frequency_penalty * count as f32 + presence_penalty;
        logits[id as usize] = if count > 0 { repeated(id) - penalty } else { logits[id as usize] };
    }
    for &(id, bias) in batch.bias.row(row) {
        logits[id as usize] += bias;
    }
    for &id in batch.banned.row(row) {
        logits[id as usize] = f32::NEG_INFINITY;
    }
    if let Some(mask) = mask {
        let words = logits.len().div_ceil(32);
        let mask = &batch.masks[mask as usize * words..][..words];
        for (logits, word) in logits.chunks_mut(32).zip(mask) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Refuses a row that cannot be sampled from.
fn checked_extremes(logits: &[f32]) -> Result<Extremes, RowFault> {
    let extremes = extremes(logits);
    if !extremes.is_valid {
        return Err(RowFault::NotFinite);
    }
    if extremes.max == f32::NEG_INFINITY {
        return Err(RowFault::NothingPossible);
    }
    Ok(extremes)
}

/// Temperature, min-p, top-k, top-p, and the draw.
fn draw(logits: &[f32], extremes: Extremes, params: &SampleRow, weights: &mut Vec<f32>) -> u32 {
    let SampleRow { temperature, min_p, top_k, top_p, seed, position, .. } = *params;
    fill_weights(logits, extremes.max, temperature, min_p, weights);
    let mut ranked = Ranked { logits, weights: weights.as_mut_slice(), extremes, temperature };
    if top_k > 0 && (top_k as usize) < logits.len() {
        ranked.keep(f64::from(top_k), |_| 1.0);
    }
    if top_p < 1.0 {
        // The rounding of top_p to f32 must not cost a token: 0.3 of ten equal ones are three.
        let share = f64::from(top_p) * (1.0 - f64::from(f32::EPSILON));
        let target = share * total(ranked.weights);
        ranked.keep(target, f64::from);
    }
    pick(weights, uniform(seed, position) * total(weights))
}

/// The token at which the running sum of the weights passes `target`.
fn pick(weights: &[f32], mut target: f64) -> u32 {
    for (index, block) in weights.chunks(BLOCK).enumerate() {
        let sum = block_sum(block);
        if target >= sum {
            target -= sum;
            continue;
        }
        for (offset, &weight) in block.iter().enumerate() {
            if target < f64::from(weight) {
                return (index * BLOCK + offset) as u32;
            }
            target -= f64::from(weight);
        }
    }
    // By rounding the target may lie past the end.
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0) as u32
}

/// Of `token` and the `num_top` most likely ones.
fn logprobs(
    logits: &[f32],
    extremes: Extremes,
    token: u32,
    num_top: u32,
    weights: &mut Vec<f32>,
) -> TokenLogprobs {
    fill_weights(logits, extremes.max, 1.0, 0.0, weights);
    let log_total = total(weights).ln();
    let logprob =
        |id: u32| (f64::from(logits[id as usize]) - f64::from(extremes.max) - log_total) as f32;
    let top = top(logits, num_top as usize).into_iter().map(|id| (id, logprob(id))).collect();
    TokenLogprobs { logprob: logprob(token), rank: rank_of(logits, token), top }
}
