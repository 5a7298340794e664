//! Rules for arguments as a programming language writes them.

use std::collections::HashMap;

use super::arguments::{Out, Parameter, json_of, parameters};
use super::raw_text::{LABELS, Place, RawText, only, refuse};
use super::typed::resolved;
use crate::GrammarError;
use crate::grammar::lark_json;
use crate::lark::{Piece, any_of};
use serde_json::{Map, Value, json};

/// Most items that a list may be asked to have at least, or at most.
const MAX_ITEMS: u64 = 1000;
const MAX_DEPTH: usize = 40;

/// What the language writes differently.
#[derive(Debug)]
pub(super) struct Spelling {
    /// Between an argument's name and its value.
    pub(super) assign: &'static str,
    /// Between the keys and values further in.
    pub(super) colon: &'static str,
    pub(super) comma: &'static str,
    pub(super) truth: [&'static str; 2],
    pub(super) null: &'static str,
    /// Around strings, which hold no such thing; none: they are JSON's.
    pub(super) quote: Option<&'static str>,
}

/// The rules of one function's arguments.
pub(super) struct Spelled<'a> {
    spelling: &'a Spelling,
    root: &'a Value,
    /// Rules of definitions, by their path: a schema may refer to itself.
    definitions: HashMap<&'a str, String>,
}

impl<'a> Spelled<'a> {
    pub(super) fn new(spelling: &'a Spelling, root: &'a Value) -> Self {
        Self { spelling, root, definitions: HashMap::new() }
    }

    pub(super) fn arguments(&mut self, out: &mut Out<'_>) -> Result<String, GrammarError> {
        let parameters = parameters(self.root)?;
        let assign = self.spelling.assign;
        self.items(out, &parameters, |key| format!("{key}{assign}"), MAX_DEPTH)
    }

