//! Gathers what the sampler op reads, row by row, into memory reused from step to step.

use candle_core::{Result, Tensor};
use kernels::sample::{RaggedVec, SampleBatch, SampleRow, Sampled, read_records, sample};

use crate::sequence::Sequence;

/// One step's rows and lists.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    rows: Vec<SampleRow>,
    prompt_tokens: RaggedVec<u32>,
    output_counts: RaggedVec<(u32, u32)>,
    bias: RaggedVec<(u32, f32)>,
    banned: RaggedVec<u32>,
    masks: Vec<u32>,
    num_masks: u32,
}

impl Sampler {
    /// Samples the next token of each sequence from its row. logits `[rows, vocab]` f32
    pub(crate) fn sample<'a>(
        &mut self,
        logits: &Tensor,
        sequences: impl Iterator<Item = &'a Sequence>,
    ) -> Result<Vec<Sampled>> {
        self.clear();
        for sequence in sequences {
            self.push(sequence);
        }
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
        self.masks.clear();
        self.num_masks = 0;
    }

    fn push(&mut self, sequence: &Sequence) {
        let lists = &sequence.lists;
        let mut row = sequence.sample_row();
        if let Some(words) = &lists.mask {
            row.mask = Some(self.num_masks);
            self.masks.extend_from_slice(words);
            self.num_masks += 1;
        }
        self.rows.push(row);
        self.prompt_tokens.push_row(lists.prompt_tokens.iter().copied());
        self.output_counts.push_row(lists.output_counts.iter().map(|(&id, &count)| (id, count)));
        self.bias.push_row(lists.bias.iter().copied());
        self.banned.push_row(sequence.banned().iter().copied());
    }
}
