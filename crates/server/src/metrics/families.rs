//! Every family: vLLM's names for what means what it means there, our own for the rest. The samples of
//! a family stand together, one or more for each model.

use std::sync::atomic::{AtomicU64, Ordering};

use engine::ceilings::Ceilings;
use engine::{EngineStats, MAX_DRAFT_PLACES, STEP_TOKEN_BOUNDS};

use super::histogram::{Buckets, Histogram};
use super::page::{Page, Samples, escape};
use super::{ENDINGS, Metrics, REJECTIONS};
use crate::generator::Load;
use crate::served_model::ServedModel;

type Head = (&'static str, &'static str, &'static str);
type Number = fn(&Reading<'_>) -> f64;
type Several = fn(&Reading<'_>, &mut Samples<'_>);

/// One number of a model each.
const NUMBERS: &[(Head, Number)] = &[
    (("gauge", "vllm:num_requests_running", "Sequences that hold cache blocks."), |model| {
        model.stats().num_running as f64
    }),
    (("gauge", "vllm:num_requests_waiting", "Sequences that wait to run."), |model| {
        model.stats().num_waiting as f64
    }),
    (
        ("gauge", "sconce:num_tokens_waiting", "Prompt tokens of sequences that have not run."),
        |model| model.stats().num_waiting_tokens as f64,
    ),
    (("gauge", "vllm:kv_cache_usage_perc", "Cache blocks in use, 0 to 1."), |model| {
        model.stats().kv_blocks_used as f64 / model.stats().kv_blocks_total.max(1) as f64
    }),
    (("gauge", "sconce:engine_up", "1 while the engine answers, 0 once it has ended."), |model| {
        f64::from(u8::from(model.is_alive))
    }),
    (
        ("counter", "sconce:engine_restarts_total", "Times the engine began anew after a panic."),
        |model| model.stats().restarts as f64,
    ),
    (("counter", "sconce:engine_failed_steps_total", "Steps that gave an error."), |model| {
        model.stats().failed_steps as f64
    }),
    (("counter", "sconce:engine_steps_total", "Steps that the engine began."), |model| {
        model.stats().steps as f64
    }),
    (
        (
            "counter",
            "sconce:requests_expired_total",
            "Sequences dropped because their deadline passed while they waited.",
        ),
        |model| model.stats().expired as f64,
    ),
    (("counter", "vllm:num_preemptions_total", "Times a sequence lost its blocks."), |model| {
        model.stats().preemptions as f64
    }),
    (
        (
            "counter",
            "vllm:prefix_cache_queries_total",
            "Prompt tokens looked up in the prefix cache.",
        ),
        |model| model.stats().prefix_queries as f64,
    ),
    (
        (
            "counter",
            "vllm:prefix_cache_hits_total",
            "Prompt tokens that were looked up and were there.",
        ),
        |model| model.stats().cached_prompt_tokens as f64,
    ),
    (("counter", "vllm:prompt_tokens_total", "Prompt tokens of sequences that ran."), |model| {
        model.stats().prompt_tokens as f64
    }),
    (
        ("counter", "vllm:prompt_tokens_cached_total", "Prompt tokens that were not computed."),
        |model| model.stats().cached_prompt_tokens as f64,
    ),
    (("counter", "vllm:generation_tokens_total", "Tokens of answers."), |model| {
        count(&model.metrics.generation_tokens)
    }),
    (
        (
            "counter",
            "vllm:corrupted_requests_total",
            "Sequences for which the model gave no numbers.",
        ),
        |model| count(&model.metrics.corrupted),
    ),
    (
        ("counter", "vllm:spec_decode_num_drafts_total", "Times a sequence had guesses in a step."),
        |model| model.stats().draft_rounds as f64,
    ),
    (
        (
            "counter",
            "vllm:spec_decode_num_draft_tokens_total",
            "Tokens guessed ahead and computed.",
        ),
        |model| drafts(model.stats()).map(|(_, drafts, _)| drafts).iter().sum::<u64>() as f64,
    ),
    (
        (
            "counter",
            "vllm:spec_decode_num_accepted_tokens_total",
            "Tokens guessed ahead that came about.",
        ),
        |model| drafts(model.stats()).map(|(_, _, right)| right).iter().sum::<u64>() as f64,
    ),
];

/// Several numbers of a model each, told apart by a label.
const LABELLED: &[(Head, Several)] = &[
    (
        (
            "gauge",
            "vllm:num_requests_waiting_by_reason",
            "Sequences that wait to run, by what for.",
        ),
        |model, samples| {
            samples.add(model.and("reason", "capacity"), model.stats().num_waiting as f64);
        },
    ),
    (("gauge", "vllm:cache_config_info", "The key-value cache."), |model, samples| {
        let Load { stats, block_size, cache_dtype, enable_prefix_caching, .. } = &model.load;
        let (name, blocks) = (&model.labels, stats.kv_blocks_total);
        let caching = if *enable_prefix_caching { "True" } else { "False" };
        samples.add(
            format_args!(
                "{name},block_size=\"{block_size}\",cache_dtype=\"{cache_dtype}\",\
                 enable_prefix_caching=\"{caching}\",num_gpu_blocks=\"{blocks}\""
            ),
            1.0,
        );
    }),
    (
        ("counter", "vllm:request_success_total", "Sequences that ended, by how."),
        |model, samples| {
            for (ending, reason) in ENDINGS {
                let value = count(&model.metrics.endings[ending as usize]);
                samples.add(model.and("finished_reason", reason), value);
            }
        },
    ),
    (
        (
            "counter",
            "vllm:admission_rejections_total",
            "Requests that the full queue did not take.",
        ),
        |model, samples| {
            for (reason, rejected) in REJECTIONS.iter().zip(&model.metrics.rejections) {
                samples.add(model.and("reason", reason), count(rejected));
            }
        },
    ),
    (
        (
            "counter",
            "vllm:prompt_tokens_by_source_total",
            "Prompt tokens by where their keys came from.",
        ),
        |model, samples| {
            let EngineStats { prompt_tokens, cached_prompt_tokens: cached, .. } = model.stats();
            let computed = prompt_tokens.saturating_sub(*cached);
            samples.add(model.and("source", "local_compute"), computed as f64);
            samples.add(model.and("source", "local_cache_hit"), *cached as f64);
        },
    ),
    (
        ("counter", "vllm:prompt_tokens_cached_by_source_total", "Cached prompt tokens by where."),
        |model, samples| {
            samples.add(model.and("source", "device"), model.stats().cached_prompt_tokens as f64);
        },
    ),
    (
        (
            "counter",
            "vllm:spec_decode_num_accepted_tokens_per_pos_total",
            "Tokens guessed ahead that came about, by how far ahead.",
        ),
        |model, samples| {
            let places = model.load.num_speculative_tokens.min(MAX_DRAFT_PLACES);
            for (place, accepted) in model.stats().accepted_at[..places].iter().enumerate() {
                samples.add(model.and("position", place), *accepted as f64);
            }
        },
    ),
    (
        (
            "counter",
            "sconce:spec_decode_num_draft_tokens_total",
            "Tokens guessed ahead and computed, by whose guess.",
        ),
        |model, samples| {
            for (source, drafts, _) in drafts(model.stats()) {
                samples.add(model.and("source", source), drafts as f64);
            }
        },
    ),
    (
        (
            "counter",
            "sconce:spec_decode_num_accepted_tokens_total",
            "Tokens guessed ahead that came about, by whose guess.",
        ),
        |model, samples| {
            for (source, _, right) in drafts(model.stats()) {
                samples.add(model.and("source", source), right as f64);
            }
        },
    ),
    (
        ("counter", "sconce:engine_seconds_total", "Time in steps, by what for."),
        |model, samples| {
            let stats = model.stats();
            let parts = [
                ("schedule", stats.schedule_ns),
                ("guess", stats.guess_ns),
                ("forward", stats.forward_ns),
                ("sample", stats.sample_ns),
                ("step", stats.step_ns),
            ];
            for (part, nanos) in parts {
                samples.add(model.and("part", part), nanos as f64 / 1e9);
            }
        },
    ),
    (
        (
            "counter",
            "vllm:estimated_read_bytes_per_gpu_total",
            "Memory that steps read at least, weights and cache (with --enable-mfu-metrics).",
        ),
        |model, samples| model.measured(samples, |_, stats| stats.read_kib as f64 * 1024.0),
    ),
    (
        (
            "counter",
            "vllm:estimated_flops_per_gpu_total",
            "Multiplications and additions of steps (with --enable-mfu-metrics).",
        ),
        |model, samples| model.measured(samples, |_, stats| stats.megaflops as f64 * 1e6),
    ),
    (
        (
            "gauge",
            "sconce:device_bytes_per_second",
            "What the device's memory can give, as measured at the start (with --enable-mfu-metrics).",
        ),
        |model, samples| model.measured(samples, |ceilings, _| ceilings.bytes_per_second),
    ),
    (
        (
            "gauge",
            "sconce:device_flops_per_second",
            "What the device can compute, as measured at the start (with --enable-mfu-metrics).",
        ),
        |model, samples| model.measured(samples, |ceilings, _| ceilings.flops_per_second),
    ),
];

type Pick = fn(&Metrics) -> &Histogram;

/// Histograms of seconds.
const TIMES: &[(&str, &str, Pick)] = &[
    ("vllm:time_to_first_token_seconds", "From a request's arrival to its first token.", |m| {
        &m.time_to_first_token
    }),
    ("vllm:inter_token_latency_seconds", "Between two tokens of a sequence.", |m| &m.inter_token),
    (
        "vllm:request_time_per_output_token_seconds",
        "Mean time between the tokens of a sequence, of those with two at least.",
        |m| &m.time_per_output_token,
    ),
    ("vllm:e2e_request_latency_seconds", "From a request's arrival to its last token.", |m| &m.e2e),
    ("vllm:request_queue_time_seconds", "In the queue.", |m| &m.queue),
    ("vllm:request_prefill_time_seconds", "From the queue to the first token.", |m| &m.prefill),
    ("vllm:request_decode_time_seconds", "From the first token to the last.", |m| &m.decode),
    ("vllm:request_inference_time_seconds", "From the queue to the last token.", |m| &m.inference),
];

/// Histograms of numbers, of sequences or requests that came to their end.
const SIZES: &[(&str, &str, Pick)] = &[
    ("vllm:request_prompt_tokens", "Prompt tokens of a sequence.", |m| &m.prompt_tokens),
    ("vllm:request_prefill_kv_computed_tokens", "Prompt tokens that were not cached.", |m| {
        &m.computed_prompt_tokens
    }),
    ("vllm:request_generation_tokens", "Tokens of an answer.", |m| &m.generated),
    ("vllm:request_max_num_generation_tokens", "Tokens of a request's longest answer.", |m| {
        &m.longest_generated
    }),
    ("vllm:request_params_n", "Choices that a request asked for.", |m| &m.choices),
    ("vllm:request_params_max_tokens", "Most tokens that an answer might have.", |m| &m.max_tokens),
    ("vllm:request_num_preemptions", "Times a sequence lost its blocks.", |m| &m.preemptions),
];

/// A model at this moment.
struct Reading<'a> {
    /// `model_name`, escaped.
    labels: String,
    load: Load,
    is_alive: bool,
    metrics: &'a Metrics,
}

impl<'a> Reading<'a> {
    fn new(model: &'a ServedModel) -> Self {
        Self {
            labels: format!("model_name=\"{}\"", escape(&model.names()[0])),
            load: model.generator().load(),
            is_alive: model.generator().is_alive(),
            metrics: model.metrics(),
        }
    }

    fn stats(&self) -> &EngineStats {
        &self.load.stats
    }

    /// A number there is only if the device was measured.
    fn measured(&self, samples: &mut Samples<'_>, value: fn(&Ceilings, &EngineStats) -> f64) {
        if let Some(ceilings) = &self.load.ceilings {
            samples.add(&self.labels, value(ceilings, self.stats()));
        }
    }

    fn and(&self, label: &str, value: impl std::fmt::Display) -> String {
        format!("{},{label}=\"{value}\"", self.labels)
    }
}

impl Page {
    /// Adds the families of the models.
    pub(crate) fn models<'a>(&mut self, models: impl Iterator<Item = &'a ServedModel>) {
        let readings: Vec<_> = models.map(Reading::new).collect();
        for (head, value) in NUMBERS {
            self.family(*head, |samples| {
                for model in &readings {
                    samples.add(&model.labels, value(model));
                }
            });
        }
        for (head, add) in LABELLED {
            self.family(*head, |samples| readings.iter().for_each(|model| add(model, samples)));
        }
        for (name, help, pick) in TIMES {
            self.family(("histogram", name, help), |samples| {
                for model in &readings {
                    samples.histogram(&model.labels, &pick(model.metrics).times());
                }
            });
        }
        for (name, help, pick) in SIZES {
            self.family(("histogram", name, help), |samples| {
                for model in &readings {
                    samples.histogram(&model.labels, &pick(model.metrics).numbers());
                }
            });
        }
        let head = ("histogram", "vllm:iteration_tokens_total", "Tokens that a step computed.");
        self.family(head, |samples| {
            let bounds = STEP_TOKEN_BOUNDS.map(|bound| bound as f64);
            for model in &readings {
                let EngineStats { step_tokens, batched_tokens, .. } = model.stats();
                let (counts, sum) = (step_tokens.to_vec(), *batched_tokens as f64);
                samples.histogram(&model.labels, &Buckets { bounds: &bounds, counts, sum });
            }
        });
    }
}

/// Guesses by source: computed, and those that came about.
fn drafts(stats: &EngineStats) -> [(&'static str, u64, u64); 3] {
    [
        ("grammar", stats.grammar_drafts, stats.grammar_drafts_accepted),
        ("lookup", stats.lookup_drafts, stats.lookup_drafts_accepted),
        ("model", stats.model_drafts, stats.model_drafts_accepted),
    ]
}

fn count(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}
