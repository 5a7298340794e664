//! The scheduler: owns every sequence and every block. This file has the ways in and out; planning
//! a step is in [`schedule`], what comes of one in [`commit`].

mod commit;
mod invariants;
mod schedule;

use std::collections::VecDeque;

use crate::block_pool::BlockPool;
use crate::ids::SeqMap;
use crate::queue::Queue;
use crate::sequence::Rank;
use crate::{
    BlockId, Limits, LimitsError, NewSequence, SeqId, Sequence, State, Stats, SubmitError,
};

/// Plans that may be made and not yet committed.
pub const MAX_PLANS_IN_FLIGHT: usize = 2;

/// Decides who runs. See the [crate] for the rules.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    /// Apart from the others, so that steps walk through no more memory when more wait.
    waiting: SeqMap<Sequence>,
    /// Those that run, and those that have ended but a plan in flight names.
    active: SeqMap<Sequence>,
    /// In order of rank.
    running: Vec<(Rank, SeqId)>,
    queue: Queue,
    pool: BlockPool,
    in_flight: VecDeque<InFlight>,
    /// Since the last plan.
    preempted: Vec<SeqId>,
    refusal: Option<Refusal>,
    num_arrivals: u64,
    num_tickets: u64,
    /// Only the counters; what is read off elsewhere stays 0 here.
    counters: Stats,
}

/// A plan that is not yet committed.
#[derive(Debug)]
struct InFlight {
    step: u64,
    /// Blocks that sequences have let go but this plan may read.
    let_go: Vec<BlockId>,
}

/// When the head of the queue was not admitted. Until a block or a running sequence is freed it is
/// not looked at again: to look costs time in proportion to its prompt.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    id: SeqId,
    num_free: usize,
    num_running: usize,
}

impl Scheduler {
    /// An empty scheduler over `limits.num_blocks` free blocks.
    pub fn new(limits: Limits) -> Result<Self, LimitsError> {
        Self::with_hash_mask(limits, u64::MAX)
    }

    /// For tests: a prefix cache whose hashes collide.
    #[doc(hidden)]
    pub fn with_hash_mask(limits: Limits, hash_mask: u64) -> Result<Self, LimitsError> {
        limits.validate()?;
        Ok(Self {
            limits,
            waiting: SeqMap::default(),
            active: SeqMap::default(),
            running: Vec::new(),
            queue: Queue::default(),
            pool: BlockPool::new(limits.num_blocks, limits.block_size, hash_mask),
            in_flight: VecDeque::new(),
            preempted: Vec::new(),
            refusal: None,
            num_arrivals: 0,
            num_tickets: 0,
            counters: Stats::default(),
        })
    }

    /// Puts a sequence into the queue, or refuses one that could never run.
    pub fn submit(&mut self, new: NewSequence) -> Result<(), SubmitError> {
        self.check(&new)?;
        let id = new.id;
        let tenant = self.queue.join(new.share.as_ref());
        let registers = self.limits.enable_prefix_caching;
        let sequence = Sequence::new(new, tenant, self.num_arrivals, registers);
        self.num_arrivals += 1;
        self.queue.push(sequence.place(), id);
        self.waiting.insert(id, sequence);
        Ok(())
    }

    fn check(&self, new: &NewSequence) -> Result<(), SubmitError> {
        let Limits { num_blocks, max_model_len, .. } = self.limits;
        let (prompt_len, max_new_tokens) = (new.prompt.len(), new.max_new_tokens);
        if prompt_len == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if self.sequence(new.id).is_some() {
            return Err(SubmitError::DuplicateId(new.id));
        }
        let Some(len) = prompt_len.checked_add(max_new_tokens).filter(|len| *len <= max_model_len)
        else {
            return Err(SubmitError::TooLong { prompt_len, max_new_tokens, max_model_len });
        };
        // The last generated token is never computed.
        let needed = self.limits.blocks_for(prompt_len.max(len - 1));
        if needed > num_blocks {
            return Err(SubmitError::TooManyBlocks { needed, num_blocks });
        }
        Ok(())
    }

    /// Ends a sequence now; plans in flight may still name it, their outcomes for it are ignored.
    /// Returns false if the id is unknown or has ended.
    pub fn abort(&mut self, id: SeqId) -> bool {
        let live = self.sequence(id).is_some_and(|seq| seq.state != State::Ended);
        if live {
            self.end(id);
        }
        live
    }

    /// The running sequences, first in rank first.
    pub fn running(&self) -> impl Iterator<Item = SeqId> {
        self.running.iter().map(|(_, id)| *id)
    }

    /// Asks that the next plan checks up to `count` guessed tokens behind the last one of a running
    /// sequence. Whoever runs the plan has the guesses; they cost budget and cache like tokens. Fewer
    /// or none are granted where budget or free blocks are short, or a plan is in flight.
    pub fn want_drafts(&mut self, id: SeqId, count: usize) {
        if let Some(seq) = self.active.get_mut(&id) {
            seq.num_wanted_drafts = count;
        }
    }

    /// What is known of a sequence until it has ended and the last plan that names it is committed.
    pub fn sequence(&self, id: SeqId) -> Option<&Sequence> {
        self.active.get(&id).or_else(|| self.waiting.get(&id))
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The numbers now.
    pub fn stats(&self) -> Stats {
        let (total_blocks, free_blocks) = (self.pool.num_blocks(), self.pool.num_free());
        Stats {
            running: self.running.len(),
            waiting: self.queue.len(),
            tenants: self.queue.num_tenants(),
            total_blocks,
            used_blocks: total_blocks - free_blocks,
            free_blocks,
            cached_blocks: self.pool.cache().len(),
            ..self.counters
        }
    }

    /// Takes a live sequence out of queue or running list. It is forgotten once no plan names it.
    fn end(&mut self, id: SeqId) {
        if let Some(seq) = self.waiting.remove(&id) {
            self.queue.remove(seq.place());
            self.queue.leave(seq.tenant);
            self.refusal = None;
            return;
        }
        let seq = known(&mut self.active, id);
        assert!(seq.state == State::Running, "sequence {id} ends twice");
        let at = self.running.binary_search(&(seq.rank(), id));
        self.running.remove(at.expect("a running sequence is in the running list"));
        seq.state = State::Ended;
        self.queue.leave(seq.tenant);
        self.forget_if_done(id);
    }

    /// Forgets an ended sequence that no plan in flight names, and frees its blocks.
    fn forget_if_done(&mut self, id: SeqId) {
        let seq = known(&mut self.active, id);
        if seq.state == State::Ended && seq.num_in_flight == 0 {
            release_all(&mut self.pool, &seq.blocks);
            self.active.remove(&id);
        }
    }
}

/// A sequence that is in the running list or a plan; or, among those that wait, in the queue.
fn known(sequences: &mut SeqMap<Sequence>, id: SeqId) -> &mut Sequence {
    sequences.get_mut(&id).expect("the scheduler keeps each sequence until its last plan")
}

/// From the last to the first, so that children leave the cache before their parents.
fn release_all(pool: &mut BlockPool, blocks: &[BlockId]) {
    for block in blocks.iter().rev() {
        pool.release(*block);
    }
}
