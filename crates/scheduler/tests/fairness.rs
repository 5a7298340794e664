//! What tenants may count on: their share, a bound on how long others delay them, no starvation.
//! The tests keep their own account of what each was served.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "simulation/random.rs"]
mod random;

use std::collections::HashMap;
use std::num::NonZeroU16;

use random::Random;
use scheduler::{
    Entry, GENERATED_TOKEN_COST, Limits, MAX_OVERTAKEN, NewSequence, Outcome, PROMPT_TOKEN_COST,
    Plan, Scheduler, SeqId, Share, TokenId, Tokens,
};

const MAX_PROMPT_LEN: usize = 30;
const MAX_NEW_TOKENS: usize = 20;
/// The most that a sequence costs.
const MAX_COST: u64 =
    MAX_PROMPT_LEN as u64 * PROMPT_TOKEN_COST + MAX_NEW_TOKENS as u64 * GENERATED_TOKEN_COST;

fn limits(max_num_seqs: usize) -> Limits {
    Limits {
        num_blocks: 2000,
        block_size: 4,
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs.max(16),
        max_model_len: 100,
        enable_prefix_caching: false,
    }
}

/// Sequences of tenants, and what each was served.
struct Traffic {
    random: Random,
    scheduler: Scheduler,
    tenant_of: HashMap<SeqId, usize>,
    prompt_lens: HashMap<SeqId, usize>,
    weights: Vec<u16>,
    /// Cost of what was computed, by tenant.
    served: Vec<u64>,
    /// Sequences that wait, by tenant.
    waiting: Vec<usize>,
    /// Tenants in the order in which sequences first ran.
    admitted: Vec<usize>,
    num_submitted: u64,
}

impl Traffic {
    fn new(limits: Limits, weights: &[u16], seed: u64) -> Self {
        Self {
            random: Random(seed),
            scheduler: Scheduler::new(limits).unwrap(),
            tenant_of: HashMap::new(),
            prompt_lens: HashMap::new(),
            weights: weights.to_vec(),
            served: vec![0; weights.len()],
            waiting: vec![0; weights.len()],
            admitted: Vec::new(),
            num_submitted: 0,
        }
    }

    fn submit(&mut self, tenant: usize, priority: i32) {
        let id = SeqId(self.num_submitted);
        self.num_submitted += 1;
        let prompt_len = self.random.within(1, MAX_PROMPT_LEN);
        let weight = NonZeroU16::new(self.weights[tenant]).unwrap();
        let new = NewSequence {
            id,
            prompt: (0..prompt_len as TokenId).map(|at| at + id.0 as TokenId).collect(),
            max_new_tokens: self.random.within(0, MAX_NEW_TOKENS),
            priority,
            share: Some(Share { tenant: format!("tenant {tenant}").into(), weight }),
            salt: None,
            need_prompt_logits: false,
        };
        self.scheduler.submit(new).unwrap();
        self.tenant_of.insert(id, tenant);
        self.prompt_lens.insert(id, prompt_len);
        self.waiting[tenant] += 1;
    }

    /// Tenants always have this many waiting, all as urgent.
    fn fill(&mut self, tenants: &[usize], num_waiting: usize) {
        for &tenant in tenants {
            while self.waiting[tenant] < num_waiting {
                self.submit(tenant, 0);
            }
        }
    }

    fn step(&mut self) -> Plan {
        let plan = self.scheduler.schedule().unwrap();
        let mut outcomes = Vec::new();
        for entry in &plan.entries {
            let tenant = self.tenant_of[&entry.id];
            if entry.start == 0 {
                self.waiting[tenant] -= 1;
                self.admitted.push(tenant);
            }
            self.served[tenant] += self.cost(entry);
            let tokens = Vec::from_iter(entry.samples.then_some(7));
            outcomes.push(Outcome { id: entry.id, tokens: tokens.into(), finished: false });
        }
        assert!(plan.preempted.is_empty(), "the cache is roomy here");
        self.scheduler.commit(&plan, &outcomes);
        plan
    }

    fn cost(&self, entry: &Entry) -> u64 {
        let prompt_len = self.prompt_lens[&entry.id];
        let num_prompt = (entry.start + entry.len).min(prompt_len).saturating_sub(entry.start);
        num_prompt as u64 * PROMPT_TOKEN_COST + u64::from(entry.samples) * GENERATED_TOKEN_COST
    }

    /// What a tenant was served over its weight.
    fn normalised(&self, tenant: usize) -> f64 {
        self.served[tenant] as f64 / f64::from(self.weights[tenant])
    }
}

/// From the moment both wait until the end of every step after it, what two tenants were served is
/// within `R` sequences of 1 : 3; with one sequence at a time, within one of each.
#[test]
fn tenants_that_wait_are_served_by_weight() {
    for max_num_seqs in [1, 2, 8, 32] {
        for seed in 0..20 {
            let mut traffic = Traffic::new(limits(max_num_seqs), &[1, 3], seed);
            traffic.fill(&[0, 1], 50);
            let bound = |tenant: usize| {
                (max_num_seqs as u64 * MAX_COST) as f64 / f64::from([1_u16, 3][tenant])
            };
            // The interval may begin at any time.
            let mut least = f64::INFINITY;
            let mut most = f64::NEG_INFINITY;
            for _ in 0..2000 {
                traffic.step();
                traffic.fill(&[0, 1], 50);
                let ahead = traffic.normalised(0) - traffic.normalised(1);
                (least, most) = (least.min(ahead), most.max(ahead));
                assert!(-bound(1) <= ahead && ahead <= bound(0), "{ahead} of {max_num_seqs}");
            }
            assert!(most - least <= bound(0) + bound(1), "over the worst interval");
            let [one, three] = [0, 1].map(|tenant| traffic.served[tenant]);
            assert!(one > 10 * MAX_COST && three > one, "both are served: {one} and {three}");
            traffic.scheduler.check_invariants();
        }
    }
}

