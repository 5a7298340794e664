//! Planning a step: first the running sequences in order of rank, then the head of the queue.

use std::sync::Arc;

use super::{InFlight, MAX_PLANS_IN_FLIGHT, Refusal, Scheduler, known, release_all};
use crate::{BlockId, Entry, PROMPT_TOKEN_COST, Plan, SeqId, State};

/// A plan in the making.
struct Making {
    entries: Vec<Entry>,
    /// Tokens for chunks: what the sequences that lack a single token leave of the budget.
    chunk_budget: usize,
}

impl Scheduler {
    /// Plans the next step. `None` if nothing can run: then the plans in flight must be committed
    /// first, and if there are none, nobody waits.
    ///
    /// # Panics
    /// If [`MAX_PLANS_IN_FLIGHT`] plans are not committed.
    pub fn schedule(&mut self) -> Option<Plan> {
        assert!(
            self.in_flight.len() < MAX_PLANS_IN_FLIGHT,
            "{MAX_PLANS_IN_FLIGHT} plans are in flight: commit one before the next"
        );
        let mut making = Making {
            entries: Vec::with_capacity(self.running.len()),
            chunk_budget: self.limits.max_num_batched_tokens - self.num_single_tokens(),
        };
        let num_preemptions = self.counters.num_preemptions;
        if self.plan_running(&mut making) && self.counters.num_preemptions == num_preemptions {
            self.plan_waiting(&mut making);
        }
        self.seal(making.entries)
    }

    /// Running sequences that lack just one token. They get it before any chunk is cut.
    fn num_single_tokens(&self) -> usize {
        self.running.iter().filter(|(_, id)| self.active[id].num_remaining() == 1).count()
    }

    /// Returns false if blocks ran out.
    fn plan_running(&mut self, making: &mut Making) -> bool {
        let mut at = 0;
        while let Some(&(_, id)) = self.running.get(at) {
            let seq = &self.active[&id];
            let mut len = seq.num_remaining();
            let is_chunk = len > 1;
            if is_chunk {
                len = seq.chunk_len(making.chunk_budget);
                making.chunk_budget -= len;
            }
            if len > 0 {
                let end = seq.num_planned + len;
                let wants_drafts = seq.num_wanted_drafts > 0;
                // Mostly there is room left in its last block.
                if seq.blocks.len() < self.limits.blocks_for(end) && !self.reserve(at, end) {
                    return false;
                }
                let most = if is_chunk { 0 } else { making.chunk_budget };
                let num_drafts = if wants_drafts { self.reserve_drafts(id, end, most) } else { 0 };
                making.chunk_budget -= num_drafts;
                making.entries.push(self.plan_entry(id, len, num_drafts));
            }
            at += 1;
        }
        true
    }

    /// Extends the block table of a running sequence to `num_tokens`, if need be with the blocks of
    /// those behind it. Returns false if they do not suffice; it and those behind it then wait.
    fn reserve(&mut self, at: usize, num_tokens: usize) -> bool {
        let (_, id) = self.running[at];
        let needed = self.limits.blocks_for(num_tokens);
        while known(&mut self.active, id).blocks.len() < needed {
            match self.pool.allocate() {
                Some(block) => {
                    Arc::make_mut(&mut known(&mut self.active, id).blocks).push(block);
                }
                None if self.running.len() > at + 1 && self.preempt_last() => {}
                None => return false,
            }
        }
        true
    }

    /// Finds room for the drafts that a sequence wants behind `end`, at most `most`, and returns for
    /// how many there is. They are a gamble: nobody is preempted for them, and a block is left for
    /// each running sequence to grow into.
    fn reserve_drafts(&mut self, id: SeqId, end: usize, most: usize) -> usize {
        let seq = known(&mut self.active, id);
        let num_drafts = seq.num_useful_drafts().min(most);
        seq.num_wanted_drafts = 0;
        while seq.blocks.len() < self.limits.blocks_for(end + num_drafts)
            && self.pool.num_free() > self.running.len()
        {
            Arc::make_mut(&mut seq.blocks).extend(self.pool.allocate());
        }
        num_drafts.min(seq.blocks.len() * self.limits.block_size - end)
    }

    /// Preempts the running sequence of the lowest rank, unless a plan in flight names it. It is not
    /// in the plan being made: plans are made in order of rank.
    fn preempt_last(&mut self) -> bool {
        let Some(&(_, id)) = self.running.last() else {
            return false;
        };
        if known(&mut self.active, id).num_in_flight > 0 {
            return false;
        }
        self.running.pop();
        let mut seq = self.active.remove(&id).expect("it was found");
        release_all(&mut self.pool, &std::mem::take(&mut seq.blocks));
        seq.preempt();
        self.queue.push(seq.place(), id);
        self.waiting.insert(id, seq);
        self.preempted.push(id);
        self.counters.num_preemptions += 1;
        true
    }

