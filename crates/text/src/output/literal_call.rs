//! A call written like one in a programming language: `f(city="Paris", days=[1, 2])`.

use super::call::{Step, is_name, is_name_char};
use super::parts::Parts;
use super::typed::{Types, string_char};

/// What the language writes differently.
#[derive(Debug)]
pub(super) struct Language {
    /// Around the arguments.
    pub(super) open: char,
    pub(super) close: char,
    /// Between an argument's name and its value; `:` further in.
    pub(super) assign: char,
    pub(super) quotes: &'static [&'static str],
    /// A backslash in a string escapes.
    pub(super) escapes: bool,
}

/// A call from behind its opener. It begins with the bracket behind its name.
#[derive(Debug, Clone)]
pub(super) struct LiteralCall {
    language: &'static Language,
    at: At,
    /// The brackets that are open.
    frames: Vec<Frame>,
    /// The name, then whatever word, key or beginning of a quote is being read.
    word: String,
    /// The text of a key and what precedes it: no part of the call, if no value follows.
    unread: String,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    close: char,
    assign: char,
    is_object: bool,
    is_empty: bool,
}

#[derive(Debug, Clone)]
enum At {
    Name,
    /// Before a key, in an array before a value.
    Item,
    /// Behind a key.
    Assign,
    /// Before an object's value.
    Value,
    /// In what may become a quote.
    Quote {
        key: bool,
    },
    Word {
        key: bool,
    },
    String {
        key: bool,
        quote: &'static str,
        escape: Option<String>,
    },
    /// Behind a value.
    Comma,
}

impl LiteralCall {
    pub(super) fn new(language: &'static Language) -> Self {
        let (frames, word, unread) = Default::default();
        Self { language, at: At::Name, frames, word, unread }
    }

    pub(super) fn step(
        &mut self,
        c: char,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Parts,
    ) -> Step {
        self.unread.push(c);
        match self.at.clone() {
            At::Name => return self.name(c, accepts, out),
            At::Quote { key } => return self.quote(c, key, out),
            At::Word { key } => return self.word(c, key, out),
            At::String { key, quote, escape } => self.string(c, key, quote, escape, out),
            _ if c.is_whitespace() => {}
            At::Item if c == self.frame().close => return self.close(out),
            At::Item => {
                let key = self.frame().is_object;
                return self.begin(c, key, out);
            }
            At::Assign if c == self.frame().assign => self.assign(out),
            At::Value => return self.begin(c, false, out),
            At::Comma if c == ',' => self.at = At::Item,
            At::Comma if c == self.frame().close => return self.close(out),
            At::Assign | At::Comma => return self.broken(out),
        }
        Step::More
    }

    /// What was read and is no part of the call after all.
    pub(super) fn unread(&mut self) -> String {
        if matches!(self.at, At::Name) { String::new() } else { std::mem::take(&mut self.unread) }
    }

    /// The output ends within the call.
    pub(super) fn cut_short(&mut self, out: &mut Parts) {
        if matches!(self.at, At::Word { key: false }) {
            self.end_word(out);
        }
    }

    fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the call's own bracket is open")
    }

    fn name(&mut self, c: char, accepts: &dyn Fn(&str) -> bool, out: &mut Parts) -> Step {
        if c != self.language.open {
            self.word.push(c);
            return if is_name_char(c) { Step::More } else { Step::Reject };
        }
        if !is_name(&self.word) || !accepts(&self.word) {
            return Step::Reject;
        }
        out.call(None, std::mem::take(&mut self.word));
        let Language { close, assign, .. } = *self.language;
        self.push(Frame { close, assign, is_object: true, is_empty: true }, out);
        Step::More
    }

    fn push(&mut self, frame: Frame, out: &mut Parts) {
        out.argument(if frame.is_object { '{' } else { '[' });
        self.frames.push(frame);
        self.unread.clear();
        self.at = At::Item;
    }

    fn close(&mut self, out: &mut Parts) -> Step {
        let frame = self.frames.pop().expect("a bracket is open");
        out.argument(if frame.is_object { '}' } else { ']' });
        self.unread.clear();
        self.at = At::Comma;
        if self.frames.is_empty() { Step::Done } else { Step::More }
    }

    /// The last character does not fit: closes what is open.
    fn broken(&mut self, out: &mut Parts) -> Step {
        self.unread.pop();
        if matches!(self.at, At::Value) {
            out.arguments("null");
        }
        for frame in self.frames.drain(..).rev() {
            out.argument(if frame.is_object { '}' } else { ']' });
        }
        Step::Reject
    }

    /// A comma, unless it is the bracket's first item.
    fn separate(&mut self, out: &mut Parts) {
        if !std::mem::replace(&mut self.frame().is_empty, false) {
            out.arguments(", ");
        }
    }

    /// The first character of a key or value.
    fn begin(&mut self, c: char, key: bool, out: &mut Parts) -> Step {
        let close = match c {
            '{' => Some('}'),
            '[' => Some(']'),
            '(' => Some(')'),
            _ => None,
        };
        if matches!(c, ',' | '}' | ']' | ')') || (key && close.is_some()) {
            return self.broken(out);
        }
        if !self.frame().is_object {
            self.separate(out);
        }
        if let Some(close) = close {
            self.push(Frame { close, assign: ':', is_object: c == '{', is_empty: true }, out);
            return Step::More;
        }
        self.word.clear();
        self.at = At::Quote { key };
        self.quote(c, key, out)
    }

    fn quote(&mut self, c: char, key: bool, out: &mut Parts) -> Step {
        self.word.push(c);
        let quotes = self.language.quotes;
        if let Some(quote) = quotes.iter().find(|quote| **quote == self.word) {
            self.word.clear();
            if !key {
                out.argument('"');
            }
            self.at = At::String { key, quote, escape: None };
        } else if !quotes.iter().any(|quote| quote.starts_with(&self.word)) {
            self.word.pop();
            self.at = At::Word { key };
            return self.word(c, key, out);
        }
        Step::More
    }

    fn word(&mut self, c: char, key: bool, out: &mut Parts) -> Step {
        if key && c == self.frame().assign {
            self.assign(out);
        } else if !matches!(c, ',' | ')' | ']' | '}') {
            self.word.push(c);
        } else if key {
            return self.broken(out);
        } else {
            self.end_word(out);
            self.at = At::Comma;
            self.unread.clear();
            self.unread.push(c);
            return if c == ',' {
                self.at = At::Item;
                Step::More
            } else if c == self.frame().close {
                self.close(out)
            } else {
                self.broken(out)
            };
        }
        Step::More
    }

    fn end_word(&mut self, out: &mut Parts) {
        out.arguments(&Types::ANY.json(self.word.trim()));
    }

    /// Writes the key that is read.
    fn assign(&mut self, out: &mut Parts) {
        self.separate(out);
        out.argument('"');
        std::mem::take(&mut self.word).trim().chars().for_each(|c| string_char(c, out));
        out.arguments("\": ");
        self.unread.clear();
        self.at = At::Value;
    }

    fn string(
        &mut self,
        c: char,
        key: bool,
        quote: &'static str,
        escape: Option<String>,
        out: &mut Parts,
    ) {
        let escape = if let Some(escape) = escape {
            self.escaped(escape, c, key, out)
        } else if c == '\\' && self.language.escapes {
            Some(String::new())
        } else {
            // A key is all in `word`; of a value only what may be the quote.
            self.word.push(c);
            if self.word.ends_with(quote) {
                self.word.truncate(self.word.len() - quote.len());
                if !key {
                    out.argument('"');
                }
                self.at = if key { At::Assign } else { At::Comma };
                return;
            }
            while !key && !quote.starts_with(&self.word) {
                string_char(self.word.remove(0), out);
            }
            None
        };
        if !key {
            self.unread.clear();
        }
        self.at = At::String { key, quote, escape };
    }

    /// One more character of an escape sequence; what there is of it, if it goes on.
    fn escaped(
        &mut self,
        mut escape: String,
        c: char,
        key: bool,
        out: &mut Parts,
    ) -> Option<String> {
        escape.push(c);
        let mut digits = escape.chars();
        let wanted = match digits.next() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => 0,
        };
        let digits = digits.as_str();
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_hex && digits.len() < wanted {
            return Some(escape);
        }
        let code = u32::from_str_radix(digits, 16).ok();
        let text = match escape.as_str() {
            "\n" => String::new(),
            "n" => "\n".to_owned(),
            "t" => "\t".to_owned(),
            "r" => "\r".to_owned(),
            "b" => "\u{8}".to_owned(),
            "f" => "\u{c}".to_owned(),
            "\\" | "\"" | "'" => escape,
            _ if wanted > 0 && is_hex => {
                code.and_then(char::from_u32).unwrap_or('\u{fffd}').to_string()
            }
            // No escape sequence: Python keeps the backslash.
            _ => format!("\\{escape}"),
        };
        if key {
            self.word.push_str(&text);
        } else {
            text.chars().for_each(|c| string_char(c, out));
        }
        None
    }
}
