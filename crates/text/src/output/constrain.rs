//! Grammars of whole outputs: calls that must come, or may, and the reasoning that may stand before
//! an answer that must look like something.

use super::call::is_name;
use super::written::Written;
use super::{OutputFormat, ReasoningFormat, ToolFormat};
use crate::grammar::lark_json;
use crate::lark::{Lines, Specials, TEXT, escaped, text_without};
use crate::{Grammar, GrammarError, Tokenizer};
use serde_json::{Value, json};

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

/// The calls of one request, while their rules are written.
struct Writer<'a> {
    written: &'static Written,
    specials: Specials,
    lines: Lines,
    /// Each function's name and the rule of its arguments.
    functions: Vec<(&'a str, String)>,
}

impl ToolFormat {
    /// Whether calls can be made to come at all.
    pub fn is_written(self) -> bool {
        Written::ALL.iter().any(|written| written.name == self.name())
    }

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
        let mut writer = self.writer(tokenizer, tools)?;
        let answer = match calls {
            Calls::One | Calls::Some => writer.section(calls == Calls::Some),
            Calls::AmongText => writer.among_text(),
        };
        Ok(Grammar::Rules(writer.lines.answer(&answer)))
    }

    /// The same calls, or an answer that follows `reply`, and not both.
    ///
    /// # Errors
    /// As for [`Self::grammar`]; and a Lark grammar, which is the whole output, or a format whose
    /// calls cannot be told from any answer.
    pub fn grammar_or(
        self,
        tokenizer: &Tokenizer,
        tools: &[Value],
        calls: Calls,
        reply: &Grammar,
    ) -> Result<Grammar, GrammarError> {
        let mut writer = self.writer(tokenizer, tools)?;
        let trigger = writer.written.trigger;
        let Some(reply_rules) = reply.rules()? else {
            let message = "a Lark grammar is the whole output, with no room for calls";
            return Err(GrammarError::new(message.to_owned()));
        };
        if trigger.is_empty() {
            let name = self.name();
            let message = format!("calls in the format {name} cannot be told from such an answer");
            return Err(GrammarError::new(message));
        }
        let section = writer.section(calls != Calls::One);
        let section = writer.lines.define("call_", &section);
        let rules = writer.lines.answer(&format!("{section} | reply"));
        // What would be read as a call is no reply.
        let reply_rules = match reply {
            Grammar::Regex(_) => {
                let pattern = reply_rules.trim_start_matches("answer:").trim();
                let calls = format!("/\\s*{}(.|\\n)*/", escaped(trigger));
                format!("reply: REPLY\nREPLY: {pattern} & ~{calls}\n")
            }
            _ => reply_rules.replacen("answer:", "reply:", 1),
        };
        Ok(Grammar::Rules(rules + &reply_rules))
    }

    fn writer<'a>(
        self,
        tokenizer: &Tokenizer,
        tools: &'a [Value],
    ) -> Result<Writer<'a>, GrammarError> {
        let Some(written) = Written::ALL.iter().find(|written| written.name == self.name()) else {
            let name = self.name();
            return Err(GrammarError::new(format!("calls in the format {name} are out of reach")));
        };
        let (specials, mut lines) = (Specials::of(tokenizer), Lines::default());
        let mut functions = Vec::new();
        for tool in tools {
            let function = &tool["function"];
            let name = function["name"].as_str().filter(|name| is_name(name));
            let name = name.ok_or_else(|| GrammarError::new("a tool has no name".to_owned()))?;
            let schema = object_schema(&function["parameters"])?;
            functions.push((name, lines.define("arguments_", &lark_json(&schema)?)));
        }
        Ok(Writer { written, specials, lines, functions })
    }
}

/// A function's parameters as a schema of objects, which arguments always are.
fn object_schema(parameters: &Value) -> Result<Value, GrammarError> {
    let mut schema = match parameters {
        Value::Null => json!({}),
        schema => schema.clone(),
    };
    let may_be_object = match &schema["type"] {
        Value::Array(types) => types.iter().any(|name| name == "object"),
        kind => kind.is_null() || kind == "object",
    };
    match schema.as_object_mut().filter(|_| may_be_object) {
        Some(fields) => {
            fields.insert("type".to_owned(), json!("object"));
            Ok(schema)
        }
        None => Err(GrammarError::new("a tool's parameters are not an object".to_owned())),
    }
}

impl Writer<'_> {
    /// One call, without the first `skip` bytes of what stands before it.
    fn call(&mut self, before: &str, skip: usize) -> String {
        let Written { head, tail, .. } = self.written;
        let mut choices = Vec::new();
        for (name, arguments) in &self.functions {
            let head = before.to_owned() + &head.replace("{name}", name);
            let (head, tail) = (self.specials.literal(&head[skip..]), self.specials.literal(tail));
            choices.push(format!("{head} {arguments} {tail}"));
        }
        self.lines.define("call_", &choices.join(" | "))
    }

    /// One call or several, and what stands around them.
    fn section(&mut self, several: bool) -> String {
        let Written { begin, between, end, .. } = self.written;
        let call = self.call("", 0);
        let more = if several {
            format!("({} {call})*", self.specials.literal(between))
        } else {
            String::new()
        };
        format!("{} {call} {more} {}", self.specials.literal(begin), self.specials.literal(end))
    }

    /// Text with sections in it.
    fn among_text(&mut self) -> String {
        let Written { trigger, begin, between, end, .. } = *self.written;
        if trigger.is_empty() {
            // Only at the start, where brackets are none of text's.
            let section = self.section(true);
            let text = self.lines.define("CALL_", "/(\\s*[^\\s\\[{](.|\\n)*)?/");
            return format!("{section} | {text}");
        }
        let first = self.call(begin, trigger.len());
        // A call that has a trigger of its own is found as the first was.
        let more = if begin.is_empty() {
            String::new()
        } else {
            let call = self.call("", 0);
            format!("({} {call})*", self.specials.literal(between))
        };
        let before = self.specials.up_to(trigger, &mut self.lines, "call_");
        let after = if self.specials.is_special(trigger) {
            TEXT.to_owned()
        } else {
            text_without([trigger])
        };
        let after = self.lines.define("CALL_", &after);
        format!("({before} {first} {more} {})* {after}", self.specials.literal(end))
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
        let (specials, mut lines) = (Specials::of(tokenizer), Lines::default());
        let inside = specials.up_to(end, &mut lines, "thoughts_");
        let thoughts = lines.define("thoughts_", &format!("{inside} /\\n{{0,2}}/"));
        let think = if reasoning.is_open_in(prompt) || reasoning.0.from_start {
            thoughts
        } else {
            format!("({} {thoughts})?", specials.literal(start))
        };
        let start = lines.answer("").replacen("answer:", &format!("start: {think} answer"), 1);
        Ok(Grammar::Lark(start + &rules))
    }
}

impl ReasoningFormat {
    /// The tag that opens a block and the one that closes it.
    fn tags(self) -> [&'static str; 2] {
        [self.0.starts[0], self.0.ends[0]]
    }
}