    /// Keys with their values: those that are required, then others.
    fn items(
        &mut self,
        out: &mut Out<'_>,
        parameters: &[Parameter<'a>],
        head: impl Fn(&str) -> String,
        depth: usize,
    ) -> Result<String, GrammarError> {
        let comma = out.specials.literal(self.spelling.comma);
        let (mut required_items, mut optional) = (Vec::new(), Vec::new());
        for Parameter { key, schema, required } in parameters {
            if !is_word(key) {
                return refuse(&format!("the name {key:?}"));
            }
            let value = self
                .value(out, schema, depth)
                .map_err(|error| GrammarError::new(format!("the parameter '{key}': {error}")))?;
            let item = format!("{} {value}", out.specials.literal(&head(key)));
            let items = if *required { &mut required_items } else { &mut optional };
            items.push(item);
            out.lines.check()?;
        }
        if !required_items.is_empty() {
            let items = required_items.join(&format!(" {comma} "));
            let more = optional.iter().map(|item| format!(" ({comma} {item})?"));
            return Ok(items + &more.collect::<String>());
        }
        // What may follow an item, and what may follow none, from the last to the first.
        let (mut after, mut before) = ("\"\"".to_owned(), "\"\"".to_owned());
        for item in optional.iter().rev() {
            before = out.lines.define("items_", &format!("{item} {after} | {before}"));
            after = out.lines.define("items_", &format!("{comma} {item} {after} | {after}"));
        }
        out.lines.check()?;
        Ok(before)
    }

    /// A rule, or something as short.
    fn value(
        &mut self,
        out: &mut Out<'_>,
        schema: &'a Value,
        depth: usize,
    ) -> Result<String, GrammarError> {
        let Some(depth) = depth.checked_sub(1) else { return refuse("nested so deep") };
        let path = schema.get("$ref").and_then(Value::as_str);
        if let Some(rule) = path.and_then(|path| self.definitions.get(path)) {
            return Ok(rule.clone());
        }
        let schema = resolved(self.root, schema);
        let Some(path) = path else { return self.body(out, schema, depth) };
        let (index, name) = out.lines.reserve("definition_");
        self.definitions.insert(path, name.clone());
        let body = self.body(out, schema, depth)?;
        out.lines.fill(index, &name, &body);
        Ok(name)
    }

    fn body(
        &mut self,
        out: &mut Out<'_>,
        schema: &'a Value,
        depth: usize,
    ) -> Result<String, GrammarError> {
        let fields = match schema {
            Value::Object(fields) => fields,
            Value::Bool(true) => return self.any(out),
            _ => return refuse("a schema that is no object"),
        };
        for key in ["anyOf", "oneOf"] {
            if let Some(schemas) = schema.get(key).and_then(Value::as_array) {
                only(fields, &[key, "type"])?;
                let choices = schemas.iter().map(|schema| self.value(out, schema, depth));
                let choices = choices.collect::<Result<Vec<_>, _>>()?;
                out.lines.check()?;
                return Ok(out.lines.define("value_", &choices.join(" | ")));
            }
        }
        let value = schema.get("const").map(std::slice::from_ref);
        if let Some(values) =
            value.or(schema.get("enum").and_then(Value::as_array).map(Vec::as_slice))
        {
            only(fields, &["const", "enum", "type"])?;
            let choices = values.iter().map(|value| self.constant(out, value));
            let choices = choices.collect::<Result<Vec<_>, _>>()?;
            return Ok(out.lines.define("value_", &choices.join(" | ")));
        }
        let names: Vec<&str> = match &schema["type"] {
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            Value::String(name) => vec![name],
            _ if fields.contains_key("properties") => vec!["object"],
            _ if fields.contains_key("items") => vec!["array"],
            _ => {
                only(fields, &[])?;
                return self.any(out);
            }
        };
        let types = names.iter().map(|name| self.typed(out, schema, fields, name, depth));
        let types = types.collect::<Result<Vec<_>, _>>()?;
        Ok(out.lines.define("value_", &types.join(" | ")))
    }

    fn typed(
        &mut self,
        out: &mut Out<'_>,
        schema: &'a Value,
        fields: &'a Map<String, Value>,
        name: &str,
        depth: usize,
    ) -> Result<String, GrammarError> {
        let [yes, no] = self.spelling.truth;
        match name {
            "boolean" => Ok(any_of([yes, no])),
            "null" => Ok(any_of([self.spelling.null])),
            "integer" | "number" => Self::json(out, schema, name),
            "string" => match self.spelling.quote {
                None => Self::json(out, schema, name),
                Some(quote) => {
                    let mut own = fields.clone();
                    own.retain(|key, _| !LABELS.contains(&key.as_str()));
                    own.insert("type".to_owned(), json!("string"));
                    let place = Place { end: quote, trims: false };
                    let raw = RawText::of(self.root, &Value::Object(own), place)?;
                    Ok(Self::quoted(out, quote, &raw.strings.join(" | ")))
                }
            },
            "array" => self.array(out, schema, fields, depth),
            "object" => self.object(out, schema, fields, depth),
            name => refuse(&format!("the type '{name}'")),
        }
    }

    /// A text between quotes, one lexeme where they are text.
    fn quoted(out: &mut Out<'_>, quote: &str, text: &str) -> String {
        let mark = out.specials.literal(quote);
        if let [Piece::Text(_)] = out.specials.split(quote).as_slice() {
            return out.lines.define("VALUE_", &format!("{mark} ({text}) {mark}"));
        }
        let text = out.lines.define("VALUE_", text);
        format!("{mark} {text} {mark}")
    }

    /// What is written as JSON writes it.
    fn json(out: &mut Out<'_>, schema: &Value, name: &str) -> Result<String, GrammarError> {
        let mut schema = schema.clone();
        schema["type"] = json!(name);
        Ok(out.lines.define("value_", &lark_json(&schema)?))
    }

    fn any(&self, out: &mut Out<'_>) -> Result<String, GrammarError> {
        let Some(quote) = self.spelling.quote else {
            return Ok(out.lines.define("value_", &json_of(self.root, &json!({}))?));
        };
        let place = Place { end: quote, trims: false };
        let text = RawText::of(self.root, &json!({"type": "string"}), place)?;
        let text = Self::quoted(out, quote, &text.strings.join(" | "));
        let number = out.lines.define("value_", &lark_json(&json!({"type": "number"}))?);
        let [yes, no] = self.spelling.truth;
        let words = any_of([yes, no, self.spelling.null]);
        Ok(out.lines.define("value_", &format!("{text} | {number} | {words}")))
    }

    fn constant(&self, out: &mut Out<'_>, value: &Value) -> Result<String, GrammarError> {
        let [yes, no] = self.spelling.truth;
        Ok(match (value, self.spelling.quote) {
            (Value::Bool(value), _) => any_of([if *value { yes } else { no }]),
            (Value::Null, _) => any_of([self.spelling.null]),
            (Value::Number(number), _) => any_of([number.to_string().as_str()]),
            (Value::String(text), Some(quote)) if !text.contains(quote) => {
                out.specials.literal(&format!("{quote}{text}{quote}"))
            }
            (Value::String(_), None) => any_of([value.to_string().as_str()]),
            _ => return refuse(&format!("the value {value}")),
        })
    }

    fn array(
        &mut self,
        out: &mut Out<'_>,
        schema: &'a Value,
        fields: &'a Map<String, Value>,
        depth: usize,
    ) -> Result<String, GrammarError> {
        only(fields, &["type", "items", "minItems", "maxItems"])?;
        let item = match schema.get("items") {
            Some(items) => self.value(out, items, depth)?,
            None => self.any(out)?,
        };
        let count = |name: &str| match fields.get(name).map(Value::as_u64) {
            Some(Some(count)) if count <= MAX_ITEMS => Ok(Some(count)),
            Some(_) => refuse(&format!("such a '{name}'")),
            None => Ok(None),
        };
        let (least, most) = (count("minItems")?.unwrap_or(0), count("maxItems")?);
        let comma = out.specials.literal(self.spelling.comma);
        let more = match (least, most) {
            (_, Some(0)) => return Ok("\"[]\"".to_owned()),
            (least, None) => format!("({comma} {item}){{{},}}", least.saturating_sub(1)),
            (least, Some(most)) if least <= most => {
                format!("({comma} {item}){{{},{}}}", least.saturating_sub(1), most - 1)
            }
            _ => return refuse("more items than there may be"),
        };
        let items = out.lines.define("items_", &format!("{item} {more}"));
        let optional = if least == 0 { "?" } else { "" };
        Ok(out.lines.define("value_", &format!("\"[\" {items}{optional} \"]\"")))
    }

    fn object(
        &mut self,
        out: &mut Out<'_>,
        schema: &'a Value,
        fields: &'a Map<String, Value>,
        depth: usize,
    ) -> Result<String, GrammarError> {
        let known = ["type", "properties", "required", "additionalProperties"];
        only(fields, &known)?;
        let (colon, quotes) = (self.spelling.colon, self.spelling.quote.is_none());
        let head = move |key: &str| {
            if quotes { format!("{}{colon}", Value::from(key)) } else { format!("{key}{colon}") }
        };
        let listed = fields.get("properties").and_then(Value::as_object);
        if listed.is_some_and(|listed| !listed.is_empty()) {
            let parameters = parameters(schema)?;
            let items = self.items(out, &parameters, head, depth)?;
            return Ok(out.lines.define("value_", &format!("\"{{\" {items} \"}}\"")));
        }
        if fields.get("required").is_some_and(|names| *names != json!([])) {
            return refuse("a required key of which nothing is said");
        }
        let value = match fields.get("additionalProperties") {
            Some(Value::Bool(false)) => return Ok("\"{}\"".to_owned()),
            None | Some(Value::Bool(true)) => self.any(out)?,
            Some(schema) => self.value(out, schema, depth)?,
        };
        let key = if quotes {
            lark_json(&json!({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$"}))?
        } else {
            "/[A-Za-z_][A-Za-z0-9_]{0,63}/".to_owned()
        };
        let key = out.lines.define("key_", &key);
        let (colon, comma) =
            (out.specials.literal(colon), out.specials.literal(self.spelling.comma));
        let item = out.lines.define("item_", &format!("{key} {colon} {value}"));
        let items = format!("({item} ({comma} {item})*)?");
        Ok(out.lines.define("value_", &format!("\"{{\" {items} \"}}\"")))
    }
}

/// Whether a language takes it for one word.
fn is_word(key: &str) -> bool {
    let is_char = |c: char| c.is_ascii_alphanumeric() || c == '_';
    key.chars().all(is_char) && !key.starts_with(|c: char| c.is_ascii_digit()) && !key.is_empty()
}
