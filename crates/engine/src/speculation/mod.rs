//! Speculative decoding: several tokens of a sequence in one step, by guessing them first.
//!
//! A step computes the guessed tokens behind the last known one, and the sampler draws every row as
//! it would without guesses, with the random number of its position. A guess is right if it is what
//! was drawn; the first wrong one is replaced by what was drawn and the rest is dropped. So the text
//! is the same with and without, at any temperature (for guesses that are no distribution this
//! accepts as often as Leviathan et al. 2023, arXiv:2211.17192, does).
//!
//! Guesses come from the grammar, where it leaves no choice, otherwise from the sequence's own text,
//! and where that has none from a draft model, if there is one. How many are worth their time is
//! measured.

mod lookup;
mod model;
mod pace;

use std::collections::HashMap;

use scheduler::{Plan, Scheduler, SeqId};

use self::lookup::Lookup;
pub(crate) use self::model::{DraftModel, Guesses};
use self::pace::{Acceptance, LEAST_PRICE, Pace};
use crate::config::EngineConfig;
use crate::sequence::Sequence;
use crate::steering::Steering;
use crate::step::StepOutput;

/// Decides for each step who guesses how much.
#[derive(Debug)]
pub(crate) struct Speculation {
    /// Most guesses of a sequence in a step; 0 for none at all.
    max_drafts: usize,
    /// Most rows of logits in a forward pass.
    max_rows: usize,
    has_model: bool,
    /// Whether guesses are free, as far as the decision goes.
    always: bool,
    pace: Pace,
    /// Whether somebody could guess when last asked.
    is_due: bool,
}

/// What guesses must promise to be worth their time: how likely they must be right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Price {
    /// Of one that costs no more than its row.
    row: f64,
    /// Of one that a draft model makes, if there is one.
    model: Option<f64>,
}

impl Speculation {
    pub(crate) fn new(config: &EngineConfig, has_model: bool) -> Self {
        Self {
            max_drafts: config.num_speculative_tokens,
            max_rows: config.max_logits_rows(),
            has_model,
            always: config.speculate_always,
            pace: Pace::default(),
            is_due: false,
        }
    }

    /// Forgets what was measured.
    pub(crate) fn reset(&mut self) {
        self.pace = Pace::default();
        self.is_due = false;
    }

    /// Whether the next step should wait until all tokens before it are known, because guesses gain
    /// more than a step that is asked for ahead.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due
    }

    /// Lets the running sequences guess, first in rank first, and asks for room in the next plan.
    ///
    /// With a step in flight the first guess would be for what that step samples, so no plan has room
    /// for guesses: then this only finds out whether they are [due](Self::is_due).
    pub(crate) fn propose(
        &mut self,
        sequences: &mut HashMap<SeqId, Sequence>,
        scheduler: &mut Scheduler,
        in_flight: bool,
    ) {
        if self.max_drafts == 0 {
            return;
        }
        self.is_due = false;
        let num_known = usize::from(in_flight);
        let running: Vec<_> = scheduler.running().collect();
        let price = self.price(running.len().max(1));
        let mut room = self.max_rows.saturating_sub(running.len());
        for id in running {
            let sequence = sequences.get_mut(&id).expect("the scheduler runs living sequences");
            let count = sequence.propose(price, room.min(self.max_drafts));
            scheduler.want_drafts(id, count);
            self.is_due |= count > num_known;
            room -= count;
        }
    }

    fn price(&self, num_rows: usize) -> Price {
        let price = |price: fn(&Pace, usize) -> f64| {
            if self.always { LEAST_PRICE } else { price(&self.pace, num_rows) }
        };
        Price {
            row: price(Pace::price_of_row),
            model: self.has_model.then(|| price(Pace::price_of_guess)),
        }
    }

    /// Takes in how long the model took over `plan`, and a draft model before it.
    pub(crate) fn record(&mut self, plan: &Plan, output: &StepOutput) {
        let decodes = |entry: &scheduler::Entry| entry.len - entry.num_drafts == 1;
        if plan.entries.iter().all(decodes) {
            let num_rows = output.entries.iter().map(|entry| entry.sampled.len()).sum();
            self.pace.record(num_rows, output.forward + output.sample);
        }
        self.pace.record_guesses(output.each_guess);
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
    /// A draft model, which has yet to run.
    Model,
}

/// One sequence's guesses.
#[derive(Debug, Default)]
pub(crate) struct Drafter {
    lookup: Lookup,
    acceptance: Acceptance,
    model_acceptance: Acceptance,
    ids: Vec<u32>,
    source: Source,
}

impl Drafter {
    /// Guesses at most `max` tokens behind `tokens`, as far as they are worth their `price`. Returns
    /// for how many there should be room.
    pub(crate) fn propose(
        &mut self,
        tokens: &[u32],
        steering: Option<&mut Steering>,
        price: Price,
        max: usize,
    ) -> usize {
        self.ids = steering.map_or_else(Vec::new, |steering| steering.forced(max));
        self.source = Source::Grammar;
        if self.ids.is_empty() {
            self.source = Source::Lookup;
            self.ids = self.lookup.guess(tokens, self.acceptance.num_drafts(price.row, max));
        }
        if !self.ids.is_empty() {
            return self.ids.len();
        }
        self.acceptance.rest();
        let Some(price) = price.model else { return 0 };
        self.source = Source::Model;
        let count = self.model_acceptance.num_drafts(price, max);
        if count == 0 {
            self.model_acceptance.rest();
        }
        count
    }

    /// The guesses for the step at hand, unless they are a model's.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Takes in that of the guesses that were looked at the first `num_right` were right.
    pub(crate) fn record(&mut self, num_right: usize, num_checked: usize) {
        match self.source {
            Source::Grammar => {}
            Source::Lookup => self.acceptance.record(num_right, num_checked),
            Source::Model => self.model_acceptance.record(num_right, num_checked),
        }
    }
}
