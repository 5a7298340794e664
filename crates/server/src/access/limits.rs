//! What a key may do in a minute and at once, and what of it is in use.
//!
//! Times are durations since one origin, given by the caller: nothing here looks at a clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::window::{Taken, Window};

/// The limits of a key; what is `None` is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) requests_per_minute: Option<u64>,
    pub(super) tokens_per_minute: Option<u64>,
    pub(super) max_concurrent_requests: Option<u64>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too many in the last minute; the wait until it would be taken.
    Requests(Duration),
    /// Too many tokens in the last minute.
    Tokens(Duration),
    /// More tokens than the limit allows in any minute.
    TooManyTokens,
    /// Too many at once.
    Concurrent,
}

/// What a limited client is told of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) limit: u64,
    pub(super) remaining: u64,
    /// Until all of it is free again.
    pub(super) reset: Duration,
}

/// What a key uses of its limits. It outlives a change of these.
#[derive(Debug, Default)]
pub(super) struct InUse(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: Window,
    tokens: Window,
    running: u64,
}

impl InUse {
    /// Enters a request, which [`Self::leave`] ends.
    pub(super) fn enter(&self, now: Duration, limits: &Limits) -> Result<(), Refusal> {
        let counts = &mut *self.lock();
        if limits.max_concurrent_requests.is_some_and(|limit| counts.running >= limit) {
            return Err(Refusal::Concurrent);
        }
        if let Some(limit) = limits.requests_per_minute {
            counts.requests.take(now, 1, limit).map_err(Refusal::Requests)?;
        }
        counts.running += 1;
        Ok(())
    }

    /// A request that entered is over.
    pub(super) fn leave(&self) {
        self.lock().running -= 1;
    }

    /// Requests that have entered and not left.
    pub(super) fn running(&self) -> u64 {
        self.lock().running
    }

    /// Reserves the most tokens that a request can use; `None` if tokens are not limited.
    pub(super) fn reserve(
        &self,
        now: Duration,
        limits: &Limits,
        num_tokens: u64,
    ) -> Result<Option<Taken>, Refusal> {
        let Some(limit) = limits.tokens_per_minute else { return Ok(None) };
        if num_tokens > limit {
            return Err(Refusal::TooManyTokens);
        }
        self.lock().tokens.take(now, num_tokens, limit).map(Some).map_err(Refusal::Tokens)
    }

    /// Gives back what a request had reserved and did not use. What it used stays in the second in
    /// which it was reserved.
    pub(super) fn settle(&self, now: Duration, taken: Taken, unused: u64) {
        self.lock().tokens.give_back(now, taken, unused);
    }

    /// How the limits of requests and of tokens stand.
    pub(super) fn standing(&self, now: Duration, limits: &Limits) -> [Option<Standing>; 2] {
        let counts = &mut *self.lock();
        let stands = |limit: Option<u64>, window: &mut Window| {
            limit.map(|limit| Standing {
                limit,
                remaining: window.remaining(now, limit),
                reset: window.until_empty(now),
            })
        };
        [
            stands(limits.requests_per_minute, &mut counts.requests),
            stands(limits.tokens_per_minute, &mut counts.tokens),
        ]
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait as OpenAI's headers write it: `120ms`, `8.64s`, `6m0s`.
pub(super) fn go_duration(wait: Duration) -> String {
    let ms = wait.as_nanos().div_ceil(1_000_000);
    if ms == 0 {
        return "0s".into();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (minutes, seconds) = (ms / 60_000, (ms % 60_000) as f64 / 1000.0);
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn each_limit_refuses_by_its_own_name() {
        let in_use = InUse::default();
        let limits = Limits {
            requests_per_minute: Some(3),
            tokens_per_minute: Some(100),
            max_concurrent_requests: Some(2),
        };
        assert_eq!(in_use.enter(NOW, &limits), Ok(()));
        assert_eq!(in_use.enter(NOW, &limits), Ok(()));
        assert_eq!(in_use.enter(NOW, &limits), Err(Refusal::Concurrent));
        in_use.leave();
        assert_eq!(in_use.enter(NOW, &limits), Ok(()), "a refused request counts nowhere");
        in_use.leave();
        assert_eq!(
            in_use.enter(NOW, &limits),
            Err(Refusal::Requests(Duration::from_secs(61))),
            "three were taken in second 100"
        );
        assert_eq!(in_use.running(), 1);
        assert_eq!(in_use.reserve(NOW, &limits, 101), Err(Refusal::TooManyTokens));
        let taken = in_use.reserve(NOW, &limits, 80).unwrap().unwrap();
        let wait = Duration::from_secs(61);
        assert_eq!(in_use.reserve(NOW, &limits, 30), Err(Refusal::Tokens(wait)));
        in_use.settle(NOW, taken, 50);
        assert!(in_use.reserve(NOW, &limits, 30).unwrap().is_some());
        let [requests, tokens] = in_use.standing(NOW, &limits);
        assert_eq!(requests, Some(Standing { limit: 3, remaining: 0, reset: wait }));
        assert_eq!(tokens, Some(Standing { limit: 100, remaining: 40, reset: wait }));
    }

    #[test]
    fn without_limits_nothing_is_refused_or_told() {
        let (in_use, limits) = (InUse::default(), Limits::default());
        for _ in 0..1000 {
            in_use.enter(NOW, &limits).unwrap();
        }
        assert_eq!(in_use.reserve(NOW, &limits, u64::MAX), Ok(None));
        assert_eq!(in_use.standing(NOW, &limits), [None, None]);
    }

    #[test]
    fn waits_are_written_as_openai_does() {
        for (ms, text) in [
            (0, "0s"),
            (120, "120ms"),
            (1000, "1s"),
            (8640, "8.64s"),
            (60_000, "1m0s"),
            (360_500, "6m0.5s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(go_duration(Duration::from_nanos(1)), "1ms");
    }
}