    fn plan_waiting(&mut self, making: &mut Making) {
        while making.chunk_budget > 0 && self.running.len() < self.limits.max_num_seqs {
            let Some(id) = self.queue.head() else { return };
            if !self.admit(id) {
                return;
            }
            let len = self.active[&id].chunk_len(making.chunk_budget);
            making.chunk_budget -= len;
            making.entries.push(self.plan_entry(id, len, 0));
        }
    }

    /// Moves the head of the queue to the running ones with blocks for all its known tokens,
    /// or returns false if too few are free.
    fn admit(&mut self, id: SeqId) -> bool {
        let (num_free, num_running) = (self.pool.num_free(), self.running.len());
        if self.refusal.is_some_and(|refusal| {
            refusal.id == id && num_free <= refusal.num_free && num_running >= refusal.num_running
        }) {
            return false;
        }
        let hits = self.find_prefix(id);
        let seq = known(&mut self.waiting, id);
        let num_new = self.limits.blocks_for(seq.tokens.len()) - hits.len();
        let num_free_hits = hits.iter().filter(|block| self.pool.is_free(**block)).count();
        // Each running sequence may soon need a block; with none running the head always fits.
        if num_new + num_free_hits + num_running > num_free {
            self.refusal = Some(Refusal { id, num_free, num_running });
            return false;
        }
        self.refusal = None;
        let mut seq = self.waiting.remove(&id).expect("it was found");
        self.queue.admit(seq.place());
        seq.state = State::Running;
        seq.num_registered = hits.len();
        seq.num_computed = hits.len() * self.limits.block_size;
        seq.num_planned = seq.num_computed;
        for block in &hits {
            self.pool.retain(*block);
        }
        let mut blocks = hits;
        let allocate = |_| self.pool.allocate().expect("as many are free as were counted");
        blocks.extend((0..num_new).map(allocate));
        seq.blocks = Arc::new(blocks);
        if seq.admit_first(self.num_tickets) {
            self.num_tickets += 1;
            seq.cached_tokens = seq.num_computed;
        }
        let at = self.running.partition_point(|other| *other < (seq.rank(), id));
        self.running.insert(at, (seq.rank(), id));
        self.active.insert(id, seq);
        true
    }

    /// The findable blocks with which a waiting sequence begins.
    fn find_prefix(&mut self, id: SeqId) -> Vec<BlockId> {
        let mut hits = Vec::new();
        if !self.limits.enable_prefix_caching {
            return hits;
        }
        let seq = known(&mut self.waiting, id);
        let block_size = self.limits.block_size;
        while hits.len() < seq.max_cached_tokens() / block_size {
            let content = seq.content(hits.len(), hits.last().copied(), block_size);
            match self.pool.find(&content) {
                Some(block) => hits.push(block),
                None => break,
            }
        }
        hits
    }

    fn plan_entry(&mut self, id: SeqId, len: usize, num_drafts: usize) -> Entry {
        let seq = known(&mut self.active, id);
        let (start, end) = (seq.num_planned, seq.num_planned + len);
        let num_new = seq.count_new_prompt_tokens(start, end);
        self.queue.charge(seq.tenant, num_new as u64 * PROMPT_TOKEN_COST);
        let samples = seq.max_new_tokens > 0 && end == seq.tokens.len() + seq.num_unknown;
        let entry = Entry {
            id,
            start,
            len: len + num_drafts,
            num_drafts,
            ids: seq.tokens[start..end.min(seq.tokens.len())].into(),
            blocks: Arc::clone(&seq.blocks),
            samples,
            prompt_logits: seq.need_prompt_logits
                && start >= seq.num_scored
                && start < seq.prompt_len,
            cached_tokens: seq.cached_tokens,
        };
        seq.num_planned = end;
        seq.num_drafts = num_drafts;
        seq.num_unknown += usize::from(samples);
        seq.num_in_flight += 1;
        entry
    }

    fn seal(&mut self, entries: Vec<Entry>) -> Option<Plan> {
        if entries.is_empty() {
            return None;
        }
        let num_tokens = entries.iter().map(|entry| entry.len).sum();
        self.counters.num_steps += 1;
        let step = self.counters.num_steps;
        self.in_flight.push_back(InFlight { step, let_go: Vec::new() });
        Some(Plan { step, entries, num_tokens, preempted: std::mem::take(&mut self.preempted) })
    }
}
