//! What a chat's text comes apart into, and the rules of the request about it.

use std::mem;

use serde::de::IgnoredAny;
use serde_json::Value;
use text::{OutputFormat, OutputParser, OutputPart, Stretch};

use super::Delta;
use super::reasoning_tokens::ReasoningTokens;
use crate::openai::tool_fields::CallIds;

/// How to read the output of a chat.
#[expect(clippy::struct_excessive_bools, reason = "what a request says yes or no to")]
#[derive(Debug, Clone)]
pub(crate) struct OutputRules {
    pub(crate) format: OutputFormat,
    /// OpenAI definitions of what may be called.
    pub(crate) tools: Vec<Value>,
    /// The prompt leaves a block of reasoning open.
    pub(crate) in_reasoning: bool,
    pub(crate) shows_reasoning: bool,
    /// Whether several calls may come.
    pub(crate) parallel: bool,
    /// What ids of calls look like.
    pub(crate) ids: CallIds,
    /// Once the answer begins, all is text: tags in the strings of a JSON answer are no reasoning.
    pub(crate) is_plain: bool,
}

impl OutputRules {
    /// At the beginning of an answer.
    pub(super) fn parser(&self) -> OutputParser {
        OutputParser::new(&self.format, &self.tools, self.in_reasoning)
    }
}

/// Reads the output of one choice.
#[derive(Debug)]
pub(super) struct OutputReader {
    parser: OutputParser,
    shows_reasoning: bool,
    parallel: bool,
    ids: CallIds,
    is_plain: bool,
    state: State,
    reasoning: ReasoningTokens,
    pub(super) num_calls: usize,
    /// Of the last call.
    arguments: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Parsing,
    /// The plain answer has begun.
    Plain,
    /// A call came that may not: neither it nor anything behind it is part of the answer.
    Over,
}

impl OutputReader {
    pub(super) fn new(rules: &OutputRules) -> Self {
        Self {
            parser: rules.parser(),
            shows_reasoning: rules.shows_reasoning,
            parallel: rules.parallel,
            ids: rules.ids,
            is_plain: rules.is_plain,
            state: State::Parsing,
            reasoning: ReasoningTokens::default(),
            num_calls: 0,
            arguments: String::new(),
        }
    }

    /// Whether there are calls, and the last has all of its arguments.
    pub(super) fn ends_with_calls(&self) -> bool {
        self.num_calls > 0 && serde_json::from_str::<IgnoredAny>(&self.arguments).is_ok()
    }

    /// Whether nothing more is part of the answer.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// How many tokens are reasoning, of those that it is certain of.
    pub(super) fn reasoning_tokens(&self) -> usize {
        self.reasoning.count()
    }

    /// A token came whose text has so many characters; they are read when they are pushed.
    pub(super) fn token(&mut self, num_chars: usize) {
        self.reasoning.token(num_chars);
    }

    /// Takes the next piece of text.
    pub(super) fn push(&mut self, text: &str, delta: &mut Delta) {
        if !self.is_plain {
            let parts = self.parser.push(text);
            return self.take(parts, delta);
        }
        // Character by character, so that where the answer begins does not depend on the chunk.
        for (at, c) in text.char_indices() {
            if self.state == State::Plain {
                let num_chars = text[at..].chars().count();
                self.reasoning.read([Stretch { num_chars, is_reasoning: false }]);
                return delta.say(text[at..].to_owned());
            }
            let mut parts = self.parser.push(c.encode_utf8(&mut [0; 4]));
            if parts.iter().any(|part| matches!(part, OutputPart::Text(_))) {
                self.state = State::Plain;
                parts.extend(self.parser.finish());
            }
            self.take(parts, delta);
        }
    }

    /// The end of the output, which may have been cut where it stands.
    pub(super) fn finish(&mut self, is_cut: bool, delta: &mut Delta) {
        let parts = if is_cut { self.parser.cut() } else { self.parser.finish() };
        self.take(parts, delta);
        self.reasoning.finish(self.parser.in_reasoning());
    }

    fn take(&mut self, parts: Vec<OutputPart>, delta: &mut Delta) {
        self.reasoning.read(self.parser.take_read());
        for mut part in parts {
            match &mut part {
                OutputPart::Reasoning(_) if !self.shows_reasoning => continue,
                OutputPart::ToolCall { id, .. } => {
                    if self.num_calls > 0 && !self.parallel {
                        self.state = State::Over;
                    }
                    if self.is_over() {
                        return;
                    }
                    self.num_calls += 1;
                    self.arguments.clear();
                    id.get_or_insert_with(|| self.ids.random());
                }
                _ if self.is_over() => return,
                OutputPart::Arguments { json, .. } => self.arguments.push_str(json),
                _ => {}
            }
            delta.push(part);
        }
    }
}

impl Delta {
    /// Adds a part behind the others; what belongs together becomes one.
    pub(super) fn push(&mut self, part: OutputPart) {
        use OutputPart::{Arguments, Reasoning, Text};
        match (self.parts.last_mut(), &part) {
            (Some(Text(text)), Text(more)) | (Some(Reasoning(text)), Reasoning(more)) => {
                text.push_str(more);
            }
            (Some(Arguments { json, index }), Arguments { json: more, index: same })
                if index == same =>
            {
                json.push_str(more);
            }
            _ => self.parts.push(part),
        }
    }

    /// Adds plain text.
    pub(super) fn say(&mut self, text: String) {
        if !text.is_empty() {
            self.push(OutputPart::Text(text));
        }
    }

    /// The text of an output that is not a chat's, which has nothing else.
    pub(crate) fn take_text(&mut self) -> String {
        let parts = mem::take(&mut self.parts).into_iter();
        let texts = parts.filter_map(|part| match part {
            OutputPart::Text(text) => Some(text),
            _ => None,
        });
        texts.collect()
    }
}
