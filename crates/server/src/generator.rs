//! What the server needs of an engine: a seam, so that tests can script one.

use std::time::Duration;

use engine::{EngineError, EngineHandle, Request};

pub(crate) use engine::SeqId;

/// Numbers for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Sequences that hold blocks.
    pub running: usize,
    /// Sequences that wait for their first step or for blocks.
    pub waiting: usize,
    /// Prompt tokens of those that have not run.
    pub waiting_tokens: usize,
    /// Sequences dropped because their deadline passed while they waited, since the start.
    pub expired: u64,
    /// Blocks in use over blocks in all, 0 to 1.
    pub kv_usage: f64,
    /// Prompt tokens that came from the prefix cache, since the start.
    pub cached_tokens: u64,
    /// Sequences that lost their blocks and were computed again, since the start.
    pub preemptions: u64,
    /// Tokens guessed ahead by source (`grammar`, `lookup`, `model`), since the start: computed, and
    /// those that came about.
    pub drafts: [(&'static str, u64, u64); 3],
    /// Blocks in all.
    pub num_blocks: usize,
    /// Tokens of a block.
    pub block_size: usize,
}

/// Takes token sequences and answers through their sinks.
pub trait Generator: Send + Sync + 'static {
    /// Queues all of them or none. Returns an id for each, in order.
    fn submit_all(&self, requests: Vec<Request>) -> Result<Vec<SeqId>, EngineError>;
    /// Stops a sequence and frees what it holds; unknown ids are ignored.
    fn abort(&self, id: SeqId);
    /// Now, without waiting for a step.
    fn load(&self) -> Load;
    /// How long those who wait now will take to leave the queue.
    fn time_to_drain(&self) -> Duration;
    /// Whether accepted requests are still answered.
    fn is_alive(&self) -> bool;
    /// Whether it is getting up again after a fault; requests are accepted and wait.
    fn is_restarting(&self) -> bool;
    /// Tokens that prompt and answer may have together.
    fn max_model_len(&self) -> usize;
    /// Ids are below this.
    fn vocab_size(&self) -> usize;
}

impl Generator for EngineHandle {
    fn submit_all(&self, requests: Vec<Request>) -> Result<Vec<SeqId>, EngineError> {
        Self::submit_all(self, requests)
    }

    fn abort(&self, id: SeqId) {
        Self::abort(self, id);
    }

    fn load(&self) -> Load {
        let stats = self.stats();
        Load {
            running: stats.num_running as usize,
            waiting: stats.num_waiting as usize,
            waiting_tokens: stats.num_waiting_tokens as usize,
            expired: stats.expired,
            kv_usage: stats.kv_blocks_used as f64 / stats.kv_blocks_total.max(1) as f64,
            cached_tokens: stats.cached_prompt_tokens,
            preemptions: stats.preemptions,
            drafts: [
                ("grammar", stats.grammar_drafts, stats.grammar_drafts_accepted),
                ("lookup", stats.lookup_drafts, stats.lookup_drafts_accepted),
                ("model", stats.model_drafts, stats.model_drafts_accepted),
            ],
            num_blocks: stats.kv_blocks_total as usize,
            block_size: self.block_size(),
        }
    }

    fn time_to_drain(&self) -> Duration {
        Self::time_to_drain(self)
    }

    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }

    fn is_restarting(&self) -> bool {
        Self::is_restarting(self)
    }

    fn max_model_len(&self) -> usize {
        Self::max_model_len(self)
    }

    fn vocab_size(&self) -> usize {
        Self::vocab_size(self)
    }
}
