//! Grammars of whole outputs: calls that must come, and what may stand before an answer that must
//! look like something.

use super::{OutputFormat, ReasoningFormat, ToolFormat};
use crate::grammar::{lark_string, lark_text};
use crate::{Grammar, GrammarError, Tokenizer};
use serde_json::Value;

/// How a family writes calls whose arguments are JSON.
struct Written {
    name: &'static str,
    begin: &'static [&'static str],
    /// Between two calls; without one there can be but one.
    between: Option<&'static str>,
    end: &'static [&'static str],
    /// Around each call.
    each: [&'static str; 2],
    arguments: &'static str,
}

const WRITTEN: &[Written] = &[
    Written {
        name: "hermes",
        begin: &["<tool_call>", "\n"],
        between: Some("\n"),
        end: &["\n", "</tool_call>"],
        each: ["", ""],
        arguments: "arguments",
    },
    Written::array("mistral", &["[TOOL_CALLS]", "["], &["]"]),
    Written::array("granite", &["<|tool_call|>", "["], &["]"]),
    Written::array("phi4_mini_json", &["functools["], &["]"]),
    Written::array("jamba", &["<tool_calls>", "["], &["]", "</tool_calls>"]),
    Written::array("xlam", &["["], &["]"]),
    Written { arguments: "parameters", between: None, ..Written::array("llama3_json", &[], &[]) },
];

impl Written {
    /// One array of calls.
    const fn array(
        name: &'static str,
        begin: &'static [&'static str],
        end: &'static [&'static str],
    ) -> Self {
        Self { name, begin, between: Some(", "), end, each: ["", ""], arguments: "arguments" }
    }
}
