//! Grammars of whole outputs: calls that must come, and the reasoning that may stand before an
//! answer that must look like something.

use super::{OutputFormat, ReasoningFormat, ToolFormat};
use crate::grammar::lark_json;
use crate::lark::{escaped, is_special, lark_text};
use crate::{Grammar, GrammarError, Tokenizer};
use serde_json::{Value, json};

/// How a family writes calls whose arguments are JSON.
struct Written {
    name: &'static str,
    begin: &'static [&'static str],
    end: &'static [&'static str],
    between: &'static str,
    /// Whether `begin` and `end` stand around each call, or around all of them.
    around_each: bool,
    arguments: &'static str,
}

const WRITTEN: &[Written] = &[
    Written {
        name: "hermes",
        begin: &["<tool_call>", "\n"],
        end: &["\n", "</tool_call>"],
        between: "\n",
        around_each: true,
        arguments: "arguments",
    },
    Written::array("mistral", &["[TOOL_CALLS]", "["], &["]"]),
    Written::array("granite", &["<|tool_call|>", "["], &["]"]),
    Written::array("phi4_mini_json", &["functools["], &["]"]),
    Written::array("jamba", &["<tool_calls>", "["], &["]", "</tool_calls>"]),
    Written::array("xlam", &["["], &["]"]),
    Written { between: "; ", arguments: "parameters", ..Written::array("llama3_json", &[], &[]) },
];

impl Written {
    const fn array(
        name: &'static str,
        begin: &'static [&'static str],
        end: &'static [&'static str],
    ) -> Self {
        Self { name, begin, end, between: ", ", around_each: false, arguments: "arguments" }
    }
}

/// Which calls an answer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// It is one call.
    One,
    /// It is one call or several.
    Some,
    /// It is text with any number of calls in it.
    AmongText,
}

impl ToolFormat {
    /// An answer with calls of `tools`, OpenAI definitions with names, whose arguments follow the
    /// tools' schemas.
    ///
    /// # Errors
    /// A schema that cannot be followed, or a format whose calls cannot be told or made to come.
    pub fn grammar(
        self,
        tokenizer: &Tokenizer,
        tools: &[Value],
        calls: Calls,
    ) -> Result<Grammar, GrammarError> {
        let written = WRITTEN.iter().find(|written| written.name == self.name());
        let written = written.filter(|w| calls != Calls::AmongText || !w.begin.is_empty());
        let Some(written) = written else {
            let name = self.name();
            return Err(GrammarError::new(format!("calls in the format {name} are out of reach")));
        };
        let mut rules = written.answer(tokenizer, calls);
        let names: Vec<_> = (0..tools.len()).map(|index| format!("call_{index}")).collect();
        rules.push(format!("call: {}", names.join(" | ")));
        for (tool, call) in tools.iter().zip(names) {
            let function = &tool["function"];
            let head = format!("{{\"name\": {}, \"{}\": ", function["name"], written.arguments);
            let schema = match &function["parameters"] {
                Value::Null => &json!({"type": "object"}),
                schema => schema,
            };
            let (head, tail) = (lark_text(tokenizer, &head), lark_text(tokenizer, "}"));
            rules.push(format!("{call}: {head} arguments_{call} {tail}"));
            rules.push(format!("arguments_{call}: {}", lark_json(schema)?));
        }
        Ok(Grammar::Rules(rules.join("\n") + "\n"))
    }
}

impl Written {
    /// Rules from `answer` down to `call`.
    fn answer(&self, tokenizer: &Tokenizer, calls: Calls) -> Vec<String> {
        let markers = |texts: &[&str]| -> String {
            texts.iter().map(|text| lark_text(tokenizer, text) + " ").collect()
        };
        let between = lark_text(tokenizer, self.between);
        let end = markers(self.end);
        let more = match calls {
            Calls::One => String::new(),
            Calls::Some => format!(" ({between} item)*"),
            Calls::AmongText if self.around_each => String::new(),
            Calls::AmongText => format!(" ({between} call)*"),
        };
        match (calls, self.begin) {
            (Calls::AmongText, [marker, rest @ ..]) => {
                let rest = markers(rest);
                let [before, after] = around_token(tokenizer, marker);
                vec![
                    "answer: (before item)* after".to_owned(),
                    before,
                    after,
                    format!("item: {rest}call{more} {end}"),
                ]
            }
            (_, begin) if self.around_each => {
                let begin = markers(begin);
                vec![format!("answer: item{more}"), format!("item: {begin}call {end}")]
            }
            (_, begin) => {
                let begin = markers(begin);
                vec![format!("answer: {begin}item{more} {end}"), "item: call".to_owned()]
            }
        }
    }
}

/// Rules for text up to and with the next `marker`, and for text without one.
fn around_token(tokenizer: &Tokenizer, marker: &str) -> [String; 2] {
    if is_special(tokenizer, marker) {
        let marker = lark_text(tokenizer, marker);
        [format!("before: /(.|\\n)*/ {marker}"), "after: /(.|\\n)*/".to_owned()]
    } else {
        let marker = escaped(marker);
        [
            format!("before[lazy]: /(.|\\n)*{marker}/"),
            format!("after: AFTER\nAFTER: /(.|\\n)*/ & ~/(.|\\n)*{marker}(.|\\n)*/"),
        ]
    }
}

impl OutputFormat {
    /// `answer`, where the model may think first: after `prompt`, unless that closes its thoughts
    /// already. A Lark grammar is the whole output and stays as it is.
    pub fn after_reasoning(
        &self,
        tokenizer: &Tokenizer,
        prompt: &str,
        answer: Grammar,
    ) -> Result<Grammar, GrammarError> {
        let (Some(reasoning), Some(rules)) = (self.reasoning, answer.rules()?) else {
            return Ok(answer);
        };
        let [start, end] = reasoning.tags();
        if reasoning.0.is_harmony || prompt.trim_end().ends_with(end) {
            return Ok(answer);
        }
        let thoughts = thoughts(tokenizer, end);
        let think = if reasoning.is_open_in(prompt) || reasoning.0.from_start {
            "thoughts".to_owned()
        } else {
            format!("({} thoughts)?", lark_text(tokenizer, start))
        };
        Ok(Grammar::Lark(format!("start: {think} answer\n{thoughts}{rules}")))
    }
}

impl ReasoningFormat {
    /// The tag that opens a block and the one that closes it.
    fn tags(self) -> [&'static str; 2] {
        [self.0.starts[0], self.0.ends[0]]
    }
}

/// Anything up to the first `end`, and the line breaks behind it.
fn thoughts(tokenizer: &Tokenizer, end: &str) -> String {
    if is_special(tokenizer, end) {
        let end = lark_text(tokenizer, end);
        format!("thoughts: /(.|\\n)*/ {end} /\\n{{0,2}}/\n")
    } else {
        let end = escaped(end);
        format!("thoughts: inside /\\n{{0,2}}/\ninside[lazy]: /(.|\\n)*{end}/\n")
    }
}
