//! One request's state: its tokens, how far they are computed, and the blocks it holds.

use std::fmt;
use std::sync::Arc;

use crate::prefix_cache::{Content, Parent, chain_hash, root_hash};
use crate::queue::{Place, TenantId};
use crate::{BlockId, SeqId, Share, TokenId};

/// What the caller wants generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSequence {
    /// Must not be in use.
    pub id: SeqId,
    /// Token ids, at least one.
    pub prompt: Vec<TokenId>,
    /// The sequence ends after this many tokens; 0 only scores the prompt.
    pub max_new_tokens: usize,
    /// Lower values run first; equal ones of a tenant in order of arrival.
    pub priority: i32,
    /// Whom it is for.
    pub share: Option<Share>,
    /// The prefix cache is shared only between sequences of the same salt.
    pub salt: Option<String>,
    /// Asks for the logits of every prompt token; these cannot come from the prefix cache.
    pub need_prompt_logits: bool,
}

/// Why a [`NewSequence`] was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitError {
    /// There is nothing to compute.
    EmptyPrompt,
    /// The id names a sequence that has not ended, or has a plan in flight.
    DuplicateId(SeqId),
    /// Prompt and generated tokens together pass the longest sequence.
    TooLong {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Tokens to generate.
        max_new_tokens: usize,
        /// What both together may be.
        max_model_len: usize,
    },
    /// The whole KV cache could not hold the sequence.
    TooManyBlocks {
        /// Blocks it needs at its end.
        needed: usize,
        /// Blocks there are.
        num_blocks: usize,
    },
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPrompt => write!(f, "the prompt is empty"),
            Self::DuplicateId(id) => write!(f, "sequence {id} exists already"),
            Self::TooLong { prompt_len, max_new_tokens, max_model_len } => write!(
                f,
                "{prompt_len} prompt tokens and {max_new_tokens} new tokens are more than the \
                 context of {max_model_len} tokens"
            ),
            Self::TooManyBlocks { needed, num_blocks } => {
                write!(f, "the sequence needs {needed} cache blocks and there are {num_blocks}")
            }
        }
    }
}

impl std::error::Error for SubmitError {}

/// Where a sequence is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In the queue, without blocks.
    Waiting,
    /// Holds blocks and takes part in steps.
    Running,
    /// Done, failed or aborted, but a plan in flight still names it.
    Ended,
}

/// Order among running sequences: the smallest advances always, the largest is preempted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// False once the sequence was preempted: then it comes before all that were not.
    fresh: bool,
    /// The same for all that were preempted.
    priority: i32,
    /// Number of the first admission.
    pub(crate) ticket: u64,
}

/// A sequence the scheduler knows.
#[derive(Debug)]
pub struct Sequence {
    pub(crate) state: State,
    /// Prompt and the generated tokens that are known.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) prompt_len: usize,
    pub(crate) max_new_tokens: usize,
    pub(crate) need_prompt_logits: bool,
    pub(crate) salt: Option<Arc<str>>,
    pub(crate) tenant: TenantId,
    priority: i32,
    arrival: u64,
    /// From the first admission on.
    rank: Option<Rank>,
    /// Tokens whose keys and values are in `blocks` by committed steps.
    pub(crate) num_computed: usize,
    /// The same, as it will be after the plans in flight.
    pub(crate) num_planned: usize,
    /// Tokens that plans in flight sample; of an entry with drafts the one that is certain.
    pub(crate) num_unknown: usize,
    /// Guessed tokens that the next entry may check beside its own.
    pub(crate) num_wanted_drafts: usize,
    /// Guessed tokens in the plan in flight. How far that plan gets is known once it is committed,
    /// so until then the sequence has no further one.
    pub(crate) num_drafts: usize,
    /// Plans in flight that name this sequence.
    pub(crate) num_in_flight: usize,
    /// Prompt tokens whose logits were delivered.
    pub(crate) num_scored: usize,
    pub(crate) cached_tokens: usize,
    /// Prompt tokens that the tenant has paid for, or that cost it nothing.
    num_charged: usize,
    /// The block table: token `t` is in `blocks[t / block_size]`. Plans share it.
    pub(crate) blocks: Arc<Vec<BlockId>>,
    /// This many of `blocks` are findable.
    pub(crate) num_registered: usize,
    /// Whether further blocks may become findable.
    pub(crate) registers: bool,
    /// Chained hashes: of the salt, then up to the end of each full block as far as needed.
    hashes: Vec<u64>,
}

