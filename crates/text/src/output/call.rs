//! One call while it is read: which of the grammars reads it, and what they have in common.

use super::formats::{Body, ToolRow};
use super::header_call::HeaderCall;
use super::json_call::JsonCall;
use super::literal_call::LiteralCall;
use super::parts::Parts;
use super::typed::{Types, resolved};
use super::xml_call::XmlCall;
use serde_json::Value;
use std::sync::Arc;

/// What one more character means to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It belongs to the call, more may follow.
    More,
    /// The call ends with it.
    Done,
    /// It does not belong to the call. One that has begun is over, one that has not was none.
    Reject,
}

/// The functions of the request.
#[derive(Debug, Clone)]
pub(super) struct Functions(Arc<[Value]>);

impl Functions {
    /// From OpenAI's tool definitions; other tools than functions are no business of the parser's.
    pub(super) fn new(tools: &[Value]) -> Self {
        let function = |tool: &Value| tool.get("function").filter(|f| f.is_object()).cloned();
        Self(tools.iter().filter_map(function).collect())
    }

    pub(super) fn is_known(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The types that a function's parameter may have.
    pub(super) fn types(&self, function: &str, key: &str) -> Types {
        let types = || {
            let root = self.get(function)?.get("parameters")?;
            let schema = resolved(root, root).get("properties")?.get(key)?;
            Some(Types::of(root, schema))
        };
        types().unwrap_or(Types::ANY)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|function| function.get("name").is_some_and(|n| n == name))
    }
}

/// A call's grammar and where in it the text stands.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Json(JsonCall),
    Header(HeaderCall),
    Xml(XmlCall),
    Literal(LiteralCall),
}

impl Call {
    /// A call of this format, after `opener`.
    pub(super) fn new(row: &ToolRow, opener: &str) -> Self {
        match row.body {
            _ if opener == "{" => Self::Json(JsonCall::default()),
            Body::Header(read) => Self::Header(HeaderCall::new(read, row.tokens)),
            Body::Xml(xml) => Self::Xml(XmlCall::new(xml)),
            Body::Literal(language) => Self::Literal(LiteralCall::new(language)),
            Body::Json | Body::Harmony => unreachable!("such calls have no other openers"),
        }
    }

    /// `known_only`: a name that is not among `functions` makes it no call.
    pub(super) fn step(
        &mut self,
        c: char,
        functions: &Functions,
        known_only: bool,
        out: &mut Parts,
    ) -> Step {
        let accepts = |name: &str| !known_only || functions.is_known(name);
        match self {
            Self::Json(call) => {
                let step = call.step(c, &accepts, out);
                if step == Step::Reject {
                    call.broken(out);
                }
                step
            }
            Self::Header(call) => call.step(c, &accepts, out),
            Self::Xml(call) => call.step(c, functions, &accepts, out),
            Self::Literal(call) => call.step(c, &accepts, out),
        }
    }

    /// What was read before a character was rejected: no part of the call that has begun; of one
    /// that has not, the beginning of a token, which may be another's.
    pub(super) fn unread(&mut self) -> String {
        match self {
            Self::Xml(call) => call.unread(),
            Self::Literal(call) => call.unread(),
            Self::Header(call) => call.unread(),
            Self::Json(_) => String::new(),
        }
    }

    /// The output ends within the call.
    pub(super) fn cut_short(&mut self, out: &mut Parts) {
        match self {
            Self::Xml(call) => call.cut_short(out),
            Self::Literal(call) => call.cut_short(out),
            Self::Json(call) => call.cut_short(out),
            Self::Header(_) => {}
        }
    }
}

/// Whether a function may have this name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_name_char)
}

pub(super) fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/')
}
