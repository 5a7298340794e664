//! From the bytes of a request to its typed fields, and from serde's faults to errors that name
//! the field, what was given and what is allowed.

use std::fmt;

use axum::http::StatusCode;
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
    if !error.is_data() {
        return body_error(error);
    }
    let text = readable(&error.to_string());
    if let Some(name) = quoted_after(&text, "missing field ") {
        let param = join(path, name);
        return ApiError::missing(param);
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

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::collections::HashMap::<String, IgnoredAny>::deserialize(deserializer)?;
        Ok(Self)
    }
}