#[test]
fn a_flood_delays_another_tenant_by_at_most_two_admissions() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut traffic = Traffic::new(limits(random.pick(&[1, 4, 16])), &[1; 11], seed);
        traffic.fill(&[0], 500);
        for other in 1..=10 {
            for _ in 0..random.below(60) {
                traffic.step();
            }
            let before = traffic.admitted.len();
            traffic.submit(other, 0);
            while traffic.waiting[other] > 0 {
                traffic.step();
            }
            let mut admitted = traffic.admitted[before..].iter();
            let delay = admitted.position(|tenant| *tenant == other).unwrap();
            assert!(delay <= 2, "{delay} of the flood went first");
            traffic.fill(&[0], 500);
        }
    }
}

#[test]
fn who_was_idle_has_no_credit() {
    for seed in 0..20 {
        let max_num_seqs = 4;
        let mut traffic = Traffic::new(limits(max_num_seqs), &[1, 1], seed);
        traffic.fill(&[0], 20);
        while traffic.served[0] < 50 * MAX_COST {
            traffic.step();
            traffic.fill(&[0], 20);
        }
        traffic.served[0] = 0;
        let bound = (max_num_seqs as u64 * MAX_COST) as f64;
        for _ in 0..1000 {
            traffic.fill(&[0, 1], 20);
            traffic.step();
            let ahead = traffic.normalised(1) - traffic.normalised(0);
            assert!(ahead.abs() <= 2.0 * bound, "{ahead}");
        }
    }
}

#[test]
fn tenants_that_come_and_go_starve_nobody() {
    for seed in 0..50 {
        let weights = [1, 2, 5, 1, 3];
        let mut traffic = Traffic::new(limits(3), &weights, seed);
        for _ in 0..3000 {
            // The others come at random, urgently at times, and more than can be served.
            traffic.fill(&[0], 2);
            if traffic.random.one_in(2) {
                let tenant = traffic.random.within(1, 4);
                let priority = traffic.random.pick(&[0, 0, -5]);
                traffic.submit(tenant, priority);
            }
            traffic.step();
        }
        traffic.scheduler.check_invariants();
        let share = traffic.served[0] as f64 / traffic.served.iter().sum::<u64>() as f64;
        assert!(share > 0.05, "one of twelve parts at the least, but for the urgent: {share}");
    }
}

/// Patient sequences of one tenant beside floods of others that are more urgent.
#[test]
fn urgent_floods_pass_over_a_tenant_a_bounded_number_of_times() {
    let mut traffic = Traffic::new(limits(1), &[1, 1, 1], 1);
    for _ in 0..20 {
        traffic.submit(0, 7);
    }
    let mut urgent = 0;
    while traffic.waiting[0] > 0 {
        while traffic.waiting[1] + traffic.waiting[2] < 20 {
            urgent += 1;
            traffic.submit(1 + urgent % 2, -7);
        }
        traffic.step();
    }
    let turns: Vec<_> =
        (0..traffic.admitted.len()).filter(|at| traffic.admitted[*at] == 0).collect();
    // It was served least all the time, so each ninth admission is its own.
    let expected: Vec<_> = (1..=20).map(|turn| turn * (MAX_OVERTAKEN + 1) - 1).collect();
    assert_eq!(turns, expected);
}

#[test]
fn cached_tokens_cost_nothing() {
    // Two tenants with the same weight; the prompts of one are all cached but for their last block.
    let caching = Limits { enable_prefix_caching: true, max_num_seqs: 1, ..limits(1) };
    let mut scheduler = Scheduler::new(caching).unwrap();
    let share = |tenant: &str| Some(Share { tenant: tenant.into(), weight: NonZeroU16::MIN });
    let new = |id: u64, tenant: &str, first: TokenId| NewSequence {
        id: SeqId(id),
        prompt: (first..first + 41).collect(),
        max_new_tokens: 0,
        priority: 0,
        share: share(tenant),
        salt: None,
        need_prompt_logits: false,
    };
    let step = |scheduler: &mut Scheduler| {
        let plan = scheduler.schedule()?;
        let outcome =
            |entry: &Entry| Outcome { id: entry.id, tokens: Tokens::default(), finished: false };
        scheduler.commit(&plan, &plan.entries.iter().map(outcome).collect::<Vec<_>>());
        Some(plan)
    };
    scheduler.submit(new(1000, "first", 5000)).unwrap();
    while step(&mut scheduler).is_some() {}
    for id in 0..40 {
        scheduler.submit(new(2 * id, "cached", 5000)).unwrap();
        scheduler.submit(new(2 * id + 1, "computed", 100 * id as TokenId)).unwrap();
    }
    let mut admitted = Vec::new();
    while let Some(plan) = step(&mut scheduler) {
        let entry = &plan.entries[0];
        admitted.extend((entry.start == entry.cached_tokens).then_some(entry.id.0));
    }
    // One computed token beside 41: as many of the one as of the other have the same cost.
    let second = admitted.iter().filter(|id| *id % 2 == 1).nth(1).copied().unwrap();
    let before = admitted.iter().position(|id| *id == second).unwrap() - 1;
    assert_eq!(before, 40, "{admitted:?}");
}
