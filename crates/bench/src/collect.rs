//! From finished requests to the figures of a run.

use std::time::Duration;

use crate::cpu::CpuShare;
use crate::failure::FailureCounts;
use crate::histogram::Times;
use crate::quantity::{Metric, RequestLimit};
use crate::request::Sample;
use crate::result::{About, Detail, GeneratorHealth, RunResult, Timeline};

/// Finest interval of the timeline.
const BIN: Duration = Duration::from_millis(100);
const BINS_PER_SECOND: usize = 10;
/// Most intervals that a result keeps.
const MAX_INTERVALS: usize = 240;

/// The generator's thread is taken for the limit above this share of a core.
const BUSY_SHARE: f64 = 0.85;
/// ... or above this share of waiting for one,
const WAIT_SHARE: f64 = 0.2;
/// ... or if requests were sent late by more than this share of the time to first token: the
/// median by its median, or the 99th percentile by its 99th percentile.
const LAG_SHARE: f64 = 0.1;
const LAG_MS: f64 = 1.0;

/// Below this many values the 99th percentile is the maximum.
const FEWEST_FOR_P99: usize = 100;

/// Takes finished requests.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    times: [Times; 4],
    lag: Times,
    failures: FailureCounts,
    limits: Vec<RequestLimit>,
    detail: Option<Detail>,
    bins: Vec<Bin>,
    end: Duration,
    completed: usize,
    num_good: usize,
    input_tokens: usize,
    cached_tokens: usize,
    output_tokens: usize,
    events: usize,
    without_usage: usize,
    input_mismatches: usize,
    output_mismatches: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Bin {
    tokens: f64,
    begun: usize,
    ended: usize,
    failed: usize,
    ttft_ms: f64,
    num_ttft: usize,
}

impl Collector {
    pub(crate) fn new(limits: Vec<RequestLimit>, detailed: bool) -> Self {
        Self { limits, detail: detailed.then(Detail::default), ..Self::default() }
    }

    pub(crate) fn completed(&self) -> usize {
        self.completed
    }

    pub(crate) fn failures(&self) -> &FailureCounts {
        &self.failures
    }

    pub(crate) fn times(&self, metric: Metric) -> &Times {
        &self.times[metric as usize]
    }

    /// Counts one request. `lag` is how late the generator was, the wait for a place left out.
    pub(crate) fn add(&mut self, sample: &Sample, lag: Duration) {
        self.lag.record(lag);
        self.end = self.end.max(sample.end);
        self.bin(sample.started).begun += 1;
        self.bin(sample.end).ended += 1;
        if let Some(detail) = &mut self.detail {
            detail.add(sample);
        }
        if let Some(failure) = &sample.failure {
            self.failures.add(failure);
            self.bin(sample.end).failed += 1;
            return;
        }
        self.completed += 1;
        self.count_tokens(sample);
        let figures = [sample.ttft(), sample.tpot(), None, Some(sample.e2el())];
        for (times, figure) in self.times.iter_mut().zip(figures) {
            if let Some(figure) = figure {
                times.record(figure);
            }
        }
        for pair in sample.chunks.windows(2) {
            self.times[Metric::Itl as usize].record(pair[1].saturating_sub(pair[0]));
        }
        let good = self.limits.iter().all(|limit| {
            // What a request has no figure for, it cannot be late with.
            figures[limit.metric as usize].is_none_or(|figure| figure <= limit.limit)
        });
        self.num_good += usize::from(good);
        let tokens_per_event = sample.output_tokens() as f64 / sample.chunks.len().max(1) as f64;
        for &arrived in &sample.chunks {
            self.bin(arrived).tokens += tokens_per_event;
        }
        if let Some(ttft) = sample.ttft() {
            let bin = self.bin(sample.due);
            bin.ttft_ms += ttft.as_secs_f64() * 1e3;
            bin.num_ttft += 1;
        }
    }

