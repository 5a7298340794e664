//! What the server counts of a model, with one atomic add each; `families.rs` shows it together with
//! what its engine counts, `page.rs` in Prometheus' words.

mod buckets;
mod families;
mod histogram;
mod http;
mod page;
pub(crate) mod process;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::EngineError;

use self::histogram::Histogram;
pub(crate) use self::http::HttpMetrics;
pub(crate) use self::page::{OPEN_METRICS, Page, TEXT, open_metrics};

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

/// Why a request was not let into the queue: the limit it met.
const REJECTIONS: [&str; 3] = ["max_num_queued_reqs", "max_num_queued_tokens", "share_of_tenant"];

/// All that the server counts itself of a model.
#[derive(Debug)]
pub(crate) struct Metrics {
    generation_tokens: AtomicU64,
    corrupted: AtomicU64,
    rejections: [AtomicU64; REJECTIONS.len()],
    endings: [AtomicU64; ENDINGS.len()],
    time_to_first_token: Histogram,
    inter_token: Histogram,
    time_per_output_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    prompt_tokens: Histogram,
    computed_prompt_tokens: Histogram,
    generated: Histogram,
    longest_generated: Histogram,
    max_tokens: Histogram,
    choices: Histogram,
    preemptions: Histogram,
}

/// A sequence from its arrival on, for the metrics when it ends and for its trace.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    pub(crate) prompt_tokens: usize,
    pub(crate) max_tokens: usize,
    /// When the request came.
    pub(crate) arrived: Instant,
    /// When it was put into the queue.
    pub(crate) queued: Instant,
    /// When it left the queue.
    pub(crate) started: Option<Instant>,
    /// When the first token came, or the vector.
    pub(crate) first_token: Option<Instant>,
    pub(crate) last_token: Option<Instant>,
    pub(crate) cached_tokens: usize,
    pub(crate) num_tokens: usize,
    pub(crate) num_preemptions: usize,
    pub(crate) finish_reason: Option<&'static str>,
}

impl Course {
    pub(crate) fn new(prompt_tokens: usize, max_tokens: usize, arrived: Instant) -> Self {
        Self {
            prompt_tokens,
            max_tokens,
            arrived,
            queued: Instant::now(),
            started: None,
            first_token: None,
            last_token: None,
            cached_tokens: 0,
            num_tokens: 0,
            num_preemptions: 0,
            finish_reason: None,
        }
    }

    pub(crate) fn queue_time(&self) -> Option<Duration> {
        Some(self.started?.saturating_duration_since(self.queued))
    }

    pub(crate) fn prefill_time(&self) -> Option<Duration> {
        Some(self.first_token?.saturating_duration_since(self.started?))
    }

    pub(crate) fn decode_time(&self) -> Option<Duration> {
        Some(self.last_token?.saturating_duration_since(self.first_token?))
    }

    pub(crate) fn inference_time(&self) -> Option<Duration> {
        Some(self.last_token?.saturating_duration_since(self.started?))
    }

    pub(crate) fn time_to_first_token(&self) -> Option<Duration> {
        Some(self.first_token?.saturating_duration_since(self.arrived))
    }
}

impl Metrics {
    /// Of a model with contexts of so many tokens.
    pub(crate) fn new(max_model_len: usize) -> Self {
        let of_request = || Histogram::new(buckets::REQUEST);
        let of_tokens = || Histogram::new(buckets::tokens(max_model_len));
        Self {
            generation_tokens: AtomicU64::default(),
            corrupted: AtomicU64::default(),
            rejections: Default::default(),
            endings: Default::default(),
            time_to_first_token: Histogram::new(buckets::FIRST_TOKEN),
            inter_token: Histogram::new(buckets::TOKEN),
            time_per_output_token: Histogram::new(buckets::TOKEN),
            e2e: of_request(),
            queue: of_request(),
            prefill: of_request(),
            decode: of_request(),
            inference: of_request(),
            prompt_tokens: of_tokens(),
            computed_prompt_tokens: of_tokens(),
            generated: of_tokens(),
            longest_generated: of_tokens(),
            max_tokens: of_tokens(),
            choices: Histogram::new(buckets::CHOICES),
            preemptions: Histogram::new(buckets::PREEMPTIONS),
        }
    }

    /// The queue took no request.
    pub(crate) fn rejection(&self, error: &EngineError) {
        let reason = match error {
            EngineError::QueueTokensFull { .. } => 1,
            EngineError::QueueShareFull { .. } => 2,
            _ => 0,
        };
        add(&self.rejections[reason]);
    }

    /// The model gave a sequence no numbers.
    pub(crate) fn corrupted(&self) {
        add(&self.corrupted);
    }

    /// A token came at this moment.
    pub(crate) fn token(&self, course: &mut Course, at: Instant) {
        add(&self.generation_tokens);
        match course.last_token {
            None => self.time_to_first_token.observe(at.saturating_duration_since(course.arrived)),
            Some(last) => self.inter_token.observe(at.saturating_duration_since(last)),
        }
        course.first_token.get_or_insert(at);
        course.last_token = Some(at);
        course.num_tokens += 1;
    }

    /// A sequence ended. Times and sizes are of those that came to their end.
    pub(crate) fn end(&self, ending: Ending, course: &Course) {
        add(&self.endings[ending as usize]);
        if !matches!(ending, Ending::Stop | Ending::Length) {
            return;
        }
        let end = course.last_token.unwrap_or_else(Instant::now);
        self.e2e.observe(end.saturating_duration_since(course.arrived));
        for (histogram, time) in [
            (&self.queue, course.queue_time()),
            (&self.prefill, course.prefill_time()),
            (&self.decode, course.decode_time()),
            (&self.inference, course.inference_time()),
        ] {
            time.inspect(|time| histogram.observe(*time));
        }
        if let (Some(decode), 2..) = (course.decode_time(), course.num_tokens) {
            self.time_per_output_token.observe(decode / (course.num_tokens - 1) as u32);
        }
        self.prompt_tokens.count(course.prompt_tokens);
        self.computed_prompt_tokens
            .count(course.prompt_tokens.saturating_sub(course.cached_tokens));
        self.generated.count(course.num_tokens);
        self.max_tokens.count(course.max_tokens);
        self.preemptions.count(course.num_preemptions);
    }

    /// All sequences of a request of `n` choices ended, the longest with so many tokens.
    pub(crate) fn end_request(&self, n: usize, longest: usize) {
        self.choices.count(n);
        self.longest_generated.count(longest);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
