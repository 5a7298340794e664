//! Gathers what the sampler op reads, row by row, into memory reused from step to step.

use candle_core::{Result, Tensor};
use kernels::pool::for_each_part;
use kernels::sample::{RaggedVec, SampleBatch, SampleRow, read_records, sample};

use crate::sequence::Sequence;
use crate::steering::Mask;

/// Of a grammar's mask, roughly: enough for a second thread to pay.
const OPERATIONS_PER_MASK: usize = 1 << 17;

/// One step's rows and lists.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    rows: Vec<SampleRow>,
    prompt_tokens: RaggedVec<u32>,
    output_counts: RaggedVec<(u32, u32)>,
    bias: RaggedVec<(u32, f32)>,
    banned: RaggedVec<u32>,
    masks: Vec<u32>,
    /// Whether other ranks of the model sample the same.
    is_of_ranks: bool,
}

impl Sampler {
    /// Of one of so many ranks.
    pub(crate) fn of_ranks(num_ranks: usize) -> Self {
        Self { is_of_ranks: num_ranks > 1, ..Self::default() }
    }

    /// Samples the next token of each sequence from its row, and those after each of its drafts from
    /// the rows behind. A sequence that is no more gets any. logits `[rows, vocab]` f32, records as
    /// [`sample`] gives them.
    ///
    /// Masks are computed here, after the forward pass was asked for: a device that works by itself
    /// is busy with it meanwhile.
    pub(crate) fn sample<'a>(
        &mut self,
        logits: &Tensor,
        sequences: impl Iterator<Item = (Option<&'a Sequence>, &'a [u32])>,
    ) -> Result<Tensor> {
        self.clear();
        let mut masks = Vec::new();
        let mut num_masks = 0;
        for (sequence, drafts) in sequences {
            let Some(sequence) = sequence else {
                (0..=drafts.len()).for_each(|_| self.push_any());
                continue;
            };
            let mask = sequence.mask(drafts, self.is_of_ranks);
            for num_drafts in 0..=drafts.len() {
                let row_of_mask = mask.as_ref().map(|_| num_masks + num_drafts as u32);
                self.push(sequence, &drafts[..num_drafts], row_of_mask);
            }
            num_masks += mask.as_ref().map_or(0, Mask::num_rows) as u32;
            masks.extend(mask);
        }
        self.fill_masks(&masks, logits.dims2()?.1.div_ceil(32));
        self.draw(logits)
    }

    /// Draws what may follow each sequence and its drafts so far: parameters and random numbers are
    /// those of [`sample`](Self::sample), masks and log-probabilities are left out. logits
    /// `[rows, vocab]` f32
    pub(crate) fn guess<'a>(
        &mut self,
        logits: &Tensor,
        sequences: impl Iterator<Item = (&'a Sequence, &'a [u32])>,
    ) -> Result<Vec<Option<u32>>> {
        self.clear();
        for (sequence, drafts) in sequences {
            self.push(sequence, drafts, None);
        }
        self.rows.iter_mut().for_each(|row| row.num_top = None);
        let rows = read_records(&self.draw(logits)?)?;
        Ok(rows.into_iter().map(|row| Some(row.ok()?.id)).collect())
    }

    fn draw(&self, logits: &Tensor) -> Result<Tensor> {
        let batch = SampleBatch {
            rows: &self.rows,
            prompt_tokens: self.prompt_tokens.view(),
            output_counts: self.output_counts.view(),
            bias: self.bias.view(),
            banned: self.banned.view(),
            masks: &self.masks,
        };
        sample(logits, &batch)
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.prompt_tokens.clear();
        self.output_counts.clear();
        self.bias.clear();
        self.banned.clear();
        self.masks.clear();
    }

    /// A row that nobody reads.
    fn push_any(&mut self) {
        self.rows.push(SampleRow { temperature: 0.0, ..SampleRow::default() });
        self.prompt_tokens.push_row([]);
        self.output_counts.push_row([]);
        self.bias.push_row([]);
        self.banned.push_row([]);
    }

    /// The row that follows `drafts`.
    fn push(&mut self, sequence: &Sequence, drafts: &[u32], mask: Option<u32>) {
        let lists = &sequence.lists;
        self.rows.push(SampleRow { mask, ..sequence.sample_row(drafts.len()) });
        self.prompt_tokens.push_row(lists.prompt_tokens.iter().copied());
        if drafts.is_empty() || !sequence.counts_output() {
            let counts = lists.output_counts.iter().map(|(&id, &count)| (id, count));
            self.output_counts.push_row(counts);
        } else {
            let mut counts = lists.output_counts.clone();
            for id in drafts {
                *counts.entry(*id).or_default() += 1;
            }
            self.output_counts.push_row(counts);
        }
        self.bias.push_row(lists.bias.iter().copied());
        self.banned.push_row(sequence.banned(drafts.len()).iter().copied());
    }

    fn fill_masks(&mut self, masks: &[Mask<'_>], num_words: usize) {
        let num_rows: usize = masks.iter().map(Mask::num_rows).sum();
        self.masks.resize(num_rows * num_words, 0);
        let mut rest = &mut self.masks[..];
        let parts = masks.iter().map(|mask| {
            let (part, behind) =
                std::mem::take(&mut rest).split_at_mut(mask.num_rows() * num_words);
            rest = behind;
            part
        });
        let parts = parts.collect();
        for_each_part(parts, num_rows * OPERATIONS_PER_MASK, |i, words| {
            masks[i].fill(words, num_words);
        });
    }
}
