//! When a sequence ends, what is reported, what is refused.

use engine::{EngineError, EngineOptions, FinishReason, SamplingParams};

use super::options;
use crate::client::{ask, collect, greedy, request, submit};
use crate::fake::{EOS, Kind, VOCAB, start};

fn counting(params: SamplingParams, from: u32) -> (Vec<u32>, Option<FinishReason>) {
    let (engine, _) = start(Kind::Count, &options());
    let answer = ask(&engine, &[1, from], params);
    (answer.tokens, answer.reason)
}

#[test]
fn max_tokens_ends_with_length() {
    assert_eq!(counting(greedy(3), 4), (vec![5, 6, 7], Some(FinishReason::Length)));
    assert_eq!(counting(greedy(0), 4), (vec![], Some(FinishReason::Length)));
}

#[test]
fn end_of_sequence_is_reported_and_ends() {
    let ended = (vec![61, 62, EOS], Some(FinishReason::Stop(None)));
    assert_eq!(counting(greedy(9), 60), ended);
    assert_eq!(counting(greedy(3), 60), ended, "stop goes before length");
    let ignoring = SamplingParams { ignore_eos: true, ..greedy(5) };
    assert_eq!(counting(ignoring, 60), (vec![61, 62, EOS, 0, 1], Some(FinishReason::Length)));
}

#[test]
fn stop_tokens_end_and_are_named() {
    let params = SamplingParams { stop_token_ids: vec![6, 8], ..greedy(9) };
    assert_eq!(counting(params, 4), (vec![5, 6], Some(FinishReason::Stop(Some(6)))));
}

#[test]
fn min_tokens_bans_the_ends_until_then() {
    // 62 and 63 (the end) cannot come as the first two tokens, but as the third.
    let params = SamplingParams { stop_token_ids: vec![62], min_tokens: 2, ..greedy(9) };
    let (tokens, reason) = counting(params, 61);
    assert_eq!(tokens[..2], [0, 1]);
    assert_eq!((tokens.len(), reason), (9, Some(FinishReason::Length)));
    let params = SamplingParams { min_tokens: 2, ..greedy(9) };
    assert_eq!(counting(params, 60), (vec![61, 62, EOS], Some(FinishReason::Stop(None))));
}

#[test]
fn the_context_length_ends_with_length() {
    let options = EngineOptions { max_model_len: Some(10), ..options() };
    let (engine, _) = start(Kind::Count, &options);
    let answer = ask(&engine, &[1, 2, 3, 4, 5, 6, 7], greedy(100));
    assert_eq!((answer.tokens, answer.reason), (vec![8, 9, 10], Some(FinishReason::Length)));
    let full = ask(&engine, &[1; 9], greedy(100));
    assert_eq!(full.tokens.len(), 1);
    let scored = ask(&engine, &[1; 10], greedy(0));
    assert_eq!(scored.reason, Some(FinishReason::Length));
}

#[test]
fn penalties_bias_and_masks_reach_the_sampler() {
    let params = SamplingParams { logit_bias: [(20, 100.0)].into(), ..greedy(2) };
    assert_eq!(counting(params, 4).0, [20, 20]);
    let params = SamplingParams { frequency_penalty: 40.0, ..greedy(2) };
    let params = SamplingParams { logit_bias: [(20, 80.0), (30, 70.0)].into(), ..params };
    assert_eq!(counting(params, 4).0, [20, 30], "the second 20 is penalised");
    let params = SamplingParams { allowed_token_ids: Some([2, 33].into()), ..greedy(2) };
    assert_eq!(counting(params, 4).0, [33, 2]);
}

#[test]
fn logprobs_come_with_every_token() {
    let (engine, _) = start(Kind::Hash, &options());
    let params = SamplingParams { logprobs: Some(3), ignore_eos: true, ..greedy(6) };
    let answer = ask(&engine, &[1, 2, 3], params);
    assert_eq!(answer.logprobs.len(), 6);
    for (token, logprobs) in answer.tokens.iter().zip(&answer.logprobs) {
        let logprobs = logprobs.as_ref().unwrap();
        assert_eq!((logprobs.top.len(), logprobs.rank), (3, 1));
        assert_eq!(logprobs.top[0], (*token, logprobs.logprob));
    }
    let without = ask(&engine, &[1, 2, 3], greedy(6));
    assert!(without.logprobs.iter().all(Option::is_none));
}

