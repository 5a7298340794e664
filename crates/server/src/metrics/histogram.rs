//! Times in buckets, written with one atomic add each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts per bucket, not cumulative; the last bucket has no bound.
#[derive(Debug)]
pub(super) struct Histogram {
    pub(super) bounds: &'static [f64],
    pub(super) counts: Vec<AtomicU64>,
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, counts, sum_ns: AtomicU64::default() }
    }

    pub(super) fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64()
    }
}
