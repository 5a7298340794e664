//! Speculative decoding: several tokens of a sequence in one step, by guessing them first.
//!
//! A step computes the guessed tokens behind the last known one, and the sampler draws every row as
//! it would without guesses, with the random number of its position. A guess is right if it is what
//! was drawn; the first wrong one is replaced by what was drawn and the rest is dropped. So the text
//! is the same with and without, at any temperature (for guesses that are no distribution this
//! accepts as often as Leviathan et al. 2023, arXiv:2211.17192, does).
//!
//! Guesses come from the grammar, where it leaves no choice, and otherwise from the sequence's own
//! text. How many are worth their rows is measured.

mod lookup;
mod pace;

use std::collections::HashMap;
use std::time::Duration;

use scheduler::{Plan, Scheduler, SeqId};

use self::lookup::Lookup;
use self::pace::{Acceptance, Pace};
use crate::sequence::Sequence;
use crate::steering::Steering;

/// Decides for each step who guesses how much.
#[derive(Debug)]
pub(crate) struct Speculation {
    /// Most guesses of a sequence in a step; 0 for none at all.
    max_drafts: usize,
    /// Most rows of logits in a forward pass.
    max_rows: usize,
    pace: Pace,
}

impl Speculation {
    pub(crate) fn new(max_drafts: usize, max_rows: usize) -> Self {
        Self { max_drafts, max_rows, pace: Pace::default() }
    }

    /// Lets the running sequences guess, first in rank first, and asks for room in the next plan.
    pub(crate) fn propose(
        &self,
        sequences: &mut HashMap<SeqId, Sequence>,
        scheduler: &mut Scheduler,
    ) {
        if self.max_drafts == 0 {
            return;
        }
        let running: Vec<_> = scheduler.running().collect();
        let least_probability = self.pace.least_probability(running.len().max(1));
        let mut room = self.max_rows.saturating_sub(running.len());
        for id in running {
            let sequence = sequences.get_mut(&id).expect("the scheduler runs living sequences");
            let count = sequence.propose(least_probability, room.min(self.max_drafts));
            scheduler.want_drafts(id, count);
            room -= count;
        }
    }

    /// Takes in how long the model took over `plan`.
    pub(crate) fn record(&mut self, plan: &Plan, time: Duration) {
        let decodes = |entry: &scheduler::Entry| entry.len - entry.num_drafts == 1;
        if plan.entries.iter().all(decodes) {
            self.pace.record(plan.num_tokens, time);
        }
    }
}

/// Where guesses came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Source {
    /// The grammar allowed nothing else.
    Grammar,
    /// The text of the sequence.
    #[default]
    Lookup,
}

/// One sequence's guesses.
#[derive(Debug, Default)]
pub(crate) struct Drafter {
    lookup: Lookup,
    acceptance: Acceptance,
    ids: Vec<u32>,
    source: Source,
}

impl Drafter {
    /// Guesses at most `max` tokens behind `tokens`, as far as they come about with
    /// `least_probability`.
    pub(crate) fn propose(
        &mut self,
        tokens: &[u32],
        steering: Option<&mut Steering>,
        least_probability: f64,
        max: usize,
    ) -> usize {
        self.ids = steering.map_or_else(Vec::new, |steering| steering.forced(max));
        self.source = Source::Grammar;
        if self.ids.is_empty() {
            self.source = Source::Lookup;
            let max = self.acceptance.num_drafts(least_probability, max);
            self.ids = self.lookup.guess(tokens, max);
        }
        if self.ids.is_empty() {
            self.acceptance.rest();
        }
        self.ids.len()
    }

    /// The guesses for the step at hand.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Takes in that of the guesses that were looked at the first `num_right` were right.
    pub(crate) fn record(&mut self, num_right: usize, num_checked: usize) {
        if self.source == Source::Lookup {
            self.acceptance.record(num_right, num_checked);
        }
    }
}