#[test]
fn prompt_logprobs_are_the_same_cached_or_not() {
    let (engine, control) = start(
        Kind::Hash,
        &EngineOptions { max_num_seqs: Some(1), max_num_batched_tokens: Some(48), ..options() },
    );
    let prompt: Vec<u32> = (0..60).collect();
    let params = SamplingParams { prompt_logprobs: Some(2), ..greedy(4) };
    let first = ask(&engine, &prompt, params.clone());
    let scores = first.prompt_scores.clone().unwrap();
    assert_eq!(scores.len(), 60);
    assert!(scores[0].is_none() && scores[1..].iter().all(Option::is_some));
    let plain = ask(&engine, &prompt, greedy(4));
    assert!(plain.prompt_scores.is_none() && plain.cached_tokens > 0, "its blocks are there");
    let again = ask(&engine, &prompt, params.clone());
    assert_eq!(again, first);
    // What scoring says of a token is what sampling says when it comes.
    let longer: Vec<u32> = prompt.iter().chain(&first.tokens[..1]).copied().collect();
    let sampled = ask(&engine, &prompt, SamplingParams { logprobs: Some(2), ..greedy(1) });
    let scored = ask(&engine, &longer, SamplingParams { max_tokens: 0, ..params });
    assert_eq!(scored.prompt_scores.unwrap()[60], sampled.logprobs[0]);
    assert_eq!((scored.reason, scored.tokens.len()), (Some(FinishReason::Length), 0));
    assert!(control.max_rows.load(std::sync::atomic::Ordering::Relaxed) <= 32, "in pieces");
}

#[test]
fn identical_prompts_share_blocks() {
    let (engine, _) = start(Kind::Hash, &options());
    let prompt: Vec<u32> = (0..18).collect();
    assert_eq!(ask(&engine, &prompt, greedy(2)).cached_tokens, 0);
    let (requests, receivers): (Vec<_>, Vec<_>) =
        (0..3).map(|_| request(&prompt, greedy(2))).unzip();
    engine.submit_all(requests).unwrap();
    for receiver in &receivers {
        assert_eq!(collect(receiver).cached_tokens, 16, "four blocks of four");
    }
    let (mut salted, receiver) = request(&prompt, greedy(2));
    salted.cache_salt = Some("other".into());
    engine.submit(salted).unwrap();
    assert_eq!(collect(&receiver).cached_tokens, 0);
}

#[test]
fn priorities_go_before_arrival() {
    let (engine, control) =
        start(Kind::Count, &EngineOptions { max_num_seqs: Some(1), ..options() });
    control.close();
    let running = submit(&engine, &[1], greedy(1));
    control.wait_until_stuck();
    let (order, ended) = std::sync::mpsc::channel();
    for (name, priority) in [("late", 5), ("early", -1)] {
        let (mut request, _) = request(&[1], greedy(1));
        let order = order.clone();
        request.priority = priority;
        request.sink = Box::new(move |_| order.send(name).is_ok());
        engine.submit(request).unwrap();
    }
    control.open();
    assert!(collect(&running).reason.is_some());
    let names: Vec<_> = ended.iter().take(6).collect();
    assert_eq!(names[..3], ["early"; 3], "a start, a token and an end each");
    assert_eq!(names[3..], ["late"; 3]);
}

#[test]
fn what_cannot_run_is_rejected_by_name() {
    let (engine, _) = start(Kind::Count, &options());
    let vocab = VOCAB as u32;
    let plain = SamplingParams::default;
    let cases = [
        (vec![], plain(), "prompt is empty"),
        (vec![vocab], plain(), "prompt names token 64"),
        (vec![1; 128], plain(), "context length is 128: shorten it to 127"),
        (vec![1; 129], SamplingParams { max_tokens: 0, ..plain() }, "shorten it to 128"),
        (vec![1], SamplingParams { temperature: f32::NAN, ..plain() }, "temperature"),
        (vec![1], SamplingParams { temperature: -1.0, ..plain() }, "temperature"),
        (vec![1], SamplingParams { top_p: 0.0, ..plain() }, "top_p"),
        (vec![1], SamplingParams { min_p: 1.5, ..plain() }, "min_p"),
        (vec![1], SamplingParams { repetition_penalty: 0.0, ..plain() }, "repetition_penalty"),
        (vec![1], SamplingParams { presence_penalty: f32::INFINITY, ..plain() }, "presence"),
        (vec![1], SamplingParams { logit_bias: [(vocab, 1.0)].into(), ..plain() }, "logit_bias"),
        (vec![1], SamplingParams { logit_bias: [(1, f32::NAN)].into(), ..plain() }, "logit_bias"),
        (vec![1], SamplingParams { allowed_token_ids: Some([].into()), ..plain() }, "allowed"),
        (vec![1], SamplingParams { allowed_token_ids: Some([vocab].into()), ..plain() }, "allowed"),
        (
            vec![1],
            SamplingParams { allowed_token_ids: Some([EOS].into()), min_tokens: 1, ..plain() },
            "min_tokens",
        ),
    ];
    for (prompt, params, needle) in cases {
        let error = engine.submit(request(&prompt, params).0).unwrap_err();
        let EngineError::Rejected(message) = error else { panic!("{error:?}") };
        assert!(message.contains(needle), "{message} does not say {needle}");
    }
    let good = request(&[1], plain()).0;
    let bad = request(&[], plain()).0;
    assert!(engine.submit_all(vec![good, bad]).is_err());
    assert_eq!(engine.stats().num_waiting, 0, "all or none");
}
