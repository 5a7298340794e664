//! From a plan to tokens: pack, forward, score, sample.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor};
use kernels::sample::{SampledRow, read_records, score};
use scheduler::{Plan, SeqId};

use crate::batch::{Pack, divide};
use crate::kv_cache::CacheShape;
use crate::model::{CausalLm, KvCache};
use crate::sampler::Sampler;
use crate::sequence::Sequence;
use crate::speculation::{DraftModel, Guesses};

/// Owns what a step computes with: the model, the cache, the sampler's memory.
pub(crate) struct Runner {
    model: Box<dyn CausalLm>,
    shape: CacheShape,
    cache: KvCache,
    device: Device,
    sampler: Sampler,
    draft_model: Option<DraftModel>,
    /// Most rows of logits in a forward pass.
    max_logits_rows: usize,
}

/// What a step gave, an element an entry of the plan.
#[derive(Debug)]
pub(crate) struct StepOutput {
    pub(crate) entries: Vec<EntryOutput>,
    pub(crate) forward: Duration,
    pub(crate) sample: Duration,
    /// Time in the draft model, and for one of its guesses.
    pub(crate) guess: Duration,
    pub(crate) each_guess: Option<Duration>,
}

/// What a step gave to one entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct EntryOutput {
    /// The guesses that were computed, at most the entry's.
    pub(crate) drafts: Vec<u32>,
    /// From the row before each draft and the last row, if the entry samples.
    pub(crate) sampled: Vec<SampledRow>,
    /// Of the prompt tokens after the entry's first, in order.
    pub(crate) scores: Vec<SampledRow>,
}

impl Runner {
    pub(crate) fn new(
        model: Box<dyn CausalLm>,
        shape: CacheShape,
        device: Device,
        max_logits_rows: usize,
        draft_model: Option<DraftModel>,
    ) -> Result<Self> {
        let cache = shape.allocate(&device)?;
        let sampler = Sampler::default();
        Ok(Self { model, shape, cache, device, sampler, draft_model, max_logits_rows })
    }

    /// Forgets a sequence that has ended or lost its blocks.
    pub(crate) fn forget(&mut self, id: SeqId) {
        if let Some(draft_model) = &mut self.draft_model {
            draft_model.forget(id);
        }
    }

    /// Replaces the cache, whose tensors a panic may have left locked for good.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.cache.layers.clear();
        self.cache = self.shape.allocate(&self.device)?;
        self.sampler = Sampler::default();
        self.draft_model.as_mut().map_or(Ok(()), DraftModel::reset)
    }

    /// Runs the plan. On an error nothing of it counts, though slots of the cache that belong to
    /// its entries alone may have been written.
    pub(crate) fn run(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
    ) -> Result<StepOutput> {
        let mut output = StepOutput {
            entries: vec![EntryOutput::default(); plan.entries.len()],
            forward: Duration::ZERO,
            sample: Duration::ZERO,
            guess: Duration::ZERO,
            each_guess: None,
        };
        let drafts = self.drafts(plan, sequences, &mut output)?;
        let drafts: Vec<_> = drafts.iter().map(Vec::as_slice).collect();
        for pack in divide(plan, &drafts, self.max_logits_rows) {
            let begun = Instant::now();
            let batch = pack.tensors(self.shape.block_size, &self.device)?;
            let logits = self.model.forward(&batch, &self.cache)?; // [rows, vocab]
            let computed = Instant::now();
            self.read(&pack, &logits, sequences, &mut output.entries)?;
            output.forward += computed - begun;
            output.sample += computed.elapsed();
        }
        for (entry, drafts) in output.entries.iter_mut().zip(drafts) {
            entry.drafts = drafts.to_vec();
        }
        Ok(output)
    }

    /// The guesses of each entry.
    fn drafts(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
        output: &mut StepOutput,
    ) -> Result<Vec<Vec<u32>>> {
        let begun = Instant::now();
        let Guesses { ids: mut drafts, each } = match &mut self.draft_model {
            Some(draft_model) => draft_model.guess(plan, sequences)?,
            None => Guesses { ids: vec![Vec::new(); plan.entries.len()], each: None },
        };
        (output.guess, output.each_guess) = (begun.elapsed(), each);
        for (drafts, entry) in drafts.iter_mut().zip(&plan.entries) {
            let known = sequences[&entry.id].drafts();
            drafts.extend_from_slice(&known[..entry.num_drafts.min(known.len())]);
        }
        Ok(drafts)
    }

    /// Samples from the logits of a pack and scores with them.
    fn read(
        &mut self,
        pack: &Pack,
        logits: &Tensor, // [rows, vocab]
        sequences: &HashMap<SeqId, Sequence>,
        output: &mut [EntryOutput],
    ) -> Result<()> {
        let mut logits = logits.clone();
        if let Pack::Scoring(span) = pack {
            let sequence = &sequences[&span.entry.id];
            if let Some((targets, num_top)) = sequence.score_targets(span.start(), span.end()) {
                let scored = logits.narrow(0, 0, targets.len())?;
                let scored = read_records(&score(&scored, targets, num_top)?)?;
                output[span.index].scores.extend(scored);
            }
            logits = logits.narrow(0, span.len - 1, 1)?;
        }
        let sampling = || pack.spans().iter().filter(|span| span.samples());
        if sampling().next().is_none() {
            return Ok(());
        }
        let rows = sampling().map(|span| (&sequences[&span.entry.id], span.drafts));
        let mut sampled = self.sampler.sample(&logits, rows)?.into_iter();
        for span in sampling() {
            output[span.index].sampled = sampled.by_ref().take(1 + span.drafts.len()).collect();
        }
        Ok(())
    }
}
