//! Prompts become vectors, the same whatever surrounds them.

use std::sync::atomic::Ordering;

use engine::{EngineError, EngineHandle, EngineOptions, FinishReason, Pooling};

use crate::client::{Answer, Random, ask, collect, greedy, submit};
use crate::fake::{BROKEN, Kind, VOCAB, options, start_pooling};

const KINDS: [Pooling; 3] = [Pooling::Last, Pooling::Mean, Pooling::Cls];

fn pooling(kind: Pooling) -> EngineOptions {
    EngineOptions { pooling: Some(kind), ..options() }
}

/// Blocks for little more than one prompt, which is read in many steps.
fn starved(kind: Pooling) -> EngineOptions {
    EngineOptions {
        max_model_len: Some(40),
        num_gpu_blocks_override: Some(14),
        max_num_batched_tokens: Some(9),
        ..pooling(kind)
    }
}

/// Some have a beginning in common.
fn prompts() -> Vec<Vec<u32>> {
    let mut random = Random(11);
    let prompt = |_| {
        let shared = if random.chance(50) { 9 } else { 0 };
        let own = 1 + random.below(30);
        (0..shared).chain((0..own).map(|_| random.below(VOCAB) as u32)).collect()
    };
    (0..40).map(prompt).collect()
}

/// What the model says of each prefix, put together by hand.
fn expected(kind: Pooling, prompt: &[u32]) -> Vec<f32> {
    let ids: Vec<u64> = prompt.iter().map(|id| u64::from(*id)).collect();
    let hidden = |end: usize| Kind::Hash.logits(&ids[..end]);
    match kind {
        Pooling::Last => hidden(ids.len()),
        Pooling::Cls => hidden(1),
        Pooling::Mean => {
            let rows: Vec<_> = (1..=ids.len()).map(hidden).collect();
            let mean = |at: usize| {
                rows.iter().map(|row| f64::from(row[at])).sum::<f64>() / rows.len() as f64
            };
            (0..VOCAB).map(|at| mean(at) as f32).collect()
        }
    }
}

fn pool(engine: &EngineHandle, prompts: &[Vec<u32>]) -> Vec<Answer> {
    let events: Vec<_> = prompts.iter().map(|prompt| submit(engine, prompt, greedy(0))).collect();
    events.iter().map(collect).collect()
}

#[test]
fn what_surrounds_a_prompt_changes_no_bit_of_its_vector() {
    for kind in KINDS {
        for options in [pooling(kind), starved(kind)] {
            let (engine, _) = start_pooling(Kind::Hash, &options);
            let prompts = prompts();
            for _ in 0..2 {
                for (prompt, answer) in prompts.iter().zip(pool(&engine, &prompts)) {
                    assert_eq!(answer.vector, Some(expected(kind, prompt)), "{kind:?} {prompt:?}");
                    assert_eq!(answer.reason, Some(FinishReason::Length));
                    assert!(kind == Pooling::Last || answer.cached_tokens == 0, "{kind:?}");
                }
            }
            let stats = engine.stats();
            assert_eq!((stats.num_running, stats.num_waiting, stats.generated_tokens), (0, 0, 0));
            let shares = stats.cached_prompt_tokens > 0;
            assert_eq!(shares, kind == Pooling::Last, "the cache has no hidden states");
        }
    }
}

#[test]
fn nothing_is_generated() {
    let (engine, _) = start_pooling(Kind::Hash, &pooling(Pooling::Last));
    let (request, _) = crate::client::request(&[1, 2], greedy(1));
    let error = engine.submit(request).unwrap_err();
    assert!(error.to_string().contains("max_tokens must be 0"), "{error}");
}

#[test]
fn a_vector_that_is_no_number_fails_alone() {
    let (engine, _) = start_pooling(Kind::Count, &pooling(Pooling::Last));
    let broken = BROKEN.map(|id| id as u32).to_vec();
    let [bad, good] = <[Answer; 2]>::try_from(pool(&engine, &[broken, vec![3]])).unwrap();
    assert!(matches!(bad.failed, Some(EngineError::Logits(_))) && bad.vector.is_none(), "{bad:?}");
    assert!(good.vector.is_some() && good.failed.is_none());
}

#[test]
fn survivors_of_a_panic_are_read_anew() {
    for kind in KINDS {
        let (engine, control) = start_pooling(Kind::Hash, &starved(kind));
        control.panic_at.store(5, Ordering::Relaxed);
        let prompts = prompts();
        let answers = pool(&engine, &prompts);
        let failed = answers.iter().filter(|answer| answer.failed.is_some()).count();
        assert!((1..5).contains(&failed), "{failed}");
        for (prompt, answer) in prompts.iter().zip(answers) {
            if answer.failed.is_none() {
                assert_eq!(answer.vector, Some(expected(kind, prompt)), "{kind:?} {prompt:?}");
            }
        }
        assert_eq!(ask(&engine, &[5], greedy(0)).vector, Some(expected(kind, &[5])));
        assert_eq!(control.caches.lock().unwrap().len(), 1, "its memory is kept");
    }
}

/// A GPU keeps a workspace for so many rows of short sequences, however many run together.
#[test]
fn short_prompts_are_read_in_passes_that_attention_has_room_for() {
    for kind in KINDS {
        let options = EngineOptions {
            on_gpu: true,
            max_num_seqs: Some(40),
            max_num_batched_tokens: Some(512),
            ..pooling(kind)
        };
        let (engine, control) = start_pooling(Kind::Hash, &options);
        control.close();
        let prompts: Vec<Vec<u32>> = (0..40).map(|first| (first..first + 8).collect()).collect();
        let events: Vec<_> =
            prompts.iter().map(|prompt| submit(&engine, prompt, greedy(0))).collect();
        control.open();
        for (prompt, events) in prompts.iter().zip(&events) {
            assert_eq!(collect(events).vector, Some(expected(kind, prompt)), "{kind:?} {prompt:?}");
        }
        let most = control.max_split_rows.load(Ordering::Relaxed);
        assert!((41..=40 + 8).contains(&most), "{kind:?}: {most} rows");
    }
}
