//! What the server counts of a model: `page.rs` shows it to Prometheus, together with the engine's
//! gauges.

mod histogram;
mod page;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::histogram::Histogram;
pub(crate) use self::page::render;

/// Upper bounds in seconds. Finer than vLLM's at the low end, where decoding steps are.
const TTFT_BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0,
];
const INTER_TOKEN_BOUNDS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1,
    0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const E2E_BOUNDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0,
    120.0, 240.0, 480.0, 960.0,
];

/// How a sequence ended, as the `finished_reason` label says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Stop,
    Length,
    /// The client went away.
    Abort,
    Error,
}

const ENDINGS: [(Ending, &str); 4] = [
    (Ending::Stop, "stop"),
    (Ending::Length, "length"),
    (Ending::Abort, "abort"),
    (Ending::Error, "error"),
];

/// All that the server counts itself of a model, with one atomic add each.
#[derive(Debug)]
pub(crate) struct Metrics {
    prompt_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    rejections: AtomicU64,
    endings: [AtomicU64; ENDINGS.len()],
    time_to_first_token: Histogram,
    inter_token: Histogram,
    e2e: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            prompt_tokens: AtomicU64::default(),
            generation_tokens: AtomicU64::default(),
            rejections: AtomicU64::default(),
            endings: Default::default(),
            time_to_first_token: Histogram::new(TTFT_BOUNDS),
            inter_token: Histogram::new(INTER_TOKEN_BOUNDS),
            e2e: Histogram::new(E2E_BOUNDS),
        }
    }
}

impl Metrics {
    /// A sequence was accepted.
    pub(crate) fn prompt(&self, num_tokens: usize) {
        self.prompt_tokens.fetch_add(num_tokens as u64, Ordering::Relaxed);
    }

    /// A request was refused because the queue was full.
    pub(crate) fn rejection(&self) {
        self.rejections.fetch_add(1, Ordering::Relaxed);
    }

    /// A token came, this long after the request or after the one before it.
    pub(crate) fn token(&self, elapsed: Duration, first: bool) {
        self.generation_tokens.fetch_add(1, Ordering::Relaxed);
        let histogram = if first { &self.time_to_first_token } else { &self.inter_token };
        histogram.observe(elapsed);
    }

    /// A sequence ended.
    pub(crate) fn end(&self, ending: Ending, elapsed: Duration) {
        self.endings[ending as usize].fetch_add(1, Ordering::Relaxed);
        if matches!(ending, Ending::Stop | Ending::Length) {
            self.e2e.observe(elapsed);
        }
    }
}
