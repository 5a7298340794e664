//! `--slo`: the highest rate at which every objective is met, by doubling and then bisection.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use crate::collect::Collector;
use crate::drive::Load;
use crate::quantity::{Objective, Rate, Statistic};
use crate::result::RunResult;
use crate::serve::{Bench, DEFAULT_DURATION, Outcome};
use crate::table;

/// Share of requests that may fail where no objective says otherwise.
const DEFAULT_ERRORS: Objective = Objective::Errors(0.01);
/// A probe has about so many requests at least, within [`LONGEST_PROBE`].
const FEWEST_REQUESTS: f64 = 30.0;
const LONGEST_PROBE: Duration = Duration::from_mins(5);
const MOST_PROBES: usize = 32;
/// The search ends below this share of where it began.
const LOWEST_SHARE: f64 = 1.0 / 1024.0;

/// Which rate to try next, given what the ones before showed.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    start: f64,
    tolerance: f64,
    /// Highest rate that met the objectives, lowest that did not.
    met: Option<f64>,
    missed: Option<f64>,
    num_probes: usize,
}

impl Search {
    pub(crate) fn new(start: f64, tolerance: f64) -> Self {
        Self { start, tolerance, met: None, missed: None, num_probes: 0 }
    }

    /// The next rate; none when the search is done.
    pub(crate) fn next(&self) -> Option<f64> {
        if self.num_probes >= MOST_PROBES {
            return None;
        }
        match (self.met, self.missed) {
            (None, None) => Some(self.start),
            (Some(met), None) => Some(met * 2.0),
            (None, Some(missed)) => (missed > self.start * LOWEST_SHARE).then_some(missed / 2.0),
            // The middle of the two on a scale of ratios.
            (Some(met), Some(missed)) => {
                (missed / met > 1.0 + self.tolerance).then_some((met * missed).sqrt())
            }
        }
    }

    /// What a probe showed. A noisy server may contradict itself: the later word counts.
    pub(crate) fn record(&mut self, rate: f64, met: bool) {
        self.num_probes += 1;
        if met {
            self.met = Some(rate);
            self.missed = self.missed.filter(|missed| *missed > rate);
        } else {
            self.missed = Some(rate);
            self.met = self.met.filter(|met| *met < rate);
        }
    }

    /// The highest rate known to be good.
    pub(crate) fn best(&self) -> Option<f64> {
        self.met
    }
}

/// Objectives of a run, with what stands if nothing was said about failures.
#[derive(Debug, Clone)]
pub(crate) struct Objectives(Vec<Objective>);

impl Objectives {
    pub(crate) fn new(typed: &[Objective]) -> Self {
        let mut all = typed.to_vec();
        if !all.iter().any(|objective| matches!(objective, Objective::Errors(_))) {
            all.push(DEFAULT_ERRORS);
        }
        Self(all)
    }

    /// What a run missed, for people; empty if it met everything.
    pub(crate) fn missed(&self, result: &RunResult) -> Vec<String> {
        let missed = |objective: &Objective| match *objective {
            Objective::Errors(limit) => {
                let share = result.error_share();
                // Without any answer nothing else can be judged.
                let missed = share > limit || result.completed == 0;
                missed.then(|| format!("{objective}: {:.1} % failed", share * 100.0))
            }
            Objective::Latency { metric, statistic, limit } => {
                let found = result.latency(metric).statistic(statistic);
                let missed = found > limit.as_secs_f64() * 1e3;
                missed.then(|| format!("{objective}: {found:.1} ms"))
            }
        };
        self.0.iter().filter_map(missed).collect()
    }

