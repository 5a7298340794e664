//! Whole benchmarks against a server in this process, whose every byte and pause is known.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cli::{BenchCommand, ServeArgs};
use crate::failure::FailureKind;
use crate::fake::{self, Asked, Script, Step, event, stream_end, stream_head, write};
use crate::result::RunResult;
use crate::serve::Bench;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: BenchCommand,
}

fn args(url: &str, flags: &str) -> ServeArgs {
    let words = ["bench", "serve", "--quiet", "--url", url].into_iter();
    let cli = Cli::try_parse_from(words.chain(flags.split_whitespace()));
    match cli.unwrap_or_else(|error| panic!("{error}")).command {
        BenchCommand::Serve(args) => *args,
        other => panic!("{other:?}"),
    }
}

/// Runs `sconce bench serve FLAGS` against the script.
fn bench(script: Arc<Script>, flags: &str) -> anyhow::Result<Vec<RunResult>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = fake::serve(script).await.unwrap();
        let args = args(&url, flags);
        let bench = Bench::connect(&args).await?;
        let outcome = bench.sweep().await;
        outcome.ended.map(|()| outcome.runs)
    })
}

fn one(script: Arc<Script>, flags: &str) -> RunResult {
    let mut results = bench(script, flags).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(results.len(), 1);
    results.remove(0)
}

/// Tokens of a text to the fake server: words of more than three letters are two.
fn num_tokens(text: &str) -> usize {
    text.split_whitespace().map(|word| if word.len() > 3 { 2 } else { 1 }).sum()
}

/// The prompt, of any API, and seven tokens of a template.
fn prompt_tokens(body: &Value) -> usize {
    let text = |value: &Value| num_tokens(value.as_str().unwrap_or(""));
    let messages = body["messages"].as_array().or(body["input"].as_array());
    let messages = messages.map_or(0, |m| m.iter().map(|m| text(&m["content"])).sum());
    7 + text(&body["prompt"]) + messages
}

fn usage(asked: &Asked, completion_tokens: u64) -> Value {
    json!({"prompt_tokens": prompt_tokens(&asked.body), "completion_tokens": completion_tokens})
}

/// The events of a good chat answer: the role, a word a token, the end, the usage.
fn chat_events(asked: &Asked) -> Vec<String> {
    let tokens = asked.body["max_tokens"].as_u64().unwrap();
    let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]}).to_string();
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}))];
    events.extend((0..tokens).map(|number| delta(json!({"content": format!("w{number} ")}))));
    let end = json!({"choices": [{"delta": {}, "finish_reason": "length"}]});
    events.push(end.to_string());
    events.push(json!({"choices": [], "usage": usage(asked, tokens)}).to_string());
    events.push("[DONE]".to_owned());
    events
}

fn stream(events: &[String]) -> Vec<Step> {
    let mut steps = vec![stream_head()];
    steps.extend(events.iter().map(|data| write(event(data))));
    steps.push(stream_end());
    steps
}

