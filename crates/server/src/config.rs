//! What the binary decides about the HTTP side, complete and checked before it gets here.

use std::time::Duration;

/// Limits and manners of the server. [`Default`] is what `sconce serve` uses when nothing is said.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// A longer request body is answered with 413, in bytes.
    pub max_body_bytes: usize,
    /// A request whose body takes longer than this to arrive is answered with 408.
    pub body_timeout: Duration,
    /// A connection that has not sent a whole request head for this long is closed; this is also
    /// how long an idle connection is kept. Longer than the 60 s of common proxies, so that they
    /// close first and never race a request against our close.
    pub header_timeout: Duration,
    /// An answer that its client does not read is given up after this long.
    pub stall_timeout: Duration,
    /// A stream that has been silent this long gets a `: ping` comment.
    pub heartbeat: Duration,
    /// Connections at once; more are refused.
    pub max_connections: usize,
    /// After a shutdown signal, requests are still taken for this long: a load balancer needs time
    /// to see that `/ready` says no.
    pub drain_delay: Duration,
    /// After that, running requests may take this long to finish.
    pub drain_timeout: Duration,
    /// Origins that browsers may call from; `None` allows any.
    pub allowed_origins: Option<Vec<String>>,
    /// Keys that may do everything. If there are any, or keys of a file, every route wants one but
    /// `/health`, `/ready`, `/docs`, `/openapi.json` and, unless it is guarded, `/metrics`.
    pub api_keys: Vec<String>,
    /// Whether `/metrics` wants one, too.
    pub guard_metrics: bool,
    /// Whether a request may bring its own `chat_template`. Templates run code: off by default.
    pub trust_request_chat_template: bool,
    /// What `/v1/responses` keeps.
    pub response_store: StoreLimits,
    /// When the process took the place of a server whose engine had ended, in seconds since 1970.
    pub restarted_at: Option<u64>,
}

/// Bounds of the responses that are kept in memory; the longest unused goes first.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// Responses at once.
    pub max_entries: usize,
    /// Bytes of their JSON, inputs included.
    pub max_bytes: usize,
    /// Nothing is kept for longer, however often it is used.
    pub max_age: Duration,
}

impl Default for StoreLimits {
    /// A conversation of people or agents goes on within an hour or not at all, and its turns have
    /// tens of kilobytes: so many fit, and no more memory is taken than a small model has weights.
    fn default() -> Self {
        Self { max_entries: 1024, max_bytes: 64 << 20, max_age: Duration::from_hours(1) }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            body_timeout: Duration::from_mins(2),
            header_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_mins(5),
            heartbeat: Duration::from_secs(15),
            max_connections: 16_384,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            allowed_origins: None,
            api_keys: Vec::new(),
            guard_metrics: false,
            trust_request_chat_template: false,
            response_store: StoreLimits::default(),
            restarted_at: None,
        }
    }
}
