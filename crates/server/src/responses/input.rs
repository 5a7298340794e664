//! The items of `input`: checked by path, and brought into the one form that is stored, listed and
//! translated.

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::random::random_id;

/// An item as a client gives it.
#[derive(Debug)]
pub(crate) enum Given {
    /// In its one form, with an id.
    Item(Value),
    /// Of a stored response; by id, and where it stands.
    Reference { id: String, path: String },
}

type Object = Map<String, Value>;

/// Reads `input`: a text of the user, or an array of items.
pub(crate) fn read(input: Option<&Value>) -> Result<Vec<Given>, ApiError> {
    match input {
        Some(Value::String(text)) => {
            let content = json!([{"type": "input_text", "text": text}]);
            Ok(vec![Given::Item(message_item(&random_id("msg_"), "user", &content))])
        }
        Some(Value::Array(items)) => {
            let items = items.iter().enumerate();
            items.map(|(index, item)| item_of(item, &format!("input[{index}]"))).collect()
        }
        None => {
            let message = "Missing required field 'input': a string, or an array of items.";
            let code = Some("missing_required_parameter");
            Err(ApiError { code, ..ApiError::invalid("input", message) })
        }
        Some(_) => Err(must_be("input", "a string or an array of items")),
    }
}

fn item_of(item: &Value, path: &str) -> Result<Given, ApiError> {
    let Value::Object(item) = item else { return Err(must_be(path, "an object")) };
    let kind = optional_text(item, path, "type")?;
    let item = match kind {
        Some("message") => message(item, path)?,
        None if item.contains_key("role") => message(item, path)?,
        Some("function_call") => function_call(item, path)?,
        Some("function_call_output") => function_call_output(item, path)?,
        Some("reasoning") => reasoning(item, path)?,
        Some("item_reference") => return reference(item, path),
        None if item.len() == 1 && item.contains_key("id") => return reference(item, path),
        _ => {
            let given = kind.map_or("missing".to_owned(), |kind| format!("'{kind}'"));
            let message = format!(
                "'{path}.type' is {given}; this server supports 'message', 'function_call', \
                 'function_call_output', 'reasoning' and 'item_reference'."
            );
            return Err(ApiError::invalid(format!("{path}.type"), message));
        }
    };
    Ok(Given::Item(item))
}

fn reference(item: &Object, path: &str) -> Result<Given, ApiError> {
    only(item, path, &["type", "id"])?;
    let id = text(item, path, "id")?.to_owned();
    Ok(Given::Reference { id, path: format!("{path}.id") })
}

fn message(item: &Object, path: &str) -> Result<Value, ApiError> {
    only(item, path, &["type", "id", "role", "content", "status", "phase"])?;
    let role = text(item, path, "role")?;
    if !["user", "assistant", "system", "developer"].contains(&role) {
        let what = "'user', 'assistant', 'system' or 'developer'";
        return Err(must_be(&format!("{path}.role"), what));
    }
    let parts = parts(item, path, "content", if role == "assistant" { OUTPUT } else { INPUT })?;
    let parts = Value::Array(parts);
    let mut message = message_item(&id_of(item, path, "msg_")?, role, &parts);
    if let Some(phase) = optional_text(item, path, "phase")? {
        message["phase"] = phase.into();
    }
    Ok(message)
}

fn message_item(id: &str, role: &str, content: &Value) -> Value {
    json!({"type": "message", "id": id, "role": role, "status": "completed", "content": content})
}

fn function_call(item: &Object, path: &str) -> Result<Value, ApiError> {
    let known = ["type", "id", "call_id", "name", "arguments", "status", "namespace"];
    only(item, path, &known)?;
    let mut call = json!({
        "type": "function_call",
        "id": id_of(item, path, "fc_")?,
        "call_id": text(item, path, "call_id")?,
        "name": text(item, path, "name")?,
        "arguments": text(item, path, "arguments")?,
        "status": "completed",
    });
    if let Some(namespace) = optional_text(item, path, "namespace")? {
        call["namespace"] = namespace.into();
    }
    Ok(call)
}

fn function_call_output(item: &Object, path: &str) -> Result<Value, ApiError> {
    only(item, path, &["type", "id", "call_id", "output", "status", "name", "namespace"])?;
    let output = match item.get("output") {
        Some(Value::String(text)) => json!(text),
        _ => Value::Array(parts(item, path, "output", INPUT)?),
    };
    Ok(json!({
        "type": "function_call_output",
        "id": id_of(item, path, "fco_")?,
        "call_id": text(item, path, "call_id")?,
        "output": output,
        "status": "completed",
    }))
}

