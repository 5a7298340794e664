//! What a step computes and what came of it: plain data, exchanged with whoever runs the model.

use std::sync::Arc;

use crate::{BlockId, SeqId, Tokens};

/// One step: which tokens of which sequences to compute, and where their keys and values go.
///
/// Plans must run in the order they were made. Within a plan the entries are independent of each
/// other: no entry reads a block that another one writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Rises by one with each plan.
    pub step: u64,
    /// One for each sequence that takes part; never empty.
    pub entries: Vec<Entry>,
    /// Tokens of all entries together.
    pub num_tokens: usize,
    /// Sequences that lost their blocks since the last plan and are computed anew from some later
    /// step on (from this one, if a call in between could make no plan).
    pub preempted: Vec<SeqId>,
}

/// The part of one sequence in a step: the tokens `start..start + len`, the last `num_drafts` of
/// which are guesses of whoever runs the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose tokens.
    pub id: SeqId,
    /// Position of the first token; all before it have keys and values in `blocks`.
    pub start: usize,
    /// How many tokens, at least 1, drafts included.
    pub len: usize,
    /// Drafts among them, at most as many as were [wanted](crate::Scheduler::want_drafts). Then the
    /// entry samples, and it is the only plan in flight of its sequence.
    pub num_drafts: usize,
    /// The ids of those that are not drafts; one fewer if the last of them is the token that the
    /// step before, not yet committed, samples for this sequence.
    pub ids: Tokens,
    /// The sequence's block table; it reaches at least to `start + len`. The sequence has the same one:
    /// to copy it would cost every step time in proportion to all that was computed before.
    pub blocks: Arc<Vec<BlockId>>,
    /// Whether the logits of the last row, and of the row before each draft, give the next tokens.
    pub samples: bool,
    /// Whether the logits of all rows are wanted to score the prompt. Each row of the prompt is
    /// asked for once, even if a preemption makes it run again.
    pub prompt_logits: bool,
    /// Prompt tokens that came from the prefix cache when the sequence first ran.
    pub cached_tokens: usize,
}

/// What came of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whose entry.
    pub id: SeqId,
    /// If the entry samples, the drafts that proved right and the token sampled after them. An entry
    /// that samples and has none has failed.
    pub tokens: Tokens,
    /// Ends the sequence. Reaching `max_new_tokens` ends it in any case.
    pub finished: bool,
}