impl Sequence {
    pub(crate) fn new(new: NewSequence, tenant: TenantId, arrival: u64, registers: bool) -> Self {
        Self {
            state: State::Waiting,
            prompt_len: new.prompt.len(),
            tokens: new.prompt,
            max_new_tokens: new.max_new_tokens,
            need_prompt_logits: new.need_prompt_logits,
            hashes: vec![root_hash(new.salt.as_deref())],
            salt: new.salt.map(Arc::from),
            tenant,
            priority: new.priority,
            arrival,
            rank: None,
            num_computed: 0,
            num_planned: 0,
            num_unknown: 0,
            num_wanted_drafts: 0,
            num_drafts: 0,
            num_in_flight: 0,
            num_scored: 0,
            cached_tokens: 0,
            num_charged: 0,
            blocks: Arc::default(),
            num_registered: 0,
            registers,
        }
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// The prompt and the generated tokens of all committed steps.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// How many of [`Self::tokens`] are the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Tokens that committed steps have computed and no preemption has taken.
    pub fn num_computed(&self) -> usize {
        self.num_computed
    }

    /// Tokens still to be planned. The last token of all is never computed: nothing follows it.
    pub(crate) fn num_remaining(&self) -> usize {
        if self.num_drafts > 0 {
            return 0;
        }
        let last = self.max_new_tokens.saturating_sub(1) + self.prompt_len;
        (self.tokens.len() + self.num_unknown).min(last) - self.num_planned
    }

    /// The next chunk within a budget. Rows that are to be scored and rows that were scored before
    /// a preemption do not share a chunk.
    pub(crate) fn chunk_len(&self, budget: usize) -> usize {
        let len = self.num_remaining().min(budget);
        match self.num_scored.checked_sub(self.num_planned) {
            Some(scored) if self.need_prompt_logits && scored > 0 => len.min(scored),
            _ => len,
        }
    }

    /// Drafts that an entry of the one token that remains may have: none where a row's logits are not
    /// those of an answer, none that could only be past the end, and none that depend on a plan in
    /// flight.
    pub(crate) fn num_useful_drafts(&self) -> usize {
        let num_generated = self.tokens.len() - self.prompt_len;
        if self.num_in_flight > 0 || num_generated == 0 {
            return 0;
        }
        self.num_wanted_drafts.min((self.max_new_tokens - num_generated).saturating_sub(1))
    }

    /// Tokens at the beginning that may come from the prefix cache: not the last one, which must
    /// give logits, and none whose logits are wanted.
    pub(crate) fn max_cached_tokens(&self) -> usize {
        let all_but_one = self.tokens.len() - 1;
        if self.need_prompt_logits { all_but_one.min(self.num_scored) } else { all_but_one }
    }

    /// The identity of the full block `index`, given the block before it.
    pub(crate) fn content(
        &mut self,
        index: usize,
        before: Option<BlockId>,
        block_size: usize,
    ) -> Content<'_> {
        while self.hashes.len() <= index + 1 {
            let known = self.hashes.len() - 1;
            let tokens = &self.tokens[known * block_size..(known + 1) * block_size];
            self.hashes.push(chain_hash(self.hashes[known], tokens));
        }
        Content {
            hash: self.hashes[index + 1],
            parent: match before {
                Some(block) => Parent::Block(block),
                None => Parent::Root(self.salt.clone()),
            },
            tokens: &self.tokens[index * block_size..(index + 1) * block_size],
        }
    }

    /// Whether a block is full and computed and not yet findable.
    pub(crate) fn can_register(&self, block_size: usize) -> bool {
        self.registers && self.num_registered < self.num_computed / block_size
    }

    pub(crate) fn place(&self) -> Place {
        let Self { tenant, priority, arrival, .. } = *self;
        match self.rank {
            Some(rank) => Place::Preempted { ticket: rank.ticket },
            None => Place::New { tenant, priority, arrival },
        }
    }

    pub(crate) fn rank(&self) -> Rank {
        self.rank.expect("only a sequence that was admitted is asked for its rank")
    }

    /// Gives the sequence its first rank; returns false if it had one.
    pub(crate) fn admit_first(&mut self, ticket: u64) -> bool {
        let first = self.rank.is_none();
        self.rank.get_or_insert(Rank { fresh: true, priority: self.priority, ticket });
        first
    }

    /// Prompt tokens among those from `start` to `end`, about to be computed, that were not computed
    /// before: computing again after a preemption is no wish of the tenant's.
    pub(crate) fn count_new_prompt_tokens(&mut self, start: usize, end: usize) -> usize {
        let from = self.num_charged.max(start);
        let end = end.min(self.prompt_len);
        self.num_charged = self.num_charged.max(end);
        end.saturating_sub(from)
    }

    /// Back to the queue: nothing is computed, the rank rises. The caller has taken the blocks.
    pub(crate) fn preempt(&mut self) {
        assert!(self.num_in_flight == 0 && self.blocks.is_empty());
        self.state = State::Waiting;
        self.num_computed = 0;
        self.num_planned = 0;
        self.num_registered = 0;
        self.num_wanted_drafts = 0;
        self.rank = Some(Rank { fresh: false, priority: 0, ticket: self.rank().ticket });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Queue;

    #[test]
    fn a_prompt_is_paid_once_however_often_it_is_computed() {
        let new = NewSequence {
            id: SeqId(0),
            prompt: vec![1; 20],
            max_new_tokens: 5,
            priority: 0,
            share: None,
            salt: None,
            need_prompt_logits: false,
        };
        let mut seq = Sequence::new(new, Queue::default().join(None), 0, true);
        let chunks = [(4, 10), (10, 12), (0, 8), (8, 16), (18, 22), (22, 23), (0, 23)];
        let paid = chunks.map(|(start, end)| seq.count_new_prompt_tokens(start, end));
        assert_eq!(paid, [6, 2, 0, 4, 2, 0, 0], "16 and 17 were in the cache the second time");
    }
}
