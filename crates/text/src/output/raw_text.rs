//! The lexemes of values that a format writes as they are, without JSON's quotes and escapes.

use super::typed::{MAX_SCHEMAS, resolved};
use crate::GrammarError;
use crate::lark::{any_of, ascii_regex, text_without};
use crate::schema::time_format;
use serde_json::{Map, Value};

/// Keywords that constrain nothing.
pub(super) const LABELS: &[&str] = &[
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$defs",
    "definitions",
    "nullable",
];

const UUID: &str = "[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}";

/// The texts that a value may be.
#[derive(Debug, Default)]
pub(super) struct RawText {
    /// Lexemes of its strings; none, if it is no string.
    pub(super) strings: Vec<String>,
    /// Other types that may be written, all of their values.
    pub(super) bare: Vec<&'static str>,
    /// Other types with constraints: nothing that reads as one of these is written.
    constrained: Vec<&'static str>,
    num_schemas: usize,
}

/// Where a raw text stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// What ends it.
    pub(super) end: &'static str,
    /// A line break at its start or end would be lost.
    pub(super) trims: bool,
}

const TYPES: &[&str] = &["string", "number", "integer", "boolean", "null", "object", "array"];

impl RawText {
    /// For a schema that may be a string.
    pub(super) fn of(root: &Value, schema: &Value, place: Place) -> Result<Self, GrammarError> {
        let mut raw = Self::default();
        raw.add(root, schema, place)?;
        Ok(raw)
    }

