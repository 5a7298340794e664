//! What enemies and accidents send: each is refused in words or put up with, leaves no memory behind,
//! and does nothing to a stream beside it.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use serde_json::{Value, json};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::{Folder, PATIENCE, Server, streamed_text, wait_until};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
/// More than what the allocator's own pages differ by, in bytes.
const KEPT: u64 = 32 << 20;
/// Times by which every thread has met an attack.
const MOST_ATTACKS: usize = 12;

fn chat(extra: &Value) -> Value {
    let mut body = json!({
        "model": "spark", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// Text that is the same each time, whatever else runs.
fn seeded(max_tokens: usize) -> Value {
    json!({"model": "spark", "prompt": "count", "max_tokens": max_tokens, "ignore_eos": true,
           "temperature": 1.0, "seed": 7})
}

/// Memory of the process that is in the machine, in bytes.
fn resident(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Runs `attack` while others stream, who must notice nothing, and looks at what it leaves behind.
///
/// The allocator keeps some of what it was given back, for each thread that asked: the attack runs
/// until every thread has met it, and it takes nothing that was not taken before. What leaks does so
/// every time.
fn under(server: &Server, attack: impl Fn()) {
    let stream = || streamed_text(&server.stream(COMPLETIONS, &seeded(60)), 0);
    // Once, so that what is allocated at the first use is there.
    assert_eq!(server.post(CHAT, &chat(&json!({}))).0, 200);
    let expected = stream();
    let is_over = AtomicBool::new(false);
    let leaks = std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            // At least one, however soon the attack is over.
            loop {
                assert_eq!(stream(), expected, "a stream beside it");
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        // If the attack fails the other must end, too.
        let attacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..MOST_ATTACKS).all(|_| {
                let before = resident(server);
                attack();
                resident(server) > before + KEPT
            })
        }));
        is_over.store(true, Ordering::Relaxed);
        beside.join().unwrap();
        attacked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let nobody = || server.metric("vllm:num_requests_running") == 0.0;
    wait_until("nobody runs", nobody);
    assert_eq!(server.metric("vllm:num_requests_waiting"), 0.0);
    assert!(!leaks, "each of {MOST_ATTACKS} times took memory: {} bytes now", resident(server));
    assert_eq!(stream(), expected, "afterwards");
}

/// Asserts a fault of the caller in the envelope; returns the error.
#[track_caller]
fn refused(server: &Server, path: &str, body: &str, status: u16) -> Value {
    let (found, text) = server.post_text(path, body);
    let start: String = body.chars().take(200).collect();
    assert_eq!(found, status, "{start}: {text:.500}");
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:.500}"));
    let message = json["error"]["message"].as_str().unwrap_or_else(|| panic!("{json}"));
    assert!(
        !message.is_empty() && message.len() < 2_100,
        "{} bytes: {message:.300}",
        message.len()
    );
    json["error"].clone()
}