    fn count_tokens(&mut self, sample: &Sample) {
        let asked = sample.asked;
        self.events += sample.chunks.len();
        self.output_tokens += sample.output_tokens();
        let Some(usage) = sample.usage else {
            self.without_usage += 1;
            self.input_tokens += asked.prompt_tokens.unwrap_or(0);
            return;
        };
        self.input_tokens += usage.prompt_tokens;
        self.cached_tokens += usage.cached_tokens();
        let differs = asked.prompt_tokens.is_some_and(|asked| asked != usage.prompt_tokens);
        self.input_mismatches += usize::from(differs);
        self.output_mismatches += usize::from(asked.output_tokens != usage.completion_tokens);
    }

    fn bin(&mut self, at: Duration) -> &mut Bin {
        let index = (at.as_nanos() / BIN.as_nanos()) as usize;
        if index >= self.bins.len() {
            self.bins.resize(index + 1, Bin::default());
        }
        &mut self.bins[index]
    }

    /// The figures. `max_running` were counted while it ran.
    pub(crate) fn finish(mut self, about: About, run: &RunFacts) -> RunResult {
        let duration = self.end.as_secs_f64().max(1e-9);
        let per_second = |count: usize| count as f64 / duration;
        let good = (!self.limits.is_empty()).then(|| per_second(self.num_good));
        let detail = self.detail.take();
        let [ttft, tpot, itl, e2el] = self.times.each_ref().map(Times::summary);
        let mut result = RunResult {
            duration,
            completed: self.completed,
            failed: self.failures.total(),
            interrupted: run.interrupted,
            abandoned: run.abandoned,
            slo_met: None,
            total_input_tokens: self.input_tokens,
            cached_input_tokens: self.cached_tokens,
            total_output_tokens: self.output_tokens,
            output_tokens_by: if self.without_usage == 0 { "usage" } else { "events" }.to_owned(),
            total_events: self.events,
            input_length_mismatches: self.input_mismatches,
            output_length_mismatches: self.output_mismatches,
            request_throughput: per_second(self.completed),
            request_goodput: good,
            output_throughput: per_second(self.output_tokens),
            total_token_throughput: per_second(self.input_tokens + self.output_tokens),
            max_output_tokens_per_s: self.best_second(),
            max_concurrent_requests: run.max_running,
            ttft,
            tpot,
            itl,
            e2el,
            errors_by_kind: self.failures.list(),
            generator_health: GeneratorHealth {
                cpu_share: run.cpu.map(|cpu| cpu.running),
                cpu_wait_share: run.cpu.map(|cpu| cpu.waiting),
                send_lag: self.lag.summary(),
                connections: run.connections,
                limited: false,
            },
            timeline: self.timeline(),
            notes: run.notes.clone(),
            detail,
            about,
        };
        judge_generator(&mut result);
        note_tokens(&mut result);
        result
    }

    fn best_second(&self) -> f64 {
        let tokens: Vec<f64> = self.bins.iter().map(|bin| bin.tokens).collect();
        if tokens.len() < BINS_PER_SECOND {
            return tokens.iter().sum();
        }
        tokens.windows(BINS_PER_SECOND).map(|second| second.iter().sum()).fold(0.0, f64::max)
    }

    fn timeline(&self) -> Timeline {
        let per_interval = self.bins.len().div_ceil(MAX_INTERVALS).max(1);
        let interval_s = per_interval as f64 * BIN.as_secs_f64();
        let mut timeline = Timeline { interval_s, ..Timeline::default() };
        let mut running = 0.0;
        for bins in self.bins.chunks(per_interval) {
            let sum = |of: fn(&Bin) -> f64| bins.iter().map(of).sum::<f64>();
            timeline.output_throughput.push(sum(|bin| bin.tokens) / interval_s);
            let mut average = 0.0;
            for bin in bins {
                // On average, what begins and ends within a bin does so in its middle.
                let change = bin.begun as f64 - bin.ended as f64;
                average += running + change / 2.0;
                running += change;
            }
            timeline.running.push((average / bins.len() as f64).max(0.0));
            let num_ttft = bins.iter().map(|bin| bin.num_ttft).sum::<usize>();
            let mean = sum(|bin| bin.ttft_ms) / num_ttft as f64;
            timeline.ttft_ms.push((num_ttft > 0).then_some(mean));
            timeline.failed.push(bins.iter().map(|bin| bin.failed).sum());
        }
        timeline
    }
}

