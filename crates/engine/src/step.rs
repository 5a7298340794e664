//! A step that was asked for, and what it gave.

use std::time::{Duration, Instant};

use candle_core::Tensor;
use kernels::sample::{PendingRecords, SampledRow};
use scheduler::Plan;

/// A step that the device has been asked for.
pub(crate) struct Launched {
    pub(crate) begun: Instant,
    /// Guesses of each entry.
    pub(crate) drafts: Vec<Vec<u32>>,
    /// Of a step that is one forward pass, until they are sampled from. `[rows, vocab]` f32
    pub(crate) logits: Option<Tensor>,
    /// What was sampled from them. `[rows, width]`
    pub(crate) records: Option<Tensor>,
    /// The same on its way to the host.
    pub(crate) pending: Option<PendingRecords>,
    pub(crate) output: StepOutput,
    /// The same step of the other ranks, if there are several.
    pub(crate) others: Vec<Launched>,
    /// And how often their group had begun anew.
    pub(crate) num_groups: u64,
}

impl Launched {
    /// A step that is computed already.
    pub(crate) fn done(output: StepOutput) -> Self {
        let (begun, drafts) = (Instant::now(), Vec::new());
        Self {
            begun,
            drafts,
            logits: None,
            records: None,
            pending: None,
            output,
            others: Vec::new(),
            num_groups: 0,
        }
    }

    /// The step as a rank was asked for it.
    pub(crate) fn of_rank(&self, rank: usize) -> &Self {
        if rank == 0 { self } else { &self.others[rank - 1] }
    }

    /// Whether the next step can be asked for before this one is read.
    pub(crate) fn is_pending(&self) -> bool {
        self.records.is_some()
    }
}

/// What a step gave, an element an entry of the plan.
#[derive(Debug)]
pub(crate) struct StepOutput {
    pub(crate) entries: Vec<EntryOutput>,
    /// From the start of the step, or the end of the one before it if that was later, until all that
    /// sampling needs was there.
    pub(crate) forward: Duration,
    /// From then until the tokens were.
    pub(crate) sample: Duration,
    /// Time in the draft model, and for one of its guesses.
    pub(crate) guess: Duration,
    pub(crate) each_guess: Option<Duration>,
}

impl StepOutput {
    /// Nothing yet, for each entry of `plan`.
    pub(crate) fn of(plan: &Plan) -> Self {
        Self {
            entries: vec![EntryOutput::default(); plan.entries.len()],
            forward: Duration::ZERO,
            sample: Duration::ZERO,
            guess: Duration::ZERO,
            each_guess: None,
        }
    }

    /// Whether both gave the same tokens and vectors, as ranks of one model do.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self.entries.iter().zip(&other.entries).all(|(one, another)| {
                one.drafts == another.drafts
                    && one.ids().eq(another.ids())
                    && one.bits().eq(another.bits())
            })
    }
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
    /// The vector of the prompt, from the entry that completes it, if the engine pools.
    pub(crate) pooled: Option<Vec<f32>>,
}

impl EntryOutput {
    /// Of the tokens that were sampled.
    fn ids(&self) -> impl Iterator<Item = Option<u32>> {
        self.sampled.iter().map(|row| row.as_ref().map(|token| token.id).ok())
    }

    /// Of the vector.
    fn bits(&self) -> impl Iterator<Item = u32> {
        self.pooled.iter().flatten().map(|x| x.to_bits())
    }
}
