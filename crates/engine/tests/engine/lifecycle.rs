//! Arrival, abort, queue bound, drain, shutdown, idleness.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use engine::{EngineError, EngineOptions, Event, FinishReason};

use super::{NUM_AHEAD, options};
use crate::client::{ask, collect, eventually, greedy, request, submit};
use crate::fake::{Kind, start};

#[test]
fn an_abort_midway_frees_everything() {
    let (engine, control) = start(Kind::Count, &options());
    control.close();
    let (request, events) = request(&[1; 20], greedy(100));
    let id = engine.submit(request).unwrap();
    let other = submit(&engine, &[4], greedy(8));
    control.allow(3 + NUM_AHEAD);
    assert_eq!(events.recv(), Ok(Event::Started { cached_tokens: 0 }));
    assert!(events.iter().take(3).all(|event| matches!(event, Event::Token { .. })));
    control.wait_until_stuck();
    assert_eq!(engine.stats().num_running, 2);
    engine.abort(id);
    control.allow(2 + NUM_AHEAD);
    // The pass at the gate may still give one token; then the sink is dropped without an end.
    let rest: Vec<_> = events.iter().collect();
    assert!(rest.len() <= 1 && rest.iter().all(|event| matches!(event, Event::Token { .. })));
    control.wait_until_stuck();
    assert_eq!(engine.stats().num_running, 1, "it left within a step");
    control.open();
    assert_eq!(collect(&other).tokens, [5, 6, 7, 8, 9, 10, 11, 12]);
    let stats = engine.stats();
    assert_eq!((stats.kv_blocks_used, stats.aborted, stats.finished), (0, 1, 1));
    engine.abort(id);
    assert_eq!(ask(&engine, &[1], greedy(1)).tokens, [2], "an old id is ignored");
}

#[test]
fn a_sink_that_returns_false_aborts() {
    let (engine, _) = start(Kind::Count, &options());
    let (request, events) = request(&[1], greedy(100));
    drop(events);
    engine.submit(request).unwrap();
    eventually("it was aborted", || engine.stats().aborted == 1);
    eventually("its blocks are free", || engine.stats().kv_blocks_used == 0);
    assert!(engine.stats().generated_tokens <= 2);
}

#[test]
fn a_full_queue_refuses_all_or_none_at_once() {
    let limits = EngineOptions { max_num_seqs: Some(1), max_num_queued_reqs: Some(3), ..options() };
    let (engine, control) = start(Kind::Count, &limits);
    control.close();
    let running = submit(&engine, &[1], greedy(2));
    control.wait_until_stuck();
    eventually("the first one left the queue", || engine.stats().num_waiting == 0);
    let batch = |num| (0..num).map(|_| request(&[1], greedy(1)).0).collect::<Vec<_>>();
    let full = |waiting| EngineError::QueueFull { waiting, limit: 3 };
    let ids = engine.submit_all(batch(2)).unwrap();
    assert_eq!(engine.submit_all(batch(2)), Err(full(2)));
    let third = submit(&engine, &[7], greedy(1));
    assert_eq!(engine.submit_all(batch(1)), Err(full(3)));
    assert_eq!(engine.stats().num_waiting, 3);
    engine.abort(ids[0]);
    control.allow(1);
    eventually("a place is free", || engine.stats().num_waiting == 2);
    engine.submit_all(batch(1)).unwrap();
    control.open();
    assert_eq!(collect(&running).tokens, [2, 3]);
    assert_eq!(collect(&third).tokens, [8]);
    eventually("all are done", || engine.is_idle());
}