    fn add(&mut self, root: &Value, schema: &Value, place: Place) -> Result<(), GrammarError> {
        self.num_schemas += 1;
        if self.num_schemas > MAX_SCHEMAS {
            return refuse("a schema of so many alternatives");
        }
        let schema = resolved(root, schema);
        let Some(fields) = schema.as_object() else {
            self.strings.push(text_in(place));
            return if *schema == Value::Bool(true) { Ok(()) } else { refuse("false") };
        };
        if let Some(key @ ("anyOf" | "oneOf")) =
            ["anyOf", "oneOf"].into_iter().find(|key| fields.contains_key(*key))
        {
            only(fields, &[key, "type"])?;
            let before = self.strings.len();
            for schema in schema[key].as_array().into_iter().flatten() {
                self.add(root, schema, place)?;
            }
            if key == "oneOf" && self.strings.len() > before + 1 {
                return refuse("'oneOf' with several strings");
            }
            return Ok(());
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            only(fields, &["enum", "type"])?;
            return self.values(values, place);
        }
        if let Some(value) = schema.get("const") {
            only(fields, &["const", "type"])?;
            return self.values(std::slice::from_ref(value), place);
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::Null => {
                only(fields, &[])?;
                self.strings.push(text_in(place));
                return Ok(());
            }
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        let string = ["type", "pattern", "minLength", "maxLength", "format"];
        let is_bare = only(fields, &string).is_ok();
        for kind in types {
            let Some(kind) = TYPES.iter().find(|known| **known == kind) else {
                return refuse(&format!("the type '{kind}'"));
            };
            match (*kind, is_bare) {
                ("string", false) if schema["type"].is_string() => only(fields, &string)?,
                ("string", _) => self.strings.push(string_text(fields, place)?),
                (kind, true) => self.bare.push(kind),
                (kind, false) => self.constrained.push(kind),
            }
        }
        Ok(())
    }

    fn values(&mut self, values: &[Value], place: Place) -> Result<(), GrammarError> {
        let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        for text in &texts {
            let is_cut = place.trims && (text.starts_with('\n') || text.ends_with('\n'));
            if text.is_empty() || text.contains(place.end) || is_cut {
                return refuse(&format!("the value {text:?}"));
            }
        }
        if !texts.is_empty() {
            self.strings.push(any_of(texts));
        }
        self.constrained.extend(values.iter().filter_map(|value| match value {
            Value::Number(_) => Some("number"),
            Value::Bool(_) => Some("boolean"),
            Value::Object(_) => Some("object"),
            Value::Array(_) => Some("array"),
            Value::String(_) | Value::Null => None,
        }));
        if values.contains(&Value::Null) {
            self.bare.push("null");
        }
        Ok(())
    }

    /// One lexeme for all of it, where nothing but the text says what it is: a string that would be
    /// read as something else is left out, unless that is as good.
    pub(super) fn lexeme(&self) -> String {
        let mut without = Vec::new();
        for kind in &self.constrained {
            without.push(match *kind {
                "null" => continue,
                "boolean" => "/\\s*([tT]rue|[fF]alse)\\s*/",
                "object" => "/\\s*\\{(.|\\n)*/",
                "array" => "/\\s*\\[(.|\\n)*/",
                _ => "/\\s*-?[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?\\s*/",
            });
        }
        if self.bare.contains(&"integer") && !self.bare.contains(&"number") {
            without.push("/\\s*-?[0-9]+(\\.[0-9]+([eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)\\s*/");
        }
        without.insert(0, "");
        let without = without.join(" & ~");
        let others = self.bare.iter().filter_map(|kind| match *kind {
            "null" => Some("\"null\""),
            "boolean" => Some("\"true\" | \"false\""),
            "integer" => Some("/-?(0|[1-9][0-9]*)/"),
            "number" => Some("/-?(0|[1-9][0-9]*)(\\.[0-9]+)?/"),
            _ => None,
        });
        let strings = self.strings.join(" | ");
        let strings = format!("(({strings}){without})");
        let all: Vec<_> = std::iter::once(strings.as_str()).chain(others).collect();
        format!("({})", all.join(" | "))
    }
}

/// Any text in its place.
fn text_in(place: Place) -> String {
    let text = text_without(Some(place.end).filter(|end| !end.is_empty()));
    if !place.trims {
        return text;
    }
    format!("({text} & ~/\\n(.|\\n)*/ & ~/(.|\\n)*\\n/)")
}

/// Strings with constraints.
fn string_text(fields: &Map<String, Value>, place: Place) -> Result<String, GrammarError> {
    let mut all = vec![text_in(place)];
    if let Some(pattern) = fields.get("pattern") {
        all.push(pattern_text(pattern.as_str().unwrap_or_default())?);
    }
    if let Some(name) = fields.get("format").and_then(Value::as_str) {
        let format = match name {
            "uuid" => UUID.to_owned(),
            name => match time_format(name) {
                Some(format) => format,
                None => return refuse(&format!("the format '{name}'")),
            },
        };
        all.push(format!("/{format}/"));
    }
    let length = |name: &str| fields.get(name).map(Value::as_u64);
    match (length("minLength"), length("maxLength")) {
        (None, None) => {}
        (Some(None), _) | (_, Some(None)) => return refuse("a length that is no whole number"),
        (least, most) => {
            let least = least.flatten().unwrap_or(0);
            let most = most.flatten().map(|most| most.to_string()).unwrap_or_default();
            all.push(format!("/(.|\\n){{{least},{most}}}/"));
        }
    }
    Ok(if all.len() == 1 { all.remove(0) } else { format!("({})", all.join(" & ")) })
}

/// A pattern, which may match anywhere in the string unless it is anchored.
fn pattern_text(pattern: &str) -> Result<String, GrammarError> {
    let (start, rest) = match pattern.strip_prefix('^') {
        Some(rest) => ("", rest),
        None => ("(.|\\n)*", pattern),
    };
    let slashes = |text: &str| text.len() - text.trim_end_matches('\\').len();
    let (rest, end) = match rest.strip_suffix('$').filter(|rest| slashes(rest) % 2 == 0) {
        Some(rest) => (rest, ""),
        None => (rest, "(.|\\n)*"),
    };
    // An anchor binds closer than a bar.
    if rest.len() < pattern.len() && has_outer_bar(rest) {
        return refuse(&format!("the pattern {pattern:?}"));
    }
    ascii_regex(&format!("{start}(?:{rest}){end}"))
}

/// Whether alternatives stand outside all brackets.
fn has_outer_bar(pattern: &str) -> bool {
    let (mut depth, mut class, mut escaped) = (0_usize, false, false);
    for c in pattern.chars() {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = true,
            ']' => class = false,
            _ if class => {}
            '[' => class = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// Refuses keywords that are neither in `known` nor labels.
pub(super) fn only(fields: &Map<String, Value>, known: &[&str]) -> Result<(), GrammarError> {
    let is_known = |key: &&String| known.contains(&key.as_str()) || LABELS.contains(&key.as_str());
    match fields.keys().find(|key| !is_known(key)) {
        Some(key) => refuse(&format!("'{key}'")),
        None => Ok(()),
    }
}

pub(super) fn refuse<T>(what: &str) -> Result<T, GrammarError> {
    let message = format!("{what} is out of reach for arguments in this model's format");
    Err(GrammarError::new(message))
}
