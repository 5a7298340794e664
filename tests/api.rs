//! The whole server over HTTP, on the embedded model: the equalities, overload, signals.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tests::{Server, streamed_text, wait_until};

fn chat(text: &str) -> Value {
    json!({"model": "spark", "messages": [{"role": "user", "content": text}], "temperature": 0})
}

/// A long answer that random sampling does not end early.
fn endless(max_tokens: usize) -> Value {
    json!({
        "model": "spark", "prompt": "count", "max_tokens": max_tokens, "ignore_eos": true,
        "temperature": 1.0, "seed": 7,
    })
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("a text answer")
}

#[test]
fn sixty_four_streams_equal_their_solo_runs() {
    let server = Server::start(&[]);
    let bodies: Vec<_> = (0..64)
        .map(|i| {
            let mut body = chat(&format!("what is {} + {}?", i % 9, i));
            body["temperature"] = json!(if i % 2 == 0 { 0.0 } else { 1.2 });
            body["seed"] = json!(i);
            body["max_tokens"] = json!(24);
            body
        })
        .collect();
    let run = |body: &Value| streamed_text(&server.stream("/v1/chat/completions", body), 0);
    let solo: Vec<_> = bodies.iter().map(run).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = bodies.iter().map(|body| scope.spawn(move || run(body))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(solo, together);
    assert!(solo.iter().any(|text| !text.is_empty()));
}

#[test]
fn streamed_equals_whole() {
    let server = Server::start(&[]);
    for (path, mut body) in [
        ("/v1/chat/completions", chat("hello")),
        ("/v1/chat/completions", chat("count from 1 to 9")),
        ("/v1/completions", endless(40)),
    ] {
        for stop in [json!(null), json!(["5", "e "])] {
            body["stop"] = stop;
            body["n"] = json!(2);
            body["stream_options"] = json!(null);
            let whole = server.ok(path, &body);
            body["stream_options"] = json!({"include_usage": true});
            let events = server.stream(path, &body);
            for index in 0..2 {
                let choice = &whole["choices"][index];
                let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
                assert_eq!(streamed_text(&events, index), text.unwrap(), "{body}");
                let mut finishes = events.iter().flat_map(|e| e["choices"].as_array().unwrap());
                let finish = finishes
                    .rfind(|c| c["index"] == index && !c["finish_reason"].is_null())
                    .expect("a finish reason");
                assert_eq!(finish["finish_reason"], choice["finish_reason"]);
            }
            let usage = &events.last().unwrap()["usage"];
            for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
                assert_eq!(usage[count], whole["usage"][count], "{count}");
            }
        }
    }
}

#[test]
fn four_choices_equal_four_seeded_requests() {
    let server = Server::start(&[]);
    let mut body = chat("tell me something");
    body["temperature"] = json!(1.3);
    body["seed"] = json!(40);
    body["max_tokens"] = json!(16);
    body["n"] = json!(4);
    let four = server.ok("/v1/chat/completions", &body);
    body["n"] = json!(1);
    for index in 0..4 {
        body["seed"] = json!(40 + index);
        let one = server.ok("/v1/chat/completions", &body);
        assert_eq!(content(&one), four["choices"][index]["message"]["content"], "choice {index}");
    }
}