#[test]
fn the_queue_never_overshoots_under_contention() {
    let limits =
        EngineOptions { max_num_seqs: Some(1), max_num_queued_reqs: Some(10), ..options() };
    let (engine, control) = start(Kind::Count, &limits);
    control.close();
    let running = submit(&engine, &[1], greedy(1));
    control.wait_until_stuck();
    eventually("the first one left the queue", || engine.stats().num_waiting == 0);
    let accepted: usize = thread::scope(|scope| {
        let send = || {
            let (requests, events): (Vec<_>, Vec<_>) =
                (0..50).map(|_| request(&[1], greedy(1))).unzip();
            let sent = requests.into_iter().map(|request| engine.submit(request));
            let sent = sent.collect::<Vec<_>>();
            sent.into_iter().zip(events).filter(|(sent, _)| sent.is_ok()).count()
        };
        let threads = [scope.spawn(send), scope.spawn(send), scope.spawn(send)];
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert_eq!(accepted, 10);
    control.open();
    collect(&running);
    eventually("all are done", || engine.is_idle());
}

#[test]
fn draining_finishes_what_was_accepted() {
    let (engine, control) =
        start(Kind::Count, &EngineOptions { max_num_seqs: Some(1), ..options() });
    control.close();
    let receivers = [4, 8].map(|from| submit(&engine, &[from], greedy(3)));
    control.wait_until_stuck();
    engine.drain();
    assert_eq!(engine.submit(request(&[1], greedy(1)).0), Err(EngineError::Stopped));
    assert!(engine.is_alive() && !engine.is_idle());
    control.open();
    assert_eq!(collect(&receivers[0]).tokens, [5, 6, 7]);
    assert_eq!(collect(&receivers[1]).tokens, [9, 10, 11]);
    engine.join();
    assert!(!engine.is_alive() && engine.is_idle());
}

#[test]
fn shutdown_tells_every_living_request() {
    let (engine, control) =
        start(Kind::Count, &EngineOptions { max_num_seqs: Some(1), ..options() });
    control.close();
    let receivers = [4, 8, 12].map(|from| submit(&engine, &[from], greedy(50)));
    control.wait_until_stuck();
    let unseen = submit(&engine, &[16], greedy(50));
    engine.shutdown();
    control.open();
    engine.join();
    engine.join();
    for events in receivers.iter().chain([&unseen]) {
        let answer = collect(events);
        assert_eq!(answer.failed, Some(EngineError::Stopped));
        assert!(answer.tokens.len() <= 1);
    }
    assert_eq!(engine.submit(request(&[1], greedy(1)).0), Err(EngineError::Stopped));
    let stats = engine.stats();
    assert_eq!((stats.num_running, stats.num_waiting, stats.kv_blocks_used), (0, 0, 0));
}

#[test]
fn the_last_handle_takes_the_engine_with_it() {
    let (engine, control) = start(Kind::Count, &options());
    control.close();
    let events = submit(&engine, &[1], greedy(50));
    control.wait_until_stuck();
    let clone = engine.clone();
    drop(engine);
    assert!(clone.is_alive());
    drop(clone);
    control.open();
    assert_eq!(collect(&events).failed, Some(EngineError::Stopped));
}

#[test]
fn counters_tell_what_happened() {
    let (engine, _) = start(Kind::Count, &options());
    let prompt: Vec<u32> = (1..11).collect();
    ask(&engine, &prompt, greedy(3));
    ask(&engine, &prompt, greedy(3));
    let stats = engine.stats();
    assert_eq!((stats.prompt_tokens, stats.cached_prompt_tokens), (20, 8));
    assert_eq!((stats.generated_tokens, stats.finished, stats.aborted), (6, 2, 0));
    assert_eq!((stats.steps, stats.batched_tokens), (6, 10 + 2 + 2 + 2));
    assert_eq!((stats.num_running, stats.kv_blocks_used, stats.kv_blocks_total), (0, 0, 512));
    assert!(stats.schedule_ns > 0 && stats.forward_ns > 0 && stats.sample_ns > 0);
}

/// Nanoseconds of CPU that a thread has had.
fn cpu_time(thread: &Path) -> String {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

#[test]
fn an_idle_engine_uses_no_cpu() {
    let (engine, _) = start(Kind::Count, &options());
    let (sender, receiver) = channel();
    let (mut request, _) = request(&[1], greedy(1));
    request.sink = Box::new(move |event| {
        let end = matches!(event, Event::Finished { reason: FinishReason::Length, .. });
        if end {
            sender.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
        }
        true
    });
    engine.submit(request).unwrap();
    let thread = PathBuf::from("/proc").join(receiver.recv().unwrap());
    // A thread that polls never shows the same time twice.
    eventually("the engine thread sleeps", || {
        let before = cpu_time(&thread);
        thread::sleep(Duration::from_millis(100));
        before == cpu_time(&thread)
    });
}