/// What the samples alone do not say.
#[derive(Debug, Default)]
pub(crate) struct RunFacts {
    pub(crate) interrupted: bool,
    pub(crate) abandoned: bool,
    pub(crate) max_running: usize,
    pub(crate) connections: usize,
    pub(crate) cpu: Option<CpuShare>,
    pub(crate) notes: Vec<String>,
}

impl Detail {
    fn add(&mut self, sample: &Sample) {
        let asked = sample.asked.prompt_tokens.unwrap_or(0);
        self.input_lens.push(sample.usage.map_or(asked, |usage| usage.prompt_tokens));
        self.output_lens.push(sample.output_tokens());
        self.ttfts.push(sample.ttft().unwrap_or_default().as_secs_f64());
        let gaps =
            sample.chunks.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).as_secs_f64());
        self.itls.push(gaps.collect());
        self.start_times.push(sample.due.as_secs_f64());
        let error = sample.failure.as_ref().map(|failure| failure.message.clone());
        self.errors.push(error.unwrap_or_default());
    }
}

/// Says so where the figures are the generator's as much as the server's.
fn judge_generator(result: &mut RunResult) {
    let health = &mut result.generator_health;
    let mut reasons = Vec::new();
    if let Some(share) = health.cpu_share.filter(|share| *share > BUSY_SHARE) {
        reasons.push(format!("its thread was busy {:.0} % of the time", share * 100.0));
    }
    if let Some(share) = health.cpu_wait_share.filter(|share| *share > WAIT_SHARE) {
        reasons.push(format!(
            "it waited for a free core {:.0} % of the time: run it on another machine, or on cores \
             of its own",
            share * 100.0
        ));
    }
    let (lag, ttft) = (&health.send_lag, &result.ttft);
    let counts = |lag: f64, ttft: f64| lag > LAG_MS && lag > LAG_SHARE * ttft;
    if counts(lag.median, ttft.median) || counts(lag.p99, ttft.p99) {
        let (median, p99) = (lag.median, lag.p99);
        reasons
            .push(format!("requests were sent late: {median:.1} ms (median), {p99:.1} ms (p99)"));
    }
    if !reasons.is_empty() {
        health.limited = true;
        let reasons = reasons.join("; ");
        result.notes.push(format!("the load generator itself was a limit: {reasons}"));
    }
}