#[test]
fn cache_chunks_and_starvation_change_nothing() {
    let long =
        format!("repeat after me: {}", "the lantern is lit and the night is long ".repeat(12));
    let questions = ["what is 7 + 8?", "count from 3 to 20", long.as_str(), long.as_str()];
    let answers = |args: &[&str]| -> Vec<String> {
        let server = Server::start(args);
        let run = |text: &&str| {
            let mut body = chat(text);
            body["max_tokens"] = json!(48);
            content(&server.ok("/v1/chat/completions", &body)).to_owned()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = questions.iter().map(|q| scope.spawn(move || run(q))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let roomy = answers(&[]);
    assert_eq!(roomy, answers(&["--no-enable-prefix-caching"]), "prefix cache");
    let chunked = ["--max-num-batched-tokens", "16", "--max-num-seqs", "16"];
    assert_eq!(roomy, answers(&chunked), "chunked prefill");
    let starved =
        ["--block-size", "8", "--num-gpu-blocks-override", "64", "--max-model-len", "512"];
    assert_eq!(roomy, answers(&starved), "starved cache");
}

#[test]
fn tokenize_gives_the_prompt_that_a_chat_has() {
    let server = Server::start(&[]);
    let tool = json!({"type": "function", "function": {"name": "get_time"}});
    let mut prompts = Vec::new();
    for effort in [json!(null), json!("none"), json!("high")] {
        for tools in [json!([]), json!([tool])] {
            let mut body = json!({
                "messages": [{"role": "user", "content": "what time is it?"}],
                "reasoning_effort": effort, "tools": tools,
            });
            let tokens = server.ok("/tokenize", &body)["tokens"].clone();
            body["max_tokens"] = json!(1);
            body["return_token_ids"] = json!(true);
            let answer = server.ok("/v1/chat/completions", &body);
            assert_eq!(answer["prompt_token_ids"], tokens, "{body}");
            prompts.push(tokens);
        }
    }
    assert_eq!(prompts[0], prompts[2], "thinking is off by default");
    assert_ne!(prompts[0], prompts[4], "the effort reaches the template");
    assert_ne!(prompts[0], prompts[1], "tools reach the template");
}

/// At this temperature the model writes anything: only the grammar makes it JSON.
#[test]
fn what_a_schema_says_comes_whatever_the_model_would_say() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object", "required": ["name", "size"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "size": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
    });
    let run = |seed: u64| {
        let mut body = chat("tell me something");
        body["temperature"] = json!(1.5);
        body["seed"] = json!(seed);
        body["max_tokens"] = json!(120);
        body["response_format"] =
            json!({"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}});
        let answer = server.ok("/v1/chat/completions", &body);
        body["stream"] = json!(true);
        let streamed = streamed_text(&server.stream("/v1/chat/completions", &body), 0);
        assert_eq!(streamed, content(&answer));
        if answer["choices"][0]["finish_reason"] == "length" {
            return false;
        }
        let thing: Value = serde_json::from_str(content(&answer)).expect("it is JSON");
        assert!(thing["name"].is_string() && thing["size"].is_number(), "{thing}");
        let keys = ["name", "size", "tags"];
        assert!(thing.as_object().unwrap().keys().all(|key| keys.contains(&key.as_str())));
        true
    };
    let finished: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24).map(|seed| scope.spawn(move || run(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(finished.iter().filter(|finished| **finished).count() > 12, "{finished:?}");
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    let server = Server::start(&[]);
    let body = {
        let mut body = endless(1500);
        body["stream"] = json!(true);
        body.to_string()
    };
    let address = server.url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 512];
    assert!(socket.read(&mut first).unwrap() > 0);
    wait_until("running", || server.metric("vllm:num_requests_running") == 1.0);
    drop(socket);
    wait_until("freed", || server.metric("vllm:num_requests_running") == 0.0);
    assert_eq!(server.metric("vllm:num_requests_waiting"), 0.0);
    let generated = server.metric("vllm:generation_tokens_total");
    assert!(generated < 1500.0, "the whole answer was generated for nobody: {generated}");
}

#[test]
fn a_full_queue_refuses_and_loses_nothing() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-num-queued-reqs", "2"]);
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|_| {
                let body = endless(200).to_string();
                scope.spawn(|| server.post_with(&[], "/v1/completions", &{ body }))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let served = results.iter().filter(|(status, ..)| *status == 200).count();
    let refused: Vec<_> = results.iter().filter(|(status, ..)| *status == 429).collect();
    assert_eq!(served + refused.len(), 12, "{results:?}");
    assert!(served >= 2 && !refused.is_empty(), "{served} served");
    for (_, headers, answer) in refused {
        assert!(answer.contains("queue_full"), "{answer}");
        let seconds: u64 = headers["retry-after"].parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
    assert_eq!(server.ok("/v1/completions", &endless(3))["usage"]["completion_tokens"], 3);
}

#[test]
fn who_waits_past_the_deadline_is_told_so_and_never_runs() {
    // Endless answers go in circles: guessed ahead the first would be at its end too soon.
    let server = Server::start(&["--max-num-seqs", "1", "--num-speculative-tokens", "0"]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.ok("/v1/completions", &endless(1500)));
        wait_until("running", || server.metric("vllm:num_requests_running") == 1.0);
        let in_1_ms = [("x-request-timeout-ms", "1")];
        let mut body = endless(5);
        let late = |body: &Value| server.post_with(&in_1_ms, "/v1/completions", &body.to_string());
        let (status, headers, text) = late(&body);
        assert_eq!((status, headers["x-should-retry"].as_str()), (504, "false"), "{text}");
        assert!(text.contains("\"code\":\"deadline_exceeded\""), "{text}");
        body["stream"] = json!(true);
        let (status, _, text) = late(&body);
        assert_eq!(status, 200, "the answer had begun");
        assert!(text.starts_with("data: {\"error\":") && text.contains("deadline_exceeded"));
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        assert!(!running.is_finished(), "it was in nobody's way");
        assert_eq!(server.metric("sconce:requests_expired_total"), 2.0);
        assert_eq!(running.join().unwrap()["usage"]["completion_tokens"], 1500);
    });
    let in_a_minute = [("x-request-timeout-ms", "60000")];
    let body = endless(3).to_string();
    assert_eq!(server.post_with(&in_a_minute, "/v1/completions", &body).0, 200);
}

#[test]
fn a_flood_with_one_key_does_not_delay_another() {
    let server = Server::start(&["--max-num-seqs", "2", "--api-key", "flood,other"]);
    let order = std::sync::Mutex::new(Vec::new());
    let send = |key: &'static str| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let body = endless(60).to_string();
        let (status, _, text) = server.post_with(&headers, "/v1/completions", &body);
        assert_eq!(status, 200, "{text}");
        order.lock().unwrap().push(key);
    };
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| send("flood"));
        }
        wait_until("a flood", || server.metric("vllm:num_requests_waiting") > 15.0);
        let before = order.lock().unwrap().len();
        send("other");
        // Two ran, one or two were next; the rest had to wait.
        let flood = order.lock().unwrap().len() - 1 - before;
        assert!(flood <= 8, "{flood} of the flood went first");
    });
    assert_eq!(server.metric_with("sconce:key_generation_tokens_total", "\"api-key-1\""), 1800.0);
    assert_eq!(server.metric_with("sconce:key_generation_tokens_total", "\"api-key-2\""), 60.0);
}

