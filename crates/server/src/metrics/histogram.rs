//! Times or numbers in buckets, written with one atomic add each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts per bucket, not cumulative; the last bucket has no bound.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    /// In nanoseconds or in what is counted.
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug)]
pub(super) struct Buckets<'a> {
    pub(super) bounds: &'a [f64],
    /// One more than the bounds.
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, counts, sum: AtomicU64::default() }
    }

    /// Of a histogram of times.
    pub(super) fn observe(&self, elapsed: Duration) {
        self.add(elapsed.as_secs_f64(), elapsed.as_nanos() as u64);
    }

    /// Of a histogram of numbers.
    pub(super) fn count(&self, number: usize) {
        self.add(number as f64, number as u64);
    }

    fn add(&self, value: f64, raw: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(raw, Ordering::Relaxed);
    }

    /// Of a histogram of times.
    pub(super) fn times(&self) -> Buckets<'_> {
        let sum = Duration::from_nanos(self.sum.load(Ordering::Relaxed)).as_secs_f64();
        Buckets { sum, ..self.numbers() }
    }

    /// Of a histogram of numbers.
    pub(super) fn numbers(&self) -> Buckets<'_> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Buckets { bounds: self.bounds, counts, sum: self.sum.load(Ordering::Relaxed) as f64 }
    }
}
