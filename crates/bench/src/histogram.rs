//! A distribution of times: every value counted, percentiles within 0.1 %, moments exact.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Two days in nanoseconds; longer values count as this.
const MAX_NS: u64 = 172_800_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// Points of the curve kept in results: this many steps, and three closer ones at the end.
const CURVE_STEPS: usize = 100;

/// Values as they come.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    histogram: Histogram<u64>,
    /// Mean and sum of squared differences, by Welford.
    mean: f64,
    squares: f64,
}

impl Default for Times {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_NS, SIGNIFICANT_DIGITS);
        let histogram = histogram.expect("the bounds are constants");
        Self { histogram, mean: 0.0, squares: 0.0 }
    }
}

impl Times {
    pub(crate) fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(MAX_NS);
        self.histogram.saturating_record(ns);
        let ms = time.as_secs_f64() * 1e3;
        let difference = ms - self.mean;
        self.mean += difference / self.len() as f64;
        self.squares += difference * (ms - self.mean);
    }

    pub(crate) fn len(&self) -> u64 {
        self.histogram.len()
    }

    /// How many values are longer than `limit`.
    pub(crate) fn count_above(&self, limit: Duration) -> u64 {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(MAX_NS);
        self.len() - self.histogram.count_between(0, limit)
    }

    /// Milliseconds below which `percent` of the values lie.
    pub(crate) fn percentile_ms(&self, percent: f64) -> f64 {
        self.histogram.value_at_percentile(percent) as f64 / 1e6
    }

    pub(crate) fn summary(&self) -> Summary {
        if self.len() == 0 {
            return Summary::default();
        }
        let steps = (0..=CURVE_STEPS).map(|step| step as f64 * 100.0 / CURVE_STEPS as f64);
        let curve = steps.chain([99.9, 99.99]).map(|percent| self.percentile_ms(percent)).collect();
        Summary {
            count: self.len(),
            mean: self.mean,
            median: self.percentile_ms(50.0),
            std: (self.squares / self.len() as f64).sqrt(),
            min: self.histogram.min() as f64 / 1e6,
            max: self.histogram.max() as f64 / 1e6,
            p90: self.percentile_ms(90.0),
            p95: self.percentile_ms(95.0),
            p99: self.percentile_ms(99.0),
            p999: self.percentile_ms(99.9),
            curve,
        }
    }
}

/// What results say of a distribution, in milliseconds. All zero if there was no value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Summary {
    /// Values.
    pub(crate) count: u64,
    /// The arithmetic mean.
    pub(crate) mean: f64,
    /// The 50th percentile.
    pub(crate) median: f64,
    /// Standard deviation.
    pub(crate) std: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Percentiles 0, 1, ... 100, then 99.9 and 99.99.
    pub(crate) curve: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn percentiles_equal_those_of_the_sorted_values(
            mut values in prop::collection::vec(0u64..5_000_000_000_000, 1..400),
            percent in 0.0f64..=100.0,
        ) {
            let mut times = Times::default();
            for &value in &values {
                times.record(Duration::from_nanos(value));
            }
            values.sort_unstable();
            let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
            let exact = values[rank.clamp(1, values.len()) - 1] as f64 / 1e6;
            let found = times.percentile_ms(percent);
            prop_assert!((found - exact).abs() <= exact * 1e-3 + 1e-6, "{found} {exact}");
        }

        #[test]
        fn moments_are_exact(values in prop::collection::vec(0u64..10_000_000_000, 1..400)) {
            let mut times = Times::default();
            for &value in &values {
                times.record(Duration::from_nanos(value));
            }
            let count = values.len() as f64;
            let mean = values.iter().map(|v| *v as f64 / 1e6).sum::<f64>() / count;
            let squares: f64 = values.iter().map(|v| (*v as f64 / 1e6 - mean).powi(2)).sum();
            let summary = times.summary();
            prop_assert!((summary.mean - mean).abs() <= mean * 1e-9 + 1e-9);
            let std = (squares / count).sqrt();
            prop_assert!((summary.std - std).abs() <= std * 1e-6 + 1e-6);
            prop_assert_eq!(summary.count, values.len() as u64);
            prop_assert_eq!(summary.curve.len(), 103);
        }
    }

    #[test]
    fn no_values_and_very_long_ones() {
        assert_eq!(Times::default().summary(), Summary::default());
        let mut times = Times::default();
        times.record(Duration::from_secs(1 << 40));
        assert!(times.summary().max > 1e8);
    }
}
