//! Counters and histograms of the HTTP side, written with one atomic add each and rendered in
//! Prometheus' text format 0.0.4 together with the engine's gauges.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::generator::Load;

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

/// All that the server counts itself.
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

    /// The text that Prometheus scrapes; `load` and `name` are of the model, once there is one.
    pub(crate) fn render(&self, model: Option<(&str, Load)>) -> String {
        let mut out = String::with_capacity(16 << 10);
        let name = model.map_or("", |(name, _)| name);
        let page = &mut Page { out: &mut out, model: escape(name) };
        if let Some((_, load)) = model {
            page.load(&load);
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        page.both(
            "counter",
            "prompt_tokens_total",
            "Prompt tokens of accepted sequences.",
            count(&self.prompt_tokens),
        );
        page.both(
            "counter",
            "generation_tokens_total",
            "Generated tokens.",
            count(&self.generation_tokens),
        );
        page.one(
            "counter",
            "sconce:requests_rejected_total",
            "Requests refused because the queue was full.",
            count(&self.rejections),
        );
        for prefix in PREFIXES {
            let name = format!("{prefix}request_success_total");
            page.head("counter", &name, "Sequences that ended, by reason.");
            for (ending, reason) in ENDINGS {
                let value = count(&self.endings[ending as usize]);
                page.sample(&name, &format!(",finished_reason=\"{reason}\""), value);
            }
        }
        for (name, help, histogram) in [
            (
                "time_to_first_token_seconds",
                "From the request's arrival to its first token.",
                &self.time_to_first_token,
            ),
            ("inter_token_latency_seconds", "Between two tokens of a sequence.", &self.inter_token),
            (
                "e2e_request_latency_seconds",
                "From the request's arrival to its last token.",
                &self.e2e,
            ),
        ] {
            for prefix in PREFIXES {
                page.histogram(&format!("{prefix}{name}"), help, histogram);
            }
        }
        out
    }
}

/// Our own names, and vLLM's for what means the same: dashboards and routers look for those.
const PREFIXES: [&str; 2] = ["sconce:", "vllm:"];

/// The text as it grows.
struct Page<'a> {
    out: &'a mut String,
    /// The model's name, escaped as a label value.
    model: String,
}

impl Page<'_> {
    fn load(&mut self, load: &Load) {
        self.both(
            "gauge",
            "num_requests_running",
            "Sequences that hold cache blocks.",
            load.running as f64,
        );
        self.both(
            "gauge",
            "num_requests_waiting",
            "Sequences that wait to run.",
            load.waiting as f64,
        );
        self.one(
            "gauge",
            "sconce:num_tokens_waiting",
            "Prompt tokens of sequences that have not run.",
            load.waiting_tokens as f64,
        );
        self.one(
            "counter",
            "sconce:requests_expired_total",
            "Sequences dropped because their deadline passed while they waited.",
            load.expired as f64,
        );
        self.both("gauge", "kv_cache_usage_perc", "Cache blocks in use, 0 to 1.", load.kv_usage);
        self.both(
            "counter",
            "prompt_tokens_cached_total",
            "Prompt tokens found in the prefix cache.",
            load.cached_tokens as f64,
        );
        self.both(
            "counter",
            "num_preemptions_total",
            "Sequences that lost their blocks.",
            load.preemptions as f64,
        );
        self.drafts(load);
        for prefix in PREFIXES {
            let name = format!("{prefix}cache_config_info");
            let (size, num) = (load.block_size, load.num_blocks);
            self.head("gauge", &name, "The shape of the key-value cache.");
            self.sample(&name, &format!(",block_size=\"{size}\",num_gpu_blocks=\"{num}\""), 1.0);
        }
    }

    /// Speculative decoding: ours by source, vLLM's in sum.
    fn drafts(&mut self, load: &Load) {
        type Count = fn(&(&str, u64, u64)) -> u64;
        let counts: [(&str, &str, Count); 2] = [
            ("draft_tokens", "Tokens guessed ahead and computed.", |drafts| drafts.1),
            ("accepted_tokens", "Tokens guessed ahead that came about.", |drafts| drafts.2),
        ];
        for (name, help, count) in counts {
            let ours = format!("sconce:spec_decode_num_{name}_total");
            self.head("counter", &ours, help);
            for drafts in &load.drafts {
                self.sample(&ours, &format!(",source=\"{}\"", drafts.0), count(drafts) as f64);
            }
            let sum = load.drafts.iter().map(count).sum::<u64>();
            self.one("counter", &format!("vllm:spec_decode_num_{name}_total"), help, sum as f64);
        }
    }

    fn both(&mut self, kind: &str, name: &str, help: &str, value: f64) {
        for prefix in PREFIXES {
            self.one(kind, &format!("{prefix}{name}"), help, value);
        }
    }

    fn one(&mut self, kind: &str, name: &str, help: &str, value: f64) {
        self.head(kind, name, help);
        self.sample(name, "", value);
    }

    fn head(&mut self, kind: &str, name: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let model = std::mem::take(&mut self.model);
        self.write(format_args!("{name}{{model_name=\"{model}\"{labels}}} {value}\n"));
        self.model = model;
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head("histogram", name, help);
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            total += count.load(Ordering::Relaxed);
            self.sample(&bucket, &format!(",le=\"{bound}\""), total as f64);
        }
        total += histogram.counts[histogram.bounds.len()].load(Ordering::Relaxed);
        self.sample(&bucket, ",le=\"+Inf\"", total as f64);
        self.sample(&format!("{name}_sum"), "", histogram.sum_seconds());
        self.sample(&format!("{name}_count"), "", total as f64);
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a string takes any text");
    }
}

/// Counts per bucket, not cumulative; the last bucket has no bound.
#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    sum_ns: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, counts, sum_ns: AtomicU64::default() }
    }

    fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
    }

    fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// A label value as the text format wants it.
pub(crate) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_count_the_bound_itself() {
        let metrics = Metrics::default();
        for millis in [1, 3, 700_000] {
            metrics.token(Duration::from_millis(millis), true);
        }
        let text = metrics.render(Some(("a\"b", Load::default())));
        let line = |bound: &str| {
            let start = format!(
                "sconce:time_to_first_token_seconds_bucket{{model_name=\"a\\\"b\",le=\"{bound}\"}} "
            );
            text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
        };
        assert_eq!([line("0.001"), line("0.0025"), line("0.005")], ["1", "1", "2"]);
        assert_eq!([line("640"), line("+Inf")], ["2", "3"]);
        assert!(
            text.contains("vllm:time_to_first_token_seconds_sum{model_name=\"a\\\"b\"} 700.004\n")
        );
    }
}
