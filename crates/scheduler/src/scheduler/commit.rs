//! What comes of a step: tokens, ends, findable blocks.

use std::sync::Arc;

use super::{Scheduler, known, release_all};
use crate::{BlockId, Entry, GENERATED_TOKEN_COST, Outcome, Plan, SeqId, State};

impl Scheduler {
    /// Takes in what a step gave: one outcome for each entry of the plan, in the plan's order.
    /// Outcomes of sequences that have ended meanwhile are ignored. Returns the sequences that end
    /// with this step, by their outcome or because they reach `max_new_tokens`.
    ///
    /// # Panics
    /// If `plan` is not the oldest one in flight, or `outcomes` do not match its entries.
    pub fn commit(&mut self, plan: &Plan, outcomes: &[Outcome]) -> Vec<SeqId> {
        assert_eq!(plan.entries.len(), outcomes.len(), "one outcome for each entry");
        let let_go = self.land(plan);
        let mut ended = Vec::new();
        for (entry, outcome) in plan.entries.iter().zip(outcomes) {
            assert_eq!(entry.id, outcome.id, "outcomes are in the order of the entries");
            if self.is_zombie(entry.id) {
                self.forget_if_done(entry.id);
            } else if self.advance(entry, outcome) {
                self.end(entry.id);
                ended.push(entry.id);
            }
        }
        release_all(&mut self.pool, &let_go);
        ended
    }

    /// Takes in that a step failed: what it wrote is unknown, so its sequences end and nothing of it
    /// becomes findable. Returns the sequences that end.
    ///
    /// # Panics
    /// If `plan` is not the oldest one in flight.
    pub fn fail(&mut self, plan: &Plan) -> Vec<SeqId> {
        let let_go = self.land(plan);
        let mut ended = Vec::new();
        for entry in &plan.entries {
            if self.is_zombie(entry.id) {
                self.forget_if_done(entry.id);
            } else {
                self.end(entry.id);
                ended.push(entry.id);
            }
        }
        release_all(&mut self.pool, &let_go);
        ended
    }

    /// The plan is no longer in flight. Returns the blocks that only it held back.
    fn land(&mut self, plan: &Plan) -> Vec<BlockId> {
        let oldest = self.in_flight.pop_front();
        let oldest = oldest.filter(|oldest| oldest.step == plan.step);
        let oldest = oldest.expect("plans are committed in the order they were made, each once");
        for entry in &plan.entries {
            known(&mut self.active, entry.id).num_in_flight -= 1;
        }
        oldest.let_go
    }

    fn is_zombie(&self, id: SeqId) -> bool {
        self.active[&id].state == State::Ended
    }

    /// Takes in the outcome of a live sequence; returns whether it ends.
    fn advance(&mut self, entry: &Entry, outcome: &Outcome) -> bool {
        let seq = known(&mut self.active, entry.id);
        let num_tokens = outcome.tokens.len();
        if entry.samples && num_tokens == 0 {
            return true;
        }
        let most = if entry.samples { 1 + entry.num_drafts } else { 0 };
        assert!(num_tokens <= most, "{num_tokens} tokens of sequence {} from {most}", entry.id);
        let num_right = num_tokens.saturating_sub(1);
        seq.num_computed = entry.start + entry.len - entry.num_drafts + num_right;
        seq.num_planned = seq.num_planned.max(seq.num_computed);
        seq.num_drafts = 0;
        seq.num_scored = seq.num_scored.max(seq.num_computed.min(seq.prompt_len));
        seq.tokens.extend_from_slice(&outcome.tokens);
        self.queue.charge(seq.tenant, num_tokens as u64 * GENERATED_TOKEN_COST);
        seq.num_unknown -= usize::from(entry.samples);
        let all_computed = seq.num_computed >= seq.prompt_len;
        let all_generated = seq.tokens.len() == seq.prompt_len + seq.max_new_tokens;
        if seq.can_register(self.limits.block_size) {
            self.register(entry.id);
        }
        outcome.finished || (all_computed && all_generated)
    }

    /// Makes the blocks findable that are full and computed. Where another block with the same
    /// content is findable already, the sequence goes on with that one: so whoever holds a findable
    /// block holds its parent, too.
    fn register(&mut self, id: SeqId) {
        let seq = known(&mut self.active, id);
        while seq.can_register(self.limits.block_size) {
            let at = seq.num_registered;
            let (before, own) = (at.checked_sub(1).map(|last| seq.blocks[last]), seq.blocks[at]);
            let content = seq.content(at, before, self.limits.block_size);
            let Some(shared) = self.pool.register(own, content) else {
                // Another content has the same hash; without this block no later one can be found.
                seq.registers = false;
                return;
            };
            if shared != own {
                self.pool.retain(shared);
                Arc::make_mut(&mut seq.blocks)[at] = shared;
                match self.in_flight.back_mut() {
                    // The plan in flight was made with the old table.
                    Some(plan) if seq.num_in_flight > 0 => plan.let_go.push(own),
                    _ => self.pool.release(own),
                }
            }
            seq.num_registered += 1;
        }
    }
}
