//! From a plan to tokens: pack, forward, score, sample.
//!
//! In three parts, so that a device can compute a step while the host is busy with the one before:
//! [`Runner::launch`] asks for the logits, [`Runner::sample`] for the tokens, once the sequences know
//! all tokens of the step before, and [`Runner::read`] waits for them.

use std::collections::HashMap;
use std::mem;
use std::time::Instant;

use candle_core::{Result, Tensor};
use kernels::resolve_ids::{pending, resolve_ids};
use kernels::sample::{PendingRecords, SampledRow, read_records, score};
use scheduler::{Plan, SeqId};

use crate::batch::{Pack, PackLimits, divide};
use crate::graphs::DecodeGraphs;
use crate::ranks::Models;
use crate::resident::Resident;
use crate::sampler::Sampler;
use crate::sequence::Sequence;
use crate::speculation::{DraftModel, Guesses};
use crate::step::{EntryOutput, Launched, StepOutput};

/// Owns what a step computes with: the model, its draft model, the sampler's memory.
pub(crate) struct Runner {
    pub(crate) resident: Resident,
    vocab_size: usize,
    sampler: Sampler,
    draft_model: Option<DraftModel>,
    graphs: Option<DecodeGraphs>,
    /// When the last step was read: a device that works ahead began the next one then.
    last_read: Instant,
}

/// Runs the plans of an engine's steps.
pub(crate) trait StepRunner: Send {
    /// Asks for the logits of `plan`. `before` is the step in flight, whose tokens are not yet known.
    ///
    /// On an error, here or later, nothing of the step counts, though slots of the cache that belong
    /// to its entries alone may have been written.
    fn launch(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
        before: Option<(&Plan, &Launched)>,
    ) -> Result<Launched>;
    /// Asks for the tokens of a step. All tokens before it are known now: masks, penalties and scores
    /// look at them. Sequences that have ended since it was launched get any token. A runner whose steps
    /// are done when they are launched has nothing to ask for.
    fn sample(
        &mut self,
        _plan: &Plan,
        _launched: &mut Launched,
        _sequences: &HashMap<SeqId, Sequence>,
    ) -> Result<()> {
        Ok(())
    }
    /// Waits for what was asked for.
    fn read(&mut self, _plan: &Plan, launched: Launched) -> Result<StepOutput> {
        Ok(launched.output)
    }
    /// Forgets a sequence that has ended or lost its blocks.
    fn forget(&mut self, _id: SeqId) {}
    /// Whether the device goes on after a step that gave an error.
    ///
    /// # Errors
    /// It does not: whatever it is asked from now on it refuses, as a GPU does after an illegal address.
    fn check_device(&self) -> Result<()> {
        Ok(())
    }
    /// Begins anew after a panic. No step writes to the weights, so they are what they were. The cache
    /// keeps its memory, which may take seconds to get: nothing in it is read before it is written
    /// again, and candle's locks are free once the panic has passed.
    ///
    /// # Errors
    /// A device that gives no memory, or a model that was lost: then only a reload helps.
    fn reset(&mut self) -> Result<()>;
    /// Lets go of the models, whose memory others are to be loaded into.
    fn unload(&mut self);
    /// Takes newly loaded models, one of each rank that it has. A [`reset`](Self::reset) comes behind.
    fn install(&mut self, models: &mut dyn Iterator<Item = Models>);
}

impl Runner {
    pub(crate) fn new(
        resident: Resident,
        vocab_size: usize,
        draft_model: Option<DraftModel>,
    ) -> Result<Self> {
        let sampler = Sampler::of_ranks(resident.config.tensor_parallel_size);
        let mut runner = Self {
            resident,
            vocab_size,
            sampler,
            draft_model,
            graphs: None,
            last_read: Instant::now(),
        };
        runner.record()?;
        Ok(runner)
    }

