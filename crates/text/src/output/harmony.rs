//! Harmony, gpt-oss' format: messages with a header that names channel and recipient.

use super::call::{Functions, is_name};
use super::parts::Parts;
use super::span::{Span, SpanStep};

/// The special tokens of the format.
pub(super) const TOKENS: &[&str] = &[
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
];

/// What an answer to the user begins with.
pub(super) const FINAL: &str = "<|channel|>final<|message|>";
/// What the next message begins with, behind the end of one.
pub(super) const NEXT: &str = "<|start|>assistant";

/// What ends a message: its end, or the next one's beginning.
const ENDS: &[&str] = &["<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"];

/// What a header begins with, or what stands in front of it.
const HEADS: &[&str] =
    &["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "assistant", "to="];

/// Longer is no header: names have at most 64 characters in OpenAI's API.
const MAX_HEADER_BYTES: usize = 512;

/// The state of one output. The prompt ends with `<|start|>assistant`, so it begins in a header. A
/// call begins with its message. A cut header is dropped; text that is in no message is text.
#[derive(Debug, Clone)]
pub(super) struct Harmony {
    functions: Option<Functions>,
    /// What the model thinks is told from what it says.
    reasoning: bool,
    at: At,
    /// The header, or the beginning of what may end a message.
    held: String,
}

#[derive(Debug, Clone)]
enum At {
    Header,
    Reasoning,
    Text,
    /// In a call, before its arguments.
    Call,
    Arguments(Option<Span>),
    /// Behind a call's arguments.
    Done,
}

impl Harmony {
    pub(super) fn new(functions: Option<Functions>, reasoning: bool, in_reasoning: bool) -> Self {
        let at = if in_reasoning { At::Reasoning } else { At::Header };
        Self { functions, reasoning, at, held: String::new() }
    }

    pub(super) fn step(&mut self, c: char, out: &mut Parts) {
        match &mut self.at {
            At::Header => self.header(c, out),
            At::Arguments(Some(span)) => {
                // What looks like a token in a string is none.
                out.argument(c);
                out.read(1, false);
                if span.step(c) == SpanStep::Ends {
                    self.at = At::Done;
                }
            }
            _ => self.body(c, out),
        }
    }

    pub(super) fn in_reasoning(&self) -> bool {
        self.reasoning && matches!(self.at, At::Reasoning)
    }

    /// The beginning of what may end a message.
    pub(super) fn held(&self) -> &str {
        if matches!(self.at, At::Header) { "" } else { &self.held }
    }

    pub(super) fn finish(&mut self, out: &mut Parts) {
        let cut = matches!(self.at, At::Header) && TOKENS.iter().any(|t| self.held.contains(t));
        if cut {
            self.drop_held(out);
        } else {
            self.give_back(out);
        }
    }

    /// What is held is the header or the end of the message that it is at.
    fn drop_held(&mut self, out: &mut Parts) {
        out.read(self.held.chars().count(), self.in_reasoning());
        self.held.clear();
    }

    fn header(&mut self, c: char, out: &mut Parts) {
        self.held.push(c);
        if let Some(header) = self.held.strip_suffix("<|message|>") {
            self.at = self.message(header, out);
            self.drop_held(out);
            return;
        }
        let text = self.held.trim_start();
        let fits = HEADS.iter().any(|head| head.starts_with(text) || text.starts_with(head));
        if !fits || self.held.len() > MAX_HEADER_BYTES {
            self.at = At::Text;
            self.give_back(out);
        }
    }

    /// What a message with this header is.
    fn message(&self, header: &str, out: &mut Parts) -> At {
        let word = |mark: &str| {
            let (_, rest) = header.split_once(mark)?;
            rest.split(|c: char| c.is_whitespace() || c == '<').next()
        };
        let recipient = word("to=");
        let function = recipient.and_then(|name| name.strip_prefix("functions."));
        match function.filter(|name| self.functions.is_some() && is_name(name)) {
            Some(name) => {
                out.call(None, name.to_owned());
                At::Call
            }
            // A call of a tool that the model brings along, which nobody here runs.
            None if recipient.is_some() && function.is_none() => At::Reasoning,
            None if word("<|channel|>") == Some("analysis") => At::Reasoning,
            None => At::Text,
        }
    }

    fn body(&mut self, c: char, out: &mut Parts) {
        self.held.push(c);
        while !self.held.is_empty() {
            if let Some(end) = ENDS.iter().find(|end| **end == self.held) {
                if matches!(self.at, At::Call) {
                    out.arguments("{}");
                }
                if !["<|start|>", "<|channel|>"].contains(end) {
                    self.drop_held(out);
                }
                self.at = At::Header;
                return;
            }
            if ENDS.iter().any(|end| end.starts_with(&self.held)) {
                return;
            }
            let first = self.held.remove(0);
            self.show(first, out);
        }
    }

    fn give_back(&mut self, out: &mut Parts) {
        for c in std::mem::take(&mut self.held).chars() {
            self.show(c, out);
        }
    }

    fn show(&mut self, c: char, out: &mut Parts) {
        out.read(1, self.in_reasoning());
        match &self.at {
            At::Reasoning if self.reasoning => out.reasoning(c),
            At::Header | At::Text | At::Reasoning => out.text(c),
            At::Call | At::Done if c.is_whitespace() => {}
            At::Done => {
                out.text(c);
                self.at = At::Text;
            }
            At::Call => {
                out.argument(c);
                let span = Span::begin(c).filter(|_| matches!(c, '{' | '['));
                self.at = At::Arguments(span);
            }
            At::Arguments(_) => out.argument(c),
        }
    }
}
