//! Chat templates: compiling and rendering end within their bounds, in a text or in an error.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;
use tests::Server;

use super::change::{changed, changes};
use super::seeds;

const WORDS: &[&str] = &[
    "{%",
    "%}",
    "{{",
    "}}",
    "{%-",
    "-%}",
    "{#",
    "#}",
    "{% if ",
    "{% endif %}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{% set x = ",
    "{% macro m() %}",
    "{% endmacro %}",
    "{{ m() }}",
    "{% generation %}",
    "{% raw %}",
    "namespace(x=[])",
    "| tojson",
    "| length",
    "| join",
    "| sort",
    "| list",
    "| trim",
    "[::-1]",
    "[0]",
    ".x",
    "(",
    ")",
    "'",
    "\"",
    " ~ ",
    " + ",
    " * ",
    "range(100000)",
    "messages",
    "tools",
    "loop.index",
    "none",
    "-1",
    "9999999999999999999",
    "\\x00",
    "🌍",
    "\u{0}",
    "raise_exception('x')",
    "strftime_now('%Y')",
    " is defined",
    " in ",
    " not ",
    "**",
];

#[test]
fn templates() {
    let mut corpus = seeds("crates/text/tests/goldens/chat", "jinja");
    corpus.extend(seeds("crates/text/tests/goldens/public", "jinja"));
    let server = Server::start(&["--trust-request-chat-template"]);
    let function = json!({"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}});
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": \"b\"}"}});
    let mut body = json!({
        "messages": [
            {"role": "user", "content": "hi"}, {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"}, {"role": "user", "content": "🌍?"},
        ],
        "tools": [{"type": "function", "function": function}],
    });
    let number = || 0..corpus.len();
    let mut runner = TestRunner::new(config!("templates"));
    let mut num_rendered = 0;
    let outcome = runner.run(&(number(), number(), changes(4)), |(seed, other, letters)| {
        let template = changed(&corpus[seed], &letters, WORDS, &corpus[other]);
        let mut body = body.clone();
        body["chat_template"] = json!(template);
        let (status, text) = server.post_text("/tokenize", &body.to_string());
        prop_assert!(status == 200 || status == 400, "{}: {} for {}", status, text, template);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}\n{}", server.log_so_far()));
    for template in &corpus {
        body["chat_template"] = json!(template);
        num_rendered += usize::from(server.post("/tokenize", &body).0 == 200);
    }
    assert!(num_rendered * 3 > corpus.len(), "{num_rendered} of {} seeds render", corpus.len());
}
