//! Who waits, and who is next. Every operation costs the logarithm of the number of waiting ones.

use std::collections::BTreeMap;

use crate::SeqId;

/// How often in a row the oldest waiting sequence may be overtaken by more urgent ones.
pub const MAX_OVERTAKEN: usize = 8;

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not yet run.
    New { priority: i32, arrival: u64 },
    /// Preempted; it was admitted first as number `ticket`.
    Preempted { ticket: u64 },
}

/// The waiting sequences: the preempted ones in order of first admission, then the new ones by
/// priority and arrival, but the oldest of them at the latest after [`MAX_OVERTAKEN`] others.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    preempted: BTreeMap<u64, SeqId>,
    by_priority: BTreeMap<(i32, u64), SeqId>,
    by_arrival: BTreeMap<u64, i32>,
    /// Sequences that were admitted since the oldest one could have been.
    num_overtaken: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.preempted.len() + self.by_priority.len()
    }

    pub(crate) fn push(&mut self, place: Place, id: SeqId) {
        match place {
            Place::New { priority, arrival } => {
                self.by_priority.insert((priority, arrival), id);
                self.by_arrival.insert(arrival, priority);
            }
            Place::Preempted { ticket } => {
                self.preempted.insert(ticket, id);
            }
        }
    }

    pub(crate) fn remove(&mut self, place: Place) {
        let removed = match place {
            Place::New { priority, arrival } => {
                self.by_arrival.remove(&arrival);
                self.by_priority.remove(&(priority, arrival))
            }
            Place::Preempted { ticket } => self.preempted.remove(&ticket),
        };
        assert!(removed.is_some(), "nobody waits at {place:?}");
    }

    /// Who is next.
    pub(crate) fn head(&self) -> Option<SeqId> {
        if let Some(id) = self.preempted.values().next() {
            return Some(*id);
        }
        if self.num_overtaken < MAX_OVERTAKEN {
            return self.by_priority.values().next().copied();
        }
        let (arrival, priority) = self.by_arrival.first_key_value()?;
        self.by_priority.get(&(*priority, *arrival)).copied()
    }

    /// Removes a head that is admitted.
    pub(crate) fn admit(&mut self, place: Place) {
        if let Place::New { arrival, .. } = place {
            let is_oldest = self.by_arrival.keys().next() == Some(&arrival);
            self.num_overtaken = if is_oldest { 0 } else { self.num_overtaken + 1 };
        }
        self.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(priority: i32, arrival: u64) -> Place {
        Place::New { priority, arrival }
    }

    #[test]
    fn priority_then_arrival_and_preempted_ones_before_all() {
        let mut queue = Queue::default();
        queue.push(new(1, 0), SeqId(0));
        queue.push(new(0, 1), SeqId(1));
        queue.push(new(0, 2), SeqId(2));
        queue.push(Place::Preempted { ticket: 5 }, SeqId(5));
        queue.push(Place::Preempted { ticket: 4 }, SeqId(4));
        let mut order = Vec::new();
        for place in [
            Place::Preempted { ticket: 4 },
            Place::Preempted { ticket: 5 },
            new(0, 1),
            new(0, 2),
            new(1, 0),
        ] {
            order.push(queue.head().unwrap().0);
            queue.admit(place);
        }
        assert_eq!(order, [4, 5, 1, 2, 0]);
        assert_eq!((queue.head(), queue.len()), (None, 0));
    }

    #[test]
    fn the_oldest_is_overtaken_a_bounded_number_of_times() {
        let mut queue = Queue::default();
        queue.push(new(i32::MAX, 0), SeqId(0));
        for arrival in 1..=MAX_OVERTAKEN as u64 {
            queue.push(new(i32::MIN, arrival), SeqId(arrival));
            assert_eq!(queue.head(), Some(SeqId(arrival)));
            queue.admit(new(i32::MIN, arrival));
        }
        queue.push(new(i32::MIN, 99), SeqId(99));
        assert_eq!(queue.head(), Some(SeqId(0)));
        queue.admit(new(i32::MAX, 0));
        queue.push(new(i32::MIN, 100), SeqId(100));
        queue.push(new(i32::MAX, 98), SeqId(98));
        assert_eq!(queue.head(), Some(SeqId(99)), "the next oldest can be overtaken as often");
    }
}