fn connect(server: &Server) -> TcpStream {
    let socket = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn head(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
}

/// Everything until the server closes, which may be hard.
fn read_all(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// That slow ones are closed in the end, `crates/server/tests/api/connections.rs` shows.
#[test]
fn slow_clients_keep_nobody_out() {
    let server = Server::start(&["--max-connections", "400"]);
    under(&server, || {
        let body = chat(&json!({})).to_string();
        let whole = head(CHAT, body.len()) + &body;
        // Cut in the line, in a header, in the body.
        let mut sockets: Vec<_> = (0..300).map(|_| connect(&server)).collect();
        for (number, socket) in sockets.iter_mut().enumerate() {
            let sent = [3, 40, whole.len() - 9][number % 3];
            socket.write_all(&whole.as_bytes()[..sent]).unwrap();
        }
        for at in 0..3 {
            for (number, socket) in sockets.iter_mut().enumerate() {
                let sent = [3, 40, whole.len() - 9][number % 3] + at;
                socket.write_all(&whole.as_bytes()[sent..=sent]).unwrap();
            }
            assert_eq!(server.post(CHAT, &chat(&json!({}))).0, 200);
        }
        // One of them finishes after all.
        let mut last = sockets.pop().unwrap();
        last.write_all(&whole.as_bytes()[whole.len() - 6..]).unwrap();
        let mut answer = [0; 12];
        last.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    });
}

#[test]
fn clients_that_close_one_half_or_both_take_no_place() {
    let server = Server::start(&[]);
    under(&server, || {
        let mut body = seeded(1900);
        body["stream"] = json!(true);
        let body = body.to_string();
        let whole = head(COMPLETIONS, body.len()) + &body;
        let mut sockets = Vec::new();
        for sent in [0, 10, whole.len() - body.len(), whole.len() - 5, whole.len()] {
            for _ in 0..8 {
                let mut socket = connect(&server);
                socket.write_all(&whole.as_bytes()[..sent]).unwrap();
                socket.shutdown(Shutdown::Write).unwrap();
                sockets.push((sent, socket));
            }
        }
        for (sent, mut socket) in sockets {
            let text = read_all(&mut socket);
            // A client that can hear no more cannot be told from one that has left.
            let is_told = text.is_empty() || text.starts_with("HTTP/1.1 4");
            assert!(is_told || sent == whole.len(), "after {sent} bytes: {text:.300}");
        }
    });
}

#[test]
fn huge_bodies_are_refused_and_forgotten() {
    const LENGTH: usize = 20 << 20;
    let server = Server::start(&[]);
    let repeat = |piece: &str| piece.repeat(LENGTH / piece.len());
    let content = json!([{"role": "user", "content": repeat("a ")}]);
    let list = |piece: &str| format!("[{piece}0]", piece = repeat(piece));
    let bodies = [
        (chat(&json!({"messages": content})).to_string(), 400),
        (format!("{{\"model\": \"spark\", \"messages\": {}}}", list("{},")), 400),
        (format!("{{\"model\": \"spark\", \"messages\": {}}}", list("[],")), 400),
        (format!("{{\"model\": \"spark\", \"stop\": {}}}", list("\"a\",")), 400),
        (format!("{{\"model\": \"spark\", \"nothing\": {}}}", list("0,")), 400),
        (format!("{{\"model\": \"spark\", \"tools\": {}}}", list("{\"a\":1},")), 400),
        (format!("{{\"model\": \"{}\"}}", repeat("x")), 404),
        (format!("{{\"{}\": 1}}", repeat("x")), 400),
        (repeat("["), 400),
        (repeat("{\"a\":"), 400),
        (repeat(" "), 400),
        // More than the limit.
        (repeat(" ").repeat(2), 413),
    ];
    under(&server, || {
        for (body, status) in &bodies {
            refused(&server, CHAT, body, *status);
        }
        // Several at once.
        std::thread::scope(|scope| {
            for (body, status) in &bodies[..4] {
                scope.spawn(|| refused(&server, CHAT, body, *status));
            }
        });
        let prompt = json!({"model": "spark", "prompt": repeat("a ")}).to_string();
        refused(&server, COMPLETIONS, &prompt, 400);
        let ids = format!("{{\"model\": \"spark\", \"prompt\": {}}}", list("1,"));
        refused(&server, COMPLETIONS, &ids, 400);
        refused(&server, "/v1/responses", &json!({"input": repeat("a ")}).to_string(), 400);
        let messages = json!({"model": "spark", "max_tokens": 1, "messages": content}).to_string();
        refused(&server, "/v1/messages", &messages, 400);
    });
}

#[test]
fn fields_of_absurd_size_are_refused_by_name() {
    let server = Server::start(&[]);
    let many = |count: usize| (0..count).map(|i| json!(i % 2_000)).collect::<Vec<_>>();
    let bias = |count: usize| -> Value {
        (0..count).map(|i| (i.to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into()
    };
    let deep = |open: &str, close: &str| -> String {
        format!("{}1{}", open.repeat(100_000), close.repeat(100_000))
    };
    under(&server, || {
        for (field, value) in [
            ("n", json!(1_000_000_000)),
            ("n", json!(u64::MAX)),
            ("n", json!(1e300)),
            ("stop", json!(vec!["x"; 500_000])),
            ("stop", json!("x".repeat(10_000_000))),
            ("stop_token_ids", json!(vec![999_999_999; 100_000])),
            ("logit_bias", bias(100_000)),
            ("logit_bias", json!({"1": 1e300})),
            ("top_logprobs", json!(1_000_000)),
            ("max_tokens", json!(u64::MAX)),
            ("min_tokens", json!(u32::MAX)),
            ("seed", json!(1e300)),
            ("priority", json!(i64::MIN)),
            ("tools", json!(vec![json!({"type": "function"}); 100_000])),
            ("structured_outputs", json!({"choice": vec!["x".repeat(100); 100_000]})),
        ] {
            let error = refused(&server, CHAT, &chat(&json!({field: value})).to_string(), 400);
            let param = error["param"].as_str().unwrap_or_default();
            let named = param.starts_with(field) || (field == "max_tokens" && param == "messages");
            assert!(named, "{field}: {error}");
        }
        let heavy = chat(&json!({"tools": vec![json!({"a": {"b": 1}}); 200_000]})).to_string();
        assert_eq!(refused(&server, CHAT, &heavy, 400)["code"], "too_many_values");
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            for field in
                ["messages", "tools", "metadata", "chat_template_kwargs", "response_format"]
            {
                let body = format!("{{\"model\": \"spark\", \"{field}\": {}}}", deep(open, close));
                refused(&server, CHAT, &body, 400);
            }
        }
        // Taken where it fits: a bias for every token, ids of the whole vocabulary.
        let fitting = json!({"logit_bias": bias(1_000), "stop_token_ids": many(60)});
        assert_eq!(server.post(CHAT, &chat(&fitting)).0, 200);
    });
}

#[test]
fn template_bombs_are_bounded_in_steps_and_output() {
    let server = Server::start(&["--trust-request-chat-template"]);
    let bombs = [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for a in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{{ 'x' * 1000000000000 }}",
        "{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for m in messages %}{% for a in range(100000) %}{{ m | tojson }}{% endfor %}{% endfor %}",
        "{{ range(999999999999) | list | length }}",
        "{% include 'chat_template' %}",
        "{{ ''.__class__.__mro__ }}{{ raise_exception('x' * 100000) }}",
        "{% if %}",
    ];
    under(&server, || {
        std::thread::scope(|scope| {
            for bomb in bombs {
                let body = chat(&json!({"chat_template": bomb})).to_string();
                scope.spawn(|| {
                    let body = body;
                    refused(&server, CHAT, &body, 400)
                });
            }
        });
        let nested = format!("{}{}", "{% if 1 %}".repeat(20_000), "{% endif %}".repeat(20_000));
        refused(&server, CHAT, &chat(&json!({"chat_template": nested})).to_string(), 400);
        let brackets = format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000));
        refused(&server, CHAT, &chat(&json!({"chat_template": brackets})).to_string(), 400);
    });
    let cautious = Server::start(&[]);
    let error = refused(&cautious, CHAT, &chat(&json!({"chat_template": "hi"})).to_string(), 400);
    assert_eq!(error["param"], "chat_template");
}

#[test]
fn nothing_of_a_client_becomes_a_header_or_a_line_of_the_log() {
    let server = Server::start(&["--log-format", "json", "--log-level", "debug"]);
    drop(server.log_so_far());
    let forged = "forged-by-a-client";
    let ask = |line: &str, headers: &str| {
        let mut socket = connect(&server);
        let request =
            format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        read_all(&mut socket)
    };
    under(&server, || {
        for name in ["x-request-id", "traceparent", "tracestate", "authorization", "user-agent"] {
            for value in [
                "a\r\nset-cookie: forged-by-a-client".to_owned(),
                "a\nset-cookie: forged-by-a-client".to_owned(),
                "a\rset-cookie: forged-by-a-client".to_owned(),
                "a\r\n set-cookie: forged-by-a-client".to_owned(),
                "a%0d%0aset-cookie: forged-by-a-client".to_owned(),
                "a\u{1b}[31m\u{0}b".to_owned(),
                "é\u{2028}\u{85}".to_owned(),
                "a".repeat(60_000),
            ] {
                let text = ask("GET /version", &format!("{name}: {value}"));
                let head = text.split("\r\n\r\n").next().unwrap().to_lowercase();
                assert!(head.is_empty() || head.starts_with("http/1.1 "), "{head}");
                assert!(!head.contains("\nset-cookie") && !head.contains('\u{1b}'), "{head}");
            }
        }
        for path in ["/%0d%0aset-cookie:%20forged-by-a-client", "/v1/models/a%0a%0ab%00", "/%ff%fe"]
        {
            let text = ask(&format!("GET {path}"), "x-request-id: a");
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 404") && !head.contains("set-cookie"), "{text}");
            assert!(body.starts_with("{\"error\":{\"message\":"), "{body}");
        }
        let model = format!("x\n{{\"level\":\"ERROR\",\"message\":\"{forged}\"}}");
        refused(&server, CHAT, &chat(&json!({"model": model})).to_string(), 404);
    });
    for line in server.log_so_far().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(!line["message"].as_str().unwrap_or_default().starts_with(forged), "{line}");
    }
}

