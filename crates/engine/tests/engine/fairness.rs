//! Tenants take turns and leave each other room; who waits past a deadline is dropped.

use std::num::NonZeroU16;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use engine::{EngineError, EngineHandle, EngineOptions, Event, Request, Share};

use super::options;
use crate::client::{ask, collect, eventually, greedy, request, submit};
use crate::fake::{Kind, start};

fn of(tenant: &str, prompt: &[u32], max_tokens: usize) -> (Request, Receiver<Event>) {
    let (request, events) = request(prompt, greedy(max_tokens));
    let share = Share { tenant: tenant.into(), weight: NonZeroU16::MIN };
    (Request { share: Some(share), ..request }, events)
}

fn due_in(wait: Duration, prompt: &[u32]) -> (Request, Receiver<Event>) {
    let (request, events) = request(prompt, greedy(3));
    (Request { deadline: Some(Instant::now() + wait), ..request }, events)
}

const ONE: fn() -> EngineOptions =
    || EngineOptions { max_num_seqs: Some(1), max_num_queued_reqs: Some(90), ..options() };

#[test]
fn a_flood_of_one_tenant_delays_another_by_two_sequences_at_most() {
    let (engine, control) = start(Kind::Count, &ONE());
    control.close();
    let (order, ended) = channel();
    let send = |engine: &EngineHandle, tenant: &'static str| {
        let order = order.clone();
        let (mut request, _) = of(tenant, &[1, 2, 3], 4);
        request.sink = Box::new(move |event| match event {
            Event::Finished { .. } => order.send(tenant).is_ok(),
            _ => true,
        });
        engine.submit(request).unwrap();
    };
    (0..60).for_each(|_| send(&engine, "flood"));
    control.wait_until_stuck();
    (0..3).for_each(|_| send(&engine, "other"));
    control.open();
    let order: Vec<_> = ended.iter().take(63).collect();
    let turns: Vec<_> = (0..63).filter(|turn| order[*turn] == "other").collect();
    // One of the flood runs already; then they take turns.
    assert!(turns == [2, 4, 6] || turns == [1, 3, 5], "{turns:?}");
}

#[test]
fn a_flood_of_one_tenant_leaves_places_in_the_queue() {
    let (engine, control) = start(Kind::Count, &ONE());
    control.close();
    let running = submit(&engine, &[1], greedy(1));
    control.wait_until_stuck();
    eventually("the first one left the queue", || engine.stats().num_waiting == 0);
    let flood = |tenant| {
        let sent = std::iter::repeat_with(|| engine.submit(of(tenant, &[1, 2], 1).0));
        sent.take_while(Result::is_ok).count()
    };
    assert_eq!(flood("flood"), 80);
    let refused = engine.submit(of("flood", &[1], 1).0).unwrap_err();
    assert_eq!(refused, EngineError::QueueShareFull { own: 80, waiting: 80, limit: 90 });
    assert!(flood("other") > 5);
    assert!(engine.submit(request(&[1], greedy(1)).0).is_ok(), "one without a name");
    assert_eq!(engine.stats().num_waiting_tokens, 2 * (engine.stats().num_waiting - 1) + 1);
    assert!(engine.time_to_drain() > Duration::ZERO);
    control.open();
    collect(&running);
    eventually("all are done", || engine.is_idle());
    control.close();
    let running = submit(&engine, &[1], greedy(1));
    control.wait_until_stuck();
    eventually("it left the queue", || engine.stats().num_waiting == 0);
    assert_eq!(flood("flood"), 80, "all places are given back");
    control.open();
    collect(&running);
}

#[test]
fn tokens_that_wait_are_bounded() {
    let limits = EngineOptions { max_num_queued_tokens: Some(50), ..ONE() };
    let (engine, control) = start(Kind::Count, &limits);
    control.close();
    let running = submit(&engine, &[1; 60], greedy(1));
    control.wait_until_stuck();
    eventually("the first one left the queue", || engine.stats().num_waiting_tokens == 0);
    let send = |len| engine.submit(request(&vec![1; len], greedy(1)).0);
    send(30).unwrap();
    let full = EngineError::QueueTokensFull { waiting: 30, new: 21, limit: 50 };
    assert_eq!(send(21), Err(full));
    send(20).unwrap();
    assert!(send(1).is_err());
    assert_eq!((engine.stats().num_waiting, engine.stats().num_waiting_tokens), (2, 50));
    control.open();
    collect(&running);
    eventually("all are done", || engine.is_idle());
    assert_eq!(engine.stats().num_waiting_tokens, 0);
    assert!(ask(&engine, &[1; 60], greedy(1)).reason.is_some(), "alone it may be longer");
}

#[test]
fn who_waits_past_the_deadline_is_dropped_before_it_runs() {
    let (engine, control) = start(Kind::Count, &ONE());
    control.close();
    let running = submit(&engine, &[1], greedy(4));
    control.wait_until_stuck();
    let (late, late_events) = due_in(Duration::from_millis(1), &[10; 20]);
    let (in_time, in_time_events) = due_in(Duration::from_hours(1), &[20]);
    let (aborted, _) = due_in(Duration::from_millis(1), &[30]);
    let aborted = engine.submit_all(vec![late, in_time, aborted]).unwrap()[2];
    engine.abort(aborted);
    std::thread::sleep(Duration::from_millis(2));
    control.open();
    let answer = collect(&late_events);
    assert_eq!((answer.failed, answer.tokens), (Some(EngineError::DeadlineExceeded), vec![]));
    assert_eq!(collect(&running).tokens, [2, 3, 4, 5]);
    assert_eq!(collect(&in_time_events).tokens, [21, 22, 23]);
    eventually("all are done", || engine.is_idle());
    let stats = engine.stats();
    assert_eq!((stats.expired, stats.failed, stats.aborted, stats.finished), (1, 1, 1, 2));
    assert_eq!((stats.prompt_tokens, stats.num_waiting_tokens), (2, 0), "it was never computed");
}

#[test]
fn a_deadline_that_has_passed_already_never_runs() {
    let (engine, _) = start(Kind::Count, &options());
    let (request, events) = due_in(Duration::ZERO, &[1]);
    engine.submit(request).unwrap();
    assert_eq!(collect(&events).failed, Some(EngineError::DeadlineExceeded));
    assert_eq!(engine.stats().steps, 0);
    assert_eq!(ask(&engine, &[1], greedy(1)).tokens, [2], "the engine goes on");
}

#[test]
fn who_runs_goes_on_past_the_deadline_preempted_or_not() {
    // Blocks for one and a half of them: the second one is preempted and computed again.
    let limits = EngineOptions {
        max_model_len: Some(32),
        num_gpu_blocks_override: Some(8),
        enable_prefix_caching: Some(false),
        ..options()
    };
    let (engine, control) = start(Kind::Count, &limits);
    control.close();
    let wait = Duration::from_secs(1);
    let requests: Vec<_> = [1, 31]
        .map(|from| {
            let (request, events) = request(&[from; 4], greedy(20));
            (Request { deadline: Some(Instant::now() + wait), ..request }, events)
        })
        .into();
    let (requests, events): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
    engine.submit_all(requests).unwrap();
    control.wait_until_stuck();
    eventually("both run", || engine.stats().num_running == 2);
    std::thread::sleep(wait);
    control.open();
    for events in events {
        let answer = collect(&events);
        assert_eq!((answer.tokens.len(), answer.failed), (20, None));
    }
    assert!(engine.stats().preemptions > 0);
}
