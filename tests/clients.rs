//! Clients of others against the real server: the openai package and a tutorial's reader in Node.

use serde_json::json;
use std::process::{Command, Output};
use tests::{Server, root};

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{stderr}");
    output
}

#[test]
fn the_openai_package_is_content() {
    let server = Server::start(&[]);
    let python = root().join("target/test-env/bin/python");
    assert!(python.is_file(), "{} is missing: scripts/test installs it", python.display());
    let script = root().join("tests/clients/openai_client.py");
    run(Command::new(python).arg(script).arg(format!("{}/v1", server.url)));
}

#[test]
fn the_openai_package_is_content_with_responses() {
    let server = Server::start(&[]);
    let python = root().join("target/test-env/bin/python");
    let script = root().join("tests/clients/openai_responses.py");
    run(Command::new(python).arg(script).arg(format!("{}/v1", server.url)));
}

#[test]
fn a_reader_that_splits_chunks_on_newlines_loses_nothing() {
    let server = Server::start(&[]);
    let script = root().join("tests/clients/split_lines.mjs");
    for question in ["hello", "count from 1 to 20", "what is sconce?"] {
        let base = format!("{}/v1", server.url);
        let output = run(Command::new("node").arg(&script).args([&base, "spark", question]));
        let body = json!({
            "model": "spark", "temperature": 0,
            "messages": [{"role": "user", "content": question}],
        });
        let answer = server.ok("/v1/chat/completions", &body);
        let whole = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(!whole.is_empty());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), whole);
    }
}
