//! A panic anywhere on the engine thread: whom it was at work on ends with an error, the rest is
//! served, and an engine that only fails gives up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use engine::{
    Constraint, EngineError, EngineHandle, EngineOptions, Event, Request, SamplingParams,
};

use super::options;
use crate::client::{Answer, Random, ask, collect, eventually, greedy, request, submit};
use crate::fake::{Control, Kind, start};

/// Where the engine is when it panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before a plan is made.
    Propose,
    /// While the step runs.
    Sample,
    /// After it, taking in what it gave.
    Settle,
    /// When the sequence is taken out of the books: it ended, was aborted or has expired.
    Remove,
}

const STAGES: [Stage; 4] = [Stage::Propose, Stage::Sample, Stage::Settle, Stage::Remove];

/// Allows everything, and panics once its sequence has got so far.
struct Saboteur(Stage);

impl Saboteur {
    fn strike(&self, stage: Stage) {
        assert!(self.0 != stage, "sabotage in {stage:?}");
    }
}

impl Constraint for Saboteur {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        self.strike(Stage::Sample);
        mask.fill(u32::MAX);
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<bool, String> {
        self.strike(Stage::Settle);
        Ok(false)
    }

    fn rollback(&mut self, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn forced(&mut self, _: usize) -> Vec<u32> {
        self.strike(Stage::Propose);
        Vec::new()
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.strike(Stage::Remove);
        }
    }
}

fn sabotage(stage: Stage, prompt: &[u32], params: SamplingParams) -> (Request, Receiver<Event>) {
    let (request, events) = request(prompt, params);
    (Request { constraint: Some(Box::new(Saboteur(stage))), ..request }, events)
}

fn two_at_a_time() -> EngineOptions {
    EngineOptions { max_num_seqs: Some(2), ..options() }
}

fn assert_failed(answer: &Answer, text: &str) {
    let Some(EngineError::Step(message)) = &answer.failed else { panic!("{answer:?}") };
    assert!(message.contains(text), "{message}");
}

/// After whatever happened: nobody is left, nothing is held, and requests are served.
fn assert_sound(engine: &EngineHandle) {
    assert_eq!(ask(engine, &[20], greedy(2)).tokens.len(), 2);
    eventually("all are gone", || engine.is_idle());
    let stats = engine.stats();
    assert_eq!((stats.num_waiting_tokens, stats.kv_blocks_used), (0, 0));
    assert!(engine.is_alive() && !engine.is_restarting() && engine.fault().is_none());
}

/// The saboteur runs beside another, and two wait.
#[test]
fn who_waits_is_served_in_order_whatever_stage_fails() {
    for stage in STAGES {
        let (engine, control) = start(Kind::Count, &two_at_a_time());
        control.close();
        let (saboteur, events) = sabotage(stage, &[4], greedy(3));
        engine.submit(saboteur).unwrap();
        let beside = submit(&engine, &[8], greedy(6));
        let (order, served) = channel();
        let waiting = [12, 16].map(|from| {
            let (mut request, events) = request(&[from], greedy(9));
            let (order, mut sink) = (order.clone(), request.sink);
            request.sink = Box::new(move |event| {
                if matches!(event, Event::Started { .. }) {
                    order.send(from).unwrap();
                }
                sink(event)
            });
            engine.submit(request).unwrap();
            events
        });
        control.open();
        let (saboteur, beside) = (collect(&events), collect(&beside));
        if stage == Stage::Remove {
            assert_eq!(saboteur.tokens, [5, 6, 7], "it had ended");
        } else {
            assert_failed(&saboteur, "sabotage");
        }
        assert_failed(&beside, "sabotage");
        assert_eq!(beside.tokens, [9, 10, 11][..beside.tokens.len()]);
        let [first, second] = waiting.each_ref().map(collect);
        assert_eq!((first.tokens[0], first.tokens.len()), (13, 9));
        assert_eq!((second.tokens[0], second.tokens.len()), (17, 9));
        assert_eq!(served.iter().take(2).collect::<Vec<_>>(), [12, 16]);
        assert_eq!(engine.stats().restarts, 1, "{stage:?}");
        assert_sound(&engine);
    }
}

/// Where the engine knows whom it was at work on, nobody else is touched, not even who runs.
#[test]
fn a_fault_outside_of_a_step_takes_only_its_own() {
    let (engine, control) =
        start(Kind::Count, &EngineOptions { max_num_seqs: Some(1), ..options() });
    control.close();
    let running = submit(&engine, &[8], greedy(20));
    control.wait_until_stuck();
    let (aborted, _) = sabotage(Stage::Remove, &[4], greedy(3));
    let aborted = engine.submit(aborted).unwrap();
    let (mut expired, events) = sabotage(Stage::Remove, &[4], greedy(3));
    expired.deadline = Some(Instant::now());
    engine.submit(expired).unwrap();
    let waiting = submit(&engine, &[12], greedy(3));
    engine.abort(aborted);
    control.open();
    assert_eq!(collect(&running).tokens, (9..29).collect::<Vec<_>>());
    assert_eq!(collect(&events).failed, Some(EngineError::DeadlineExceeded));
    assert_eq!(collect(&waiting).tokens, [13, 14, 15]);
    assert_eq!(engine.stats().restarts, 2);
    assert_sound(&engine);
}

