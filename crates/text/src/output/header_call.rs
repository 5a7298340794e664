//! A call whose name stands before the JSON of its arguments, in a header of the format's own.

use super::call::{Step, is_name, is_name_char};
use super::parts::Parts;
use super::span::{Span, SpanStep};

/// Longer is no header: names have at most 64 characters in OpenAI's API.
const MAX_HEADER_BYTES: usize = 512;

/// Id, if the format has them, and name of a call, from what stands before its arguments. An empty
/// name makes it no call.
pub(super) type ReadHeader = fn(&str) -> (Option<&str>, &str);

/// A call from behind its opening marker. It begins with the `{` of its arguments.
#[derive(Debug, Clone)]
pub(super) struct HeaderCall {
    read: ReadHeader,
    /// What a header may hold besides names.
    tokens: &'static [&'static str],
    header: String,
    /// A token's beginning.
    token: String,
    arguments: Option<Span>,
}

impl HeaderCall {
    pub(super) fn new(read: ReadHeader, tokens: &'static [&'static str]) -> Self {
        let (header, token) = Default::default();
        Self { read, tokens, header, token, arguments: None }
    }

    pub(super) fn step(
        &mut self,
        c: char,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Parts,
    ) -> Step {
        if let Some(arguments) = &mut self.arguments {
            out.argument(c);
            return if arguments.step(c) == SpanStep::Ends { Step::Done } else { Step::More };
        }
        if c != '{' {
            return self.header(c);
        }
        let (id, name) = (self.read)(&self.header);
        if !is_name(name) || !accepts(name) {
            return Step::Reject;
        }
        out.call(id.map(str::to_owned), name.to_owned());
        out.argument(c);
        self.arguments = Span::begin(c);
        Step::More
    }

    fn header(&mut self, c: char) -> Step {
        if !self.token.is_empty() || !(is_name_char(c) || c.is_whitespace()) {
            self.token.push(c);
            if self.tokens.contains(&self.token.as_str()) {
                self.token.clear();
            } else if !self.tokens.iter().any(|token| token.starts_with(&self.token)) {
                self.token.pop();
                return Step::Reject;
            }
        }
        self.header.push(c);
        if self.header.len() <= MAX_HEADER_BYTES { Step::More } else { Step::Reject }
    }

    /// What was read and may be something else.
    pub(super) fn unread(&mut self) -> String {
        std::mem::take(&mut self.token)
    }
}

/// `name[ARGS]` or `name[CALL_ID]id[ARGS]`, the last marker optional.
pub(super) fn mistral(header: &str) -> (Option<&str>, &str) {
    let header = header.trim_end();
    let header = header.strip_suffix("[ARGS]").unwrap_or(header);
    match header.split_once("[CALL_ID]") {
        Some((name, id)) => (Some(id.trim()), name.trim()),
        None => (None, header.trim()),
    }
}

/// `functions.name:index` and a marker; the whole is the id.
pub(super) fn kimi(header: &str) -> (Option<&str>, &str) {
    let id = header.trim().strip_suffix("<|tool_call_argument_begin|>").unwrap_or_default().trim();
    let name = id.rsplit_once(':').map_or(id, |(name, _)| name);
    (Some(id), name.strip_prefix("functions.").unwrap_or(name))
}

/// `function<｜tool▁sep｜>name`, then a code fence.
pub(super) fn deepseek_v3(header: &str) -> (Option<&str>, &str) {
    let (_, name) = header.split_once("<｜tool▁sep｜>").unwrap_or_default();
    (None, name.trim_end().trim_end_matches("```json").trim())
}

/// `name<｜tool▁sep｜>`.
pub(super) fn deepseek_v31(header: &str) -> (Option<&str>, &str) {
    (None, header.trim().strip_suffix("<｜tool▁sep｜>").unwrap_or_default().trim())
}
