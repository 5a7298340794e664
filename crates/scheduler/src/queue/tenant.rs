//! One tenant: what it was served, and which of its sequences is next.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::MAX_OVERTAKEN;
use crate::{SeqId, Share};

/// Fractions of a cost in a counter: with the largest weight each token still raises it.
const UNIT: u64 = 1 << u16::BITS;

/// Names a tenant while the queue remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TenantId(pub(super) usize);

/// A tenant's place among those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// The priority of its most urgent waiting sequence.
    pub(super) priority: i32,
    /// What the counter was when the key was made: a tenant that runs may be past it.
    pub(super) counter: u64,
    /// Arrival of its oldest waiting sequence.
    pub(super) oldest: u64,
}

/// What is known of a tenant. Its waiting sequences are in order of priority and arrival, but the
/// oldest of them comes at the latest after [`MAX_OVERTAKEN`] others.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) name: Option<Arc<str>>,
    pub(super) weight: NonZeroU16,
    /// What it was served over its weight, and what it missed while it did not wait. It only grows.
    pub(super) counter: u64,
    /// What is not yet in the counter, below the weight.
    remainder: u64,
    /// Sequences that wait or run.
    pub(super) num_live: usize,
    by_priority: BTreeMap<(i32, u64), SeqId>,
    by_arrival: BTreeMap<u64, i32>,
    /// Sequences that were admitted since the oldest one could have been.
    num_overtaken: usize,
    /// Its keys in the orders of the queue.
    pub(super) key: Option<Key>,
}

impl Tenant {
    pub(super) fn new(share: Option<&Share>) -> Self {
        Self {
            name: share.map(|share| Arc::clone(&share.tenant)),
            weight: NonZeroU16::MIN,
            counter: 0,
            remainder: 0,
            num_live: 0,
            by_priority: BTreeMap::new(),
            by_arrival: BTreeMap::new(),
            num_overtaken: 0,
            key: None,
        }
    }

    pub(super) fn charge(&mut self, cost: u64) {
        let weight = u64::from(self.weight.get());
        let sum = self.remainder + cost * UNIT;
        self.counter = self.counter.saturating_add(sum / weight);
        self.remainder = sum % weight;
    }

    pub(super) fn num_waiting(&self) -> usize {
        self.by_priority.len()
    }

    pub(super) fn push(&mut self, priority: i32, arrival: u64, id: SeqId) {
        self.by_priority.insert((priority, arrival), id);
        self.by_arrival.insert(arrival, priority);
    }

    pub(super) fn remove(&mut self, priority: i32, arrival: u64) -> Option<SeqId> {
        self.by_arrival.remove(&arrival);
        let removed = self.by_priority.remove(&(priority, arrival));
        if self.by_priority.is_empty() {
            self.num_overtaken = 0;
        }
        removed
    }

    /// Counts that the sequence of this arrival is admitted.
    pub(super) fn count_admission(&mut self, arrival: u64) {
        let is_oldest = self.by_arrival.keys().next() == Some(&arrival);
        self.num_overtaken = if is_oldest { 0 } else { self.num_overtaken + 1 };
    }

    /// Which of its sequences is next: priority, arrival, name.
    pub(super) fn next(&self) -> Option<(i32, u64, SeqId)> {
        if self.num_overtaken < MAX_OVERTAKEN {
            let (&(priority, arrival), &id) = self.by_priority.first_key_value()?;
            return Some((priority, arrival, id));
        }
        let (&arrival, &priority) = self.by_arrival.first_key_value()?;
        Some((priority, arrival, self.by_priority[&(priority, arrival)]))
    }

    /// The key it should have; none if it does not wait.
    pub(super) fn current_key(&self) -> Option<Key> {
        let (&(priority, _), _) = self.by_priority.first_key_value()?;
        let (&oldest, _) = self.by_arrival.first_key_value()?;
        Some(Key { priority, counter: self.counter, oldest })
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.by_priority.len(), self.by_arrival.len());
        assert!(self.num_waiting() <= self.num_live && self.num_overtaken <= MAX_OVERTAKEN);
        assert!(self.remainder < u64::from(u16::MAX));
        let counter = self.key.map_or(0, |key| key.counter);
        assert!(counter <= self.counter, "a counter only grows");
        let current = self.current_key().map(|key| Key { counter, ..key });
        assert_eq!(self.key, current, "only the counter of a key may lag");
    }
}
