//! JSON for values that a format leaves untyped: the schema says what `5` is.

use super::parts::Parts;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Longest chain of references.
const MAX_DEPTH: usize = 16;
/// Most alternatives that are looked at, which may refer to themselves.
pub(super) const MAX_SCHEMAS: usize = 200;

/// What a schema is where it only refers to a definition in `root`, or wraps one other schema.
pub(super) fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..MAX_DEPTH {
        let target = match (schema.get("$ref"), schema.get("allOf")) {
            (Some(Value::String(path)), None) => {
                path.strip_prefix('#').and_then(|path| root.pointer(path))
            }
            (None, Some(Value::Array(schemas))) if schemas.len() == 1 => schemas.first(),
            _ => None,
        };
        let Some(target) = target else { break };
        schema = target;
    }
    schema
}

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

    /// Those that a schema allows, which may refer to definitions in `root`; if it does not say, all.
    pub(super) fn of(root: &Value, schema: &Value) -> Self {
        Self::within(root, schema, &mut MAX_SCHEMAS.clone())
    }

    fn within(root: &Value, schema: &Value, left: &mut usize) -> Self {
        let Some(less) = left.checked_sub(1) else { return Self::ANY };
        *left = less;
        let schema = resolved(root, schema);
        let mut all =
            |schemas: &[Value]| Self::union(schemas.iter().map(|s| Self::within(root, s, left)));
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
        match any {
            Some(schemas) => all(schemas),
            None if schema.get("properties").is_some() => Self::OBJECT,
            None if schema.get("items").is_some() => Self::ARRAY,
            None => Self::ANY,
        }
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

    pub(super) fn allows(self, types: Self) -> bool {
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
    quotes: Quotes,
}

/// Where a value that can only be JSON stands among its strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// It may be text, or it is no JSON after all.
    Unknown,
    Outside,
    Inside,
    Escaped,
}

impl TypedValue {
    pub(super) fn begin(types: Types, out: &mut Parts) -> Self {
        if types == Types::STRING {
            out.argument('"');
        }
        let is_json = !types.allows(Types::STRING);
        let quotes = if is_json { Quotes::Outside } else { Quotes::Unknown };
        Self { types, text: String::new(), quotes }
    }

    /// Takes notice of the value's next character.
    pub(super) fn look(&mut self, c: char) {
        self.quotes = match (self.quotes, c) {
            (Quotes::Unknown, _) => Quotes::Unknown,
            // No JSON has a line break in a string.
            (Quotes::Inside | Quotes::Escaped, '\n') => Quotes::Unknown,
            (Quotes::Outside, '"') | (Quotes::Escaped, _) => Quotes::Inside,
            (Quotes::Inside, '"') => Quotes::Outside,
            (Quotes::Inside, '\\') => Quotes::Escaped,
            (quotes, _) => quotes,
        };
    }

    /// Whether it stands in a string of its JSON.
    pub(super) fn in_string(&self) -> bool {
        matches!(self.quotes, Quotes::Inside | Quotes::Escaped)
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
