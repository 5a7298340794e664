//! Seeded simulation: random limits, arrivals, aborts and failures against a fake model, one and
//! two plans in flight. After every call all invariants hold, each step reads exactly the prefixes
//! it should, and each request gives what it gives alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake_model;
mod random;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::num::NonZeroU16;

use fake_model::{FakeModel, Sampled, Solo, VOCAB};
use random::Random;
use scheduler::{
    Entry, Limits, NewSequence, Outcome, Plan, Scheduler, SeqId, Share, State, Stats, SubmitError,
    TokenId,
};

const NUM_SEEDS: u64 = 6000;

/// A plan in flight.
struct Flight {
    plan: Plan,
    /// The guesses of each entry.
    drafts: Vec<Vec<TokenId>>,
    /// What the model gave, once it has run.
    sampled: Option<Vec<Vec<Sampled>>>,
}

/// What the simulation knows of a request that was accepted.
struct Followed {
    request: NewSequence,
    ended: bool,
    has_run: bool,
    /// Prompt rows whose logits were delivered.
    scored: BTreeSet<usize>,
}

/// What happened in all runs together: a simulation that never preempts proves nothing.
#[derive(Debug, Default)]
struct Coverage {
    finished: usize,
    aborted: usize,
    failed: usize,
    refused: usize,
    zombies: usize,
    unknown_ids: usize,
    right_drafts: usize,
    wrong_drafts: usize,
    /// First runs before an older sequence of another tenant, as urgent as it.
    fair_turns: usize,
    /// First runs before an older and before a more urgent one of the same tenant.
    urgent_turns: usize,
    patient_turns: usize,
    preemptions: u64,
    hit_tokens: usize,
}

struct Simulation<'a> {
    random: Random,
    limits: Limits,
    depth: usize,
    scheduler: Scheduler,
    model: FakeModel,
    flights: VecDeque<Flight>,
    followed: HashMap<SeqId, Followed>,
    solos: HashMap<SeqId, Solo>,
    num_submitted: u64,
    /// Preemptions until the last plan, and until the last call that made none.
    preempted_at_plan: u64,
    preempted_before: u64,
    coverage: &'a mut Coverage,
}

fn random_limits(random: &mut Random) -> Limits {
    let max_num_seqs = random.within(1, 6);
    let block_size = random.pick(&[1, 2, 3, 4, 8]);
    let num_blocks = random.within(1, 24);
    Limits {
        num_blocks,
        block_size,
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + random.pick(&[0, 1, 3, 9, 30]),
        max_model_len: random.within(1, 8) * num_blocks.max(8) * block_size / 4,
        enable_prefix_caching: !random.one_in(4),
    }
}

impl<'a> Simulation<'a> {
    fn new(seed: u64, coverage: &'a mut Coverage) -> Self {
        let mut random = Random(seed);
        let limits = random_limits(&mut random);
        let hash_mask = random.pick(&[u64::MAX, u64::MAX, 7]);
        Self {
            limits,
            depth: random.within(1, 2),
            random,
            scheduler: Scheduler::with_hash_mask(limits, hash_mask).unwrap(),
            model: FakeModel::new(limits.num_blocks, limits.block_size),
            flights: VecDeque::new(),
            followed: HashMap::new(),
            solos: HashMap::new(),
            num_submitted: 0,
            preempted_at_plan: 0,
            preempted_before: 0,
            coverage,
        }
    }

    fn run(mut self) {
        let most = self.random.pick(&[20, 20, 20, 20, 20, 20, 20, 100]);
        let num_requests = self.random.within(1, most) as u64;
        let patience = self.random.pick(&[1, 3, 8]);
        for _ in 0..20_000 {
            if self.num_submitted < num_requests && self.random.one_in(patience) {
                self.submit();
            } else if self.random.one_in(24) {
                self.abort();
            } else if self.random.one_in(3) {
                self.execute_next();
            } else if self.flights.len() < self.depth && !self.random.one_in(4) {
                let idle = !self.schedule() && self.flights.is_empty();
                if idle && self.num_submitted == num_requests {
                    return self.finish();
                }
            } else if !self.flights.is_empty() {
                self.land();
            }
            self.scheduler.check_invariants();
        }
        panic!("no end in sight: {:?}", self.scheduler);
    }

