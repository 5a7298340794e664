//! From a plan to a vector for each prompt: forward, pick or average the hidden states.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

use candle_core::{DType, Result, Tensor};
use scheduler::{Entry, Plan, SeqId};

use crate::batch::{BatchLists, Span, divide};
use crate::engine::Engine;
use crate::handle::EngineHandle;
use crate::memory::MemoryPlan;
use crate::model::{ForwardBatch, ModelSpec};
use crate::ranks::{Models, Rank, Ranks};
use crate::recovery::Reload;
use crate::resident::Resident;
use crate::runner::StepRunner;
use crate::sequence::Sequence;
use crate::speculation::Speculation;
use crate::start::StartError;
use crate::step::{Launched, StepOutput};

/// Which of a prompt's hidden states its vector is made of, as sentence-transformers names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// That of the last token.
    Last,
    /// The average of all.
    Mean,
    /// That of the first token.
    Cls,
}

impl Engine {
    /// As [`Engine::start_ranks`], for a model whose prompts become vectors; `plan` says how. Requests
    /// generate no tokens: their `max_tokens` is 0, and what they hear of is
    /// [`Event::Pooled`](crate::Event::Pooled).
    ///
    /// # Panics
    /// If the plan is one of a model that generates.
    pub fn start_pooling(
        ranks: Vec<Rank>,
        spec: &ModelSpec,
        plan: &MemoryPlan,
        reload: Option<Reload>,
    ) -> std::result::Result<EngineHandle, StartError> {
        plan.check()?;
        let pooling = plan.config.pooling.expect("the plan of a model that pools");
        let pooler = |Rank { models, device, .. }: Rank| {
            let resident = Resident::new(models.model, spec, plan, &device)?;
            resident.reserve_memory(states)?;
            let pooler = Pooler { resident, pooling, sums: HashMap::new() };
            Ok(Box::new(pooler) as Box<dyn StepRunner>)
        };
        let runner = Ranks::start(ranks, pooler)?;
        let speculation = Speculation::new(&plan.config, false);
        let mut engine = Self::with((runner, false), speculation, spec, plan, &[])?;
        engine.reload = reload;
        engine.spawn()
    }
}

/// Owns what a step computes with: the model, the sums of prompts read in part.
struct Pooler {
    resident: Resident,
    pooling: Pooling,
    /// Of the hidden states so far, each added in the order of its prompt: the chunks that it is
    /// read in change no bit.
    sums: HashMap<SeqId, Vec<f64>>,
}

impl Pooler {
    /// Which rows of a span its vector is made of.
    fn rows(&self, span: &Span, completes: bool) -> Range<usize> {
        match self.pooling {
            Pooling::Last if completes => span.len - 1..span.len,
            Pooling::Cls if span.start() == 0 => 0..1,
            Pooling::Last | Pooling::Cls => 0..0,
            Pooling::Mean => 0..span.len,
        }
    }

    /// Adds hidden states to those that a prompt had so far.
    fn add(&mut self, id: SeqId, rows: impl Iterator<Item = Vec<f32>>) {
        add(self.sums.entry(id).or_default(), rows);
    }

    /// The vector of a prompt whose hidden states are added.
    fn vector(&self, id: SeqId, prompt_len: usize) -> Vec<f32> {
        let count = if self.pooling == Pooling::Mean { prompt_len as f64 } else { 1.0 };
        self.sums[&id].iter().map(|sum| (sum / count) as f32).collect()
    }
}

/// Adds hidden states in the order of their prompt.
fn add(sum: &mut Vec<f64>, rows: impl Iterator<Item = Vec<f32>>) {
    for row in rows {
        sum.resize(row.len(), 0.0);
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
}

/// The average of `count` hidden states.
pub(crate) fn mean(rows: impl Iterator<Item = Vec<f32>>, count: usize) -> Vec<f32> {
    let mut sum = Vec::new();
    add(&mut sum, rows);
    sum.into_iter().map(|sum| (sum / count as f64) as f32).collect()
}

/// The hidden states that a batch asks for. `[rows, hidden]` f32
fn states(resident: &Resident, batch: &ForwardBatch) -> Result<Tensor> {
    resident.hidden(batch)?.to_dtype(DType::F32)
}

impl StepRunner for Pooler {
    fn launch(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
        _before: Option<(&Plan, &Launched)>,
    ) -> Result<Launched> {
        let mut output = StepOutput::of(plan);
        let mut begun = Instant::now();
        let prompt_len = |span: &Span| sequences[&span.entry.id].prompt_len();
        let completes = |span: &Span| span.end() == prompt_len(span);
        let (config, no_drafts) = (&self.resident.config, vec![&[][..]; plan.entries.len()]);
        let (block_size, limits) = (config.block_size, config.pack_limits());
        for pack in divide(plan, &no_drafts, limits) {
            let rows = |span: &Span| self.rows(span, completes(span));
            let unknown = |_: &Entry| unreachable!("prompts are known");
            let lists = BatchLists::of(pack.spans(), rows, block_size, unknown);
            let hidden = states(&self.resident, &self.resident.upload(&lists)?)?;
            let computed = Instant::now();
            let mut hidden = hidden.to_vec2::<f32>()?.into_iter();
            for span in pack.spans() {
                let num_rows = self.rows(span, completes(span)).len();
                self.add(span.entry.id, hidden.by_ref().take(num_rows));
                output.entries[span.index].pooled =
                    completes(span).then(|| self.vector(span.entry.id, prompt_len(span)));
            }
            output.forward += computed - begun;
            begun = Instant::now();
            output.sample += begun - computed;
        }
        Ok(Launched::done(output))
    }

    fn forget(&mut self, id: SeqId) {
        self.sums.remove(&id);
    }

    fn check_device(&self) -> Result<()> {
        self.resident.check_device()
    }

    fn reset(&mut self) -> Result<()> {
        self.sums.clear();
        self.resident.reset()?;
        self.resident.reserve_memory(states)
    }

    fn unload(&mut self) {
        self.resident.unload();
    }

    fn install(&mut self, models: &mut dyn Iterator<Item = Models>) {
        if let Some(Models { model, .. }) = models.next() {
            self.resident.set(model);
        }
    }
}
