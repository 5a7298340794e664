//! Who waits before the first step: bounds by requests and by tokens, room kept for others, and how
//! fast the queue drains.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::RequestLimits;
use crate::request::{EngineError, Request};

/// How many times the free room a tenant may fill: one alone gets eight ninths of the queue, so that a
/// flood leaves places for others (the dynamic thresholds of Choudhury and Hahne 1998).
const MAX_OF_FREE: usize = 8;
/// The drain rate is measured over this time.
const WINDOW_S: usize = 30;

/// Submitted sequences that have not run.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    all: Held,
    /// Of tenants with a name; none is kept that holds nothing.
    tenants: HashMap<Arc<str>, Held>,
    /// Since when the queue is not empty.
    since: Option<Instant>,
    /// Prompt tokens that left to run in each second from `since` on, at the second modulo the window.
    drained: [(usize, usize); WINDOW_S],
}

/// Places in the queue.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    requests: usize,
    /// Of their prompts.
    tokens: usize,
}

/// A sequence that leaves the queue.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) prompt_len: usize,
    /// Whether it runs; else it was aborted or dropped.
    pub(crate) started: bool,
}

impl Left {
    /// One that has not run.
    pub(crate) fn waiting(request: &Request) -> Self {
        let tenant = request.share.as_ref().map(|share| Arc::clone(&share.tenant));
        Self { tenant, prompt_len: request.prompt.len(), started: false }
    }
}

impl Backlog {
    /// Prompt tokens of those who wait.
    pub(crate) fn num_tokens(&self) -> usize {
        self.all.tokens
    }

    /// Takes in all of the requests, or none.
    pub(crate) fn push(
        &mut self,
        requests: &[Request],
        limits: &RequestLimits,
        now: Instant,
    ) -> Result<(), EngineError> {
        let mut new: HashMap<Option<&Arc<str>>, Held> = HashMap::new();
        for request in requests {
            let tenant = request.share.as_ref().map(|share| &share.tenant);
            new.entry(tenant).or_default().add(request.prompt.len());
        }
        let sum = |part: fn(&Held) -> usize| new.values().map(part).sum::<usize>();
        let new_all = Held { requests: sum(|held| held.requests), tokens: sum(|held| held.tokens) };
        self.check(new_all, limits)?;
        for (tenant, new) in &new {
            if let Some(tenant) = tenant {
                let own = self.tenants.get(*tenant).copied().unwrap_or_default();
                self.check_tenant(own, *new, limits)?;
            }
        }
        for (tenant, new) in new {
            if let Some(tenant) = tenant {
                let held = self.tenants.entry(Arc::clone(tenant)).or_default();
                held.requests += new.requests;
                held.tokens += new.tokens;
            }
        }
        if self.all.requests == 0 {
            *self = Self {
                since: Some(now),
                tenants: std::mem::take(&mut self.tenants),
                ..Self::default()
            };
        }
        self.all.requests += new_all.requests;
        self.all.tokens += new_all.tokens;
        Ok(())
    }

    fn check(&self, new: Held, limits: &RequestLimits) -> Result<(), EngineError> {
        let (waiting, limit) = (self.all.requests, limits.max_num_queued_reqs);
        if waiting + new.requests > limit {
            return Err(EngineError::QueueFull { waiting, limit });
        }
        let Some(limit) = limits.max_num_queued_tokens else { return Ok(()) };
        // One that alone is more than the limit may wait if nobody else does.
        if waiting > 0 && self.all.tokens + new.tokens > limit {
            let waiting = self.all.tokens;
            return Err(EngineError::QueueTokensFull { waiting, new: new.tokens, limit });
        }
        Ok(())
    }