#[test]
fn names_of_models_are_names_and_no_paths() {
    let folder = long_context("named");
    let server = Server::start(&[]);
    under(&server, || {
        let real = folder.as_str();
        let passwd = "../".repeat(12) + "etc/passwd";
        for name in [
            real,
            &passwd,
            "/etc/passwd",
            "./spark",
            "spark/../spark",
            "spark/",
            "/spark",
            "SPARK",
            "spark\u{0}",
            "spark ",
            "file:///etc/passwd",
            "http://127.0.0.1:9/m",
            "~",
            "$HOME",
            "*",
            "",
            ".",
            "..",
            "con",
            "spark%2f..%2fspark",
            "${jndi:ldap://127.0.0.1:9/a}",
        ] {
            let error = refused(&server, CHAT, &chat(&json!({"model": name})).to_string(), 404);
            assert_eq!(
                (&error["code"], &error["param"]),
                (&json!("model_not_found"), &json!("model"))
            );
            assert!(!error["message"].as_str().unwrap().contains("No such file"), "{error}");
        }
        for path in
            ["..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "spark%00", "spark%2f", "a%2fb%2fc"]
        {
            let (status, text) = server.get(&format!("/v1/models/{path}"));
            assert_eq!(status, 404, "{path}: {text}");
            assert!(text.contains("\"model_not_found\""), "{path}: {text}");
        }
    });
}

/// A model with a long context.
fn long_context(name: &str) -> Folder {
    Folder::model(name, |config| {
        config["max_position_embeddings"] = json!(16_384);
        config["vocab_size"] = json!(2_816);
    })
}

#[test]
fn two_hundred_long_answers_that_nobody_waits_for() {
    let folder = long_context("abandoned");
    let args = [folder.as_str(), "--load-format", "dummy", "--served-model-name", "spark"];
    let server = Server::start(&[&args[..], &["--max-num-queued-reqs", "400"]].concat());
    let sockets: Vec<_> = (0..200)
        .map(|number| {
            let mut body = seeded(10_000);
            body["stream"] = json!(number % 2 == 0);
            let body = body.to_string();
            let mut socket = connect(&server);
            socket.write_all((head(COMPLETIONS, body.len()) + &body).as_bytes()).unwrap();
            socket
        })
        .collect();
    let running = || server.metric("vllm:num_requests_running");
    let waiting = || server.metric("vllm:num_requests_waiting");
    wait_until("all there", || running() + waiting() == 200.0);
    drop(sockets);
    assert_eq!(server.ok(COMPLETIONS, &seeded(3))["usage"]["completion_tokens"], 3);
    wait_until("freed", || running() + waiting() == 0.0);
    let generated = server.metric("vllm:generation_tokens_total");
    assert!(generated < 1_000_000.0, "{generated} tokens for nobody");
}

#[test]
fn five_hundred_clients_at_a_queue_of_sixteen() {
    let server = Server::start(&["--max-num-seqs", "4", "--max-num-queued-reqs", "16"]);
    let (num_served, num_refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let body = seeded(8).to_string();
    let expected = server.ok(COMPLETIONS, &seeded(8))["choices"][0]["text"].clone();
    // As SDKs do: a 429 is asked again after what it says.
    let client = || {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, headers, text) = server.post_with(&[], COMPLETIONS, &body);
            if status == 200 {
                let answer: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(answer["choices"][0]["text"], expected);
                num_served.fetch_add(1, Ordering::Relaxed);
                return;
            }
            assert_eq!(status, 429, "{text}");
            assert!(text.contains("\"queue_full\"") && Instant::now() < deadline, "{text}");
            num_refused.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs(headers["retry-after"].parse().unwrap()));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..500 {
            scope.spawn(client);
        }
    });
    assert_eq!(num_served.into_inner(), 500, "each got its answer");
    assert!(num_refused.into_inner() > 0, "the queue was never full");
    assert_eq!(server.metric("vllm:num_requests_waiting"), 0.0);
}
