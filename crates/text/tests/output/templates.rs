//! What public templates make of an assistant's calls and reasoning, the parser of the format that
//! is found in them takes apart again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{Whole, parse_with};
use serde_json::Value;
use std::path::{Path, PathBuf};
use text::OutputFormat;

/// Where the history does not look like what the model writes: the template, the case with or without
/// reasoning, and how it differs.
const DIFFERENT: [(&str, &str, &str); 9] = [
    ("gpt_oss", "both", "one call a message, the others are left out"),
    ("vllm_functiongemma", "one", "every value is a string"),
    ("vllm_functiongemma", "both", "every value is a string"),
    ("vllm_gemma3_pythonic", "one", "no commas between arguments"),
    ("vllm_gemma3_pythonic", "both", "no commas between arguments"),
    ("vllm_llama4_json", "both", "calls without a marker behind text"),
    ("vllm_llama4_pythonic", "one", "quotes in strings stand as they are"),
    ("vllm_llama4_pythonic", "both", "quotes in strings stand as they are"),
    ("vllm_phi4_mini", "one", "no marker, and arguments as Python prints them"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/public")
}

fn read(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder().join(file)).unwrap()).unwrap()
}

/// What a template made of a case.
fn rendered<'a>(made: &'a Value, case: &str) -> Option<&'a str> {
    let case = &made["cases"][case];
    let case = case["same_as"].as_str().map_or(case, |same| &made["cases"][same]);
    case["expected"].as_str()
}

/// Where in `whole` begins what the model is taken to have written behind `prompt`. A prompt may end
/// with a marker that the history does not have: then behind the last one that both have.
fn written_from(prompt: &str, whole: &str) -> usize {
    if whole.starts_with(prompt) {
        return prompt.len();
    }
    let mut pairs = prompt.char_indices().zip(whole.chars());
    let same = pairs.find(|((_, ours), theirs)| ours != theirs).map_or(0, |((at, _), _)| at);
    prompt[..same].rfind(['>', '\n', ']']).map_or(0, |at| at + 1)
}

/// The calls of a message or of the output: names and arguments.
type Calls = Vec<(String, Value)>;

fn calls_of(message: &Value) -> Calls {
    let calls = message["tool_calls"].as_array().unwrap().iter().map(|call| &call["function"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    calls
        .map(|call| (text(&call["name"]), serde_json::from_str(&text(&call["arguments"])).unwrap()))
        .collect()
}

fn calls_in(parts: &[Whole]) -> Calls {
    let calls = parts.iter().filter_map(|part| match part {
        Whole::Call { name, arguments, .. } => Some((name, arguments)),
        _ => None,
    });
    calls
        .map(|(name, arguments)| {
            (name.clone(), serde_json::from_str(arguments).unwrap_or_default())
        })
        .collect()
}

fn reasoning_in(parts: &[Whole]) -> String {
    let thoughts = parts.iter().filter_map(|part| match part {
        Whole::Reasoning(text) => Some(text.as_str()),
        _ => None,
    });
    thoughts.collect()
}

#[test]
fn rendered_calls_come_apart_again() {
    let shared = read("cases.json");
    let tools = shared["tools"].as_array().unwrap();
    let (mut failures, mut num_calls, mut num_thoughts) = (Vec::new(), 0, 0);
    for file in std::fs::read_dir(folder()).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".jinja") else { continue };
        let template = std::fs::read_to_string(folder().join(&file)).unwrap();
        let format = OutputFormat::detect(&template, None);
        if format.tools.is_none() {
            continue;
        }
        let made = read(&format!("{name}.json"));
        for case in ["one", "both", "one_on", "both_on"] {
            let before = if case.ends_with("_on") { "tools_on" } else { "tools_alone" };
            // Some raise an exception, and some leave out calls.
            let before = rendered(&made, before);
            let (Some(before), Some(whole)) = (before, rendered(&made, case)) else { continue };
            let start = written_from(before, whole);
            let written = &whole[start..];
            if !written.contains("get_weather") {
                continue;
            }
            let is_open = format.reasoning.is_some_and(|tags| tags.is_open_in(&whole[..start]));
            let parts = parse_with(&format, tools, is_open, [written]);
            let message = shared["cases"][case]["messages"].as_array().unwrap().last().unwrap();
            let thought = message["reasoning_content"].as_str().unwrap_or_default();
            let has_thought = !thought.is_empty() && written.contains(thought);
            num_calls += 1;
            num_thoughts += usize::from(has_thought);
            let agrees = calls_in(&parts) == calls_of(message)
                && (!has_thought || reasoning_in(&parts) == thought);
            let kind = case.trim_end_matches("_on");
            if DIFFERENT.iter().any(|known| (known.0, known.1) == (name, kind)) {
                assert!(!agrees, "{name} {case} agrees now: take it off the list");
            } else if !agrees {
                failures.push(format!("{name} {case}: {format:?}\n  {written:?}\n  {parts:?}"));
            }
        }
    }
    assert!(num_calls >= 150 && num_thoughts >= 20, "only {num_calls} and {num_thoughts}");
    assert!(failures.is_empty(), "{} of {num_calls}:\n{}", failures.len(), failures.join("\n"));
}