    /// Whether a tenant leaves room for others.
    fn check_tenant(
        &self,
        own: Held,
        new: Held,
        limits: &RequestLimits,
    ) -> Result<(), EngineError> {
        let fits = |own: usize, new: usize, all: usize, limit: usize| {
            own == 0 || own + new <= MAX_OF_FREE * limit.saturating_sub(all)
        };
        let limit = limits.max_num_queued_reqs;
        let tokens = limits.max_num_queued_tokens.unwrap_or(usize::MAX / MAX_OF_FREE);
        if fits(own.requests, new.requests, self.all.requests, limit)
            && fits(own.tokens, new.tokens, self.all.tokens, tokens)
        {
            return Ok(());
        }
        let (own, waiting) = (own.requests, self.all.requests);
        Err(EngineError::QueueShareFull { own, waiting, limit })
    }

    /// Gives places back.
    pub(crate) fn pop(&mut self, left: Vec<Left>, now: Instant) {
        for Left { tenant, prompt_len, started } in left {
            self.all.remove(prompt_len);
            if let Some(tenant) = tenant {
                let held = self.tenants.get_mut(&tenant).expect("who leaves has waited");
                held.remove(prompt_len);
                if held.requests == 0 {
                    self.tenants.remove(&tenant);
                }
            }
            if started {
                let second = self.elapsed(now).as_secs() as usize;
                let slot = &mut self.drained[second % WINDOW_S];
                if slot.0 != second {
                    *slot = (second, 0);
                }
                slot.1 += prompt_len;
            }
        }
    }

    /// Exactly these wait.
    pub(crate) fn recount(&mut self, waiting: impl Iterator<Item = Left>) {
        self.all = Held::default();
        self.tenants.clear();
        for Left { tenant, prompt_len, .. } in waiting {
            self.all.add(prompt_len);
            if let Some(tenant) = tenant {
                self.tenants.entry(tenant).or_default().add(prompt_len);
            }
        }
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How long it takes until those who wait now have left, at the rate of the last seconds. If none
    /// has left yet: as long as they have waited.
    pub(crate) fn time_to_drain(&self, now: Instant) -> Duration {
        if self.all.requests == 0 {
            return Duration::ZERO;
        }
        let elapsed = self.elapsed(now);
        let second = elapsed.as_secs() as usize;
        let is_recent = |at: usize| at <= second && at + WINDOW_S > second;
        let recent = self.drained.iter().filter(|(at, _)| is_recent(*at));
        let drained: usize = recent.map(|(_, tokens)| tokens).sum();
        if drained == 0 {
            return elapsed;
        }
        let window = elapsed.min(Duration::from_secs(WINDOW_S as u64));
        window.mul_f64(self.all.tokens as f64 / drained as f64)
    }
}

impl Held {
    fn add(&mut self, prompt_len: usize) {
        self.requests += 1;
        self.tokens += prompt_len;
    }