    /// Records decode steps with the model and the cache as they are now.
    fn record(&mut self) -> Result<()> {
        self.graphs = None;
        self.resident.reserve_memory(Resident::forward)?;
        self.graphs = DecodeGraphs::record(&self.resident, self.vocab_size)?;
        Ok(())
    }

    fn limits(&self) -> PackLimits {
        self.resident.config.pack_limits()
    }

    fn forward(&self, pack: &Pack, before: Option<(&Plan, &Launched)>) -> Result<Tensor> {
        let rows = before.map_or_else(HashMap::new, |(plan, launched)| first_rows(plan, launched));
        let lists = pack.lists(self.resident.config.block_size, |entry| {
            pending(*rows.get(&entry.id).expect("the step in flight samples what is missing"))
        });
        let records = before.and_then(|(_, launched)| launched.records.as_ref());
        let resolve = |ids: &Tensor| records.map_or(Ok(()), |records| resolve_ids(ids, records));
        if let Some(graphs) = self.graphs.as_ref().filter(|_| pack.only_decodes()) {
            let num_rows = pack.spans().len();
            if let Some(size) = graphs.size_for(num_rows) {
                let logits = graphs.launch(size, lists, &self.resident, resolve)?;
                return logits.narrow(0, 0, num_rows);
            }
        }
        let batch = self.resident.upload(&lists)?;
        resolve(&batch.ids)?;
        self.resident.forward(&batch)
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

    /// Asks for a token of each row that gives one, if any does. `[rows, width]`
    fn draw(
        &mut self,
        pack: &Pack,
        logits: &Tensor, // [rows, vocab]
        sequences: &HashMap<SeqId, Sequence>,
    ) -> Result<Option<Tensor>> {
        let sampling: Vec<_> = pack.spans().iter().filter(|span| span.samples()).collect();
        if sampling.is_empty() {
            return Ok(None);
        }
        let rows = sampling.iter().map(|span| (sequences.get(&span.entry.id), span.drafts));
        self.sampler.sample(logits, rows).map(Some)
    }
}

impl StepRunner for Runner {
    fn launch(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
        before: Option<(&Plan, &Launched)>,
    ) -> Result<Launched> {
        let mut output = StepOutput::of(plan);
        let drafts = self.drafts(plan, sequences, &mut output)?;
        let begun = Instant::now();
        let mut launched = Launched { begun, drafts, ..Launched::done(output) };
        let drafts: Vec<_> = launched.drafts.iter().map(Vec::as_slice).collect();
        // Where a step is several passes each is sampled from before the next, in `sample`.
        if let [pack @ Pack::Sampling(_)] = &divide(plan, &drafts, self.limits())[..] {
            launched.logits = Some(self.forward(pack, before)?);
        }
        Ok(launched)
    }

    fn sample(
        &mut self,
        plan: &Plan,
        launched: &mut Launched,
        sequences: &HashMap<SeqId, Sequence>,
    ) -> Result<()> {
        let drafts = mem::take(&mut launched.drafts);
        let slices: Vec<_> = drafts.iter().map(Vec::as_slice).collect();
        let packs = divide(plan, &slices, self.limits());
        let mut begun = launched.begun.max(self.last_read);
        if let (Some(logits), [pack]) = (launched.logits.take(), &packs[..]) {
            let sampled_from = Instant::now();
            launched.output.forward = sampled_from.saturating_duration_since(begun);
            launched.records = self.draw(pack, &logits, sequences)?;
            launched.pending = launched.records.as_ref().map(PendingRecords::start).transpose()?;
            launched.begun = sampled_from;
        } else {
            for pack in &packs {
                let lists = pack.lists(self.resident.config.block_size, |entry| {
                    let last = entry.start + entry.len - entry.num_drafts - 1;
                    sequences.get(&entry.id).map_or(0, |sequence| sequence.tokens()[last])
                });
                let logits = self.resident.forward(&self.resident.upload(&lists)?)?; // [rows, vocab]
                let computed = Instant::now();
                let entries = &mut launched.output.entries;
                let logits = score_prompt(pack, logits, sequences, entries)?;
                if let Some(records) = self.draw(pack, &logits, sequences)? {
                    distribute(pack, read_records(&records)?, entries);
                }
                launched.output.forward += computed - begun;
                begun = Instant::now();
                launched.output.sample += begun - computed;
            }
            launched.begun = begun;
        }
        launched.drafts = drafts;
        Ok(())
    }