    /// Nothing can run: then everybody has ended and no block is held.
    fn finish(self) {
        assert!(self.followed.values().all(|followed| followed.ended), "{:?}", self.scheduler);
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.used_blocks), (0, 0, 0));
        assert_eq!(stats.free_blocks, self.limits.num_blocks);
        assert_eq!(stats.tenants, 0, "nobody is remembered");
        self.coverage.preemptions += stats.num_preemptions;
    }

    fn random_request(&mut self) -> NewSequence {
        // Prompts begin alike: a stretch of one of two endless texts, then something of their own.
        let text = self.random.below(2);
        let capacity = self.limits.num_blocks * self.limits.block_size;
        let common_len = self.random.within(0, (capacity / 2).min(40));
        let own_len = self.random.within(0, 4);
        let common = (0..common_len).map(|at| ((at * at + text) as u64 % VOCAB) as TokenId);
        let mut prompt: Vec<TokenId> = common.collect();
        prompt.extend((0..own_len).map(|_| self.random.below(VOCAB as usize) as TokenId));
        NewSequence {
            id: SeqId(self.num_submitted),
            prompt,
            max_new_tokens: self.random.pick(&[0, 1, 5, 20, 40]).min(capacity / 2),
            priority: self.random.pick(&[0, 0, 0, -1, 7]),
            share: self
                .random
                .pick(&[None, None, Some(("a", 1)), Some(("b", 3)), Some(("c", 1))])
                .map(|(tenant, weight)| Share {
                    tenant: tenant.into(),
                    weight: NonZeroU16::new(weight).unwrap(),
                }),
            salt: self.random.pick(&[None, None, Some("a"), Some("b")]).map(str::to_owned),
            need_prompt_logits: self.random.one_in(4),
        }
    }

    fn submit(&mut self) {
        let request = self.random_request();
        self.num_submitted += 1;
        let Limits { num_blocks, block_size, max_model_len, .. } = self.limits;
        let len = request.prompt.len() + request.max_new_tokens;
        let num_computed = request.prompt.len().max(len.saturating_sub(1));
        let result = self.scheduler.submit(request.clone());
        let fits = num_computed.div_ceil(block_size) <= num_blocks;
        match result {
            Ok(()) => assert!(!request.prompt.is_empty() && len <= max_model_len && fits),
            Err(SubmitError::EmptyPrompt) => assert!(request.prompt.is_empty()),
            Err(SubmitError::TooLong { .. }) => assert!(len > max_model_len),
            Err(SubmitError::TooManyBlocks { .. }) => assert!(!fits),
            Err(error) => panic!("{error}"),
        }
        if result.is_err() {
            self.coverage.refused += 1;
            return;
        }
        let again = self.scheduler.submit(request.clone());
        assert_eq!(again, Err(SubmitError::DuplicateId(request.id)));
        self.solos.insert(request.id, Solo::run(&request));
        let scored = BTreeSet::new();
        let followed = Followed { request, ended: false, has_run: false, scored };
        self.followed.insert(followed.request.id, followed);
    }

    /// Aborts any id, known or not, running or over.
    fn abort(&mut self) {
        let id = SeqId(self.random.below(self.num_submitted as usize + 1) as u64);
        let live = self.followed.get_mut(&id).filter(|followed| !followed.ended);
        assert_eq!(self.scheduler.abort(id), live.is_some());
        assert!(!self.scheduler.abort(id));
        if let Some(followed) = live {
            followed.ended = true;
            self.coverage.aborted += 1;
        }
    }

    /// Wants drafts for anybody, whether it can have them or not.
    fn want_drafts(&mut self) {
        for id in (0..=self.num_submitted).map(SeqId) {
            if self.random.one_in(2) {
                self.scheduler.want_drafts(id, self.random.pick(&[0, 1, 2, 5]));
            }
        }
    }

    /// Guesses of which some are right.
    fn guess(&mut self, entry: &Entry) -> Vec<TokenId> {
        let first = entry.start + entry.len - entry.num_drafts;
        let guess = |at| {
            if self.random.one_in(4) {
                self.random.below(VOCAB as usize) as TokenId
            } else {
                self.solos[&entry.id].tokens[at]
            }
        };
        (first..first + entry.num_drafts).map(guess).collect()
    }

    fn schedule(&mut self) -> bool {
        self.want_drafts();
        let before: Stats = self.scheduler.stats();
        let Some(plan) = self.scheduler.schedule() else {
            self.preempted_before = self.scheduler.stats().num_preemptions;
            return false;
        };
        let num_tokens: usize = plan.entries.iter().map(|entry| entry.len).sum();
        assert_eq!(plan.num_tokens, num_tokens);
        assert!(num_tokens <= self.limits.max_num_batched_tokens);
        assert!(!plan.entries.is_empty() && plan.entries.len() <= self.limits.max_num_seqs);
        let ids: HashSet<_> = plan.entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids.len(), plan.entries.len());
        assert_eq!(plan.step, before.num_steps + 1);
        for entry in &plan.entries {
            self.check_entry(entry);
        }
        // Only one that was preempted by an earlier call, which made no plan, may be back already.
        let num_earlier = self.preempted_before.saturating_sub(self.preempted_at_plan) as usize;
        for id in &plan.preempted[num_earlier..] {
            assert!(!ids.contains(id), "{id} runs and is preempted in one step");
        }
        self.preempted_at_plan = self.scheduler.stats().num_preemptions;
        let drafts = plan.entries.iter().map(|entry| self.guess(entry)).collect();
        self.flights.push_back(Flight { plan, drafts, sampled: None });
        true
    }

    fn check_entry(&mut self, entry: &Entry) {
        self.check_order(entry.id);
        let followed = self.followed.get_mut(&entry.id).unwrap();
        let request = &followed.request;
        assert!(!followed.ended, "an ended sequence is planned: {entry:?}");
        let num_known = entry.len - entry.num_drafts;
        assert!(num_known > 0 && entry.ids.len() <= num_known && entry.ids.len() + 1 >= num_known);
        let end = entry.start + entry.len;
        assert!(end <= request.prompt.len() + request.max_new_tokens.saturating_sub(1));
        assert!(end <= entry.blocks.len() * self.limits.block_size);
        assert_eq!(entry.blocks.iter().collect::<HashSet<_>>().len(), entry.blocks.len());
        self.coverage.unknown_ids += usize::from(entry.ids.len() < num_known);
        if entry.num_drafts > 0 {
            assert!(entry.samples && num_known == 1 && entry.ids.len() == 1, "{entry:?}");
            let in_flight = self.flights.iter().flat_map(|flight| &flight.plan.entries);
            assert!(!in_flight.clone().any(|other| other.id == entry.id), "{entry:?}");
        }
        let in_flight = self.flights.iter().flat_map(|flight| &flight.plan.entries);
        let drafted = in_flight.filter(|other| other.num_drafts > 0);
        assert!(!drafted.map(|other| other.id).any(|id| id == entry.id), "{entry:?}");
        if !followed.has_run {
            followed.has_run = true;
            assert_eq!(entry.start, entry.cached_tokens);
            assert!(entry.start < request.prompt.len());
            let may_hit = self.limits.enable_prefix_caching && !request.need_prompt_logits;
            assert!(may_hit || entry.cached_tokens == 0);
            self.coverage.hit_tokens += entry.cached_tokens;
        }
        let rows = entry.start..end;
        if entry.prompt_logits {
            assert!(end <= request.prompt.len());
        } else if request.need_prompt_logits {
            let asked = self.flights.iter().flat_map(|flight| &flight.plan.entries);
            let asked = asked.filter(|other| other.id == entry.id && other.prompt_logits);
            let asked_end = asked.map(|other| other.start + other.len).max().unwrap_or(0);
            let unasked = |row: &usize| *row >= asked_end && !followed.scored.contains(row);
            assert!(!rows.clone().any(|row| row < request.prompt.len() && unasked(&row)));
        }
        // Nobody else's plan in flight may still use a block that this entry writes.
        for at in rows.map(|row| row / self.limits.block_size) {
            let block = entry.blocks[at];
            for other in self.flights.iter().flat_map(|flight| &flight.plan.entries) {
                let uses = other.id != entry.id && other.blocks.contains(&block);
                assert!(!uses, "{block:?} of {entry:?} is still used by {other:?}");
            }
        }
    }

    /// Within a tenant one that runs for the first time is the oldest of its priority, and the most
    /// urgent or the oldest of all.
    fn check_order(&mut self, id: SeqId) {
        let followed = &self.followed[&id];
        if followed.has_run {
            return;
        }
        let NewSequence { share, priority, .. } = &followed.request;
        let waiting = self.followed.values().filter(|other| !other.ended && !other.has_run);
        let (own, others): (Vec<_>, Vec<_>) =
            waiting.map(|other| &other.request).partition(|other| other.share == *share);
        let is_older = |other: &&&NewSequence| other.id < id;
        let num_older = own.iter().filter(is_older).count();
        assert!(!own.iter().filter(is_older).any(|other| other.priority == *priority));
        let is_patient = own.iter().any(|other| other.priority < *priority);
        assert!(!is_patient || num_older == 0, "neither urgent nor old");
        let as_urgent = others.iter().filter(is_older).any(|other| other.priority == *priority);
        self.coverage.fair_turns += usize::from(as_urgent);
        self.coverage.urgent_turns += usize::from(num_older > 0);
        self.coverage.patient_turns += usize::from(is_patient);
    }

    /// Lets the model run the oldest plan that has not run.
    fn execute_next(&mut self) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.sampled.is_none()) {
            flight.sampled = Some(self.model.run(&flight.plan, &flight.drafts, &self.solos));
        }
    }

    /// Commits the oldest plan, or lets it fail, whole or in one entry.
    fn land(&mut self) {
        if self.flights[0].sampled.is_none() {
            self.execute_next();
        }
        let may_fail = self.flights.get(1).is_none_or(|next| next.sampled.is_none());
        let Flight { plan, sampled, .. } = self.flights.pop_front().unwrap();
        let sampled = sampled.unwrap();
        if may_fail && self.random.one_in(60) {
            return self.fail(&plan);
        }
        let mut outcomes = Vec::new();
        let mut ended = Vec::new();
        for (entry, sampled) in plan.entries.iter().zip(sampled) {
            let fails = may_fail && entry.samples && self.random.one_in(100);
            if fails {
                self.model.fail(entry);
            }
            let gives = entry.samples && !fails;
            let tokens: Vec<_> = sampled.iter().map(|sampled| sampled.token).collect();
            let tokens = if gives { tokens } else { Vec::new() };
            let finished = gives && sampled.iter().any(|sampled| sampled.ends);
            if gives {
                self.coverage.right_drafts += tokens.len() - 1;
                self.coverage.wrong_drafts += entry.num_drafts + 1 - tokens.len();
            }
            outcomes.push(Outcome { id: entry.id, tokens: tokens.as_slice().into(), finished });
            if self.follow(entry, &tokens, finished, fails) {
                ended.push(entry.id);
            }
        }
        assert_eq!(self.scheduler.commit(&plan, &outcomes), ended);
        for entry in &plan.entries {
            self.check_tokens(entry);
        }
    }

    fn fail(&mut self, plan: &Plan) {
        let mut ended = Vec::new();
        for entry in &plan.entries {
            self.model.fail(entry);
            let followed = self.followed.get_mut(&entry.id).unwrap();
            if !followed.ended {
                followed.ended = true;
                self.coverage.failed += 1;
                ended.push(entry.id);
            }
        }
        assert_eq!(self.scheduler.fail(plan), ended);
    }

    /// Keeps account of an outcome; returns whether the sequence ends by it.
    fn follow(&mut self, entry: &Entry, tokens: &[TokenId], finished: bool, fails: bool) -> bool {
        let followed = self.followed.get_mut(&entry.id).unwrap();
        if followed.ended {
            self.coverage.zombies += 1;
            return false;
        }
        if fails {
            followed.ended = true;
            self.coverage.failed += 1;
            return true;
        }
        if entry.prompt_logits {
            for row in entry.start..entry.start + entry.len {
                assert!(followed.scored.insert(row), "row {row} is scored twice");
            }
        }
        let solo = &self.solos[&entry.id];
        let first = entry.start + entry.len - entry.num_drafts;
        let end = first + tokens.len();
        assert_eq!(tokens, &solo.tokens[first..end], "not the tokens of the solo run");
        if !tokens.is_empty() {
            assert_eq!(finished, solo.end == Some(end - 1));
        }
        let is_last = end == solo.tokens.len();
        followed.ended = finished || is_last;
        if followed.ended {
            self.coverage.finished += 1;
            let num_scored = followed.scored.len();
            let wanted = followed.request.need_prompt_logits;
            assert_eq!(num_scored, if wanted { followed.request.prompt.len() } else { 0 });
        }
        followed.ended
    }

    /// The scheduler's own record of a sequence is the solo run's beginning.
    fn check_tokens(&self, entry: &Entry) {
        let Some(seq) = self.scheduler.sequence(entry.id) else {
            return;
        };
        let solo = &self.solos[&entry.id];
        assert_eq!(seq.tokens(), &solo.tokens[..seq.tokens().len()]);
        assert_eq!(seq.state() == State::Ended, self.followed[&entry.id].ended);
    }
}

#[test]
fn every_request_gives_what_it_gives_alone() {
    let mut coverage = Coverage::default();
    for seed in 0..NUM_SEEDS {
        let run = std::panic::AssertUnwindSafe(|| Simulation::new(seed, &mut coverage).run());
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
    println!("{coverage:?}");
    let Coverage { finished, aborted, failed, refused, zombies, unknown_ids, .. } = coverage;
    let Coverage { right_drafts, wrong_drafts, .. } = coverage;
    let Coverage { fair_turns, urgent_turns, patient_turns, .. } = coverage;
    let turns = [right_drafts, wrong_drafts, fair_turns, urgent_turns];
    assert!(patient_turns > 0, "{coverage:?}");
    for count in [finished, aborted, failed, refused, zombies, unknown_ids].into_iter().chain(turns)
    {
        assert!(count > 1000, "{coverage:?}");
    }
    assert!(coverage.preemptions > 1000 && coverage.hit_tokens > 1000, "{coverage:?}");
}
