//! Structural tags: vLLM's and xgrammar's description of an answer as free text and marked parts.
//!
//! Both spellings are read: `{"structures": [{"begin", "schema", "end"}], "triggers": [..]}` and the
//! tree of `{"format": {"type": .., ..}}`. What is not understood is refused with its path.

mod read;
mod rules;

use read::Node;
use serde_json::Value;

use crate::{Grammar, GrammarError, Tokenizer};

/// A structural tag, checked.
#[derive(Debug, Clone)]
pub struct StructuralTag {
    root: Format,
    /// What llguidance may refuse, with its path.
    leaves: Vec<(String, Grammar)>,
}

/// What is wrong with a structural tag, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct TagError {
    /// Such as `format.elements[1].type`; empty for the whole.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

/// Part of an answer.
#[derive(Debug, Clone)]
enum Format {
    Const(String),
    Json(Value),
    Regex(String),
    /// Any text in which none of these stands.
    AnyText(Vec<String>),
    Sequence(Vec<Self>),
    Or(Vec<Self>),
    Tag(Box<Tag>),
    Triggered(Triggered),
    Separated(Separated),
}

/// `begin`, the content, and one of the ends.
#[derive(Debug, Clone)]
struct Tag {
    begin: String,
    content: Format,
    ends: Vec<String>,
}

/// Free text that a trigger ends: a tag that begins with it must follow.
#[derive(Debug, Clone)]
struct Triggered {
    triggers: Vec<String>,
    /// Each with the index of its trigger.
    tags: Vec<(usize, Tag)>,
    excludes: Vec<String>,
    /// The answer begins with a tag.
    at_least_one: bool,
    stop_after_first: bool,
}

/// Tags and separators, nothing else.
#[derive(Debug, Clone)]
struct Separated {
    tags: Vec<Tag>,
    separator: String,
    at_least_one: bool,
    stop_after_first: bool,
}

impl StructuralTag {
    /// Reads either spelling.
    ///
    /// # Errors
    /// With the path of what is not understood.
    pub fn parse(value: &Value) -> Result<Self, TagError> {
        let mut leaves = Vec::new();
        let root = Node::root(value).tag(&mut leaves)?;
        Ok(Self { root, leaves })
    }

    /// Rules for llguidance. Special tokens of the vocabulary are told from text.
    ///
    /// # Errors
    /// A regular expression that is none.
    pub fn grammar(&self, tokenizer: &Tokenizer) -> Result<Grammar, GrammarError> {
        rules::compile(&self.root, tokenizer).map(Grammar::Rules)
    }

    /// Schemas and regular expressions in it, each with its path: where the whole cannot be followed,
    /// one of them is to blame.
    pub fn leaves(&self) -> &[(String, Grammar)] {
        &self.leaves
    }
}

impl Format {
    /// Whether it has no end of its own: only the end of a tag around it, or of the answer.
    fn is_open(&self) -> bool {
        match self {
            Self::AnyText(_) => true,
            Self::Triggered(triggered) => !(triggered.at_least_one && triggered.stop_after_first),
            Self::Sequence(elements) => elements.last().is_some_and(Self::is_open),
            Self::Or(elements) => elements.iter().any(Self::is_open),
            Self::Const(_) | Self::Json(_) | Self::Regex(_) | Self::Tag(_) | Self::Separated(_) => {
                false
            }
        }
    }
}