/// Nobody knows who is to blame for a fault between steps; who was there each time is let go.
#[test]
fn who_waits_through_one_fault_after_another_is_taken_for_its_cause() {
    let (engine, control) =
        start(Kind::Count, &EngineOptions { max_num_seqs: Some(1), ..options() });
    control.close();
    let saboteurs = [1, 2, 3].map(|from| {
        let (request, events) = sabotage(Stage::Propose, &[from], greedy(5));
        engine.submit(request).unwrap();
        events
    });
    let patient = submit(&engine, &[12], greedy(3));
    control.open();
    for events in &saboteurs {
        assert_failed(&collect(events), "Propose");
    }
    assert_failed(&collect(&patient), "Propose");
    assert_sound(&engine);
}

/// One that fails whatever it is asked fails few requests and ends; the rest hears that it has.
fn gives_up(choose: fn(&Control)) -> EngineHandle {
    let (engine, control) =
        start(Kind::Count, &EngineOptions { max_num_seqs: Some(1), ..options() });
    control.close();
    let receivers: Vec<_> = (1..9).map(|from| submit(&engine, &[from], greedy(9))).collect();
    choose(&control);
    control.open();
    engine.join();
    let answers: Vec<_> = receivers.iter().map(collect).collect();
    answers[..5].iter().for_each(|answer| assert_failed(answer, "pass"));
    for answer in &answers[5..] {
        assert_eq!(answer.failed, Some(EngineError::Stopped));
    }
    assert!(!engine.is_alive() && engine.is_idle());
    assert_eq!(engine.submit(request(&[1], greedy(1)).0), Err(EngineError::Stopped));
    let fault = engine.fault().unwrap();
    assert!(fault.contains("5 times without a step that succeeded") && fault.contains("pass"));
    engine
}

#[test]
fn an_engine_that_only_panics_gives_up() {
    let engine = gives_up(|control| control.panic_from.store(1, Ordering::Relaxed));
    assert_eq!((engine.stats().restarts, engine.stats().failed), (4, 8));
}

#[test]
fn an_engine_whose_steps_all_fail_gives_up() {
    let engine = gives_up(|control| control.err_from.store(1, Ordering::Relaxed));
    assert_eq!((engine.stats().failed_steps, engine.stats().restarts), (5, 0));
}

#[test]
fn an_engine_that_is_told_to_end_has_no_fault() {
    let (engine, _) = start(Kind::Count, &options());
    engine.shutdown();
    engine.join();
    assert_eq!(engine.fault(), None);
}

/// Faults in every stage, among requests that come and go with a starved cache: everybody ends
/// once, nobody is told anything wrong, and nothing is lost.
#[test]
fn nothing_is_lost_in_a_storm_of_faults() {
    let starved = EngineOptions {
        max_num_seqs: Some(4),
        num_gpu_blocks_override: Some(14),
        max_model_len: Some(40),
        max_num_batched_tokens: Some(16),
        ..options()
    };
    let (roomy, _) = start(Kind::Hash, &options());
    for seed in 1..=6 {
        let mut random = Random(seed * 100);
        let (engine, control) = start(Kind::Hash, &starved);
        control.close();
        let num_faults = AtomicUsize::new(0);
        let asks: Vec<_> = (0..30)
            .map(|number| {
                let len = 1 + random.below(20);
                let prompt: Vec<u32> = (0..len).map(|_| random.below(60) as u32).collect();
                let params = SamplingParams { seed: number, max_tokens: 12, ..greedy(12) };
                let (mut ask, events) = if number % 5 == 3 {
                    num_faults.fetch_add(1, Ordering::Relaxed);
                    sabotage(STAGES[random.below(4)], &prompt, params.clone())
                } else {
                    request(&prompt, params.clone())
                };
                let waits = Duration::from_millis(random.below(20) as u64);
                ask.deadline = random.chance(10).then(|| Instant::now() + waits);
                let id = engine.submit(ask).unwrap();
                let is_aborted = random.chance(10);
                if is_aborted {
                    engine.abort(id);
                }
                control.allow(random.below(4));
                (prompt, params, events, is_aborted)
            })
            .collect();
        control.open();
        let mut num_ended = 0;
        for (prompt, params, events, is_aborted) in asks {
            let answer = collect(&events);
            let expected = ask(&roomy, &prompt, params);
            assert_eq!(answer.tokens, expected.tokens[..answer.tokens.len()]);
            if answer.reason.is_some() {
                assert_eq!(answer.tokens, expected.tokens);
            }
            num_ended += u64::from(answer.reason.is_some() || answer.failed.is_some());
            assert!(is_aborted || answer.reason.is_some() || answer.failed.is_some());
        }
        eventually("all are gone", || engine.is_idle());
        let stats = engine.stats();
        assert!(stats.restarts > 0 && stats.restarts <= num_faults.into_inner() as u64);
        assert!(stats.finished + stats.failed >= num_ended);
        assert_sound(&engine);
    }
}
