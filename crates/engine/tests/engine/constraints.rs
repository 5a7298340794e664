//! Constraints: followed token by token, their faults kept to their own sequence.

use engine::{Constraint, EngineError, EngineOptions, FinishReason, SamplingParams};

use super::{NUM_AHEAD, options};
use crate::client::{Answer, ask, collect, greedy, request};
use crate::fake::{EOS, Kind, VOCAB, start};

/// Allows what a list says for each position, and then nothing more.
struct Script {
    steps: Vec<Result<Vec<u32>, String>>,
    num_accepted: usize,
}

impl Script {
    fn boxed(steps: Vec<Result<Vec<u32>, String>>) -> Box<dyn Constraint> {
        Box::new(Self { steps, num_accepted: 0 })
    }
}

impl Constraint for Script {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        assert_eq!(mask.len(), VOCAB.div_ceil(32));
        mask.fill(0);
        for &id in self.steps[self.num_accepted].as_ref().map_err(Clone::clone)? {
            mask[id as usize / 32] |= 1 << (id % 32);
        }
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<bool, String> {
        let allowed = self.steps[self.num_accepted].as_ref().map_err(Clone::clone)?;
        assert!(allowed.contains(&id), "{id} was not allowed");
        self.num_accepted += 1;
        Ok(self.num_accepted == self.steps.len())
    }

    fn rollback(&mut self, n: usize) -> Result<(), String> {
        self.num_accepted -= n;
        Ok(())
    }

    fn forced(&mut self, max: usize) -> Vec<u32> {
        let only = |step: &Result<Vec<u32>, String>| match step.as_deref() {
            Ok([id]) => Some(*id),
            _ => None,
        };
        self.steps[self.num_accepted..].iter().map_while(only).take(max).collect()
    }
}

fn scripted(steps: Vec<Result<Vec<u32>, String>>, params: SamplingParams) -> Answer {
    let (engine, _) = start(Kind::Count, &options());
    let (request, events) = request(&[1, 4], params);
    let constraint = Some(Script::boxed(steps));
    engine.submit(engine::Request { constraint, ..request }).unwrap();
    let answer = collect(&events);
    assert_eq!(ask(&engine, &[1, 4], greedy(2)).tokens, [5, 6], "the engine goes on");
    answer
}

#[test]
fn the_best_allowed_token_is_taken_until_the_end() {
    let steps = [vec![9, 20], vec![3], vec![8, EOS]].map(Ok).to_vec();
    let answer = scripted(steps, greedy(9));
    assert_eq!((answer.tokens, answer.reason), (vec![9, 3, 8], Some(FinishReason::Stop(None))));
}

#[test]
fn length_ends_before_the_constraint_does() {
    let steps = vec![Ok(vec![9, 20]); 4];
    let answer = scripted(steps, greedy(2));
    assert_eq!((answer.tokens, answer.reason), (vec![9, 20], Some(FinishReason::Length)));
}

#[test]
fn it_meets_what_else_the_request_asks_for() {
    let params = SamplingParams { allowed_token_ids: Some([20, 21].into()), ..greedy(1) };
    assert_eq!(scripted(vec![Ok(vec![9, 20])], params).tokens, [20]);
    let params = SamplingParams { allowed_token_ids: Some([21].into()), ..greedy(1) };
    let failed = scripted(vec![Ok(vec![9, 20])], params).failed;
    assert_eq!(failed, Some(EngineError::Constraint("no token is possible".into())));
    let params = SamplingParams { min_tokens: 1, ..greedy(2) };
    let failed = scripted(vec![Ok(vec![EOS])], params).failed;
    assert_eq!(failed, Some(EngineError::Constraint("no token is possible".into())));
}

#[test]
fn a_fault_is_told_to_its_own_sequence_only() {
    let (engine, control) = start(Kind::Count, &options());
    control.close();
    let steps = vec![Ok(vec![9]), Err("too complex".to_owned())];
    let (faulty, faulty_events) = request(&[1, 4], greedy(5));
    let constraint = Some(Script::boxed(steps));
    let (free, free_events) = request(&[1, 30], greedy(5));
    engine.submit_all(vec![engine::Request { constraint, ..faulty }, free]).unwrap();
    control.open();
    let answer = collect(&faulty_events);
    assert_eq!(answer.tokens, [9]);
    assert_eq!(answer.failed, Some(EngineError::Constraint("too complex".into())));
    assert_eq!(collect(&free_events).tokens, [31, 32, 33, 34, 35]);
    let stats = engine.stats();
    assert_eq!((stats.failed, stats.finished, stats.failed_steps), (1, 1, 0));
}

#[test]
fn what_is_forced_comes_in_one_step() {
    let steps: Vec<_> = [vec![9, 20], vec![3], vec![40], vec![50], vec![8, 30], vec![EOS]].to_vec();
    let answer_of = |num_speculative_tokens| {
        let options = EngineOptions { num_speculative_tokens, ..options() };
        let (engine, _) = start(Kind::Count, &options);
        let (request, events) = request(&[1, 4], SamplingParams { logprobs: Some(1), ..greedy(9) });
        let constraint = Some(Script::boxed(steps.iter().cloned().map(Ok).collect()));
        engine.submit(engine::Request { constraint, ..request }).unwrap();
        (collect(&events), engine.stats())
    };
    let (answer, stats) = answer_of(None);
    assert_eq!(answer.tokens, [9, 3, 40, 50, 8, EOS]);
    assert_eq!(answer.reason, Some(FinishReason::Stop(None)));
    // The prompt, the three and what follows them, the end. Asked for ahead, the first of the three
    // runs alone before it is seen that it brings others.
    let expected = [(3, 4, 4), (5, 2, 2)][NUM_AHEAD];
    assert_eq!((stats.steps, stats.grammar_drafts, stats.grammar_drafts_accepted), expected);
    let (without, stats) = answer_of(Some(0));
    assert_eq!((without, stats.steps, stats.grammar_drafts), (answer, 6 + NUM_AHEAD as u64, 0));
}

/// A fault in a mask behind a guess counts once the text is there, not before.
#[test]
fn a_fault_behind_a_wrong_guess_is_none() {
    let circle: Vec<u32> = (0..30).map(|at| at % 3 + 10).collect();
    let (engine, _) = start(Kind::Count, &options());
    for (rival, answered, faulty) in [(7, 7, false), (11, 10, true)] {
        let mut prompt = circle.clone();
        prompt.extend([10, 11]);
        // 10 is guessed after 12, as before; of two tokens Count prefers the next one round.
        let steps = vec![Ok(vec![12]), Ok(vec![10, rival]), Err("too complex".to_owned())];
        let (request, events) = request(&prompt, greedy(if faulty { 3 } else { 2 }));
        let constraint = Some(Script::boxed(steps));
        engine.submit(engine::Request { constraint, ..request }).unwrap();
        let answer = collect(&events);
        assert_eq!(answer.tokens, [12, answered], "{answer:?}");
        assert_eq!(answer.failed.is_some(), faulty);
    }
}
