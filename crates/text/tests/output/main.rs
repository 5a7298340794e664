//! The output parser: every format's outputs come apart as they should, however they are cut.

mod detection;
mod fixtures;
mod splits;
mod streaming;
mod templates;
mod values;

use serde_json::{Value, json};
use text::{OutputFormat, OutputParser, OutputPart, ReasoningFormat, ToolFormat};

/// A part with its calls put together.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whole {
    Reasoning(String),
    Text(String),
    Call { id: Option<String>, name: String, arguments: String },
}

/// A format by vLLM's names, an empty one for none.
fn format(reasoning: &str, tools: &str) -> OutputFormat {
    OutputFormat {
        reasoning: (!reasoning.is_empty())
            .then(|| ReasoningFormat::from_name(reasoning).expect("a format")),
        tools: (!tools.is_empty()).then(|| ToolFormat::from_name(tools).expect("a format")),
    }
}

/// The functions that the fixtures call.
fn tools() -> Vec<Value> {
    let function = |name: &str, properties: Value| {
        json!({"type": "function", "function": {
            "name": name, "parameters": {"type": "object", "properties": properties},
        }})
    };
    vec![
        function(
            "get_weather",
            json!({
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
                "place": {"type": "object"},
                "hours": {"type": "array", "items": {"type": "integer"}},
                "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            }),
        ),
        function("get_time", json!({})),
        function("write_file", json!({"path": {"type": "string"}, "text": {"type": "string"}})),
    ]
}

/// Puts parts together and checks that calls are counted and their arguments in place.
fn join(parts: Vec<OutputPart>) -> Vec<Whole> {
    let mut joined: Vec<Whole> = Vec::new();
    let mut calls = 0;
    for part in parts {
        match (part, joined.last_mut()) {
            (OutputPart::Reasoning(more), Some(Whole::Reasoning(text)))
            | (OutputPart::Text(more), Some(Whole::Text(text))) => text.push_str(&more),
            (OutputPart::Reasoning(text), _) => joined.push(Whole::Reasoning(text)),
            (OutputPart::Text(text), _) => joined.push(Whole::Text(text)),
            (OutputPart::ToolCall { index, id, name }, _) => {
                assert_eq!(index, calls, "calls are counted");
                calls += 1;
                joined.push(Whole::Call { id, name, arguments: String::new() });
            }
            (OutputPart::Arguments { index, json }, Some(Whole::Call { arguments, .. })) => {
                assert_eq!(index + 1, calls, "arguments of another call");
                arguments.push_str(&json);
            }
            (part, _) => panic!("{part:?} outside a call"),
        }
    }
    joined
}

fn parse<'a>(
    format: &OutputFormat,
    in_reasoning: bool,
    chunks: impl IntoIterator<Item = &'a str>,
) -> Vec<Whole> {
    parse_with(format, &tools(), in_reasoning, chunks)
}

fn parse_with<'a>(
    format: &OutputFormat,
    tools: &[Value],
    in_reasoning: bool,
    chunks: impl IntoIterator<Item = &'a str>,
) -> Vec<Whole> {
    let mut parser = OutputParser::new(format, tools, in_reasoning);
    let (mut parts, mut num_chars, mut num_read) = (Vec::new(), 0, 0);
    for chunk in chunks {
        parts.extend(parser.push(chunk));
        num_chars += chunk.chars().count();
        num_read += parser.take_read().iter().map(|stretch| stretch.num_chars).sum::<usize>();
        assert!(num_read <= num_chars, "{num_read} of {num_chars} characters were read");
    }
    parts.extend(parser.finish());
    num_read += parser.take_read().iter().map(|stretch| stretch.num_chars).sum::<usize>();
    assert_eq!(num_read, num_chars, "every character is read once");
    join(parts)
}

/// The output with what counts as reasoning in brackets.
fn marked(format: &OutputFormat, in_reasoning: bool, output: &str) -> String {
    let mut parser = OutputParser::new(format, &tools(), in_reasoning);
    let mut stretches = Vec::new();
    for c in output.chars() {
        parser.push(c.encode_utf8(&mut [0; 4]));
        stretches.extend(parser.take_read());
    }
    parser.finish();
    stretches.extend(parser.take_read());
    let (mut marked, mut rest, mut inside) = (String::new(), output.chars(), false);
    for stretch in stretches {
        if stretch.is_reasoning != inside {
            inside = stretch.is_reasoning;
            marked.push(if inside { '⟦' } else { '⟧' });
        }
        marked.extend(rest.by_ref().take(stretch.num_chars));
    }
    marked
}

#[test]
fn reasoning_is_told_character_by_character() {
    for (reasoning, tools, in_reasoning, output) in [
        ("qwen3", "", false, "⟦<think>\nhm < 3\n</think>⟧\n\nyes <b"),
        ("qwen3", "", true, "⟦hm</think>⟧yes"),
        ("qwen3", "", true, "⟦never </thin"),
        ("qwen3", "", false, "no <think here"),
        ("deepseek_r1", "", false, "⟦hm</think>⟧yes"),
        ("granite", "", false, "⟦Here is my thought process: a Here's my response:⟧ b"),
        (
            "qwen3",
            "hermes",
            true,
            "⟦let me ⟧<tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call> and",
        ),
        ("qwen3", "hermes", true, "⟦a <tool_call>\n{\"name\": \"no\"}</think>⟧b"),
        (
            "openai_gptoss",
            "",
            false,
            "⟦<|channel|>analysis<|message|>hm<|end|>⟧<|start|>assistant<|channel|>final<|message|>yes",
        ),
        ("openai_gptoss", "", true, "⟦hm<|end|>⟧<|start|>assistant<|channel|>final"),
    ] {
        let plain = output.replace(['⟦', '⟧'], "");
        assert_eq!(marked(&format(reasoning, tools), in_reasoning, &plain), output);
    }
}