    fn read(&mut self, plan: &Plan, launched: Launched) -> Result<StepOutput> {
        let Launched { begun, drafts, pending, mut output, .. } = launched;
        if let Some(pending) = pending {
            let slices: Vec<_> = drafts.iter().map(Vec::as_slice).collect();
            // Records are only left for a step of one pack.
            let packs = divide(plan, &slices, self.limits());
            distribute(&packs[0], pending.wait()?, &mut output.entries);
        }
        self.last_read = Instant::now();
        output.sample += self.last_read - begun;
        for (entry, drafts) in output.entries.iter_mut().zip(drafts) {
            entry.drafts = drafts;
        }
        Ok(output)
    }

    fn forget(&mut self, id: SeqId) {
        if let Some(draft_model) = &mut self.draft_model {
            draft_model.forget(id);
        }
    }

    fn check_device(&self) -> Result<()> {
        self.resident.check_device()
    }

    fn reset(&mut self) -> Result<()> {
        self.graphs = None;
        self.resident.reset()?;
        self.sampler = Sampler::of_ranks(self.resident.config.tensor_parallel_size);
        self.record()?;
        self.draft_model.as_mut().map_or(Ok(()), DraftModel::reset)
    }

    fn unload(&mut self) {
        self.graphs = None;
        self.resident.unload();
        self.draft_model.iter_mut().for_each(|draft_model| draft_model.resident.unload());
    }

    fn install(&mut self, models: &mut dyn Iterator<Item = Models>) {
        let Some(Models { model, draft }) = models.next() else { return };
        self.resident.set(model);
        if let (Some(draft_model), Some(draft)) = (&mut self.draft_model, draft) {
            draft_model.resident.set(draft);
        }
    }
}

/// The row from which each sequence of a step that is one pass gets its first token.
fn first_rows(plan: &Plan, launched: &Launched) -> HashMap<SeqId, u32> {
    let mut row = 0;
    let sampling = plan.entries.iter().zip(&launched.drafts).filter(|(entry, _)| entry.samples);
    let first_row = sampling.map(|(entry, drafts)| {
        let first = row;
        row += 1 + drafts.len() as u32;
        (entry.id, first)
    });
    first_row.collect()
}

/// Scores the prompt that a pack is a piece of. Returns the logits of the rows that may be sampled
/// from.
fn score_prompt(
    pack: &Pack,
    logits: Tensor, // [rows, vocab]
    sequences: &HashMap<SeqId, Sequence>,
    output: &mut [EntryOutput],
) -> Result<Tensor> {
    let Pack::Scoring(span) = pack else { return Ok(logits) };
    let sequence = sequences.get(&span.entry.id);
    let targets = sequence.and_then(|it| it.score_targets(span.start(), span.end()));
    if let Some((targets, num_top)) = targets {
        let scored = logits.narrow(0, 0, targets.len())?;
        let scored = read_records(&score(&scored, targets, num_top)?)?;
        output[span.index].scores.extend(scored);
    }
    logits.narrow(0, span.len - 1, 1)
}

/// Gives the rows of a pack to its entries.
fn distribute(pack: &Pack, rows: Vec<SampledRow>, output: &mut [EntryOutput]) {
    let mut rows = rows.into_iter();
    for span in pack.spans().iter().filter(|span| span.samples()) {
        output[span.index].sampled = rows.by_ref().take(1 + span.drafts.len()).collect();
    }
}
