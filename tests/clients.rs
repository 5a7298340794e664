//! Clients of others against the real server: SDKs, agent frameworks, a gateway, a tutorial's reader.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Map, Value, json};
use std::path::Path;
use tests::{KEY, Server, client_answers, python, root, run_client};

/// Runs a client's script, which checks what the client alone can know and prints the answers it
/// got; they must be those of the wire, down to the usage. At its end it ends the server.
fn is_content(interpreter: &Path, script: &str) {
    // Endless answers go in circles: guessed ahead they would be at their end before anybody can leave.
    let patient = ["--drain-timeout", "0", "--num-speculative-tokens", "0"];
    let server = Server::start(&[&["--api-key", KEY], &patient[..]].concat());
    let expected = expected(&server);
    let base = format!("{}/v1", server.url);
    let answers = client_answers(interpreter, script, &[&base, KEY, &server.pid().to_string()]);
    for (name, answer) in &answers {
        for (field, value) in answer.as_object().unwrap() {
            assert_eq!(*value, expected[name][field], "{name}.{field}");
        }
    }
    for core in ["sum", "call", "report"] {
        assert!(answers.contains_key(core), "the client was not asked for `{core}`");
    }
}

/// What the server answers to `questions.json` when nobody stands between.
fn expected(server: &Server) -> Value {
    let path = root().join("tests/clients/questions.json");
    let questions: Map<String, Value> =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let answers = questions.into_iter().map(|(name, mut body)| {
        body["temperature"] = json!(0);
        let answer = server.ok("/v1/chat/completions", &body);
        let (choice, usage) = (&answer["choices"][0], &answer["usage"]);
        let calls = choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
        let calls = calls.iter().map(|call| &call["function"]);
        let arguments = |call: &Value| -> Value {
            serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap()
        };
        let calls: Vec<_> = calls.map(|call| json!([call["name"], arguments(call)])).collect();
        let shown = json!({
            "content": choice["message"]["content"],
            "reasoning": choice["message"]["reasoning"],
            "calls": calls,
            "finish": choice["finish_reason"],
            "usage": [usage["prompt_tokens"], usage["completion_tokens"]],
        });
        (name, shown)
    });
    answers.collect()
}

/// Two calls in an answer were never in spark's training: `pair` has them because `required` allows
/// several and `min_tokens` does not let the answer end behind the first. That the second is for
/// Rome is spark's own.
#[test]
fn the_questions_lead_to_what_they_are_asked_for() {
    let answers = expected(&Server::start(&[]));
    let (paris, rome) =
        (json!(["get_weather", {"city": "Paris"}]), json!(["get_weather", {"city": "Rome"}]));
    for (name, answer) in answers.as_object().unwrap() {
        let thinks = name.starts_with("thought");
        assert_eq!(answer["reasoning"].is_string(), thinks, "{name}: {answer}");
        let calls = match name.as_str() {
            "pair" => json!([paris, rome]),
            "sum" | "thought" | "report" | "free" | "person" | "thoughtful person" => json!([]),
            _ => json!([paris]),
        };
        assert_eq!(answer["calls"], calls, "{name}");
        let says_nothing = answer["content"].is_null();
        assert_eq!(says_nothing, calls != json!([]), "{name}: {answer}");
    }
    assert_eq!(answers["sum"]["content"], "17 + 25 = 42.");
    assert_eq!(answers["thoughtful person"]["content"], answers["person"]["content"]);
}

#[test]
fn the_openai_package_is_content() {
    is_content(&python("python"), "openai_client.py");
}

#[test]
fn the_openai_package_for_node_is_content() {
    is_content(Path::new("node"), "openai_client.mjs");
}

#[test]
fn langchain_is_content() {
    is_content(&python("python"), "langchain_client.py");
}

#[test]
fn llama_index_is_content() {
    is_content(&python("python-openai-2"), "llama_index_client.py");
}

#[test]
fn litellm_is_content() {
    is_content(&python("python-openai-2"), "litellm_client.py");
}

#[test]
fn the_proxy_of_litellm_is_content() {
    is_content(&python("python-openai-2"), "litellm_proxy_client.py");
}

#[test]
fn the_ai_sdk_is_content() {
    is_content(Path::new("node"), "ai_sdk_client.mjs");
}

#[test]
fn the_openai_package_is_content_with_responses() {
    let server = Server::start(&[]);
    run_client(&python("python"), "openai_responses.py", &[&format!("{}/v1", server.url)]);
}

#[test]
fn a_reader_that_splits_chunks_on_newlines_loses_nothing() {
    let server = Server::start(&[]);
    for question in ["hello", "count from 1 to 20", "what is sconce?"] {
        let base = format!("{}/v1", server.url);
        let printed = run_client(Path::new("node"), "split_lines.mjs", &[&base, "spark", question]);
        let body = json!({
            "model": "spark", "temperature": 0,
            "messages": [{"role": "user", "content": question}],
        });
        let answer = server.ok("/v1/chat/completions", &body);
        let whole = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(!whole.is_empty());
        assert_eq!(printed, whole);
    }
}

#[test]
fn the_anthropic_package_is_content() {
    let server = Server::start(&["--api-key", "k"]);
    run_client(&python("python"), "anthropic_client.py", &[&server.url, "k"]);
}
