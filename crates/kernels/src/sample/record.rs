//! A sampled row as words of a tensor, so that sampling is an op with one output: the ids can stay on
//! the device for the next step, and what a client asked for is read back later.
//!
//! Words of a row: id, rank (0: no log-probabilities), bits of the log-probability, then id and bits
//! of each of the most likely tokens, padded with [`NONE`]. If no row has any, the id alone. A row that
//! gives no token has a number in place of the id that no vocabulary reaches.

use super::{RowFault, Sampled, SampledRow, TokenLogprobs};
use crate::device::Readback;
use candle_core::{Result, Tensor};

const NONE: u32 = u32::MAX;
const NOT_FINITE: u32 = u32::MAX - 1;
const NOTHING_POSSIBLE: u32 = u32::MAX - 2;

/// Words of a row, for the most log-probabilities that a row of the batch asks for.
pub(super) fn width(num_top: Option<u32>) -> usize {
    num_top.map_or(1, |num_top| 3 + 2 * num_top as usize)
}

/// Rows back to back. `[rows * width]`
pub(super) fn write(rows: &[SampledRow], width: usize) -> Vec<u32> {
    let mut words = vec![NONE; rows.len() * width];
    for (words, row) in words.chunks_exact_mut(width).zip(rows) {
        let row = match row {
            Ok(row) => row,
            Err(fault) => {
                words[0] = match fault {
                    RowFault::NotFinite => NOT_FINITE,
                    RowFault::NothingPossible => NOTHING_POSSIBLE,
                };
                continue;
            }
        };
        words[0] = row.id;
        let [_, rank, logprob, top @ ..] = words else { continue };
        *rank = row.logprobs.as_ref().map_or(0, |logprobs| logprobs.rank);
        let Some(logprobs) = &row.logprobs else { continue };
        *logprob = logprobs.logprob.to_bits();
        for (pair, (id, logprob)) in top.chunks_exact_mut(2).zip(&logprobs.top) {
            pair.copy_from_slice(&[*id, logprob.to_bits()]);
        }
    }
    words
}

/// Whether the first word of a row says that it gave no token.
pub(crate) fn is_fault(word: u32) -> bool {
    word >= NOTHING_POSSIBLE
}

/// Records on their way to the host.
#[derive(Debug)]
pub struct PendingRecords {
    readback: Readback,
    width: usize,
}

impl PendingRecords {
    /// Asks for what [`sample`](super::sample) or [`score`](super::score) gave, without waiting.
    ///
    /// records `[rows, width]` u32.
    ///
    /// # Errors
    /// A shape or dtype that no sampler gives.
    pub fn start(records: &Tensor) -> Result<Self> {
        let (_, width) = records.dims2()?;
        Ok(Self { readback: Readback::start(records)?, width })
    }

    /// Waits for them. An element a row.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn wait(self) -> Result<Vec<SampledRow>> {
        let words = self.readback.wait()?;
        Ok(words.chunks_exact(self.width.max(1)).map(read_row).collect())
    }
}

/// Reads back what [`sample`](super::sample) or [`score`](super::score) gave: waits for the device.
///
/// records `[rows, width]` u32.
///
/// # Errors
/// A shape or dtype that no sampler gives, a fault of the device.
pub fn read_records(records: &Tensor) -> Result<Vec<SampledRow>> {
    PendingRecords::start(records)?.wait()
}

fn read_row(words: &[u32]) -> SampledRow {
    match words[0] {
        NOT_FINITE => return Err(RowFault::NotFinite),
        NOTHING_POSSIBLE => return Err(RowFault::NothingPossible),
        _ => {}
    }
    let logprobs = match *words {
        [_, rank, logprob, ref top @ ..] if rank > 0 => {
            let pairs = top.as_chunks::<2>().0.iter().filter(|[id, _]| *id != NONE);
            let top = pairs.map(|&[id, bits]| (id, f32::from_bits(bits))).collect();
            Some(TokenLogprobs { logprob: f32::from_bits(logprob), rank, top })
        }
        _ => None,
    };
    Ok(Sampled { id: words[0], logprobs })
}
