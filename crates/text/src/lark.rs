//! The pieces that our own grammars are written with, in llguidance's dialect of Lark.
//!
//! Names in capitals are lexemes: one regular expression each, which takes as much as it can, or as
//! little if it is lazy. So whatever is regular is put into one lexeme where that is possible.

use std::collections::HashMap;

use llguidance::regex_to_lark;
use serde_json::Value;

use crate::grammar::{MAX_BYTES, MAX_LINES};
use crate::{GrammarError, Tokenizer};

/// Any text. Special tokens are none.
pub(crate) const TEXT: &str = "/(.|\\n)*/";

/// The rules of a grammar while they are written, one a line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    written: Vec<String>,
    len: usize,
    /// What is defined already, and its name.
    known: HashMap<String, String>,
}

impl Lines {
    /// Defines a rule, or a lexeme where `prefix` is in capitals, and gives its name. What is the
    /// same is defined once.
    pub(crate) fn define(&mut self, prefix: &str, body: &str) -> String {
        self.add(prefix, "", body)
    }

    /// Defines a lexeme that ends as soon as it can, as a rule.
    pub(crate) fn define_lazy(&mut self, prefix: &str, body: &str) -> String {
        self.add(prefix, "[lazy]", body)
    }

    fn add(&mut self, prefix: &str, options: &str, body: &str) -> String {
        let key = format!("{prefix}{options}: {body}");
        if let Some(name) = self.known.get(&key) {
            return name.clone();
        }
        let (index, name) = self.reserve(prefix);
        self.fill(index, &format!("{name}{options}"), body);
        self.known.insert(key, name.clone());
        name
    }

    /// The index and name of a rule that [`Self::fill`] will define.
    pub(crate) fn reserve(&mut self, prefix: &str) -> (usize, String) {
        let index = self.written.len();
        self.written.push(String::new());
        (index, format!("{prefix}{index}"))
    }

    pub(crate) fn fill(&mut self, index: usize, name: &str, body: &str) {
        let line = format!("{name}: {body}");
        self.len += line.len();
        self.written[index] = line;
    }

    /// Refuses more rules than could be compiled, before all of them are written.
    pub(crate) fn check(&self) -> Result<(), GrammarError> {
        if self.len > MAX_BYTES || self.written.len() > MAX_LINES {
            let message = format!("it has more than {MAX_LINES} rules or {MAX_BYTES} bytes");
            return Err(GrammarError::new(message));
        }
        Ok(())
    }

    /// All of them, behind that of `answer`.
    pub(crate) fn answer(self, body: &str) -> String {
        format!("answer: {body}\n{}\n", self.written.join("\n"))
    }
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// A special token. It matches no text, whatever it is spelled like.
    Special(u32),
}

/// A vocabulary's special tokens, by their text.
pub(crate) struct Specials(Vec<(String, u32)>);

impl Specials {
    pub(crate) fn of(tokenizer: &Tokenizer) -> Self {
        let ids = (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.is_special(*id));
        let named = ids.map(|id| (tokenizer.token_string(id), id));
        let mut specials: Vec<_> = named.filter(|(text, _)| !text.is_empty()).collect();
        // The longest first: it is the one that is meant.
        specials.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self(specials)
    }

    /// The special tokens in `text`, and the texts between them.
    pub(crate) fn split(&self, text: &str) -> Vec<Piece> {
        let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(c) = rest.chars().next() {
            if let Some((token, id)) = self.0.iter().find(|(token, _)| rest.starts_with(token)) {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Special(*id));
                rest = &rest[token.len()..];
            } else {
                plain.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        pieces
    }

    /// The bytes of a special token's text.
    pub(crate) fn len_of(&self, id: u32) -> usize {
        self.0.iter().find(|(_, special)| *special == id).map_or(0, |(text, _)| text.len())
    }

    /// Text up to and with `marker`, which stands nowhere in it, inside a rule.
    pub(crate) fn up_to(&self, marker: &str, lines: &mut Lines, prefix: &str) -> String {
        match self.split(marker).as_slice() {
            // It is no text, and so ends it by itself.
            [special @ Piece::Special(_)] => format!("{TEXT} {}", special.lark()),
            _ => lines.define_lazy(prefix, &format!("{TEXT} {}", quoted(marker))),
        }
    }

    /// Whether it is one special token.
    pub(crate) fn is_special(&self, text: &str) -> bool {
        matches!(self.split(text).as_slice(), [Piece::Special(_)])
    }

    /// `text` inside a rule.
    pub(crate) fn literal(&self, text: &str) -> String {
        let pieces: Vec<_> = self.split(text).iter().map(Piece::lark).collect();
        if pieces.is_empty() { "\"\"".to_owned() } else { pieces.join(" ") }
    }
}

impl Piece {
    pub(crate) fn lark(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Special(id) => format!("<[{id}]>"),
        }
    }
}

/// A text as a Lark string, which is written as JSON writes it, save for one control character.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\x7f', "\\u007f")
}

/// Any of the texts, as a lexeme.
pub(crate) fn any_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = texts.into_iter().map(quoted).collect();
    format!("({})", quoted.join(" | "))
}

/// One of many texts, as a word of its own: alternatives of rules are bounded.
pub(crate) fn one_of(texts: &[String]) -> String {
    let escaped: Vec<_> = texts.iter().map(|text| escaped(text)).collect();
    format!("/({})/", escaped.join("|"))
}

/// Text in which none of `texts` stands.
pub(crate) fn text_without<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let escaped: Vec<_> = texts.into_iter().map(escaped).collect();
    if escaped.is_empty() {
        return TEXT.to_owned();
    }
    format!("({TEXT} & ~/(.|\\n)*({})(.|\\n)*/)", escaped.join("|"))
}

/// A regular expression inside a rule.
pub(crate) fn regex(pattern: &str) -> Result<String, GrammarError> {
    regex_with(pattern, "")
}

/// One whose classes `\d`, `\w` and `\s` are ASCII's, as in JSON schemas.
pub(crate) fn ascii_regex(pattern: &str) -> Result<String, GrammarError> {
    regex_with(pattern, "dws")
}

fn regex_with(pattern: &str, ascii: &str) -> Result<String, GrammarError> {
    let slashes = pattern.len() - pattern.trim_end_matches('\\').len();
    if slashes % 2 == 1 {
        return Err(GrammarError::new("the regular expression ends in a backslash".to_owned()));
    }
    if pattern.is_empty() {
        return Ok("\"\"".to_owned());
    }
    Ok(format!("/{}/", regex_to_lark(pattern, ascii)))
}

/// A text as a regular expression inside slashes.
pub(crate) fn escaped(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        c if c.is_ascii_punctuation() && !matches!(c, '<' | '>' | '_') => format!("\\{c}"),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}
