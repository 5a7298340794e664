//! When the requests of an open loop are due: a renewal process with gamma distributed intervals,
//! stretched over a rate that may rise or fall.

use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};

use crate::quantity::Rate;

/// The stream of the seed that arrivals draw from; prompts draw from others.
const STREAM: u64 = u64::MAX;

/// Due times since the start of the run, ascending and without end. The same seed gives the same.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals {
    rng: ChaCha8Rng,
    intervals: Gamma<f64>,
    rate: Rate,
    /// How long the rate takes from its first value to its second.
    ramp_s: f64,
    /// Expected arrivals up to now: the process runs evenly in this, at one a unit.
    expected: f64,
}

impl Arrivals {
    /// `burstiness` is the shape of the gamma distribution: 1 is a Poisson process, smaller comes
    /// in bursts, larger is more even. `length` is the time over which a ramp runs.
    pub(crate) fn new(rate: Rate, burstiness: f64, length: Duration, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM);
        let intervals = Gamma::new(burstiness, 1.0 / burstiness).expect("burstiness is above 0");
        Self { rng, intervals, rate, ramp_s: length.as_secs_f64(), expected: 0.0 }
    }

    /// When the rate has brought `expected` arrivals: the inverse of its integral over time.
    fn time_of(&self, expected: f64) -> f64 {
        let Rate { from, to } = self.rate;
        if from == to {
            // All at once when the rate is infinite.
            return expected / from;
        }
        let during_ramp = self.rate.mean() * self.ramp_s;
        if expected >= during_ramp {
            return self.ramp_s + (expected - during_ramp) / to;
        }
        // from t + slope t^2 / 2 = expected, in the form that does not cancel.
        let slope = (to - from) / self.ramp_s;
        2.0 * expected / (from + (from * from + 2.0 * slope * expected).max(0.0).sqrt())
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.expected += self.intervals.sample(&mut self.rng);
        let due = self.time_of(self.expected);
        Some(Duration::try_from_secs_f64(due).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn due_times(rate: Rate, burstiness: f64, seed: u64, count: usize) -> Vec<f64> {
        let arrivals = Arrivals::new(rate, burstiness, MINUTE, seed);
        arrivals.take(count).map(|due| due.as_secs_f64()).collect()
    }

    /// Mean of the intervals and their standard deviation as a share of it.
    fn mean_and_variation(due: &[f64]) -> (f64, f64) {
        let mut before = 0.0;
        let intervals: Vec<_> =
            due.iter().map(|d| d - std::mem::replace(&mut before, *d)).collect();
        let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
        let squares: f64 = intervals.iter().map(|i| (i - mean).powi(2)).sum();
        (mean, (squares / intervals.len() as f64).sqrt() / mean)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn mean_rate_and_burstiness_are_as_asked(
            rate in 0.1f64..1000.0,
            burstiness in prop::sample::select(vec![0.25, 0.5, 1.0, 4.0, 100.0]),
            seed in any::<u64>(),
        ) {
            let due = due_times(Rate::steady(rate), burstiness, seed, 20_000);
            let (mean, variation) = mean_and_variation(&due);
            let expected = 1.0 / f64::sqrt(burstiness);
            // Six standard errors of the mean: 20 000 draws of a known variation.
            prop_assert!((mean * rate - 1.0).abs() < 6.0 * expected / f64::sqrt(20_000.0));
            prop_assert!((variation / expected - 1.0).abs() < 0.2, "{variation} {expected}");
        }

        #[test]
        fn a_seed_gives_the_same_and_time_never_runs_back(
            from in 0.5f64..50.0, to in 0.5f64..50.0, seed in any::<u64>(),
        ) {
            let rate = Rate { from, to };
            let due = due_times(rate, 1.0, seed, 500);
            prop_assert_eq!(&due, &due_times(rate, 1.0, seed, 500));
            prop_assert_ne!(&due, &due_times(rate, 1.0, seed.wrapping_add(1), 500));
            prop_assert!(due.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(due.iter().all(|due| due.is_finite()));
        }
    }

    #[test]
    fn a_ramp_goes_from_one_rate_to_the_other() {
        // 100 to 300 a second over a minute: 200 on average, 125 in the first quarter.
        let due = due_times(Rate { from: 100.0, to: 300.0 }, 1.0, 7, 20_000);
        let within = |from: f64, to: f64| {
            due.iter().filter(|due| (from..to).contains(*due)).count() as f64 / (to - from)
        };
        assert!((within(0.0, 60.0) / 200.0 - 1.0).abs() < 0.05, "{}", within(0.0, 60.0));
        assert!((within(0.0, 15.0) / 125.0 - 1.0).abs() < 0.1, "{}", within(0.0, 15.0));
        assert!((within(45.0, 60.0) / 275.0 - 1.0).abs() < 0.1, "{}", within(45.0, 60.0));
        // Afterwards it stays at the second rate.
        assert!((within(60.0, 80.0) / 300.0 - 1.0).abs() < 0.1, "{}", within(60.0, 80.0));
    }

    #[test]
    fn a_falling_ramp_and_an_infinite_rate() {
        let due = due_times(Rate { from: 20.0, to: 1.0 }, 1.0, 3, 500);
        let first_half = due.iter().filter(|due| **due < 30.0).count() as f64;
        assert!((first_half / 457.5 - 1.0).abs() < 0.2, "{first_half}");
        assert!(due_times(Rate::steady(f64::INFINITY), 1.0, 3, 10).iter().all(|due| *due == 0.0));
    }
}
