//! JSON for values that a format leaves untyped: the schema says what `5` is.

use super::parts::Parts;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The types that a value may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const STRING: Self = Self(1);
    const NUMBER: Self = Self(2);
    const BOOLEAN: Self = Self(4);
    const NULL: Self = Self(8);
    const OBJECT: Self = Self(16);
    const ARRAY: Self = Self(32);
    pub(super) const ANY: Self = Self(63);
    pub(super) const NO_STRING: Self = Self(62);

    /// Those that a schema allows; without one, or if it does not say, all.
    pub(super) fn of(schema: Option<&Value>) -> Self {
        let Some(schema) = schema else { return Self::ANY };
        let all = |schemas: &[Value]| Self::union(schemas.iter().map(|s| Self::of(Some(s))));
        match schema.get("type") {
            Some(Value::String(name)) => return Self::named(name),
            Some(Value::Array(names)) => {
                return Self::union(names.iter().filter_map(Value::as_str).map(Self::named));
            }
            _ => {}
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return Self::union(values.iter().map(Self::of_value));
        }
        if let Some(value) = schema.get("const") {
            return Self::of_value(value);
        }
        let any = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array());
        any.map_or(Self::ANY, |schemas| all(schemas))
    }

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "integer" | "number" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "null" => Self::NULL,
            "object" => Self::OBJECT,
            "array" => Self::ARRAY,
            _ => Self::ANY,
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::String(_) => Self::STRING,
            Value::Number(_) => Self::NUMBER,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Null => Self::NULL,
            Value::Object(_) => Self::OBJECT,
            Value::Array(_) => Self::ARRAY,
        }
    }

    fn union(types: impl Iterator<Item = Self>) -> Self {
        Self(types.fold(0, |union, types| union | types.0))
    }

    fn allows(self, types: Self) -> bool {
        self.0 & types.0 == types.0
    }

    /// The JSON that `text` is if it may be more than a string, which it is if nothing else.
    pub(super) fn json(self, text: &str) -> String {
        // Templates print values as Python does.
        let json = match text.trim() {
            "True" => "true",
            "False" => "false",
            "None" => "null",
            json => json,
        };
        let types = match json.as_bytes().first() {
            Some(b'{') => Self::OBJECT,
            Some(b'[') => Self::ARRAY,
            Some(b't' | b'f') => Self::BOOLEAN,
            Some(b'n') => Self::NULL,
            // Where a string may stand, its quotes may be its own.
            Some(b'"') => Self::ANY,
            _ => Self::NUMBER,
        };
        if self.allows(types) && serde_json::from_str::<IgnoredAny>(json).is_ok() {
            return json.to_owned();
        }
        if matches!(types, Self::OBJECT | Self::ARRAY)
            && self.allows(types)
            && !self.allows(Self::STRING)
        {
            let json = python_to_json(json);
            if serde_json::from_str::<IgnoredAny>(&json).is_ok() {
                return json;
            }
        }
        Value::from(text).to_string()
    }
}

/// A list or dict as Python prints it, in JSON; whether it was one, the JSON says.
fn python_to_json(text: &str) -> String {
    let mut json = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if matches!(c, '\'' | '"') {
            let mut string = String::new();
            while let Some(inner) = chars.next().filter(|inner| *inner != c) {
                string.push(if inner == '\\' { escaped(&mut chars) } else { inner });
            }
            json.push_str(&Value::from(string).to_string());
        } else if c.is_alphabetic() {
            let mut word = String::from(c);
            while let Some(more) = chars.next_if(|more| more.is_alphanumeric()) {
                word.push(more);
            }
            json.push_str(match word.as_str() {
                "True" => "true",
                "False" => "false",
                "None" => "null",
                word => word,
            });
        } else {
            json.push(c);
        }
    }
    json
}

/// What stands behind a backslash in a string of Python's.
fn escaped(chars: &mut impl Iterator<Item = char>) -> char {
    let num_digits = match chars.next() {
        Some('n') => return '\n',
        Some('r') => return '\r',
        Some('t') => return '\t',
        Some('x') => 2,
        Some('u') => 4,
        Some('U') => 8,
        other => return other.unwrap_or('\\'),
    };
    let digits: String = chars.take(num_digits).collect();
    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')
}

/// A value of known types while it is read. What can only be a string is handed on as it comes.
#[derive(Debug, Clone)]
pub(super) struct TypedValue {
    types: Types,
    /// What is no string for certain, so far.
    text: String,
}

impl TypedValue {
    pub(super) fn begin(types: Types, out: &mut Parts) -> Self {
        if types == Types::STRING {
            out.argument('"');
        }
        Self { types, text: String::new() }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Parts) {
        if self.types == Types::STRING {
            string_char(c, out);
        } else {
            self.text.push(c);
        }
    }

    pub(super) fn end(&mut self, out: &mut Parts) {
        if self.types == Types::STRING {
            out.argument('"');
        } else {
            out.arguments(&self.types.json(&self.text));
        }
    }

    /// The output ends here: what is known of it.
    pub(super) fn cut_short(&mut self, out: &mut Parts) {
        if self.types != Types::STRING && !self.text.trim().is_empty() {
            self.end(out);
        }
    }
}

/// A character of a string, as JSON writes it.
pub(super) fn string_char(c: char, out: &mut Parts) {
    match c {
        '"' => out.arguments("\\\""),
        '\\' => out.arguments("\\\\"),
        '\n' => out.arguments("\\n"),
        '\r' => out.arguments("\\r"),
        '\t' => out.arguments("\\t"),
        _ if c < ' ' => out.arguments(&format!("\\u{:04x}", c as u32)),
        _ => out.argument(c),
    }
}
