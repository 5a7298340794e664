//! Grammars of whole outputs: calls that must come, or may, and the reasoning that may stand before
//! an answer that must look like something.

use super::arguments::Out;
use super::call::is_name;
use super::formats::Body;
use super::harmony;
use super::written::Written;
use super::{OutputFormat, ReasoningFormat, ToolFormat};
use crate::lark::{Lines, Specials, TEXT, escaped, text_without};
use crate::{Grammar, GrammarError, Tokenizer};
use serde_json::Value;

/// Most calls in an answer where their ids count them.
const MAX_NUMBERED: usize = 8;

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
    /// Calls that came before, in formats whose ids count them.
    num_before: usize,
}

impl ToolFormat {
    /// Whether calls can be made to come at all.
    pub fn is_written(self) -> bool {
        Written::ALL.iter().any(|written| written.name == self.name())
    }

    /// An answer with calls of `tools`, OpenAI definitions with names, whose arguments follow the
    /// tools' schemas. `num_before` calls are in the conversation already, for ids that count them.
    ///
    /// # Errors
    /// A schema that cannot be followed, or a format whose calls cannot be told or made to come.
    pub fn grammar(
        self,
        tokenizer: &Tokenizer,
        tools: &[Value],
        (calls, num_before): (Calls, usize),
    ) -> Result<Grammar, GrammarError> {
        let mut writer = self.writer(tokenizer, tools, num_before)?;
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
        (calls, num_before): (Calls, usize),
        reply: &Grammar,
    ) -> Result<Grammar, GrammarError> {
        let mut writer = self.writer(tokenizer, tools, num_before)?;
        let trigger = writer.written.trigger;
        let Some(reply_rules) = reply.rules()? else {
            let message = "a Lark grammar is the whole output, with no room for calls";
            return Err(GrammarError::new(message.to_owned()));
        };
        let reply_begin = writer.written.reply;
        if trigger.is_empty() && reply_begin.is_empty() {
            let name = self.name();
            let message = format!("calls in the format {name} cannot be told from such an answer");
            return Err(GrammarError::new(message));
        }
        let section = writer.section(calls != Calls::One);
        let section = writer.lines.define("call_", &section);
        let begin = writer.specials.literal(reply_begin);
        let rules = writer.lines.answer(&format!("{section} | {begin} reply"));
        // What would be read as a call is no reply.
        let reply_rules = match reply {
            Grammar::Regex(_) if !trigger.is_empty() => {
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
        num_before: usize,
    ) -> Result<Writer<'a>, GrammarError> {
        let fits = |token: &str| token.is_empty() || tokenizer.token_id(token).is_some();
        let is_ours = |written: &&Written| written.name == self.name() && fits(written.token);
        let Some(written) = Written::ALL.iter().find(is_ours) else {
            let name = self.name();
            return Err(GrammarError::new(format!("calls in the format {name} are out of reach")));
        };
        let (specials, mut lines) = (Specials::of(tokenizer), Lines::default());
        let mut functions = Vec::new();
        for tool in tools {
            let function = &tool["function"];
            let name = function["name"].as_str().filter(|name| is_name(name));
            let name = name.ok_or_else(|| GrammarError::new("a tool has no name".to_owned()))?;
            let mut out = Out { specials: &specials, lines: &mut lines };
            let arguments = written.arguments.rule(&mut out, &function["parameters"])?;
            functions.push((name, arguments));
        }
        Ok(Writer { written, specials, lines, functions, num_before })
    }
}

impl Writer<'_> {
    /// The call of this number, without the first `skip` bytes of what stands before it.
    fn call(&mut self, number: usize, before: &str, skip: usize) -> String {
        let Written { head, tail, .. } = self.written;
        let number = (self.num_before + number).to_string();
        let mut choices = Vec::new();
        for (name, arguments) in &self.functions {
            let head = head.replace("{name}", name).replace("{number}", &number);
            let head = before.to_owned() + &head;
            let (head, tail) = (self.specials.literal(&head[skip..]), self.specials.literal(tail));
            choices.push(format!("{head} {arguments} {tail}"));
        }
        self.lines.define("call_", &choices.join(" | "))
    }

