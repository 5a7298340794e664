//! Prometheus' text format 0.0.4: our counters together with the engines' gauges. The samples of a
//! family stand together, one or more for each model.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::Histogram;
use super::{ENDINGS, Metrics};
use crate::generator::Load;
use crate::served_model::ServedModel;

/// Our own names, and vLLM's for what means the same: dashboards and routers look for those.
const PREFIXES: [&str; 2] = ["sconce:", "vllm:"];

/// The text that Prometheus scrapes.
pub(crate) fn render<'a>(models: impl Iterator<Item = &'a ServedModel>) -> String {
    let readings: Vec<_> = models.map(Reading::new).collect();
    let mut page = Page { out: String::with_capacity(readings.len() * (16 << 10)), readings };
    page.gauges();
    page.engine_counters();
    page.drafts();
    page.cache_shape();
    page.counters();
    page.histograms();
    page.out
}

/// A model at this moment.
struct Reading<'a> {
    /// Escaped as a label value.
    name: String,
    load: Load,
    metrics: &'a Metrics,
}

impl<'a> Reading<'a> {
    fn new(model: &'a ServedModel) -> Self {
        let name = escape(&model.names()[0]);
        Self { name, load: model.generator().load(), metrics: model.metrics() }
    }
}

/// The text as it grows.
struct Page<'a> {
    out: String,
    readings: Vec<Reading<'a>>,
}

