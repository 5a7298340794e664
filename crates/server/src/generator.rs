//! What the server needs of an engine: a seam, so that tests can script one.

use std::time::Duration;

use engine::ceilings::Ceilings;
use engine::{EngineError, EngineHandle, EngineStats, Request};

pub(crate) use engine::SeqId;

/// Numbers for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// What the engine counts.
    pub stats: EngineStats,
    /// Tokens of a cache block.
    pub block_size: usize,
    /// Of the cache's elements, as torch names it.
    pub cache_dtype: &'static str,
    /// Whether prompts find what others have computed.
    pub enable_prefix_caching: bool,
    /// Most tokens that are guessed ahead in a step.
    pub num_speculative_tokens: usize,
    /// What the device can do, if it was measured.
    pub ceilings: Option<Ceilings>,
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
    /// Sequences that may wait for their first step.
    fn max_num_queued_reqs(&self) -> usize;
}

impl Generator for EngineHandle {
    fn submit_all(&self, requests: Vec<Request>) -> Result<Vec<SeqId>, EngineError> {
        Self::submit_all(self, requests)
    }

    fn abort(&self, id: SeqId) {
        Self::abort(self, id);
    }

    fn load(&self) -> Load {
        let config = self.config();
        Load {
            stats: self.stats(),
            block_size: config.block_size,
            cache_dtype: config.cache_dtype_name(),
            enable_prefix_caching: config.enable_prefix_caching,
            num_speculative_tokens: config.num_speculative_tokens,
            ceilings: self.ceilings(),
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

    fn max_num_queued_reqs(&self) -> usize {
        self.config().max_num_queued_reqs
    }
}
