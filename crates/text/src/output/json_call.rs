//! A call that is one JSON object: `{"name": "f", "arguments": {..}}`, keys in any order.

use super::call::Step;
use super::parts::Parts;
use super::span::{Span, SpanStep};

const NAME_KEYS: &[&str] = &["name", "tool_name", "function"];
const ID_KEYS: &[&str] = &["id", "tool_call_id"];
const ARGUMENT_KEYS: &[&str] = &["arguments", "parameters"];

/// A call from behind its `{`. It begins with the name's closing quote; what comes of the arguments
/// before that waits, what comes after is handed on as it comes. An id counts if it precedes the
/// name. Arguments that are a string with JSON in it count as that JSON. Whatever else the object
/// holds is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonCall {
    at: At,
    key: String,
    /// The string, key or value, that is being read.
    string: String,
    id: Option<String>,
    named: bool,
    /// Some of the arguments are known.
    argued: bool,
    /// Arguments that wait for the name.
    waiting: String,
}

#[derive(Debug, Clone, Default)]
enum At {
    /// Before a key or the object's end.
    #[default]
    Key,
    InKey(Span),
    Colon,
    Value,
    InValue(Kind, Span),
    /// After a value.
    Comma,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    Id,
    Arguments,
    /// Arguments in a string.
    Encoded,
    Other,
}

impl JsonCall {
    pub(super) fn step(
        &mut self,
        c: char,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Parts,
    ) -> Step {
        match &mut self.at {
            At::InKey(span) => {
                self.string.push(c);
                if span.step(c) == SpanStep::Ends {
                    let Some(key) = decode(&mut self.string) else { return Step::Reject };
                    self.key = key;
                    self.at = At::Colon;
                }
            }
            At::InValue(kind, span) => {
                let (kind, step) = (*kind, span.step(c));
                if step != SpanStep::Ended {
                    self.take(kind, c, out);
                }
                if step != SpanStep::Inside {
                    self.at = At::Comma;
                    if !self.end_value(kind, accepts, out) {
                        return Step::Reject;
                    }
                }
                if step == SpanStep::Ended {
                    return self.step(c, accepts, out);
                }
            }
            _ if matches!(c, ' ' | '\n' | '\r' | '\t') => {}
            At::Key | At::Comma if c == '}' => return self.end(out),
            At::Key if c == '"' => self.at = At::InKey(self.begin(c)),
            At::Colon if c == ':' => self.at = At::Value,
            At::Comma if c == ',' => self.at = At::Key,
            At::Value => return self.begin_value(c, out),
            _ => return Step::Reject,
        }
        Step::More
    }

    /// The object goes on as no JSON does.
    pub(super) fn broken(&mut self, out: &mut Parts) {
        if self.named && !self.argued {
            out.arguments("{}");
        }
    }

    /// The output ends within the call.
    pub(super) fn cut_short(&mut self, out: &mut Parts) {
        if matches!(self.at, At::InValue(Kind::Encoded, _)) {
            out.arguments(&self.string);
        }
    }

    fn begin(&mut self, c: char) -> Span {
        self.string.clear();
        self.string.push(c);
        Span::begin(c).expect("a quote begins a string")
    }

    fn begin_value(&mut self, c: char, out: &mut Parts) -> Step {
        let is = |keys: &[&str]| keys.contains(&self.key.as_str());
        let kind = match c {
            '"' if is(NAME_KEYS) && !self.named => Kind::Name,
            '"' if is(ID_KEYS) => Kind::Id,
            // Of two sets of arguments the first counts: it may be out already.
            '"' if is(ARGUMENT_KEYS) && !self.argued => Kind::Encoded,
            _ if is(ARGUMENT_KEYS) && !self.argued => Kind::Arguments,
            _ => Kind::Other,
        };
        let Some(span) = Span::begin(c) else { return Step::Reject };
        self.argued |= matches!(kind, Kind::Arguments | Kind::Encoded);
        self.string.clear();
        self.take(kind, c, out);
        self.at = At::InValue(kind, span);
        Step::More
    }

    fn take(&mut self, kind: Kind, c: char, out: &mut Parts) {
        match kind {
            Kind::Name | Kind::Id | Kind::Encoded => self.string.push(c),
            Kind::Arguments if self.named => out.argument(c),
            Kind::Arguments => self.waiting.push(c),
            Kind::Other => {}
        }
    }

    /// False if it makes the object no call.
    fn end_value(&mut self, kind: Kind, accepts: &dyn Fn(&str) -> bool, out: &mut Parts) -> bool {
        match kind {
            Kind::Name => {
                let name = decode(&mut self.string).filter(|n| !n.trim().is_empty() && accepts(n));
                let Some(name) = name else { return false };
                self.named = true;
                out.call(self.id.take(), name);
                out.arguments(&std::mem::take(&mut self.waiting));
            }
            Kind::Id => self.id = decode(&mut self.string),
            Kind::Encoded => {
                let string = self.string.clone();
                let json = decode(&mut self.string).filter(|json| json.trim().starts_with('{'));
                self.waiting = json.unwrap_or(string);
                if self.named {
                    out.arguments(&std::mem::take(&mut self.waiting));
                }
            }
            Kind::Arguments | Kind::Other => {}
        }
        true
    }

    fn end(&mut self, out: &mut Parts) -> Step {
        if !self.named {
            return Step::Reject;
        }
        if !self.argued {
            out.arguments("{}");
        }
        Step::Done
    }
}

/// The string that a JSON string stands for.
fn decode(json: &mut String) -> Option<String> {
    serde_json::from_str(&std::mem::take(json)).ok()
}
