//! JSON schemas as llguidance is given them. Where it reads a keyword otherwise than JSON Schema
//! does, the schema says the same in other words, or is refused.

use llguidance::JsonCompileOptions;
use serde_json::{Map, Value, json};

use crate::GrammarError;
use crate::pattern::from_ecma;

/// Between JSON's tokens: nothing, a space, or a line break with an indent. Unbounded white space is
/// where small models get lost.
const WHITESPACE: &str = r"( |\n {0,32})?";

/// Escapes in strings: those that no other spelling stands for. With `\u` the free names of an
/// object could spell a name that has a schema of its own.
const ESCAPES: &str = r#"nrbtf\""#;

/// Keywords whose value has a schema for each name.
const MAPS: [&str; 5] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords whose value is data that an answer is compared with.
const VALUES: [&str; 6] =
    ["const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
/// Keywords whose value is data for people.
const NOTES: [&str; 2] = ["default", "examples"];

const YEAR: &str = "[0-9]{4}";
const LEAP_YEAR: &str =
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)";
/// Days that every year has.
const DAY: &str = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|\
                   (?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))";
/// Without leap seconds: which minutes have one depends on the offset.
const TIME: &str = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

/// The schema in llguidance's reading, with the white space that may stand in what it describes.
pub(crate) fn prepared(schema: &Value) -> Result<Value, GrammarError> {
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => json!({}),
        _ => return Err(GrammarError::new("a JSON schema is an object".to_owned())),
    };
    let mut options = match schema.get("x-guidance") {
        None => JsonCompileOptions {
            whitespace_pattern: Some(WHITESPACE.to_owned()),
            ..JsonCompileOptions::default()
        },
        Some(options) => serde_json::from_value(options.clone())
            .map_err(|error| GrammarError::new(format!("x-guidance: {error}")))?,
    };
    options.json_allowed_escapes.get_or_insert_with(|| ESCAPES.to_owned());
    rewrite(&mut schema)?;
    options.apply_to(&mut schema);
    Ok(schema)
}

/// Rewrites a schema and those in it.
fn rewrite(schema: &mut Value) -> Result<(), GrammarError> {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().try_for_each(rewrite),
        Value::Object(keywords) => {
            for (keyword, value) in &mut *keywords {
                match value {
                    Value::Object(schemas) if MAPS.contains(&keyword.as_str()) => {
                        schemas.values_mut().try_for_each(rewrite)?;
                    }
                    _ if VALUES.contains(&keyword.as_str()) => check_value(keyword, value)?,
                    _ if NOTES.contains(&keyword.as_str()) => {}
                    _ => rewrite(value)?,
                }
            }
            rewrite_patterns(keywords)?;
            rewrite_format(keywords);
            check_min_properties(keywords)
        }
        _ => Ok(()),
    }
}

/// Patterns are ECMAScript's.
fn rewrite_patterns(keywords: &mut Map<String, Value>) -> Result<(), GrammarError> {
    if let Some(Value::String(pattern)) = keywords.get_mut("pattern") {
        *pattern = from_ecma(pattern)?;
    }
    if let Some(Value::Object(schemas)) = keywords.get_mut("patternProperties") {
        let rewritten = std::mem::take(schemas).into_iter();
        *schemas = rewritten
            .map(|(pattern, schema)| Ok((from_ecma(&pattern)?, schema)))
            .collect::<Result<_, GrammarError>>()?;
    }
    Ok(())
}

/// What the formats of times look like (RFC 3339); none of other formats.
pub(crate) fn time_format(name: &str) -> Option<String> {
    let date = format!("(?:{YEAR}-{DAY}|{LEAP_YEAR}-02-29)");
    match name {
        "date" => Some(date),
        "time" => Some(TIME.to_owned()),
        "date-time" => Some(format!("{date}[tT]{TIME}")),
        _ => None,
    }
}

/// llguidance gives every year a 29th of February and every minute a leap second, lets the parts of
/// an address be of any length, and labels of a host look like encoded ones.
fn rewrite_format(keywords: &mut Map<String, Value>) {
    let format = keywords.get("format").and_then(Value::as_str);
    let more = match format {
        Some("email") => vec![
            json!({"pattern": "^[^@]{1,64}@(?:[^.]{1,63}\\.)*[^.]{1,63}$"}),
            json!({"maxLength": 254}),
        ],
        Some("hostname") => {
            vec![json!({"pattern": "^(?:[^-]|-[^-])*$"}), json!({"maxLength": 253})]
        }
        _ => match format.and_then(time_format) {
            Some(time) => {
                keywords.remove("format");
                vec![json!({"pattern": format!("^{time}$")})]
            }
            None => return,
        },
    };
    if let Value::Array(all) = keywords.entry("allOf").or_insert_with(|| json!([])) {
        all.extend(more);
    }
}

/// llguidance computes in 64-bit floats: a number that is none of them would become its neighbour.
/// And it leaves out of a text what it cannot write.
fn check_value(keyword: &str, value: &Value) -> Result<(), GrammarError> {
    let exact = |n: i128| n as f64 as i128 == n;
    let fault = match value {
        Value::Number(n) if n.as_i64().is_some_and(|n| !exact(n.into())) => "has too many digits",
        Value::Number(n) if n.as_u64().is_some_and(|n| !exact(n.into())) => "has too many digits",
        Value::String(text) if text.contains(is_unwritable) => "has control characters",
        Value::Array(values) => {
            return values.iter().try_for_each(|value| check_value(keyword, value));
        }
        Value::Object(fields) => {
            return fields.values().try_for_each(|value| check_value(keyword, value));
        }
        _ => return Ok(()),
    };
    Err(GrammarError::new(format!("{keyword}: {value} {fault}")))
}

/// Whether only `\u` could write it in JSON.
pub(crate) fn is_unwritable(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\x08' | '\t' | '\n' | '\x0c' | '\r')
}

/// llguidance counts properties as they are written, but one that is written twice is one. Names
/// that are listed come once; of the others, one is sure to be new.
fn check_min_properties(keywords: &Map<String, Value>) -> Result<(), GrammarError> {
    let least = keywords.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    let required = keywords.get("required").and_then(Value::as_array).map_or(0, Vec::len);
    if least > required as u64 + 1 {
        let message = format!(
            "minProperties: {least} is more than one above the number of names in 'required', and \
             that the others differ cannot be enforced"
        );
        return Err(GrammarError::new(message));
    }
    Ok(())
}