    fn remove(&mut self, prompt_len: usize) {
        self.requests -= 1;
        self.tokens -= prompt_len;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use scheduler::Share;

    use super::*;
    use crate::request::SamplingParams;

    const LIMITS: RequestLimits = RequestLimits {
        max_model_len: 1000,
        vocab_size: 10,
        max_num_queued_reqs: 90,
        max_num_queued_tokens: Some(1000),
        pools: false,
    };

    fn request(tenant: Option<&str>, prompt_len: usize) -> Request {
        let share = |tenant: &str| Share { tenant: tenant.into(), weight: NonZeroU16::MIN };
        Request {
            prompt: vec![0; prompt_len],
            params: SamplingParams::default(),
            priority: 0,
            share: tenant.map(share),
            deadline: None,
            cache_salt: None,
            constraint: None,
            sink: Box::new(|_| true),
        }
    }

    fn left(tenant: Option<&str>, prompt_len: usize) -> Left {
        Left { tenant: tenant.map(Into::into), prompt_len, started: true }
    }

    /// Pushes until one is refused; how many were taken, and why no more.
    fn flood(
        backlog: &mut Backlog,
        tenant: Option<&str>,
        prompt_len: usize,
    ) -> (usize, EngineError) {
        let mut push = || backlog.push(&[request(tenant, prompt_len)], &LIMITS, Instant::now());
        for taken in 0.. {
            if let Err(error) = push() {
                return (taken, error);
            }
        }
        unreachable!("the queue is bounded")
    }

    #[test]
    fn requests_and_tokens_are_bounded() {
        let full = EngineError::QueueFull { waiting: 90, limit: 90 };
        assert_eq!(flood(&mut Backlog::default(), None, 1), (90, full));
        let mut backlog = Backlog::default();
        let full = |new| EngineError::QueueTokensFull { waiting: 990, new, limit: 1000 };
        assert_eq!(flood(&mut backlog, None, 30), (33, full(30)));
        let two = [request(None, 5), request(None, 6)];
        assert_eq!(backlog.push(&two, &LIMITS, Instant::now()), Err(full(11)), "all or none");
        assert_eq!(flood(&mut backlog, None, 5).0, 2);
        let (taken, _) = flood(&mut Backlog::default(), None, 1001);
        assert_eq!(taken, 1, "one that is too long for the bound waits alone");
    }

    #[test]
    fn a_flood_of_one_tenant_leaves_room_for_others() {
        for prompt_len in [1, 20] {
            let mut backlog = Backlog::default();
            let (taken, error) = flood(&mut backlog, Some("a"), prompt_len);
            // Eight ninths of 90 requests, or of 1000 tokens and the one that passes them.
            let most = if prompt_len == 1 { 80 } else { 45 };
            assert_eq!(taken, most);
            let full = EngineError::QueueShareFull { own: most, waiting: most, limit: 90 };
            assert_eq!(error, full);
            let (others, _) = flood(&mut backlog, Some("b"), prompt_len);
            assert!((4..=9).contains(&others), "{others}");
            // What the one gives back, the other may have.
            let now = Instant::now();
            backlog.pop((0..20).map(|_| left(Some("a"), prompt_len)).collect(), now);
            assert!(flood(&mut backlog, Some("b"), prompt_len).0 >= 15);
        }
    }

    #[test]
    fn places_are_given_back_and_nobody_is_kept() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        for tenant in ["a", "b", "c"] {
            backlog.push(&[request(Some(tenant), 7)], &LIMITS, now).unwrap();
        }
        assert_eq!((backlog.num_tokens(), backlog.tenants.len()), (21, 3));
        backlog.pop(["b", "a", "c"].map(|tenant| left(Some(tenant), 7)).into(), now);
        assert_eq!((backlog.num_tokens(), backlog.tenants.len()), (0, 0));
        assert_eq!(backlog.time_to_drain(now), Duration::ZERO);
    }

    #[test]
    fn the_time_to_drain_follows_the_rate_of_the_last_seconds() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut backlog = Backlog::default();
        let requests: Vec<_> = (0..90).map(|_| request(None, 10)).collect();
        backlog.push(&requests, &LIMITS, start).unwrap();
        assert_eq!(backlog.time_to_drain(at(4.0)), Duration::from_secs(4), "as long as so far");
        // One a second for 40 s, then ten a second for one.
        for second in 1..=40 {
            backlog.pop(vec![left(None, 10)], at(f64::from(second)));
        }
        let seconds = |backlog: &Backlog, now: f64| backlog.time_to_drain(at(now)).as_secs_f64();
        assert!(
            (48.0..=52.0).contains(&seconds(&backlog, 40.0)),
            "50 wait and one a second leaves"
        );
        backlog.pop((0..20).map(|_| left(None, 10)).collect(), at(41.0));
        assert!((17.0..=19.0).contains(&seconds(&backlog, 41.0)), "30 wait, 50 left in 30 s");
        let aborted = || Left { started: false, ..left(None, 10) };
        backlog.pop((0..10).map(|_| aborted()).collect(), at(42.0));
        let rest = seconds(&backlog, 42.0);
        assert!((11.0..=13.0).contains(&rest), "20 wait; who hangs up speeds nothing up: {rest}");
        assert_eq!(seconds(&backlog, 200.0), 200.0, "nobody left for a whole window");
        backlog.pop((0..20).map(|_| left(None, 10)).collect(), at(200.0));
        backlog.push(&[request(None, 10)], &LIMITS, at(300.0)).unwrap();
        assert_eq!(seconds(&backlog, 301.0), 1.0, "what was before an empty queue counts no more");
    }
}
