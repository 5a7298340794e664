//! The output parser: every format's outputs come apart as they should, however they are cut.

mod detection;
mod fixtures;
mod splits;
mod streaming;
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
    let mut parts: Vec<_> = chunks.into_iter().flat_map(|chunk| parser.push(chunk)).collect();
    parts.extend(parser.finish());
    join(parts)
}