    /// Whether a run of `expected` requests that goes on cannot meet a percentile any more. Only a
    /// clear case counts, because how many requests come is a matter of chance.
    pub(crate) fn are_lost(&self, so_far: &Collector, expected: f64) -> bool {
        self.0.iter().any(|objective| {
            let (share, late) = match *objective {
                Objective::Errors(share) => (share, so_far.failures().total() as f64),
                Objective::Latency { metric, statistic: Statistic::Percentile(percent), limit } => {
                    (1.0 - percent / 100.0, so_far.times(metric).count_above(limit) as f64)
                }
                Objective::Latency { .. } => return false,
            };
            // Only figures of requests are counted against requests.
            let of_requests = !matches!(
                objective,
                Objective::Latency { metric: crate::quantity::Metric::Itl, .. }
            );
            of_requests && late > share * expected * 1.5 + 10.0
        })
    }
}

impl std::fmt::Display for Objectives {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

/// Searches. Every probe is a whole run; the runs come back in ascending order of rate.
pub(crate) async fn search(bench: &Bench<'_>) -> Result<Outcome> {
    let args = bench.args;
    if !(args.slo_start > 0.0 && args.slo_start.is_finite() && args.slo_tolerance > 0.001) {
        bail!("--slo-start wants a rate above 0, --slo-tolerance a share above 0.001");
    }
    let cap = match args.concurrency[..] {
        [] => None,
        [cap] => Some(cap),
        _ => bail!("--slo takes one --concurrency: the most requests at once"),
    };
    let objectives = Objectives::new(&args.slo);
    let mut search = Search::new(args.slo_start, args.slo_tolerance);
    let mut runs = Vec::new();
    let mut ended = Ok(());
    while let Some(rate) = search.next() {
        let load = Load::Open { rate: Rate::steady(rate), burstiness: args.burstiness, cap };
        let duration = probe_duration(rate, args.duration.unwrap_or(DEFAULT_DURATION));
        let number = runs.len() as u64;
        let expected = rate * duration.as_secs_f64();
        let lost = |collector: &Collector| objectives.are_lost(collector, expected);
        let mut run = match bench.measure(load, Some(duration), number, &lost).await {
            Ok(run) => run,
            Err(error) => {
                ended = Err(error);
                break;
            }
        };
        if bench.is_stopped() {
            break;
        }
        let missed = objectives.missed(&run);
        let met = missed.is_empty() && !run.abandoned;
        let verdict = if met { "met".to_owned() } else { format!("missed {}", missed.join(", ")) };
        bench.say(&format!("{rate:>8.2} req/s: {verdict}\n"));
        search.record(rate, met);
        run.slo_met = Some(met);
        runs.push(run);
    }
    let by_rate = |run: &RunResult| run.offered_rate().unwrap_or(f64::INFINITY);
    runs.sort_by(|a, b| by_rate(a).total_cmp(&by_rate(b)));
    let best = search.best();
    bench.say(&match best {
        Some(rate) => {
            format!("\n{rate:.2} req/s is the highest rate found that meets {objectives}\n")
        }
        None => format!("\nno rate was found that meets {objectives}\n"),
    });
    let at_best = runs.iter().find(|run| run.slo_met == Some(true) && run.offered_rate() == best);
    if let Some(run) = at_best {
        bench.say(&table::run(run));
    }
    let json = json!({
        "objectives": objectives.to_string(),
        "max_request_rate": best,
        "tolerance": args.slo_tolerance,
        "interrupted": bench.is_stopped() || ended.is_err(),
    });
    Ok(Outcome { runs, slo: Some(json), ended })
}

/// A slow rate needs longer for a percentile to mean something.
fn probe_duration(rate: f64, asked: Duration) -> Duration {
    let needed = Duration::try_from_secs_f64(FEWEST_REQUESTS / rate).unwrap_or(LONGEST_PROBE);
    needed.min(LONGEST_PROBE).max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::RunFacts;
    use crate::request::{Asked, Sample};
    use crate::result::About;
    use proptest::prelude::*;

    /// Runs a search against a server of which only the capacity is known.
    fn run(start: f64, tolerance: f64, meets: impl Fn(f64) -> bool) -> (Option<f64>, usize) {
        let mut search = Search::new(start, tolerance);
        while let Some(rate) = search.next() {
            let met = meets(rate);
            search.record(rate, met);
        }
        (search.best(), search.num_probes)
    }

    proptest! {
        /// 99th percentile of the waiting time of a queue with one server: it grows without bound
        /// towards the capacity.
        #[test]
        fn the_rate_found_is_the_highest_within_tolerance(
            capacity in 0.05f64..5000.0,
            limit_s in 0.001f64..10.0,
            start in 0.5f64..20.0,
            tolerance in 0.01f64..0.2,
        ) {
            let p99 = |rate: f64| if rate < capacity { 4.6 / (capacity - rate) } else { f64::INFINITY };
            let highest = capacity - 4.6 / limit_s;
            let (best, probes) = run(start, tolerance, |rate| p99(rate) <= limit_s);
            prop_assert!(probes <= MOST_PROBES);
            if highest > start * LOWEST_SHARE * 2.0 {
                let best = best.unwrap();
                prop_assert!(best <= highest && best * (1.0 + tolerance) >= highest,
                    "found {best} of {highest} with {probes} probes");
            } else if highest <= 0.0 {
                prop_assert_eq!(best, None);
            }
        }

        /// A server that answers by chance cannot keep the search from ending.
        #[test]
        fn noise_does_not_keep_it_going(answers in prop::collection::vec(any::<bool>(), 64)) {
            let number = std::cell::Cell::new(0);
            let (_, probes) = run(1.0, 0.01, |_| {
                number.set(number.get() + 1);
                answers[number.get() % answers.len()]
            });
            prop_assert!(probes <= MOST_PROBES);
        }
    }

    fn sample(ttft_ms: u64) -> Sample {
        let ms = Duration::from_millis;
        Sample {
            asked: Asked { prompt_tokens: None, output_tokens: 1, keep_text: false },
            due: ms(0),
            started: ms(0),
            chunks: vec![ms(ttft_ms)],
            end: ms(ttft_ms),
            usage: None,
            text: String::new(),
            failure: None,
        }
    }

    fn objectives(text: &str) -> Objectives {
        let typed: Vec<Objective> = text.split(',').map(|one| one.parse().unwrap()).collect();
        Objectives::new(&typed)
    }

    #[test]
    fn what_is_missed_is_named() {
        let mut collector = Collector::default();
        for ttft_ms in 1..=100 {
            collector.add(&sample(ttft_ms), Duration::ZERO);
        }
        let mut result = collector.finish(About::default(), &RunFacts::default());
        assert!(objectives("ttft_p99=100ms,ttft_mean=60ms").missed(&result).is_empty());
        let missed = objectives("ttft_p90=80ms,ttft_p50=60ms").missed(&result);
        assert_eq!(missed.len(), 1);
        assert!(missed[0].starts_with("ttft_p90=80ms: 90."), "{missed:?}");
        result.failed = 5;
        assert!(objectives("ttft=1s").missed(&result)[0].contains("% failed"));
        assert!(objectives("ttft=1s,errors=10%").missed(&result).is_empty());
        (result.completed, result.failed) = (0, 0);
        assert_eq!(objectives("ttft=1s").missed(&result).len(), 1);
    }

    #[test]
    fn a_run_that_cannot_be_saved_is_lost() {
        let mut collector = Collector::default();
        let objectives = objectives("ttft_p99=50ms");
        for _ in 0..12 {
            collector.add(&sample(60), Duration::ZERO);
        }
        assert!(objectives.are_lost(&collector, 100.0));
        assert!(!objectives.are_lost(&collector, 1000.0));
    }

    #[test]
    fn slow_rates_are_probed_longer() {
        let half = Duration::from_secs(30);
        assert_eq!(probe_duration(10.0, half), half);
        assert_eq!(probe_duration(0.5, half), Duration::from_mins(1));
        assert_eq!(probe_duration(1e-9, half), LONGEST_PROBE);
    }
}
