//! What surrounds a request cannot change its answer.

use std::sync::atomic::Ordering;

use engine::{EngineHandle, EngineOptions, SamplingParams};

use super::options;
use crate::client::{Answer, Random, ask, collect, eventually, request, submit};
use crate::fake::{Control, EOS, Kind, VOCAB, start, start_with_draft};

type Ask = (Vec<u32>, SamplingParams);

/// Requests with every parameter, half of them behind one of a few common prefixes.
fn asks(seed: u64, num: usize) -> Vec<Ask> {
    let mut random = Random(seed * 1000);
    (0..num).map(|_| (prompt(&mut random), params(&mut random))).collect()
}

fn prompt(random: &mut Random) -> Vec<u32> {
    let shared = if random.chance(50) { 9 + random.below(2) * 4 } else { 0 };
    let own = 1 + random.below(20);
    let common = (0..shared as u32).map(|id| id + 5);
    common.chain((0..own).map(|_| random.below(VOCAB) as u32)).collect()
}

fn params(random: &mut Random) -> SamplingParams {
    let some = |random: &mut Random, value: f32, neutral| {
        if random.chance(30) { value } else { neutral }
    };
    SamplingParams {
        temperature: [0.0, 0.7, 1.3][random.below(3)],
        top_p: some(random, 0.8, 1.0),
        top_k: if random.chance(30) { 7 } else { 0 },
        min_p: some(random, 0.05, 0.0),
        repetition_penalty: some(random, 1.3, 1.0),
        presence_penalty: some(random, 0.6, 0.0),
        frequency_penalty: some(random, 0.4, 0.0),
        seed: random.below(1000) as u64,
        logit_bias: if random.chance(20) { [(3, 5.0), (9, -100.0)].into() } else { [].into() },
        allowed_token_ids: random.chance(20).then(|| (0..40).chain([EOS]).collect()),
        logprobs: random.chance(40).then(|| random.below(4) as u32),
        prompt_logprobs: random.chance(25).then(|| random.below(3) as u32),
        second_text: None,
        max_tokens: random.below(30),
        min_tokens: random.below(3) * 4,
        ignore_eos: random.chance(30),
        stop_token_ids: if random.chance(30) { vec![11, 12] } else { vec![] },
    }
}

fn ask_alone(engine: &EngineHandle, (prompt, params): &Ask) -> Answer {
    ask(engine, prompt, params.clone())
}

fn alone(asks: &[Ask]) -> Vec<Answer> {
    let options = EngineOptions { enable_prefix_caching: Some(false), ..options() };
    let (engine, _) = start(Kind::Hash, &options);
    asks.iter().map(|ask| ask_alone(&engine, ask)).collect()
}

/// Requests arrive a few at a time, with a random number of steps between; all run beside others.
fn together(engine: &EngineHandle, control: &Control, asks: &[Ask]) -> Vec<Answer> {
    let mut random = Random(asks.len() as u64);
    control.close();
    let mut receivers = Vec::new();
    for (prompt, params) in asks {
        receivers.push(submit(engine, prompt, params.clone()));
        if random.chance(25) {
            control.allow(random.below(8));
            let rests = || control.is_stuck() || engine.is_idle();
            eventually("the engine stands still", rests);
        }
    }
    control.open();
    let answers = receivers.iter().map(collect).collect();
    let stats = engine.stats();
    assert_eq!((stats.num_running, stats.num_waiting, stats.kv_blocks_used), (0, 0, 0));
    answers
}

fn assert_same(asks: &[Ask], expected: &[Answer], answers: &[Answer]) {
    for ((ask, expected), answer) in asks.iter().zip(expected).zip(answers) {
        let comparable = Answer { cached_tokens: 0, ..answer.clone() };
        assert_eq!(*expected, comparable, "to {ask:?}");
    }
}

#[test]
fn batched_equals_alone() {
    for seed in 0..4 {
        let asks = asks(seed, 60);
        let expected = alone(&asks);
        let finished = expected.iter().filter(|answer| answer.reason.is_some()).count();
        assert_eq!(finished, 60, "every request finishes");
        let (engine, control) = start(Kind::Hash, &options());
        assert_same(&asks, &expected, &together(&engine, &control, &asks));
        let stats = engine.stats();
        assert!(stats.cached_prompt_tokens > 0, "prefixes were shared");
        assert!(stats.generated_tokens > 2 * stats.steps, "they ran side by side: {stats:?}");
    }
}

#[test]
fn chunked_equals_whole() {
    let asks = asks(10, 60);
    let expected = alone(&asks);
    for budget in [1, 7, 64] {
        let options = EngineOptions { max_num_batched_tokens: Some(budget), ..options() };
        let (engine, control) = start(Kind::Hash, &options);
        assert_same(&asks, &expected, &together(&engine, &control, &asks));
        assert!(control.max_rows.load(Ordering::Relaxed) <= budget);
    }
}

