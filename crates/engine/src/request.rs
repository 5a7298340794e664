//! What goes into the engine and what comes out: requests, sampling parameters, events.
//!
//! Plain data. The server fills a [`Request`], the engine answers through its [`Sink`].

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use kernels::sample::TokenLogprobs;
use scheduler::Share;

/// Sampling and stopping parameters of one sequence, validated by the caller.
///
/// Defaults are the neutral values: they change nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 means greedy.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less likely than this fraction of the most likely one; 0 drops none.
    pub min_p: f32,
    /// Divides (or multiplies, when negative) the logits of tokens in prompt or output (CTRL,
    /// arXiv:1909.05858); 1 is neutral.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token already in the output.
    pub presence_penalty: f32,
    /// Subtracted from a logit for each occurrence of its token in the output.
    pub frequency_penalty: f32,
    /// Key of the counter-based generator: the same seed gives the same text in any batch.
    pub seed: u64,
    /// Added to single logits: (token id, bias).
    pub logit_bias: Arc<[(u32, f32)]>,
    /// If given, every other token is impossible.
    pub allowed_token_ids: Option<Arc<[u32]>>,
    /// Report the chosen token's log-probability and this many of the most likely ones.
    pub logprobs: Option<u32>,
    /// Report the same for every prompt token but the first.
    pub prompt_logprobs: Option<u32>,
    /// Where the second text of a pair begins, if the prompt is one: encoders tell both apart.
    pub second_text: Option<usize>,
    /// Stop with [`FinishReason::Length`] after this many tokens; 0 only scores the prompt.
    pub max_tokens: usize,
    /// End-of-sequence and stop tokens cannot be sampled before this many tokens.
    pub min_tokens: usize,
    /// Generate past end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Further token ids that end the sequence.
    pub stop_token_ids: Vec<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            logit_bias: Arc::default(),
            allowed_token_ids: None,
            logprobs: None,
            prompt_logprobs: None,
            second_text: None,
            max_tokens: 16,
            min_tokens: 0,
            ignore_eos: false,
            stop_token_ids: Vec::new(),
        }
    }
}

/// One sequence to generate. A request with `n` choices is `n` of these; their prompts share blocks.
pub struct Request {
    /// Token ids, at least one, each below the vocabulary size.
    pub prompt: Vec<u32>,
    /// See [`SamplingParams`].
    pub params: SamplingParams,
    /// Lower values run first; equal ones of a tenant in order of arrival.
    pub priority: i32,
    /// The tenant whose turn and whose places in the queue it takes. Requests without one are together
    /// one tenant.
    pub share: Option<Share>,
    /// When it is of no more use to begin: if it still waits then, it ends with
    /// [`EngineError::DeadlineExceeded`]. Once it runs it goes on: its tokens reach the caller as they
    /// come, who can abort it, and what was computed would be lost.
    pub deadline: Option<Instant>,
    /// Prefix-cache blocks are shared only between requests of the same salt.
    pub cache_salt: Option<String>,
    /// What the answer must look like, if not free.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Where the events go.
    pub sink: Sink,
}

/// Says token by token what may come next. The engine asks on any of its threads, one at a time:
/// before a step [`forced`](Self::forced), while the model runs [`fill_mask`](Self::fill_mask), then
/// [`accept`](Self::accept) with what came out. To check guessed tokens it accepts them, asks for the
/// masks in between and rolls back.
/// An error ends the sequence with [`EngineError::Constraint`] and disturbs no other.
pub trait Constraint: Send {
    /// Writes which tokens may come next: token `i` is bit `i % 32` of word `i / 32`.
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), String>;
    /// Takes the token that came; returns whether the answer is complete, so that none may follow.
    fn accept(&mut self, id: u32) -> Result<bool, String>;
    /// Forgets the last `n` tokens that were accepted.
    fn rollback(&mut self, n: usize) -> Result<(), String>;
    /// The next tokens, at most `max`, if nothing else may come, whatever is sampled.
    fn forced(&mut self, max: usize) -> Vec<u32>;
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt_len", &self.prompt.len())
            .field("params", &self.params)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

/// Takes events on the engine thread; it must not block. Returns `false` once nobody listens,
/// which aborts the sequence. At most `max_tokens` + 3 events arrive.
pub type Sink = Box<dyn FnMut(Event) -> bool + Send>;

/// What the engine tells a request, in order: `Started`, `PromptScored` (only if asked for), tokens,
/// and exactly one of `Finished` and `Failed`. After an abort nothing more comes. An engine that pools
/// tells `Pooled` instead of tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The sequence has left the queue: its first step begins.
    Started {
        /// Prompt tokens that come from the prefix cache.
        cached_tokens: usize,
    },
    /// Log-probabilities of the prompt tokens, one entry a token, `None` for the first.
    PromptScored(Vec<Option<TokenLogprobs>>),
    /// One sampled token. A token that ends the sequence is reported too.
    Token {
        /// The sampled id.
        id: u32,
        /// Present if [`SamplingParams::logprobs`] asked for it.
        logprobs: Option<TokenLogprobs>,
    },
    /// The vector of the prompt, neither shortened nor normalised.
    Pooled(Vec<f32>),
    /// The sequence is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Prompt tokens that came from the prefix cache when it first ran.
        cached_tokens: usize,
        /// Times it lost its blocks and was computed again.
        num_preemptions: usize,
    },
    /// It was given up, for a fault, its deadline, a refusal or the engine's end; nothing more comes.
    Failed(EngineError),
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token or the end of the constraint (`None`), or one of the request's stop
    /// tokens (its id).
    Stop(Option<u32>),
    /// `max_tokens` or the model's context length was reached.
    Length,
}

/// Why the engine refused or failed a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Too many requests wait already.
    #[error("the queue is full: {waiting} requests are waiting and {limit} may")]
    QueueFull {
        /// Waiting now.
        waiting: usize,
        /// The bound.
        limit: usize,
    },
    /// Too many prompt tokens wait already.
    #[error(
        "the queue is full: prompts of {waiting} tokens are waiting, {limit} may, and this request \
         has {new}"
    )]
    QueueTokensFull {
        /// Waiting now.
        waiting: usize,
        /// Of the request.
        new: usize,
        /// The bound.
        limit: usize,
    },
    /// Most of the queue is the tenant's own, and what is left is for others.
    #[error(
        "the queue is nearly full: {own} of {waiting} requests waiting are yours, and the rest of \
         the {limit} places is for others"
    )]
    QueueShareFull {
        /// Of the tenant.
        own: usize,
        /// Waiting now.
        waiting: usize,
        /// The bound.
        limit: usize,
    },
    /// It waited past its deadline and was dropped before it ran.
    #[error("the request waited until its deadline passed and was dropped before it ran")]
    DeadlineExceeded,
    /// The engine is shutting down or has ended.
    #[error("the engine is stopped")]
    Stopped,
    /// The request cannot ever run.
    #[error("{0}")]
    Rejected(String),
    /// No token satisfies the constraint together with what else the request asks for.
    #[error("the answer cannot be constrained as asked: {0}")]
    Constraint(String),
    /// The model gave this sequence no numbers to sample from; neighbours go on.
    #[error("the model failed on this sequence: {0}")]
    Logits(String),
    /// A step failed, or the engine panicked in one or between two; the text says how.
    #[error("a step of the engine failed: {0}")]
    Step(String),
}
