//! The result of a run: what is written as JSON, drawn in reports and compared. The flat names are
//! those of `vllm bench serve`; what it has no name for stands beside them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::failure::FailureCount;
use crate::histogram::Summary;
use crate::quantity::{Metric, Statistic};

/// How a run was made: what must be equal for two results to be comparable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct About {
    /// When it began, as `20260131-235959`.
    pub(crate) date: String,
    /// `openai-chat`, `openai` (completions) or `openai-responses`.
    pub(crate) endpoint_type: String,
    /// Name given to the run.
    pub(crate) label: Option<String>,
    /// Model name sent.
    pub(crate) model_id: String,
    /// The tokenizer.json given.
    pub(crate) tokenizer_id: Option<String>,
    /// The server.
    pub(crate) url: String,
    /// What the server's /version says.
    pub(crate) server_version: Option<String>,
    /// This program.
    pub(crate) generator: String,
    /// Requests (conversations) of the run, if limited by number.
    pub(crate) num_prompts: Option<usize>,
    /// Seconds in which requests began, if limited by time.
    pub(crate) duration_limit: Option<f64>,
    /// Requests per second of an open loop, or `"inf"`: what a closed loop is to vLLM.
    pub(crate) request_rate: Value,
    /// Shape of the intervals.
    pub(crate) burstiness: f64,
    /// Users of a closed loop, or most requests at once.
    pub(crate) max_concurrency: Option<usize>,
    /// `closed` or `open`.
    pub(crate) loop_kind: String,
    /// Requests before the run.
    pub(crate) num_warmups: usize,
    /// As asked.
    pub(crate) input_tokens: Option<String>,
    /// As asked.
    pub(crate) output_tokens: Option<String>,
    /// The shared beginnings: tokens, how many, share of prompts.
    pub(crate) prefix: Option<(usize, usize, f64)>,
    /// Turns of a conversation.
    pub(crate) turns: String,
    /// Seconds between an answer and the next turn.
    pub(crate) think_time: f64,
    /// The file of prompts.
    pub(crate) dataset: Option<String>,
    /// Who counted the tokens of prompts of a given length.
    pub(crate) token_source: Option<String>,
    /// Whether answers were kept from ending early.
    pub(crate) ignore_eos: bool,
    /// JSON laid over every request.
    pub(crate) extra_body: Option<String>,
    /// `--goodput`.
    pub(crate) goodput: Option<String>,
    /// What everything random followed from.
    pub(crate) seed: u64,
}

/// How the run went over time, in equal intervals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timeline {
    /// Length of an interval.
    pub(crate) interval_s: f64,
    /// Output tokens per second.
    pub(crate) output_throughput: Vec<f64>,
    /// Requests running, on average.
    pub(crate) running: Vec<f64>,
    /// Mean time to first token of requests due in the interval; none if none was due.
    pub(crate) ttft_ms: Vec<Option<f64>>,
    /// Failed requests that ended in it.
    pub(crate) failed: Vec<usize>,
}