/// Says where token counts are not what they seem.
fn note_tokens(result: &mut RunResult) {
    let completed = result.completed;
    if completed == 0 {
        return;
    }
    if result.output_tokens_by == "events" {
        let note = "the server reports no usage: an event is counted as a token";
        result.notes.push(note.to_owned());
    }
    if completed < FEWEST_FOR_P99 {
        result.notes.push(format!("p99 of {completed} requests is the slowest of them"));
    }
    let mismatches = result.input_length_mismatches;
    if mismatches > 0 {
        result.notes.push(format!("{mismatches} of {completed} prompts were not as long as made"));
    }
    let mismatches = result.output_length_mismatches;
    if mismatches > 0 {
        result.notes.push(format!("{mismatches} of {completed} answers were not as long as asked"));
    }
    let per_event = result.total_output_tokens as f64 / result.total_events.max(1) as f64;
    if per_event > 1.05 {
        result.notes.push(format!(
            "{per_event:.2} tokens an event: itl is between events, tpot is per token"
        ));
    }
    let cached = result.cached_input_tokens as f64 / result.total_input_tokens.max(1) as f64;
    if cached > 0.01 {
        let percent = cached * 100.0;
        result.notes.push(format!("{percent:.0} % of the prompt tokens were in the prefix cache (a run with the same --seed \
             before this one leaves them there)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, FailureKind};
    use crate::request::Asked;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sample(due: u64, chunks: &[u64], tokens: usize) -> Sample {
        let usage = serde_json::json!({"prompt_tokens": 10, "completion_tokens": tokens});
        Sample {
            asked: Asked { prompt_tokens: Some(10), output_tokens: 4, keep_text: false },
            due: ms(due),
            started: ms(due),
            chunks: chunks.iter().copied().map(ms).collect(),
            end: ms(*chunks.last().unwrap()),
            usage: serde_json::from_value(usage).ok(),
            text: String::new(),
            failure: None,
        }
    }

    #[test]
    fn figures_of_known_requests() {
        let limit = "ttft=150ms".parse().unwrap();
        let mut collector = Collector::new(vec![limit], true);
        collector.add(&sample(0, &[100, 200, 300, 400], 4), Duration::ZERO);
        collector.add(&sample(500, &[700, 800, 1000, 2000], 3), ms(3));
        let mut failed = sample(600, &[650], 1);
        failed.failure = Some(Failure::new(FailureKind::StreamCut, "cut"));
        collector.add(&failed, Duration::ZERO);
        let facts = RunFacts { max_running: 2, ..RunFacts::default() };
        let result = collector.finish(About::default(), &facts);

        assert_eq!((result.completed, result.failed, result.duration), (2, 1, 2.0));
        assert_eq!((result.total_input_tokens, result.total_output_tokens), (20, 7));
        assert_eq!((result.output_throughput, result.request_throughput), (3.5, 1.0));
        assert_eq!(result.request_goodput, Some(0.5));
        assert_eq!((result.ttft.mean, result.e2el.mean, result.itl.count), (150.0, 950.0, 6));
        // 300 ms over 3 tokens and 1300 ms over 2.
        assert_eq!(result.tpot.mean, 375.0);
        assert_eq!((result.output_length_mismatches, result.input_length_mismatches), (1, 0));
        // From 100 ms on: 4 tokens of the first, and of the second 3/4 each at 700, 800 and 1000 ms.
        assert_eq!(result.max_output_tokens_per_s, 6.25);
        let detail = result.detail.unwrap();
        assert_eq!(detail.ttfts, [0.1, 0.2, 0.05]);
        assert_eq!(detail.errors, ["", "", "cut"]);
        let tokens: f64 = result.timeline.output_throughput.iter().sum();
        assert!((tokens * result.timeline.interval_s - 7.0).abs() < 1e-9);
        assert_eq!(result.timeline.failed.iter().sum::<usize>(), 1);
        assert!(!result.generator_health.limited, "{:?}", result.notes);
    }

    #[test]
    fn a_late_or_busy_generator_is_told_of() {
        let mut collector = Collector::default();
        collector.add(&sample(0, &[20, 30], 4), ms(10));
        let result = collector.finish(About::default(), &RunFacts::default());
        assert!(result.generator_health.limited);
        assert!(result.notes.iter().any(|note| note.contains("sent late")), "{:?}", result.notes);

        for (running, waiting) in [(0.95, 0.0), (0.1, 0.5)] {
            let mut collector = Collector::default();
            collector.add(&sample(0, &[20, 30], 4), Duration::ZERO);
            let cpu = Some(CpuShare { running, waiting });
            let facts = RunFacts { cpu, ..RunFacts::default() };
            assert!(collector.finish(About::default(), &facts).generator_health.limited);
        }
    }

    #[test]
    fn a_long_run_keeps_a_bounded_timeline() {
        let mut collector = Collector::default();
        for second in 0..1000 {
            let due = second * 1000;
            collector.add(&sample(due, &[due + 100, due + 900], 4), Duration::ZERO);
        }
        let result = collector.finish(About::default(), &RunFacts::default());
        assert!(result.timeline.running.len() <= MAX_INTERVALS);
        let mean =
            result.timeline.running.iter().sum::<f64>() / result.timeline.running.len() as f64;
        assert!((mean - 0.9).abs() < 0.05, "{mean}");
    }
}
