//! What goes wrong, and what of a run is kept when it does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::failure::FailureKind;

/// Runs against a server whose every second answer of a run is `bad`.
fn half_failing(bad: impl Fn() -> Vec<Step> + Send + Sync + 'static, flags: &str) -> RunResult {
    let number = AtomicUsize::new(0);
    let script = after_looking(move |asked| {
        if number.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            bad()
        } else {
            stream(&chat_events(asked))
        }
    });
    let result = one(script, &format!("{RUN} {flags}"));
    assert_eq!((result.completed, result.failed), (3, 3), "{:?}", result.errors_by_kind);
    assert_eq!(result.errors_by_kind.len(), 1);
    assert_eq!(result.errors_by_kind[0].count, 3);
    // A failed request is in no figure but its count.
    assert_eq!((result.ttft.count, result.total_output_tokens), (3, 15));
    result
}

#[track_caller]
fn assert_failure(result: &RunResult, kind: FailureKind, part: &str) {
    let failures = &result.errors_by_kind[0];
    assert_eq!(failures.kind, kind);
    assert!(failures.first.contains(part), "{}", failures.first);
}

#[test]
fn failures_are_counted_by_kind_with_their_first_message() {
    let refused = |status: &'static str, headers: &'static str| {
        move || fake::json(status, headers, r#"{"error": {"message": "the reason"}}"#)
    };
    let result = half_failing(refused("401 Unauthorized", ""), "");
    assert_failure(&result, FailureKind::Unauthorized, "HTTP 401: the reason");
    let result = half_failing(refused("429 Too Many Requests", "retry-after: 0\r\n"), "");
    assert_failure(&result, FailureKind::RateLimited, "HTTP 429 (Retry-After 0 s): the reason");
    let result = half_failing(refused("404 Not Found", ""), "");
    assert_failure(&result, FailureKind::BadRequest, "HTTP 404: the reason");
    let result = half_failing(refused("503 Service Unavailable", ""), "");
    assert_failure(&result, FailureKind::ServerError, "HTTP 503: the reason");
}

/// A refused user waits as long as the server asks, or the loop would spin on refusals.
#[test]
fn users_of_a_closed_loop_honour_retry_after() {
    let number = AtomicUsize::new(0);
    let script = after_looking(move |asked| {
        if number.fetch_add(1, Ordering::Relaxed) == 0 {
            return fake::json("429 Too Many Requests", "retry-after: 1\r\n", "{}");
        }
        stream(&chat_events(asked))
    });
    let flags = "--concurrency 1 --requests 2 --warmup 0 --output-tokens 5";
    let result = one(script, flags);
    assert_eq!((result.completed, result.failed), (1, 1));
    assert!(result.duration >= 1.0, "{}", result.duration);
}

const HALF_EVENT: &str = r#"{"choices": [{"delta": {"content": "half"}}]}"#;

#[test]
fn streams_that_go_wrong_are_failures() {
    let cut = || vec![stream_head(), write(event(HALF_EVENT)), Step::Close];
    assert_failure(&half_failing(cut, ""), FailureKind::StreamCut, "connection broke");
    let unfinished = || vec![stream_head(), write(event(HALF_EVENT)), stream_end()];
    assert_failure(&half_failing(unfinished, ""), FailureKind::StreamCut, "after 1 events");
    let error = || {
        let error = event(r#"{"error": {"message": "out of blocks", "type": "x"}}"#);
        vec![stream_head(), write(event(HALF_EVENT)), write(error), stream_end()]
    };
    assert_failure(&half_failing(error, ""), FailureKind::ErrorEvent, "out of blocks");
    let malformed = || vec![stream_head(), write(event(r#"{"choices": ["#)), stream_end()];
    assert_failure(&half_failing(malformed, ""), FailureKind::Malformed, r#"{"choices": ["#);
    let not_http = || vec![write("SSH-2.0-OpenSSH_9.6\r\n\r\n"), Step::Close];
    assert_failure(&half_failing(not_http, ""), FailureKind::Malformed, "not HTTP");
}

#[test]
fn an_answer_without_an_end_of_its_body_is_one() {
    let script = after_looking(|asked| {
        let mut steps = stream(&chat_events(asked));
        steps.pop();
        steps.push(Step::Pause(Duration::from_hours(1)));
        steps
    });
    let result = one(script, "--concurrency 1 --requests 1 --warmup 0 --output-tokens 5");
    assert_eq!((result.completed, result.total_output_tokens), (1, 5));
}

#[test]
fn a_server_that_hangs_ends_at_the_timeout() {
    let hang = Duration::from_hours(1);
    let mute = move || vec![Step::Pause(hang)];
    let result = half_failing(mute, "--timeout 300ms");
    assert_failure(&result, FailureKind::Timeout, "--timeout");
    let midway = move || vec![stream_head(), write(event(HALF_EVENT)), Step::Pause(hang)];
    assert_failure(&half_failing(midway, "--timeout 300ms"), FailureKind::Timeout, "300ms");
}

#[test]
fn a_server_that_is_not_there_or_wants_a_key_is_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}");
    let args = args(&url, "");
    let error = runtime.block_on(Bench::connect(&args)).err().unwrap();
    assert!(error.to_string().contains(&url), "{error}");
    let locked: Arc<Script> = Arc::new(|_| fake::json("401 Unauthorized", "", "{}"));
    let error = bench(locked, "").err().unwrap();
    assert!(error.to_string().contains("--api-key"), "{error}");
}

#[test]
fn an_interrupt_gives_what_there_is() {
    let number = AtomicUsize::new(0);
    let script = after_looking(move |asked| {
        let hang = number.fetch_add(1, Ordering::Relaxed) >= 3;
        let pause = if hang { Duration::from_hours(1) } else { Duration::ZERO };
        let mut steps = vec![Step::Pause(pause)];
        steps.extend(stream(&chat_events(asked)));
        steps
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async {
        let url = fake::serve(script).await.unwrap();
        let args = args(&url, "--concurrency 1 --requests 9 --warmup 0 --output-tokens 5");
        let (stop, receiver) = tokio::sync::watch::channel(false);
        let bench = Bench::connect_with(&args, receiver).await.unwrap();
        let measuring = bench.sweep();
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stop.send(true).unwrap();
        };
        tokio::join!(measuring, stopping).0.runs.remove(0)
    });
    assert!(result.interrupted);
    assert_eq!((result.completed, result.failed, result.total_output_tokens), (3, 0, 15));
}

#[test]
fn a_run_of_nothing_but_lasting_failures_is_given_up() {
    let refuse = |_: &Asked| fake::json("404 Not Found", "", r#"{"error": "gone"}"#);
    let flags = "--concurrency 4 --output-tokens 5 --duration 1h --warmup";
    let result = one(after_looking(refuse), &format!("{flags} 0"));
    assert_eq!(result.completed, 0);
    assert!(result.failed >= 20 && result.failed < 100, "{}", result.failed);
    assert!(result.notes.iter().any(|note| note.contains("given up")), "{:?}", result.notes);
    let error = bench(after_looking(refuse), &format!("{flags} 2")).err().unwrap();
    assert!(error.to_string().contains("warm-up"), "{error}");
}

/// A server that dies in the second run does not cost the first.
#[test]
fn what_was_measured_before_an_error_is_kept() {
    let number = AtomicUsize::new(0);
    let script = after_looking(move |asked| {
        if number.fetch_add(1, Ordering::Relaxed) < 7 {
            stream(&chat_events(asked))
        } else {
            fake::json("500 Internal Server Error", "", "{}")
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let file = std::env::temp_dir().join(format!("sconce-kept-{}.json", std::process::id()));
    let outcome = runtime.block_on(async {
        let url = fake::serve(script).await.unwrap();
        let flags = "--concurrency 1,2 --requests 6 --warmup 1 --output-tokens 5 --output";
        let args = args(&url, &format!("{flags} {}", file.display()));
        let bench = Bench::connect(&args).await.unwrap();
        let outcome = bench.sweep().await;
        bench.publish(&outcome).unwrap();
        outcome
    });
    assert!(outcome.ended.unwrap_err().to_string().contains("HTTP 500"));
    assert_eq!(outcome.runs.len(), 1);
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(file).unwrap();
    assert_eq!(written["completed"], 6);
}
