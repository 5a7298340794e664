//! Rules for arguments as the formats write them, from the schema of a function's parameters:
//! required ones in the schema's order, others in their places or not at all.

use super::raw_text::{Place, RawText, only, refuse};
use super::spelled::{Spelled, Spelling};
use super::typed::{Types, resolved};
use crate::GrammarError;
use crate::grammar::lark_json;
use crate::lark::{Lines, Piece, Specials, quoted};
use serde_json::{Value, json};

/// How a format writes arguments.
#[derive(Debug)]
pub(super) enum Arguments {
    /// An object of JSON.
    Json,
    /// Tags around each: strings as they are, all else as JSON.
    Tagged(Tagged),
    /// As a programming language writes them.
    Spelled(Spelling),
}

/// Tags around an argument; `{key}` is its name.
#[derive(Debug)]
pub(super) struct Tagged {
    /// Before a string.
    pub(super) string: &'static str,
    /// Before anything else; where both are the same, the text alone says which it is.
    pub(super) other: &'static str,
    /// Behind the value.
    pub(super) end: &'static str,
    /// What of `end` the parser looks for.
    pub(super) tag: &'static str,
    /// The parser drops line breaks around values, which `end` does not make up for.
    pub(super) trims: bool,
}

/// Where rules are written to.
pub(super) struct Out<'a> {
    pub(super) specials: &'a Specials,
    pub(super) lines: &'a mut Lines,
}

/// A function's parameter.
pub(super) struct Parameter<'a> {
    pub(super) key: &'a str,
    pub(super) schema: &'a Value,
    pub(super) required: bool,
}

impl Arguments {
    /// The name of a rule for the arguments of a function with these parameters.
    pub(super) fn rule(&self, out: &mut Out<'_>, schema: &Value) -> Result<String, GrammarError> {
        let body = match self {
            Self::Json => lark_json(&object_schema(schema)?)?,
            Self::Tagged(tagged) => tagged.body(out, schema)?,
            Self::Spelled(spelling) => Spelled::new(spelling, schema).arguments(out)?,
        };
        let name = out.lines.define("arguments_", &body);
        out.lines.check()?;
        Ok(name)
    }
}

/// A function's parameters as a schema of objects, which arguments always are.
fn object_schema(parameters: &Value) -> Result<Value, GrammarError> {
    let mut schema = match parameters {
        Value::Null => json!({}),
        schema => schema.clone(),
    };
    let may_be_object = match &schema["type"] {
        Value::Array(types) => types.iter().any(|name| name == "object"),
        kind => kind.is_null() || kind == "object",
    };
    match schema.as_object_mut().filter(|_| may_be_object) {
        Some(fields) => {
            fields.insert("type".to_owned(), json!("object"));
            Ok(schema)
        }
        None => Err(GrammarError::new("a tool's parameters are not an object".to_owned())),
    }
}

/// The parameters that a schema lists.
pub(super) fn parameters(schema: &Value) -> Result<Vec<Parameter<'_>>, GrammarError> {
    let root = resolved(schema, schema);
    let fields = match root {
        Value::Null => return Ok(Vec::new()),
        Value::Object(fields) => fields,
        _ => return refuse("a schema that is no object"),
    };
    let known = ["type", "properties", "required", "additionalProperties", "$schema", "$id"];
    only(fields, &[&known[..], &["$ref", "strict"]].concat())?;
    if root.get("type").is_some_and(|kind| kind != "object") {
        return refuse("a type other than 'object'");
    }
    let names: Vec<&str> = match &root["required"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let properties = root["properties"].as_object();
    if let Some(name) = names.iter().find(|name| root["properties"].get(**name).is_none()) {
        return refuse(&format!("the required '{name}', of which nothing is said,"));
    }
    let list = properties.into_iter().flatten().map(|(key, schema)| Parameter {
        key: key.as_str(),
        schema,
        required: names.contains(&key.as_str()),
    });
    Ok(list.collect())
}

impl Tagged {
    fn body(&self, out: &mut Out<'_>, schema: &Value) -> Result<String, GrammarError> {
        let mut items = vec!["\"\"".to_owned()];
        for Parameter { key, schema: inner, required } in parameters(schema)? {
            let is_plain = |c: char| !c.is_control() && !"<>\"'".contains(c);
            if key.trim() != key || key.is_empty() || !key.chars().all(is_plain) {
                return refuse(&format!("the name {key:?}"));
            }
            let item = self
                .parameter(out, schema, key, inner)
                .map_err(|error| GrammarError::new(format!("the parameter '{key}': {error}")))?;
            items.push(if required { item } else { format!("({item})?") });
            out.lines.check()?;
        }
        Ok(items.join(" "))
    }

    /// One argument with its tags.
    fn parameter(
        &self,
        out: &mut Out<'_>,
        root: &Value,
        key: &str,
        schema: &Value,
    ) -> Result<String, GrammarError> {
        let head = |text: &str, out: &Out<'_>| out.specials.literal(&text.replace("{key}", key));
        let types = Types::of(root, schema);
        if !types.allows(Types::STRING) {
            let value = out.lines.define("value_", &json_of(root, schema)?);
            let end = out.specials.literal(self.end);
            return Ok(format!("{} {value} {end}", head(self.other, out)));
        }
        let raw = RawText::of(root, schema, Place { end: self.tag, trims: self.trims })?;
        let has_strings = !raw.strings.is_empty();
        if self.string == self.other {
            if !has_strings {
                return refuse("a value without a string");
            }
            let value = self.until_end(out, &raw.lexeme());
            return Ok(format!("{} {value}", head(self.string, out)));
        }
        let mut choices = Vec::new();
        if has_strings {
            let value = self.until_end(out, &format!("({})", raw.strings.join(" | ")));
            choices.push(format!("{} {value}", head(self.string, out)));
        }
        if !raw.bare.is_empty() {
            let value = lark_json(&json!({"type": raw.bare}))?;
            let value = out.lines.define("value_", &value);
            let end = out.specials.literal(self.end);
            choices.push(format!("{} {value} {end}", head(self.other, out)));
        }
        Ok(format!("({})", choices.join(" | ")))
    }

    /// A text and what ends it, in one lexeme as far as that is text.
    fn until_end(&self, out: &mut Out<'_>, text: &str) -> String {
        let pieces = out.specials.split(self.end);
        let (first, rest) = match pieces.split_first() {
            Some((Piece::Text(first), rest)) => (quoted(first), rest),
            _ => (String::new(), &pieces[..]),
        };
        let value = out.lines.define("VALUE_", &format!("{text} {first}"));
        let rest = rest.iter().map(Piece::lark);
        std::iter::once(value).chain(rest).collect::<Vec<_>>().join(" ")
    }
}

/// JSON of a schema that may refer to definitions in `root`.
pub(super) fn json_of(root: &Value, schema: &Value) -> Result<String, GrammarError> {
    let mut schema = schema.clone();
    if schema.to_string().contains("\"$ref\"") {
        for key in ["$defs", "definitions"] {
            if let (Some(definitions), Some(fields)) = (root.get(key), schema.as_object_mut()) {
                fields.insert(key.to_owned(), definitions.clone());
            }
        }
    }
    lark_json(&schema)
}
