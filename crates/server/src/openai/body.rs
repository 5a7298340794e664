//! From the bytes of a request to its typed fields, and from serde's faults to errors that name
//! the field, what was given and what is allowed.

use std::borrow::Cow;
use std::fmt;

use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::refused::{Route, is_neutral, replacement};
use crate::error::ApiError;

/// Checks that the body is one JSON object, that each of its fields is in `honoured`, and that
/// those which `route` refuses ask for nothing.
pub(crate) fn check_fields(
    body: &[u8],
    route: Route,
    honoured: &[&[&str]],
) -> Result<(), ApiError> {
    check_weight(body)?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let top = TopLevel { route, honoured };
    let found = reader.deserialize_map(top).map_err(|error| body_error(&error))?;
    reader.end().map_err(|error| body_error(&error))?;
    match found {
        None => Ok(()),
        Some((name, true)) => match replacement(&name) {
            Some(new) => {
                let message = format!("'{name}' is not supported; use '{new}'.");
                let code = Some("unsupported_parameter");
                Err(ApiError { code, ..ApiError::invalid(&name, message) })
            }
            None => Err(ApiError::unsupported(&name)),
        },
        Some((name, false)) => Err(ApiError {
            code: Some("unknown_parameter"),
            ..ApiError::invalid(&name, format!("Unrecognized request argument supplied: {name}"))
        }),
    }
}

/// Most that a body may weigh: about 250,000 objects, arrays and members, or a list of four million
/// numbers. As a tree these take up to a hundred times the bytes that they have on the wire.
const MAX_WEIGHT: usize = 1 << 22;

/// Refuses what would take too much memory to read; text weighs little, however long it is.
fn check_weight(body: &[u8]) -> Result<(), ApiError> {
    let (mut weight, mut rest) = (0, body);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'{' | b'[' | b':' => weight += 16,
            b',' => weight += 1,
            b'"' => {
                weight += 4;
                rest = after_string(after);
            }
            _ => {}
        }
        if weight > MAX_WEIGHT {
            let message = "The request body has too many JSON values to be read: send fewer objects, \
                           members or list items.";
            let error = ApiError::new(StatusCode::BAD_REQUEST, message);
            return Err(ApiError { code: Some("too_many_values"), ..error });
        }
    }
    Ok(())
}

/// What follows the string that `text` is the inside of.
fn after_string(mut text: &[u8]) -> &[u8] {
    while let Some(at) = text.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let length = if text[at] == b'"' { 1 } else { 2 };
        let after = text.get(at + length..).unwrap_or_default();
        if length == 1 {
            return after;
        }
        text = after;
    }
    &[]
}

/// Reads the fields of `T`, ignoring others ([`check_fields`] has seen them).
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        field_error(if path == "." { "" } else { &path }, error.inner())
    })
}

/// Looks at the top level only: the first field at fault, and whether we know it.
struct TopLevel<'a> {
    route: Route,
    honoured: &'a [&'a [&'a str]],
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = Option<(String, bool)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fault = None;
        while let Some(name) = map.next_key::<String>()? {
            if self.honoured.iter().any(|names| names.contains(&name.as_str())) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let known = self.route.refuses(&name);
            let neutral = if known {
                is_neutral(&name, &map.next_value::<Value>()?)
            } else {
                map.next_value::<IgnoredAny>()?;
                false
            };
            if !neutral && fault.is_none() {
                fault = Some((name, known));
            }
        }
        Ok(fault)
    }
}

/// The body as a whole cannot be read; serde_json's message ends in line and column.
fn body_error(error: &serde_json::Error) -> ApiError {
    let message = if error.is_data() {
        format!("The request body must be a JSON object: {error}.")
    } else {
        format!("The request body is not valid JSON: {error}.")
    };
    ApiError { code: Some("invalid_json"), ..ApiError::new(StatusCode::BAD_REQUEST, message) }
}

/// One field has the wrong type, is missing, or has no such name.
fn field_error(path: &str, error: &serde_json::Error) -> ApiError {
    let text = readable(&error.to_string());
    // A name that is no string is bad syntax to serde_json, in a body whose syntax has been seen to be right.
    let is_no_name = !path.is_empty() && text.starts_with("expected value at ");
    if is_no_name {
        let place = text.trim_start_matches("expected value");
        let message =
            format!("Invalid value for '{path}': invalid type, expected a string{place}.");
        return ApiError { code: Some("invalid_type"), ..ApiError::invalid(path, message) };
    }
    if !error.is_data() {
        return body_error(error);
    }
    if let Some(name) = quoted_after(&text, "missing field ") {
        let param = join(path, name);
        return ApiError::missing(param);
    }
    if let Some(name) = quoted_after(&text, "duplicate field ") {
        let param = join(path, name);
        let message = format!("'{param}' is there twice.");
        return ApiError::invalid(param, message);
    }
    if quoted_after(&text, "unknown field ").is_some() {
        let message = format!("Unrecognized request argument supplied: {path}: {text}.");
        return ApiError { code: Some("unknown_parameter"), ..ApiError::invalid(path, message) };
    }
    let wrong_type = text.starts_with("invalid type");
    let code = if wrong_type { "invalid_type" } else { "invalid_value" };
    let error = ApiError::invalid(path, format!("Invalid value for '{path}': {text}."));
    ApiError { code: Some(code), ..error }
}

/// serde speaks of Rust types; clients know JSON's.
fn readable(text: &str) -> String {
    text.replace("expected f64", "expected a number")
        .replace("expected i64", "expected an integer")
        .replace("expected u32", "expected a non-negative integer below 2^32")
        .replace("expected a sequence", "expected an array")
        .replace("expected a map", "expected an object")
}

fn quoted_after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.strip_prefix(start)?.strip_prefix('`')?.split('`').next()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A JSON object whose values do not matter, such as labels.
#[derive(Debug, Clone, Default)]
pub(crate) struct AnyObject;

impl JsonSchema for AnyObject {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AnyObject".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object"})
    }
}

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::collections::HashMap::<String, IgnoredAny>::deserialize(deserializer)?;
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_where_json_says() {
        for (text, after) in [
            (r#"a",1"#, ",1"),
            (r#"","#, ","),
            (r#"a\"b","#, ","),
            (r#"a\\","#, ","),
            (r#"a\\\"b"c"#, "c"),
            ("no end", ""),
            ("cut\\", ""),
        ] {
            assert_eq!(after_string(text.as_bytes()), after.as_bytes(), "{text}");
        }
    }

    #[test]
    fn values_weigh_and_text_does_not() {
        let brackets = "[{:,".repeat(MAX_WEIGHT);
        assert_eq!(check_weight(format!("{{\"a\": \"{brackets}\"}}").as_bytes()), Ok(()));
        for heavy in ["{},", "[],", "\"a\":1,", "\"a\",", "1,"] {
            let fits = heavy.repeat(MAX_WEIGHT / 64);
            assert_eq!(check_weight(fits.as_bytes()), Ok(()), "{heavy}");
            let error = check_weight(heavy.repeat(MAX_WEIGHT + 1).as_bytes()).unwrap_err();
            assert_eq!(error.code, Some("too_many_values"), "{heavy}");
        }
    }
}
