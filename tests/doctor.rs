//! `sconce doctor` against our own server, which passes, and against one that does not.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use tests::{KEY, Server, sconce};

/// What a survey found to break clients (an accumulator of the OpenAI SDKs for Python or Node,
/// LangChain, LlamaIndex, LiteLLM, the AI SDK), and the check by which it is known that we do not.
/// `crates/server/tests/api/client_faults.rs` looks for the same in answers cut and failing anywhere.
const BREAKS_CLIENTS: &[(&str, &str)] = &[
    ("a chunk of usage without choices, or with null", "stream.usage"),
    ("usage in chunks that was not asked for", "stream.no_usage"),
    ("include_usage ignored", "stream.usage"),
    ("no role in the first delta", "stream.role"),
    ("a keep-alive that is an event, or data", "stream.framing"),
    ("data that is empty", "stream.framing"),
    ("a line that is no JSON", "stream.framing"),
    ("choices that are null", "stream.chunks"),
    ("an end without a finish reason", "stream.finish"),
    ("a finish reason that nobody knows", "chat.finish"),
    ("later deltas of a call with id, type or name again, or null", "tools.stream"),
    ("a call's delta without index or type", "tools.stream"),
    ("two calls under one index", "tools.stream"),
    ("a call without an id", "tools.whole"),
    ("arguments as an object", "tools.whole"),
    ("the finish reason stop after a call", "tools.finish"),
    ("a message without a role", "chat.message"),
    ("no choices, or text/plain", "chat.shape"),
    ("an error that is no envelope: bad JSON", "errors.bad_json"),
    ("an error that is no envelope: a wrong type", "errors.wrong_type"),
    ("an error that is no envelope: no such route", "errors.unknown_route"),
    ("a close without the end of the body", "stream.done"),
    ("a compressed stream", "stream.head"),
    ("a preflight that wants a key", "http.cors"),
];

fn doctor(url: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let output = sconce(&[&["doctor", "--url", url, "--api-key", KEY], more].concat()).output();
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn our_own_server_passes() {
    let server = Server::start(&["--api-key", KEY, "--num-speculative-tokens", "0"]);
    let (code, stdout, stderr) = doctor(&server.url, &["--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, Some(0), "{stdout} {stderr}");
    assert_eq!(report["model"], "spark");
    for row in report["checks"].as_array().unwrap() {
        // spark is no model of embeddings.
        let absent = row["check"].as_str().unwrap().starts_with("embeddings.");
        let expected = if absent { "not supported" } else { "ok" };
        assert_eq!(row["result"], expected, "{row}");
    }
    for (fault, check) in BREAKS_CLIENTS {
        let mut rows = report["checks"].as_array().unwrap().iter();
        let row = rows.find(|row| row["check"] == *check);
        assert_eq!(row.expect(check)["result"], "ok", "{fault}");
    }
    let (code, table, _) = doctor(&server.url, &[]);
    assert_eq!(code, Some(0), "{table}");
    assert!(table.starts_with("spark at http://") && table.contains(" ok, 0 wrong, "), "{table}");
}

#[test]
fn a_server_that_says_nothing_of_use_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut bytes = vec![0; 1 << 20];
                while socket.read(&mut bytes).is_ok_and(|read| read > 0) {
                    // A client that has gone does not read on.
                    let answer =
                        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                    drop(socket.write_all(answer));
                }
            });
        }
    });
    let (code, table, stderr) = doctor(&url, &["--model", "m"]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("chat.shape             WRONG"), "{table}");
    assert!(stderr.contains("checks found something wrong"), "{stderr}");
    let (code, _, stderr) = doctor("http://127.0.0.1:9", &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no server answers at http://127.0.0.1:9"), "{stderr}");
}