#[test]
fn sigterm_drains() {
    let server = Server::start(&["--drain-timeout", "60"]);
    let answer = std::thread::scope(|scope| {
        let running = scope.spawn(|| server.post("/v1/completions", &endless(600)));
        wait_until("running", || server.metric("vllm:num_requests_running") == 1.0);
        server.signal("TERM");
        running.join().unwrap()
    });
    assert_eq!(answer.0, 200, "{answer:?}");
    assert_eq!(answer.1["usage"]["completion_tokens"], 600);
    assert!(server.wait().success(), "a drained server exits with 0");
}

#[test]
fn a_drain_that_takes_too_long_ends_in_an_error_event() {
    let server = Server::start(&["--drain-timeout", "1"]);
    let text = std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let mut body = endless(1900);
            body["stream"] = json!(true);
            body["n"] = json!(8);
            server.post_text("/v1/completions", &body.to_string()).1
        });
        wait_until("running", || server.metric("vllm:num_requests_running") > 0.0);
        server.signal("TERM");
        running.join().unwrap()
    });
    let last = text.trim_end().rsplit("\n\n").nth(1).expect("events");
    assert!(last.starts_with("data: {\"error\":"), "the stream ended with {last}");
    assert!(text.ends_with("data: [DONE]\n\n"));
    assert!(server.wait().success());
}

#[test]
fn an_idle_server_uses_no_processor() {
    let alone_and_of_ranks =
        [&[][..], &["spark", "--tensor-parallel-size", "2"]].map(Server::start);
    for server in &alone_and_of_ranks {
        server.ok("/v1/chat/completions", &chat("hello"));
    }
    std::thread::sleep(Duration::from_secs(1));
    let ticks = |server: &Server| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = alone_and_of_ranks.each_ref().map(ticks);
    std::thread::sleep(Duration::from_secs(3));
    for (server, before) in alone_and_of_ranks.iter().zip(before) {
        let ticks = ticks(server) - before;
        assert!(ticks <= 2, "{ticks} ticks of 10 ms in 3 idle seconds");
    }
}
