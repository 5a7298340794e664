//! Gathers what the sampler op reads, row by row, into memory reused from step to step.

use candle_core::{Result, Tensor};
use kernels::pool::for_each_row;
use kernels::sample::{RaggedVec, SampleBatch, SampleRow, Sampled, read_records, sample};

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
}

impl Sampler {
    /// Samples the next token of each sequence from its row. logits `[rows, vocab]` f32
    ///
    /// Masks are computed here, after the forward pass was asked for: a device that works by itself
    /// is busy with it meanwhile.
    pub(crate) fn sample<'a>(
        &mut self,
        logits: &Tensor,
        sequences: impl Iterator<Item = &'a Sequence>,
    ) -> Result<Vec<Sampled>> {
        self.clear();
        let mut masks = Vec::new();
        for sequence in sequences {
            self.push(sequence, &mut masks);
        }
        self.fill_masks(&masks, logits.dims2()?.1.div_ceil(32));
        let batch = SampleBatch {
            rows: &self.rows,
            prompt_tokens: self.prompt_tokens.view(),
            output_counts: self.output_counts.view(),
            bias: self.bias.view(),
            banned: self.banned.view(),
            masks: &self.masks,
        };
        read_records(&sample(logits, &batch)?)
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.prompt_tokens.clear();
        self.output_counts.clear();
        self.bias.clear();
        self.banned.clear();
    }

    fn push<'a>(&mut self, sequence: &'a Sequence, masks: &mut Vec<Mask<'a>>) {
        let lists = &sequence.lists;
        let mut row = sequence.sample_row();
        if let Some(mask) = sequence.mask() {
            row.mask = Some(masks.len() as u32);
            masks.push(mask);
        }
        self.rows.push(row);
        self.prompt_tokens.push_row(lists.prompt_tokens.iter().copied());
        self.output_counts.push_row(lists.output_counts.iter().map(|(&id, &count)| (id, count)));
        self.bias.push_row(lists.bias.iter().copied());
        self.banned.push_row(sequence.banned().iter().copied());
    }

    fn fill_masks(&mut self, masks: &[Mask<'_>], num_words: usize) {
        self.masks.resize(masks.len() * num_words, 0);
        for_each_row(&mut self.masks, num_words, masks.len() * OPERATIONS_PER_MASK, |i, words| {
            masks[i].fill(words);
        });
    }
}