/// Whether the generator itself stood in the way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GeneratorHealth {
    /// Share of the run in which the generator's thread ran; none where the system keeps no account.
    pub(crate) cpu_share: Option<f64>,
    /// Share in which it could have run, but the cores were taken.
    pub(crate) cpu_wait_share: Option<f64>,
    /// From when requests were due to when they were sent, waiting for --concurrency left out.
    pub(crate) send_lag: Summary,
    /// Connections opened during the run.
    pub(crate) connections: usize,
    /// The generator was the limit, so that the figures are not the server's alone.
    pub(crate) limited: bool,
}

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RunResult {
    /// How it was made.
    #[serde(flatten)]
    pub(crate) about: About,
    /// Seconds from the start to the end of the last answer.
    pub(crate) duration: f64,
    /// Requests answered.
    pub(crate) completed: usize,
    /// Requests not answered.
    pub(crate) failed: usize,
    /// Ended by the user; unfinished requests are in no figure.
    pub(crate) interrupted: bool,
    /// Ended before its time: an objective of --slo could not be met any more.
    pub(crate) abandoned: bool,
    /// Whether the objectives of --slo were met.
    pub(crate) slo_met: Option<bool>,
    /// By usage where the server reports it, else as asked.
    pub(crate) total_input_tokens: usize,
    /// Of them, those the server had in its prefix cache, where it says so.
    pub(crate) cached_input_tokens: usize,
    /// By usage where the server reports it, else one an event.
    pub(crate) total_output_tokens: usize,
    /// `usage` or `events`.
    pub(crate) output_tokens_by: String,
    /// Events that carried output.
    pub(crate) total_events: usize,
    /// Answered prompts that were not as long as made, by usage.
    pub(crate) input_length_mismatches: usize,
    /// Answers that were not as long as asked, by usage.
    pub(crate) output_length_mismatches: usize,
    /// Answered requests per second.
    pub(crate) request_throughput: f64,
    /// Good ones per second, with --goodput.
    pub(crate) request_goodput: Option<f64>,
    /// Output tokens per second.
    pub(crate) output_throughput: f64,
    /// All tokens per second.
    pub(crate) total_token_throughput: f64,
    /// The best second.
    pub(crate) max_output_tokens_per_s: f64,
    /// Most requests running at once.
    pub(crate) max_concurrent_requests: usize,
    /// Time to the first token.
    pub(crate) ttft: Summary,
    /// Time per output token.
    pub(crate) tpot: Summary,
    /// Between events.
    pub(crate) itl: Summary,
    /// The whole request.
    pub e2el: Summary,
    /// Failures by kind.
    pub(crate) errors_by_kind: Vec<FailureCount>,
    /// The generator itself.
    pub(crate) generator_health: GeneratorHealth,
    /// Over time.
    pub(crate) timeline: Timeline,
    /// What the reader should know.
    pub(crate) notes: Vec<String>,
    /// Each request, with --save-detailed: ttfts, itls, ...
    #[serde(flatten)]
    pub(crate) detail: Option<Detail>,
}

/// Every request, in vLLM's names: seconds, in the order in which they ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Detail {
    /// Tokens of the prompts.
    pub(crate) input_lens: Vec<usize>,
    /// Tokens of the answers.
    pub(crate) output_lens: Vec<usize>,
    /// Times to the first token; 0 if none came.
    pub(crate) ttfts: Vec<f64>,
    /// Times between events.
    pub(crate) itls: Vec<Vec<f64>>,
    /// When each was due, since the start.
    pub(crate) start_times: Vec<f64>,
    /// Empty if there was none.
    pub(crate) errors: Vec<String>,
}

impl RunResult {
    /// The distribution of a metric.
    pub(crate) fn latency(&self, metric: Metric) -> &Summary {
        match metric {
            Metric::Ttft => &self.ttft,
            Metric::Tpot => &self.tpot,
            Metric::Itl => &self.itl,
            Metric::E2el => &self.e2el,
        }
    }

    /// Share of the requests that failed.
    pub(crate) fn error_share(&self) -> f64 {
        self.failed as f64 / (self.completed + self.failed).max(1) as f64
    }

    /// The load, for people.
    pub(crate) fn load(&self) -> String {
        let concurrency = self.about.max_concurrency;
        if self.about.loop_kind == "closed" {
            return format!("{} users", concurrency.unwrap_or(0));
        }
        let rate = match &self.about.request_rate {
            Value::String(rate) => rate.clone(),
            rate => format!("{:.4}", rate.as_f64().unwrap_or(0.0)),
        };
        let rate = if rate.contains('.') && !rate.contains("..") {
            rate.trim_end_matches('0').trim_end_matches('.')
        } else {
            &rate
        };
        if rate == "inf" && concurrency.is_none() {
            return "all at once".to_owned();
        }
        let cap = concurrency.map(|most| format!(", {most} at most at once"));
        format!("{rate} req/s{}", cap.unwrap_or_default())
    }

    /// Requests per second that were meant to arrive; none of a closed loop or an infinite rate.
    pub(crate) fn offered_rate(&self) -> Option<f64> {
        if self.about.loop_kind == "open" { self.about.request_rate.as_f64() } else { None }
    }