/// Thoughts that were encrypted elsewhere pass, although nobody can read them here.
fn reasoning(item: &Object, path: &str) -> Result<Value, ApiError> {
    only(item, path, &["type", "id", "summary", "content", "encrypted_content", "status"])?;
    let mut reasoning = json!({
        "type": "reasoning",
        "id": id_of(item, path, "rs_")?,
        "summary": [],
    });
    for (field, kind) in [("summary", "summary_text"), ("content", "reasoning_text")] {
        if item.get(field).is_some_and(|value| !value.is_null()) {
            let kinds = Kinds { text: &[kind], written: kind, refusals: false };
            reasoning[field] = Value::Array(parts(item, path, field, kinds)?);
        }
    }
    if let Some(encrypted) = optional_text(item, path, "encrypted_content")? {
        reasoning["encrypted_content"] = encrypted.into();
    }
    Ok(reasoning)
}

/// Which parts a content may have, and how their text is written.
#[derive(Clone, Copy)]
struct Kinds<'a> {
    text: &'a [&'a str],
    written: &'a str,
    refusals: bool,
}

const TEXTS: &[&str] = &["input_text", "output_text", "text"];
const INPUT: Kinds = Kinds { text: TEXTS, written: "input_text", refusals: false };
const OUTPUT: Kinds = Kinds { text: TEXTS, written: "output_text", refusals: true };

/// A string, or an array of parts of text.
fn parts(item: &Object, path: &str, field: &str, kinds: Kinds) -> Result<Vec<Value>, ApiError> {
    let path = format!("{path}.{field}");
    match item.get(field) {
        Some(Value::String(text)) => Ok(vec![part(kinds, text)]),
        Some(Value::Array(parts)) => {
            let parts = parts.iter().enumerate();
            parts.map(|(index, given)| part_of(given, &format!("{path}[{index}]"), kinds)).collect()
        }
        _ => Err(must_be(&path, "a string or an array of parts")),
    }
}

fn part_of(given: &Value, path: &str, kinds: Kinds) -> Result<Value, ApiError> {
    let Value::Object(given) = given else { return Err(must_be(path, "an object")) };
    let kind = text(given, path, "type")?;
    if kinds.refusals && kind == "refusal" {
        only(given, path, &["type", "refusal"])?;
        return Ok(json!({"type": "refusal", "refusal": text(given, path, "refusal")?}));
    }
    if !kinds.text.contains(&kind) {
        let message = format!(
            "'{path}.type' is '{kind}'; this server supports '{}' here.",
            kinds.text.join("', '")
        );
        return Err(ApiError::invalid(format!("{path}.type"), message));
    }
    only(given, path, &["type", "text", "annotations", "logprobs", "parsed"])?;
    Ok(part(kinds, text(given, path, "text")?))
}

fn part(kinds: Kinds, text: &str) -> Value {
    if kinds.refusals {
        json!({"type": kinds.written, "text": text, "annotations": []})
    } else {
        json!({"type": kinds.written, "text": text})
    }
}

fn id_of(item: &Object, path: &str, prefix: &str) -> Result<String, ApiError> {
    let id = optional_text(item, path, "id")?.filter(|id| !id.is_empty());
    Ok(id.map_or_else(|| random_id(prefix), str::to_owned))
}

/// Refuses fields that are not in `known`, unless they say nothing: clients dump whole objects.
pub(super) fn only(item: &Object, path: &str, known: &[&str]) -> Result<(), ApiError> {
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let unknown =
        item.iter().find(|(name, value)| !known.contains(&name.as_str()) && !says_nothing(value));
    match unknown {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::unsupported(&format!("{path}.{name}"))),
    }
}

pub(super) fn text<'a>(item: &'a Object, path: &str, field: &str) -> Result<&'a str, ApiError> {
    optional_text(item, path, field)?.ok_or_else(|| must_be(&format!("{path}.{field}"), "a string"))
}

pub(super) fn optional_text<'a>(
    item: &'a Object,
    path: &str,
    field: &str,
) -> Result<Option<&'a str>, ApiError> {
    match item.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(must_be(&format!("{path}.{field}"), "a string")),
    }
}

pub(super) fn must_be(path: &str, what: &str) -> ApiError {
    ApiError::invalid(path, format!("'{path}' must be {what}."))
}
