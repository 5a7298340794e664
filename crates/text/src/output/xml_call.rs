//! A call with a tag around each argument and values that are untyped text.

use super::call::{Functions, Step, is_name, is_name_char};
use super::parts::Parts;
use super::typed::{TypedValue, Types, string_char};

/// The tags behind the call's opener.
#[derive(Debug)]
pub(super) struct Xml {
    /// What ends the name; none: it ends before a newline or tag.
    pub(super) name_end: Option<char>,
    /// Before an argument's key, which may be quoted.
    pub(super) parameter: &'static str,
    pub(super) key_end: &'static str,
    /// Before the value, if not just the key's end.
    pub(super) value: &'static str,
    pub(super) value_end: &'static str,
    pub(super) end: &'static str,
    /// Values may stand on lines of their own.
    pub(super) lines: bool,
}

impl Xml {
    /// Defaults for the rows.
    pub(super) const PLAIN: Self = Self {
        name_end: Some('>'),
        parameter: "<parameter=",
        key_end: ">",
        value: "",
        value_end: "</parameter>",
        end: "</function>",
        lines: true,
    };
}

/// A call from behind its opener. It begins with the end of its name, where there is no such mark
/// with the first tag behind it.
#[derive(Debug, Clone)]
pub(super) struct XmlCall {
    xml: &'static Xml,
    at: At,
    /// A tag's beginning.
    tag: String,
    name: String,
    key: String,
    begun: bool,
    /// An argument is out.
    argued: bool,
}

#[derive(Debug, Clone)]
enum At {
    Name,
    /// Before an argument or the end.
    Body,
    Key,
    /// Between key and value.
    Colon(Types),
    Value(Lines, TypedValue),
}

/// Drops the newlines that set a value off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    Verbatim,
    Start,
    Middle,
    /// After a newline that may be the last.
    Newline,
}

impl XmlCall {
    pub(super) fn new(xml: &'static Xml) -> Self {
        let (tag, name, key) = Default::default();
        Self { xml, at: At::Name, tag, name, key, begun: false, argued: false }
    }

    pub(super) fn step(
        &mut self,
        c: char,
        functions: &Functions,
        accepts: &dyn Fn(&str) -> bool,
        out: &mut Parts,
    ) -> Step {
        match &mut self.at {
            At::Name => return self.name(c, accepts, out),
            At::Body => return self.body(c, out),
            At::Key => {
                if let Some(c) = self.until(self.xml.key_end, c) {
                    self.key.extend(c);
                } else {
                    let types = self.end_key(functions);
                    self.at = At::Colon(types);
                    if self.xml.value.is_empty() {
                        self.begin_value(types, out);
                    }
                }
            }
            At::Colon(types) => {
                let types = *types;
                if c.is_whitespace() && self.tag.is_empty() {
                    return Step::More;
                }
                self.tag.push(c);
                if self.tag == self.xml.value {
                    self.begin_value(types, out);
                } else if !self.xml.value.starts_with(&self.tag) {
                    return self.broken(out);
                }
            }
            // What looks like a tag in a string of JSON is none.
            At::Value(_, value) if value.in_string() => self.value(&[c], out),
            At::Value(..) => match self.until(self.xml.value_end, c) {
                Some(text) => self.value(&text, out),
                None => self.end_value(out),
            },
        }
        Step::More
    }

    /// What was read and is no part of the call after all.
    pub(super) fn unread(&mut self) -> String {
        std::mem::take(&mut self.tag)
    }

    /// The output ends within the call.
    pub(super) fn cut_short(&mut self, out: &mut Parts) {
        if let At::Value(_, value) = &mut self.at {
            value.cut_short(out);
        }
    }

    fn name(&mut self, c: char, accepts: &dyn Fn(&str) -> bool, out: &mut Parts) -> Step {
        let ends = match self.xml.name_end {
            Some(end) => c == end,
            None => c == '<' || c == '\n',
        };
        if !ends {
            self.name.push(c);
            let fits = is_name_char(c) || matches!(c, '"' | '\'' | ' ');
            return if fits { Step::More } else { Step::Reject };
        }
        self.name = self.name.trim().trim_matches(['"', '\'']).to_owned();
        if !is_name(&self.name) || !accepts(&self.name) {
            return Step::Reject;
        }
        self.at = At::Body;
        if self.xml.name_end.is_some() {
            self.begin(out);
        } else if c == '<' {
            self.tag.push(c);
        }
        Step::More
    }

    fn begin(&mut self, out: &mut Parts) {
        if !self.begun {
            self.begun = true;
            out.call(None, self.name.clone());
        }
    }

    fn body(&mut self, c: char, out: &mut Parts) -> Step {
        if c.is_whitespace() && self.tag.is_empty() {
            return Step::More;
        }
        self.tag.push(c);
        if self.tag == self.xml.parameter {
            self.begin(out);
            self.tag.clear();
            self.key.clear();
            self.at = At::Key;
        } else if self.tag == self.xml.end {
            self.begin(out);
            out.arguments(if self.argued { "}" } else { "{}" });
            return Step::Done;
        } else if !self.xml.parameter.starts_with(&self.tag) && !self.xml.end.starts_with(&self.tag)
        {
            return self.broken(out);
        }
        Step::More
    }

    /// The last character does not fit.
    fn broken(&mut self, out: &mut Parts) -> Step {
        self.tag.pop();
        if self.begun {
            out.arguments(if self.argued { "}" } else { "{}" });
        }
        Step::Reject
    }

    /// The text that is no part of `tag`, which one more character makes certain; none at its end.
    fn until(&mut self, tag: &str, c: char) -> Option<Vec<char>> {
        self.tag.push(c);
        let mut text = Vec::new();
        while !tag.starts_with(&self.tag) {
            text.push(self.tag.remove(0));
        }
        if self.tag == tag {
            self.tag.clear();
            return None;
        }
        Some(text)
    }

    /// What the key says about its value, or else the schema.
    fn end_key(&mut self, functions: &Functions) -> Types {
        let text = self.key.trim();
        let quoted =
            ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.split_once(*quote));
        let (key, attributes) = quoted.unwrap_or((text, ""));
        let (key, attributes) = (key.to_owned(), attributes.trim());
        let types = match attributes {
            r#"string="true""# => Types::STRING,
            r#"string="false""# => Types::NO_STRING,
            _ => functions.types(&self.name, &key),
        };
        self.key = key;
        types
    }

    fn begin_value(&mut self, types: Types, out: &mut Parts) {
        self.tag.clear();
        out.arguments(if self.argued { ", \"" } else { "{\"" });
        self.key.chars().for_each(|c| string_char(c, out));
        out.arguments("\": ");
        self.argued = true;
        let lines = if self.xml.lines { Lines::Start } else { Lines::Verbatim };
        self.at = At::Value(lines, TypedValue::begin(types, out));
    }

    fn value(&mut self, text: &[char], out: &mut Parts) {
        let At::Value(lines, value) = &mut self.at else { unreachable!("only in a value") };
        for c in text.iter().copied() {
            value.look(c);
            let newline = c == '\n' && *lines != Lines::Verbatim;
            if *lines == Lines::Newline {
                value.push('\n', out);
            }
            if !newline {
                value.push(c, out);
            }
            *lines = match *lines {
                Lines::Verbatim => Lines::Verbatim,
                Lines::Middle | Lines::Newline if newline => Lines::Newline,
                _ => Lines::Middle,
            };
        }
    }

    fn end_value(&mut self, out: &mut Parts) {
        let At::Value(_, value) = &mut self.at else { unreachable!("only in a value") };
        value.end(out);
        self.at = At::Body;
    }
}