    /// All of it, with the flat names of `vllm bench serve`.
    pub(crate) fn to_json(&self) -> Value {
        let mut all = match serde_json::to_value(self) {
            Ok(Value::Object(all)) => all,
            other => unreachable!("a result is an object: {other:?}"),
        };
        let mut flat = Map::new();
        flat.insert("backend".to_owned(), json!(self.about.endpoint_type));
        for metric in Metric::ALL {
            let (name, times) = (metric.name(), self.latency(metric));
            for (statistic, value) in [
                ("mean", times.mean),
                ("median", times.median),
                ("std", times.std),
                ("p50", times.median),
                ("p90", times.p90),
                ("p95", times.p95),
                ("p99", times.p99),
                ("p99.9", times.p999),
                ("max", times.max),
            ] {
                flat.insert(format!("{statistic}_{name}_ms"), json!(value));
            }
        }
        // The figures first, the long lists last.
        let at = all.keys().position(|key| key == "ttft").unwrap_or(all.len());
        let tail = all.keys().skip(at).cloned().collect::<Vec<_>>();
        let tail: Vec<_> =
            tail.into_iter().filter_map(|key| all.shift_remove(&key).map(|v| (key, v))).collect();
        all.extend(flat);
        all.extend(tail);
        Value::Object(all)
    }
}

impl Summary {
    /// A figure of it, in milliseconds; between percentiles that are kept, the next higher.
    pub(crate) fn statistic(&self, statistic: Statistic) -> f64 {
        let Statistic::Percentile(percent) = statistic else { return self.mean };
        if self.curve.is_empty() {
            // Another tool's result, which has these alone, or some of them.
            let known = [(50.0, self.median), (90.0, self.p90), (95.0, self.p95)];
            let next = known.into_iter().find(|&(known, ms)| percent <= known && ms > 0.0);
            return next.map_or(self.p99, |(_, value)| value);
        }
        let at = if percent <= 99.0 {
            percent.ceil() as usize
        } else if percent <= 99.9 {
            101
        } else if percent <= 99.99 {
            102
        } else {
            100
        };
        self.curve[at.min(self.curve.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Times;
    use std::time::Duration;

    #[test]
    fn results_have_the_names_people_know_and_can_be_read_back() {
        let mut times = Times::default();
        for ms in 1..=1000 {
            times.record(Duration::from_millis(ms));
        }
        let result = RunResult {
            about: About { request_rate: json!("inf"), ..About::default() },
            ttft: times.summary(),
            detail: Some(Detail { ttfts: vec![0.5], ..Detail::default() }),
            ..RunResult::default()
        };
        let json = result.to_json();
        for name in [
            "date",
            "backend",
            "model_id",
            "num_prompts",
            "request_rate",
            "burstiness",
            "max_concurrency",
            "duration",
            "completed",
            "failed",
            "total_input_tokens",
            "total_output_tokens",
            "request_throughput",
            "request_goodput",
            "output_throughput",
            "total_token_throughput",
            "max_output_tokens_per_s",
            "max_concurrent_requests",
            "mean_ttft_ms",
            "median_ttft_ms",
            "std_ttft_ms",
            "p99_ttft_ms",
            "mean_tpot_ms",
            "p99_tpot_ms",
            "median_itl_ms",
            "p99_itl_ms",
            "mean_e2el_ms",
            "p99_e2el_ms",
            "ttfts",
            "itls",
            "input_lens",
            "output_lens",
            "errors",
        ] {
            assert!(json.get(name).is_some(), "{name} is not in {json}");
        }
        assert!((json["p99_ttft_ms"].as_f64().unwrap() - 990.0).abs() < 1.0);
        assert_eq!(serde_json::from_value::<RunResult>(json).unwrap(), result);
        let statistic = |percent| result.ttft.statistic(Statistic::Percentile(percent));
        for (percent, expected) in [(50.0, 500.0), (99.0, 990.0), (99.9, 999.0), (100.0, 1000.0)] {
            assert!(
                (statistic(percent) - expected).abs() < 1.5,
                "{percent}: {}",
                statistic(percent)
            );
        }
    }
}