#[test]
fn starved_equals_roomy() {
    let mut asks = asks(20, 80);
    for (_, params) in &mut asks {
        params.max_tokens += 30;
        params.ignore_eos = true;
    }
    let expected = alone(&asks);
    // Just enough for one of the longest sequences, so that running ones rob each other.
    let options = EngineOptions {
        max_model_len: Some(96),
        num_gpu_blocks_override: Some(24),
        max_num_batched_tokens: Some(16),
        ..options()
    };
    let (engine, control) = start(Kind::Hash, &options);
    assert_same(&asks, &expected, &together(&engine, &control, &asks));
    let stats = engine.stats();
    assert!(stats.preemptions > 5, "the cache was too roomy to matter: {stats:?}");
}

#[test]
fn choices_with_seeds_equal_single_requests() {
    let prompt: Vec<u32> = (1..12).collect();
    let params = |seed| SamplingParams { seed, max_tokens: 12, ..SamplingParams::default() };
    let (engine, _) = start(Kind::Hash, &options());
    let (requests, receivers): (Vec<_>, Vec<_>) =
        (0..4).map(|seed| request(&prompt, params(seed))).unzip();
    engine.submit_all(requests).unwrap();
    let answers: Vec<_> = receivers.iter().map(collect).collect();
    let (fresh, _) = start(Kind::Hash, &options());
    for (seed, answer) in answers.iter().enumerate() {
        assert_eq!(answer.tokens, ask(&fresh, &prompt, params(seed as u64)).tokens);
    }
    assert!(answers[0].tokens != answers[1].tokens, "seeds matter");
}

/// Texts that go in circles, with and without guesses, alone and together, starved, with every
/// parameter: the same tokens and log-probabilities.
#[test]
fn speculation_changes_nothing() {
    let mut asks = asks(30, 60);
    for (_, params) in &mut asks {
        params.max_tokens += 20;
    }
    let with = |num| EngineOptions { num_speculative_tokens: Some(num), ..options() };
    let unshared = EngineOptions { enable_prefix_caching: Some(false), ..with(0) };
    let (engine, _) = start(Kind::Circle, &unshared);
    let expected: Vec<_> = asks.iter().map(|ask| ask_alone(&engine, ask)).collect();
    assert_eq!(engine.stats().lookup_drafts, 0);
    let steps_without = engine.stats().steps;
    let (engine, _) = start(Kind::Circle, &with(16));
    let alone: Vec<_> = asks.iter().map(|ask| ask_alone(&engine, ask)).collect();
    assert_same(&asks, &expected, &alone);
    let stats = engine.stats();
    assert!(stats.steps < steps_without * 3 / 4, "{stats:?} against {steps_without} steps");
    let starved = EngineOptions {
        max_model_len: Some(96),
        num_gpu_blocks_override: Some(24),
        max_num_batched_tokens: Some(16),
        ..with(5)
    };
    for options in [with(3), starved] {
        let (engine, control) = start(Kind::Circle, &options);
        assert_same(&asks, &expected, &together(&engine, &control, &asks));
        let stats = engine.stats();
        assert!(stats.lookup_drafts_accepted > 50, "{stats:?}");
        assert!(stats.lookup_drafts > stats.lookup_drafts_accepted + 20, "{stats:?}");
    }
}

/// A draft model that is the model itself guesses right as long as it reads what it should: whatever
/// is preempted, shared or chunked. One that is another model changes nothing but the time.
#[test]
fn a_draft_model_reads_what_it_should_and_changes_nothing() {
    let mut asks = asks(40, 60);
    for (_, params) in &mut asks {
        params.max_tokens += 20;
        params.ignore_eos = true;
        (params.allowed_token_ids, params.stop_token_ids) = (None, vec![]);
    }
    let expected = alone(&asks);
    let starved = EngineOptions {
        max_model_len: Some(96),
        num_gpu_blocks_override: Some(24),
        max_num_batched_tokens: Some(24),
        ..options()
    };
    for options in [options(), starved] {
        let (engine, control) = start_with_draft(Kind::Hash, Some(Kind::Hash), &options);
        assert_same(&asks, &expected, &together(&engine, &control, &asks));
        let stats = engine.stats();
        assert!(stats.model_drafts > 30, "{stats:?}");
        assert_eq!(stats.model_drafts, stats.model_drafts_accepted, "{stats:?}");
        let (engine, control) = start_with_draft(Kind::Hash, Some(Kind::Count), &options);
        assert_same(&asks, &expected, &together(&engine, &control, &asks));
        let stats = engine.stats();
        assert!(stats.model_drafts > stats.model_drafts_accepted + 20, "{stats:?}");
    }
}
