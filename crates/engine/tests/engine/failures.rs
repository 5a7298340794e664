//! A step that fails takes its own sequences with it and nobody else.

use std::sync::atomic::{AtomicUsize, Ordering};

use engine::{EngineError, EngineHandle, EngineOptions, SamplingParams};

use super::options;
use crate::client::{Answer, Random, ask, collect, eventually, greedy, request, submit};
use crate::fake::{BROKEN, Control, Kind, start, start_with_draft};

fn two_at_a_time() -> EngineOptions {
    EngineOptions { max_num_seqs: Some(2), ..options() }
}

/// Two run and one waits when the pass that `choose` names fails.
fn fails_only_its_own(choose: fn(&Control) -> &AtomicUsize, message: &str, is_panic: bool) {
    let (engine, control) = start(Kind::Count, &two_at_a_time());
    control.close();
    choose(&control).store(3, Ordering::Relaxed);
    let receivers = [4, 8, 12].map(|from| submit(&engine, &[from], greedy(5)));
    control.open();
    let [first, second, third] = receivers.each_ref().map(collect);
    for (answer, from) in [(first, 4), (second, 8)] {
        assert!(answer.tokens.len() <= 2 && answer.tokens.iter().all(|id| *id > from));
        let Some(EngineError::Step(text)) = answer.failed else { panic!("{answer:?}") };
        assert!(text.contains(message), "{text}");
    }
    assert_eq!(third.tokens, [13, 14, 15, 16, 17], "it waited and is served");
    assert_eq!(ask(&engine, &[20], greedy(2)).tokens, [21, 22]);
    let stats = engine.stats();
    let (steps, restarts) = if is_panic { (0, 1) } else { (1, 0) };
    assert_eq!((stats.failed_steps, stats.restarts), (steps, restarts));
    assert_eq!((stats.failed, stats.finished), (2, 2));
    assert_eq!((stats.num_running, stats.num_waiting, stats.kv_blocks_used), (0, 0, 0));
}

#[test]
fn an_error_fails_the_step() {
    fails_only_its_own(|control| &control.err_at, "pass 3 fails", false);
}

#[test]
fn a_panic_fails_the_step() {
    fails_only_its_own(|control| &control.panic_at, "panic: pass 3 panics", true);
}

/// With a starved cache, sequences that were preempted with half an answer survive, too.
#[test]
fn survivors_of_a_panic_answer_as_if_nothing_happened() {
    let mut random = Random(7);
    let asks: Vec<_> = (0..40)
        .map(|seed| {
            let prompt: Vec<u32> =
                (0..=random.below(20)).map(|_| random.below(60) as u32).collect();
            let params = SamplingParams {
                seed,
                max_tokens: 20,
                frequency_penalty: 0.5,
                prompt_logprobs: (seed % 3 == 0).then_some(1),
                ..SamplingParams::default()
            };
            (prompt, params)
        })
        .collect();
    let run = |engine: &EngineHandle| -> Vec<Answer> {
        let receivers: Vec<_> =
            asks.iter().map(|(prompt, params)| submit(engine, prompt, params.clone())).collect();
        receivers.iter().map(collect).collect()
    };
    let (roomy, _) = start(Kind::Hash, &options());
    let expected = run(&roomy);
    let starved = EngineOptions {
        max_model_len: Some(40),
        num_gpu_blocks_override: Some(14),
        max_num_batched_tokens: Some(16),
        ..options()
    };
    for pass in [1, 5, 20, 35, 50] {
        let (engine, control) = start(Kind::Hash, &starved);
        control.panic_at.store(pass, Ordering::Relaxed);
        let answers = run(&engine);
        let mut num_failed = 0;
        for (answer, expected) in answers.iter().zip(&expected) {
            if answer.failed.is_some() {
                num_failed += 1;
                assert_eq!(answer.tokens, expected.tokens[..answer.tokens.len()]);
            } else {
                let comparable = Answer { cached_tokens: expected.cached_tokens, ..answer.clone() };
                assert_eq!(comparable, *expected);
            }
        }
        assert!(num_failed >= control.num_failed.load(Ordering::Relaxed) && num_failed < 14);
        assert_eq!(engine.stats().failed, num_failed as u64);
        eventually("the blocks are free", || engine.stats().kv_blocks_used == 0);
    }
}

#[test]
fn a_sink_that_panics_ends_its_own_sequence() {
    let (engine, _) = start(Kind::Count, &options());
    let (mut broken, _) = request(&[1], greedy(50));
    broken.sink = Box::new(|_| panic!("the client's own fault"));
    let other = submit(&engine, &[4], greedy(5));
    engine.submit(broken).unwrap();
    assert_eq!(collect(&other).tokens, [5, 6, 7, 8, 9]);
    eventually("the broken one is gone", || engine.is_idle());
    assert_eq!((engine.stats().aborted, engine.stats().failed_steps), (1, 0));
}

/// Numbers that are none fail the sequence they belong to, whether sampled from or scored.
#[test]
fn a_row_that_is_not_finite_fails_alone() {
    let (engine, control) = start(Kind::Count, &options());
    control.close();
    let broken = BROKEN.map(|id| id as u32);
    let scored = SamplingParams { prompt_logprobs: Some(1), ..greedy(3) };
    let sampled = submit(&engine, &broken, greedy(3));
    let scored = submit(&engine, &[broken[0], broken[1], 3], scored);
    let sound = submit(&engine, &[8], greedy(3));
    control.open();
    for events in [sampled, scored] {
        let answer = collect(&events);
        assert!(answer.tokens.is_empty(), "{answer:?}");
        let Some(EngineError::Logits(text)) = answer.failed else { panic!("{answer:?}") };
        assert!(text.contains("NaN"), "{text}");
    }
    assert_eq!(collect(&sound).tokens, [9, 10, 11]);
    let stats = engine.stats();
    assert_eq!((stats.failed, stats.failed_steps, stats.finished), (2, 0, 1));
    assert_eq!((stats.num_running, stats.kv_blocks_used), (0, 0));
}

#[test]
fn a_draft_model_without_numbers_guesses_nothing() {
    let (engine, _) = start_with_draft(Kind::Count, Some(Kind::Broken), &options());
    assert_eq!(ask(&engine, &[4], greedy(5)).tokens, [5, 6, 7, 8, 9]);
    let stats = engine.stats();
    assert_eq!((stats.restarts, stats.failed_steps, stats.model_drafts), (0, 0, 0));
}