impl Page<'_> {
    fn gauges(&mut self) {
        self.both("gauge", "num_requests_running", "Sequences that hold cache blocks.", |model| {
            model.load.running as f64
        });
        self.both("gauge", "num_requests_waiting", "Sequences that wait to run.", |model| {
            model.load.waiting as f64
        });
        self.one(
            "gauge",
            "sconce:num_tokens_waiting",
            "Prompt tokens of sequences that have not run.",
            |model| model.load.waiting_tokens as f64,
        );
        self.both("gauge", "kv_cache_usage_perc", "Cache blocks in use, 0 to 1.", |model| {
            model.load.kv_usage
        });
    }

    fn engine_counters(&mut self) {
        self.one(
            "counter",
            "sconce:requests_expired_total",
            "Sequences dropped because their deadline passed while they waited.",
            |model| model.load.expired as f64,
        );
        self.both(
            "counter",
            "prompt_tokens_cached_total",
            "Prompt tokens found in the prefix cache.",
            |model| model.load.cached_tokens as f64,
        );
        self.both(
            "counter",
            "num_preemptions_total",
            "Sequences that lost their blocks.",
            |model| model.load.preemptions as f64,
        );
    }

    /// Speculative decoding: ours by source, vLLM's in sum.
    fn drafts(&mut self) {
        type Count = fn(&(&str, u64, u64)) -> u64;
        let counts: [(&str, &str, Count); 2] = [
            ("draft_tokens", "Tokens guessed ahead and computed.", |drafts| drafts.1),
            ("accepted_tokens", "Tokens guessed ahead that came about.", |drafts| drafts.2),
        ];
        for (name, help, count) in counts {
            let ours = format!("sconce:spec_decode_num_{name}_total");
            self.family("counter", &ours, help, |model, samples| {
                for drafts in &model.load.drafts {
                    let source = format!(",source=\"{}\"", drafts.0);
                    samples.add(&ours, &source, count(drafts) as f64);
                }
            });
            let theirs = format!("vllm:spec_decode_num_{name}_total");
            self.one("counter", &theirs, help, |model| {
                model.load.drafts.iter().map(count).sum::<u64>() as f64
            });
        }
    }

    fn cache_shape(&mut self) {
        for name in PREFIXES.map(|prefix| format!("{prefix}cache_config_info")) {
            self.family("gauge", &name, "The shape of the key-value cache.", |model, samples| {
                let (size, num) = (model.load.block_size, model.load.num_blocks);
                let shape = format!(",block_size=\"{size}\",num_gpu_blocks=\"{num}\"");
                samples.add(&name, &shape, 1.0);
            });
        }
    }

    fn counters(&mut self) {
        self.both(
            "counter",
            "prompt_tokens_total",
            "Prompt tokens of accepted sequences.",
            |model| count(&model.metrics.prompt_tokens),
        );
        self.both("counter", "generation_tokens_total", "Generated tokens.", |model| {
            count(&model.metrics.generation_tokens)
        });
        self.one(
            "counter",
            "sconce:requests_rejected_total",
            "Requests refused because the queue was full.",
            |model| count(&model.metrics.rejections),
        );
        for name in PREFIXES.map(|prefix| format!("{prefix}request_success_total")) {
            let help = "Sequences that ended, by reason.";
            self.family("counter", &name, help, |model, samples| {
                for (ending, reason) in ENDINGS {
                    let value = count(&model.metrics.endings[ending as usize]);
                    samples.add(&name, &format!(",finished_reason=\"{reason}\""), value);
                }
            });
        }
    }

    fn histograms(&mut self) {
        type Pick = fn(&Metrics) -> &Histogram;
        let histograms: [(&str, &str, Pick); 3] = [
            (
                "time_to_first_token_seconds",
                "From the request's arrival to its first token.",
                |metrics| &metrics.time_to_first_token,
            ),
            ("inter_token_latency_seconds", "Between two tokens of a sequence.", |metrics| {
                &metrics.inter_token
            }),
            (
                "e2e_request_latency_seconds",
                "From the request's arrival to its last token.",
                |metrics| &metrics.e2e,
            ),
        ];
        for (name, help, pick) in histograms {
            for name in PREFIXES.map(|prefix| format!("{prefix}{name}")) {
                self.family("histogram", &name, help, |model, samples| {
                    samples.histogram(&name, pick(model.metrics));
                });
            }
        }
    }

    fn both(&mut self, kind: &str, name: &str, help: &str, value: impl Fn(&Reading<'_>) -> f64) {
        for prefix in PREFIXES {
            self.one(kind, &format!("{prefix}{name}"), help, &value);
        }
    }

    fn one(&mut self, kind: &str, name: &str, help: &str, value: impl Fn(&Reading<'_>) -> f64) {
        self.family(kind, name, help, |model, samples| samples.add(name, "", value(model)));
    }

    /// A family with the samples of each model.
    fn family(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        samples: impl Fn(&Reading<'_>, &mut Samples<'_>),
    ) {
        if self.readings.is_empty() {
            return;
        }
        write(&mut self.out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for reading in &self.readings {
            samples(reading, &mut Samples { out: &mut self.out, model: &reading.name });
        }
    }
}

/// Those of one model.
struct Samples<'a> {
    out: &'a mut String,
    model: &'a str,
}

impl Samples<'_> {
    fn add(&mut self, name: &str, labels: &str, value: f64) {
        let model = self.model;
        write(self.out, format_args!("{name}{{model_name=\"{model}\"{labels}}} {value}\n"));
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            total += count.load(Ordering::Relaxed);
            self.add(&bucket, &format!(",le=\"{bound}\""), total as f64);
        }
        total += histogram.counts[histogram.bounds.len()].load(Ordering::Relaxed);
        self.add(&bucket, ",le=\"+Inf\"", total as f64);
        self.add(&format!("{name}_sum"), "", histogram.sum_seconds());
        self.add(&format!("{name}_count"), "", total as f64);
    }
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes any text");
}

fn count(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

/// A label value as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn histograms_are_cumulative_and_count_the_bound_itself() {
        let metrics = Metrics::default();
        for millis in [1, 3, 700_000] {
            metrics.token(Duration::from_millis(millis), true);
        }
        let reading = Reading { name: escape("a\"b"), load: Load::default(), metrics: &metrics };
        let mut page = Page { out: String::new(), readings: vec![reading] };
        page.histograms();
        let text = page.out;
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