    /// One call or several, and what stands around them.
    fn section(&mut self, several: bool) -> String {
        let Written { begin, end, .. } = self.written;
        let call = self.call(0, "", 0);
        let more = if several { self.more() } else { String::new() };
        format!("{} {call} {more} {}", self.specials.literal(begin), self.specials.literal(end))
    }

    /// Any number of calls behind the first.
    fn more(&mut self) -> String {
        let between = self.specials.literal(self.written.between);
        if self.written.is_single {
            return String::new();
        }
        if !self.written.is_numbered() {
            let call = self.call(0, "", 0);
            return format!("({between} {call})*");
        }
        let mut more = String::new();
        for number in (1..MAX_NUMBERED).rev() {
            let call = self.call(number, "", 0);
            more = format!("({between} {call} {more})?");
        }
        more
    }

    /// Text with sections in it.
    fn among_text(&mut self) -> String {
        let Written { trigger, begin, end, reply, .. } = *self.written;
        if !reply.is_empty() {
            let section = self.section(true);
            let text = self.lines.define("CALL_", &text_without(["<|"]));
            return format!("{section} | {} {text}", self.specials.literal(reply));
        }
        if trigger.is_empty() {
            // Only at the start, where brackets are none of text's.
            let section = self.section(true);
            let text = self.lines.define("CALL_", "/(\\s*[^\\s\\[{](.|\\n)*)?/");
            return format!("{section} | {text}");
        }
        let first = self.call(0, begin, trigger.len());
        // A call that has a trigger of its own is found as the first was.
        let more = if begin.is_empty() { String::new() } else { self.more() };
        let before = self.specials.up_to(trigger, &mut self.lines, "call_");
        let after = if self.specials.is_special(trigger) {
            TEXT.to_owned()
        } else {
            text_without([trigger])
        };
        let after = self.lines.define("CALL_", &after);
        // Numbers begin anew in each section, and must not come twice.
        let often = if self.written.is_numbered() { "?" } else { "*" };
        format!("({before} {first} {more} {}){often} {after}", self.specials.literal(end))
    }
}

impl OutputFormat {
    /// A message that follows `answer`, in a format whose messages have a beginning of their own. A
    /// Lark grammar is the whole output and stays as it is.
    pub fn message(&self, tokenizer: &Tokenizer, answer: Grammar) -> Result<Grammar, GrammarError> {
        let (true, Some(rules)) = (self.is_harmony(), answer.rules()?) else {
            return Ok(answer);
        };
        let begin = Specials::of(tokenizer).literal(harmony::FINAL);
        let rules = rules.replacen("answer:", "message:", 1);
        Ok(Grammar::Rules(format!("answer: {begin} message\n{rules}")))
    }

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
        let is_open = reasoning.is_open_in(prompt);
        if prompt.trim_end().ends_with(end) && !reasoning.0.is_harmony {
            return Ok(answer);
        }
        let (specials, mut lines) = (Specials::of(tokenizer), Lines::default());
        let inside = specials.up_to(end, &mut lines, "thoughts_");
        let behind = if reasoning.0.is_harmony {
            specials.literal(harmony::NEXT)
        } else {
            "/\\n{0,2}/".to_owned()
        };
        let thoughts = lines.define("thoughts_", &format!("{inside} {behind}"));
        let think = if is_open || reasoning.0.from_start {
            thoughts
        } else {
            format!("({} {thoughts})?", specials.literal(start))
        };
        let start = lines.answer("").replacen("answer:", &format!("start: {think} answer"), 1);
        Ok(Grammar::Lark(start + &rules))
    }

    fn is_harmony(&self) -> bool {
        let by_tools = self.tools.is_some_and(|format| matches!(format.0.body, Body::Harmony));
        by_tools || self.reasoning.is_some_and(|reasoning| reasoning.0.is_harmony)
    }
}

impl ReasoningFormat {
    /// The tag that opens a block and the one that closes it.
    fn tags(self) -> [&'static str; 2] {
        [self.0.starts[0], self.0.ends[0]]
    }
}
