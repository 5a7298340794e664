//! A limit of so much in a minute, as a sliding window.
//!
//! A token bucket lets twice its limit through in the minute behind a pause; fixed minutes do around
//! their boundary. A window over the past promises what the limit says: what was taken in any 60
//! seconds, wherever they begin, is never more. It is counted by seconds, the one that runs and the 60
//! before it, so that memory does not grow with the limit; what was taken frees up to a second late.

use std::time::Duration;

/// The second that runs and the 60 before it.
const NUM_SLOTS: usize = 61;

/// What was taken in each of the last seconds. Times count from any one origin.
#[derive(Debug)]
pub(super) struct Window {
    /// Second `s` is slot `s % NUM_SLOTS`.
    slots: [u64; NUM_SLOTS],
    /// The latest second that was seen; the slots are of it and the 60 before.
    newest: u64,
}

/// The second in which something was taken, to give some of it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken(u64);

impl Default for Window {
    fn default() -> Self {
        Self { slots: [0; NUM_SLOTS], newest: 0 }
    }
}

impl Window {
    /// Takes `amount` if no 60 seconds then hold more than `limit`; else says after how long it would
    /// fit. More than `limit` at once never fits: the answer is when the window is empty.
    pub(super) fn take(
        &mut self,
        now: Duration,
        amount: u64,
        limit: u64,
    ) -> Result<Taken, Duration> {
        self.advance(now);
        let used = self.used();
        if used.saturating_add(amount) <= limit {
            self.slots[slot(self.newest)] += amount;
            return Ok(Taken(self.newest));
        }
        let mut to_free = used.saturating_add(amount) - limit;
        for second in self.seconds() {
            let freed = self.slots[slot(second)];
            if freed > 0 && freed >= to_free {
                return Err(until_free(second, now));
            }
            to_free -= freed;
        }
        Err(self.until_empty(now))
    }

    /// Gives back part of what was taken, unless that has left the window.
    pub(super) fn give_back(&mut self, now: Duration, taken: Taken, amount: u64) {
        self.advance(now);
        if taken.0 + NUM_SLOTS as u64 > self.newest {
            let held = &mut self.slots[slot(taken.0)];
            *held = held.saturating_sub(amount);
        }
    }

    /// What may be taken now.
    pub(super) fn remaining(&mut self, now: Duration, limit: u64) -> u64 {
        self.advance(now);
        limit.saturating_sub(self.used())
    }

    /// How long until all of the limit is free again.
    pub(super) fn until_empty(&mut self, now: Duration) -> Duration {
        self.advance(now);
        let latest = self.seconds().rev().find(|second| self.slots[slot(*second)] > 0);
        latest.map_or(Duration::ZERO, |second| until_free(second, now))
    }

    fn used(&self) -> u64 {
        self.slots.iter().sum()
    }

    /// The seconds of the slots, the oldest first.
    fn seconds(&self) -> impl DoubleEndedIterator<Item = u64> + use<> {
        (self.newest + 1).saturating_sub(NUM_SLOTS as u64)..=self.newest
    }

    /// Forgets the seconds that are over. A thread that comes late with an earlier time changes nothing.
    fn advance(&mut self, now: Duration) {
        let second = now.as_secs();
        let passed = second.saturating_sub(self.newest).min(NUM_SLOTS as u64);
        for back in 0..passed {
            self.slots[slot(second - back)] = 0;
        }
        self.newest = self.newest.max(second);
    }
}

fn slot(second: u64) -> usize {
    (second % NUM_SLOTS as u64) as usize
}

/// From `now` until what was taken in `second` has left the window.
fn until_free(second: u64, now: Duration) -> Duration {
    Duration::from_secs(second + NUM_SLOTS as u64).saturating_sub(now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_was_taken_frees_after_a_minute_and_the_wait_says_when() {
        let mut window = Window::default();
        assert!(window.take(ms(10_400), 3, 5).is_ok());
        assert!(window.take(ms(20_000), 2, 5).is_ok());
        assert_eq!(window.take(ms(30_000), 1, 5), Err(ms(41_000)), "second 10 leaves at 71");
        assert_eq!(window.take(ms(30_000), 4, 5), Err(ms(51_000)), "second 20 leaves at 81");
        assert_eq!(window.take(ms(30_000), 6, 5), Err(ms(51_000)), "never: when it is empty");
        assert_eq!(window.remaining(ms(30_000), 5), 0);
        assert_eq!(window.until_empty(ms(30_000)), ms(51_000));
        assert!(window.take(ms(70_999), 1, 5).is_err());
        assert!(window.take(ms(71_000), 3, 5).is_ok());
        assert_eq!(window.remaining(ms(200_000), 5), 5);
        assert_eq!(window.until_empty(ms(200_000)), Duration::ZERO);
    }

    #[test]
    fn what_is_given_back_can_be_taken_at_once_but_not_twice() {
        let mut window = Window::default();
        let taken = window.take(ms(1000), 5, 5).unwrap();
        window.give_back(ms(2000), taken, 4);
        assert_eq!(window.remaining(ms(2000), 5), 4);
        assert!(window.take(ms(62_000), 5, 5).is_ok());
        window.give_back(ms(62_500), taken, 1);
        assert_eq!(window.remaining(ms(62_500), 5), 0, "its minute was over");
    }

    #[test]
    fn a_lower_limit_holds_at_once() {
        let mut window = Window::default();
        assert!(window.take(ms(0), 50, 100).is_ok());
        assert_eq!(window.remaining(ms(0), 20), 0);
        assert_eq!(window.take(ms(0), 1, 20), Err(ms(61_000)));
    }

    proptest! {
        /// However requests come: no 60 seconds hold more than the limit, a refusal names a time at
        /// which the same would be taken and not long before, and nothing is refused that would fit.
        #[test]
        fn never_more_than_the_limit_in_any_minute(
            limit in 1_u64..200,
            steps in prop::collection::vec((0_u64..20_000, 0_u64..120, 0_u64..120), 1..120),
        ) {
            let mut window = Window::default();
            let mut now = 0;
            let mut log: Vec<(u64, u64)> = Vec::new(); // [(ms, amount that stayed)]
            for (wait, amount, back) in steps {
                now += wait;
                let held = |from: u64| {
                    log.iter().filter(|(at, _)| *at >= from).map(|(_, held)| held).sum::<u64>()
                };
                match window.take(ms(now), amount, limit) {
                    Ok(taken) => {
                        let back = back.min(amount);
                        window.give_back(ms(now), taken, back);
                        // While it runs it counts in full.
                        prop_assert!(held((now + 1).saturating_sub(60_000)) + amount <= limit);
                        log.push((now, amount - back));
                    }
                    Err(wait) => {
                        prop_assert!(held(now.saturating_sub(61_000)) + amount > limit);
                        prop_assert!(wait <= ms(61_000));
                        if amount <= limit {
                            prop_assert!(wait > Duration::ZERO);
                            let mut later = Window { slots: window.slots, newest: window.newest };
                            prop_assert!(later.take(ms(now) + wait, amount, limit).is_ok());
                            let before = wait.saturating_sub(ms(1));
                            let mut later = Window { slots: window.slots, newest: window.newest };
                            prop_assert!(later.take(ms(now) + before, amount, limit).is_err());
                        }
                    }
                }
            }
        }
    }
}