/// A server with one model and no tokenizer, whose generation is `answer`.
fn server(answer: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Arc<Script> {
    Arc::new(move |asked| match asked.line.as_str() {
        "GET /v1/models" => fake::json("200 OK", "", r#"{"data": [{"id": "fake"}]}"#),
        line if line.starts_with("POST /v1/") => answer(asked),
        _ => fake::json("404 Not Found", "", r#"{"error": {"message": "no such path"}}"#),
    })
}

/// The same, but only the requests of the run itself get `answer`: those before are well served.
/// Warm-ups are to be switched off.
fn after_looking(answer: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Arc<Script> {
    server(move |asked| {
        // No look at the server asks for as many tokens.
        let looking = asked.body["max_tokens"].as_u64() != Some(5);
        if looking { stream(&chat_events(asked)) } else { answer(asked) }
    })
}

const RUN: &str = "--requests 6 --concurrency 2 --warmup 0 --input-tokens 20..30 --output-tokens 5";

#[test]
fn counts_and_delays_are_those_of_the_server() {
    let pause = Duration::from_millis;
    let script = after_looking(move |asked| {
        let events = chat_events(asked);
        let mut steps = vec![stream_head(), write(event(&events[0])), Step::Pause(pause(60))];
        for data in &events[1..] {
            steps.extend([write(event(data)), Step::Pause(pause(15))]);
        }
        steps.push(stream_end());
        steps
    });
    let result = one(script, RUN);
    assert_eq!((result.completed, result.failed), (6, 0), "{:?}", result.errors_by_kind);
    assert_eq!((result.total_output_tokens, result.total_events), (30, 30));
    assert_eq!((result.input_length_mismatches, result.output_length_mismatches), (0, 0));
    assert_eq!(result.output_tokens_by, "usage");
    assert_eq!((result.ttft.count, result.tpot.count, result.itl.count), (6, 6, 24));
    // A pause is never shorter than asked; how much longer depends on the machine. The role's event
    // came before the pause and is no token.
    assert!(result.ttft.min >= 60.0, "{:?}", result.ttft);
    assert!(result.itl.mean >= 15.0 && result.tpot.min >= 15.0, "{:?}", result.itl);
    assert!(result.e2el.min >= 60.0 + 4.0 * 15.0, "{:?}", result.e2el);
    assert_eq!(result.max_concurrent_requests, 2);
    assert_eq!(result.about.loop_kind, "closed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the network cuts an answer, the figures count the same.
    #[test]
    fn cuts_of_the_stream_change_nothing(size in 1usize..90, in_chunks in any::<bool>()) {
        let script = after_looking(move |asked| {
            let events: String =
                chat_events(asked).iter().flat_map(|data| ["data: ", data, "\r\n\r\n"]).collect();
            let pieces = events.as_bytes().chunks(size);
            if in_chunks {
                // HTTP chunks that do not end where events do.
                let mut steps = vec![stream_head()];
                steps.extend(pieces.map(|piece| {
                    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                    chunk.extend_from_slice(piece);
                    chunk.extend_from_slice(b"\r\n");
                    write(chunk)
                }));
                steps.push(stream_end());
                return steps;
            }
            // TCP segments that end anywhere, in a body of known length.
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", events.len());
            let mut steps = vec![write(head)];
            for piece in pieces {
                steps.extend([write(piece), Step::Yield]);
            }
            steps
        });
        let result = one(script, RUN);
        prop_assert_eq!((result.completed, result.failed), (6, 0), "{:?}", result.errors_by_kind);
        prop_assert_eq!((result.total_output_tokens, result.total_events), (30, 30));
    }
}

#[test]
fn connections_are_kept() {
    let result = one(after_looking(|asked| stream(&chat_events(asked))), RUN);
    assert!(result.generator_health.connections <= 2, "{:?}", result.generator_health);
}

#[test]
fn a_connection_that_the_server_closes_between_requests_is_no_failure() {
    let closing = |asked: &Asked| {
        let mut steps = stream(&chat_events(asked));
        steps.push(Step::Close);
        steps
    };
    let result = one(after_looking(closing), RUN);
    assert_eq!((result.completed, result.failed), (6, 0), "{:?}", result.errors_by_kind);
}

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

/// Latency of an open loop is counted from when a request was due, not from when it got a place.
#[test]
fn no_coordinated_omission() {
    let service = Duration::from_millis(40);
    let script = after_looking(move |asked| {
        let mut steps = vec![stream_head(), Step::Pause(service)];
        steps.extend(stream(&chat_events(asked)).into_iter().skip(1));
        steps
    });
    let flags = "--rate inf --requests 5 --concurrency 1 --warmup 0 --output-tokens 5";
    let result = one(script, flags);
    assert_eq!((result.completed, result.max_concurrent_requests), (5, 1));
    // All were due at the start and served one after the other.
    assert!(result.ttft.min >= 40.0 && result.ttft.max >= 200.0, "{:?}", result.ttft);
    assert!(result.ttft.mean >= 3.0 * 40.0, "{:?}", result.ttft);
    assert_eq!(result.about.loop_kind, "open");
}

#[test]
fn sweeps_ask_every_run_something_new_and_a_seed_the_same_again() {
    let prompts = || {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&seen);
        let script = after_looking(move |asked| {
            keep.lock().unwrap().push(asked.body["messages"][0]["content"].to_string());
            stream(&chat_events(asked))
        });
        let flags = "--rate 500,1000 --requests 20 --warmup 3 --output-tokens 5 --seed 5";
        let results = bench(script, flags).unwrap();
        assert_eq!(results.iter().map(|r| r.completed).collect::<Vec<_>>(), [20, 20]);
        assert_eq!(results[1].load(), "1000 req/s");
        let mut seen = seen.lock().unwrap().clone();
        seen.sort();
        seen
    };
    let first = prompts();
    assert_eq!(first.len(), 46);
    let mut different = first.clone();
    different.dedup();
    assert_eq!(different.len(), 46);
    assert_eq!(first, prompts());
}

#[test]
fn conversations_carry_the_answers() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&bodies);
    let script = after_looking(move |asked| {
        keep.lock().unwrap().push(asked.body["messages"].clone());
        stream(&chat_events(asked))
    });
    let flags =
        "--concurrency 1 --requests 2 --turns 3 --warmup 0 --output-tokens 5 --think-time 1ms";
    let result = one(script, flags);
    assert_eq!((result.completed, result.failed), (6, 0));
    let bodies = bodies.lock().unwrap();
    let lengths: Vec<_> = bodies.iter().map(|m| m.as_array().unwrap().len()).collect();
    assert_eq!(lengths, [1, 3, 5, 1, 3, 5]);
    assert_eq!(bodies[1][0], bodies[0][0]);
    assert_eq!(bodies[1][1], json!({"role": "assistant", "content": "w0 w1 w2 w3 w4 "}));
    assert_eq!(bodies[2][2]["role"], "user");
}

#[test]
fn prompts_are_as_long_as_asked_by_every_way_to_count() {
    let answer = |asked: &Asked| stream(&chat_events(asked));
    let flags = "--requests 30 --concurrency 4 --input-tokens 20..60 --output-tokens 5 \
                 --prefix-tokens 15 --prefixes 2 --prefix-share 0.5";
    let by_usage = one(server(answer), flags);
    assert_eq!(by_usage.about.token_source.as_deref(), Some("server_usage"));

    let plain = server(answer);
    let with_tokenizer: Arc<Script> = Arc::new(move |asked| {
        if asked.line != "POST /tokenize" {
            return plain(asked);
        }
        let body = json!({"count": prompt_tokens(&asked.body), "tokens": []});
        fake::json("200 OK", "", &body.to_string())
    });
    let by_tokenizer = one(with_tokenizer, flags);
    assert_eq!(by_tokenizer.about.token_source.as_deref(), Some("server_tokenizer"));

    for result in [&by_usage, &by_tokenizer] {
        assert_eq!((result.completed, result.input_length_mismatches), (30, 0));
        assert!((30 * 35..=30 * 75).contains(&result.total_input_tokens));
    }
    assert_eq!(by_usage.total_input_tokens, by_tokenizer.total_input_tokens);
    let error = bench(server(answer), "--input-tokens 4 --requests 1").err().unwrap();
    assert!(error.to_string().contains("shortest prompt has 8"), "{error}");
}

#[test]
fn fields_that_the_server_refuses_are_left_out() {
    let strict = |asked: &Asked| {
        for field in ["ignore_eos", "stream_options"] {
            if asked.body.get(field).is_some() {
                let error = json!({"error": {"message": format!("unknown field {field}")}});
                return fake::json("400 Bad Request", "", &error.to_string());
            }
        }
        stream(&chat_events(asked))
    };
    let result = one(server(strict), RUN);
    assert_eq!((result.completed, result.about.ignore_eos), (6, false));
    let error = bench(server(strict), &format!("{RUN} --ignore-eos always")).err().unwrap();
    assert!(format!("{error:#}").contains("ignore_eos"), "{error:#}");
}

#[test]
fn without_usage_events_are_counted_and_it_is_said() {
    let script = server(|asked| {
        let mut events = chat_events(asked);
        events.remove(events.len() - 2);
        stream(&events)
    });
    let error = bench(Arc::clone(&script), RUN).err().unwrap();
    assert!(error.to_string().contains("--tokenizer"), "{error}");
    let file = std::env::temp_dir().join(format!("sconce-bench-{}.jsonl", std::process::id()));
    std::fs::write(&file, "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n").unwrap();
    let result = one(script, &format!("{RUN} --dataset {}", file.display()));
    std::fs::remove_file(file).unwrap();
    assert_eq!((result.completed, result.total_output_tokens), (6, 30));
    assert_eq!(result.output_tokens_by, "events");
    assert!(result.notes.iter().any(|note| note.contains("usage")), "{:?}", result.notes);
}

#[test]
fn completions_and_responses() {
    let script = server(|asked| {
        if asked.line == "POST /v1/completions" {
            let tokens = asked.body["max_tokens"].as_u64().unwrap();
            let mut events = vec![fake::completion_event(" w"); tokens as usize];
            events.push(json!({"choices": [], "usage": usage(asked, tokens)}).to_string());
            events.push("[DONE]".to_owned());
            return stream(&events);
        }
        assert_eq!(asked.line, "POST /v1/responses");
        let tokens = asked.body["max_output_tokens"].as_u64().unwrap();
        let created = json!({"type": "response.created", "response": {"status": "in_progress"}});
        let delta = json!({"type": "response.output_text.delta", "delta": " w"}).to_string();
        let mut events = vec![created.to_string()];
        events.extend(vec![delta; tokens as usize]);
        let usage = json!({"input_tokens": prompt_tokens(&asked.body), "output_tokens": tokens});
        let done = json!({"type": "response.incomplete", "response": {"usage": usage}});
        events.push(done.to_string());
        stream(&events)
    });
    for api in ["completions", "responses"] {
        let result = one(Arc::clone(&script), &format!("{RUN} --api {api}"));
        assert_eq!((result.completed, result.failed), (6, 0), "{:?}", result.errors_by_kind);
        assert_eq!((result.total_output_tokens, result.input_length_mismatches), (30, 0));
    }
}

#[test]
fn the_key_and_headers_are_sent() {
    let script = server(|asked| {
        if asked.head.contains("authorization: bearer sesame") && asked.head.contains("x-team: red")
        {
            stream(&chat_events(asked))
        } else {
            fake::json("401 Unauthorized", "", r#"{"error": {"message": "no key"}}"#)
        }
    });
    let error = bench(Arc::clone(&script), RUN).err().unwrap();
    assert!(format!("{error:#}").contains("no key"), "{error:#}");
    let result = one(script, &format!("{RUN} --api-key sesame --header x-team:red"));
    assert_eq!(result.completed, 6);
}
