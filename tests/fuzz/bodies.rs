//! Request bodies: the real server answers every one with 200 or a fault of the caller, in the envelope
//! of its API.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::Value;
use tests::Server;

use super::change::{changed, changed_values, changes};
use super::seeds;

const WORDS: &[&str] = &[
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "0",
    "NaN",
    "\u{0}",
    "\"n\":128",
    "\"stream\":true",
    "\"stop\":[",
    "\"role\":\"tool\"",
    "\"tool_calls\":",
    "\"content\":",
    "{\"type\":",
    "\"json_schema\":",
    "\"$ref\":\"#\"",
    "\"messages\":",
    "🌍",
    " ",
    "\n",
    "/**/",
];

/// A seed's first line is the path, the rest the body.
fn corpus() -> Vec<(String, Value)> {
    let seed = |text: String| {
        let (path, body) = text.split_once('\n').expect("a path and a body");
        (path.to_owned(), serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}")))
    };
    seeds("tests/fuzz/corpus/bodies", "txt").into_iter().map(seed).collect()
}

/// Whether an answer is one that a client can read.
fn judge(path: &str, status: u16, text: &str) -> Result<(), String> {
    if status == 200 {
        return Ok(());
    }
    if !(400..500).contains(&status) {
        return Err(format!("status {status}"));
    }
    let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let message = json["error"]["message"].as_str().filter(|message| !message.is_empty());
    let envelope = if path.starts_with("/v1/messages") { json["type"] == "error" } else { true };
    if message.is_none() || !envelope || !json["error"]["type"].is_string() {
        return Err("no envelope".to_owned());
    }
    Ok(())
}

#[test]
fn bodies() {
    let corpus = corpus();
    // Short answers, and the way into templates open.
    let server = Server::start(&["--max-model-len", "256", "--trust-request-chat-template"]);
    for (path, body) in &corpus {
        let (status, text) = server.post_text(path, &body.to_string());
        assert_eq!(status, 200, "a seed is well taken: {path} {body}: {text}");
    }
    let number = || 0..corpus.len();
    let input = (number(), number(), changes(3), changes(1));
    let mut runner = proptest::test_runner::TestRunner::new(config!("bodies"));
    let (num_tried, num_taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcome = runner.run(&input, |(seed, other, values, letters)| {
        let (path, body) = &corpus[seed];
        let other = &corpus[other].1;
        let body = changed_values(body, &values, other).to_string();
        let body = changed(&body, &letters, WORDS, &other.to_string());
        let (status, text) = server.post_text(path, &body);
        num_tried.fetch_add(1, Ordering::Relaxed);
        num_taken.fetch_add(usize::from(status == 200), Ordering::Relaxed);
        let judged = judge(path, status, &text);
        prop_assert!(judged.is_ok(), "{:?}: {} for {} {}", judged, text, path, body);
        Ok(())
    });
    let log = server.log_so_far();
    outcome.unwrap_or_else(|error| panic!("{error}\n{log}"));
    let (tried, taken) = (num_tried.into_inner(), num_taken.into_inner());
    assert!(taken * 10 > tried && taken < tried, "{taken} of {tried} were taken: what is tried?");
    assert_eq!(server.get("/health").0, 200);
    assert!(!log.contains("panicked"), "{log}");
}
