//! What a template sees of the messages: nulls dropped, arguments parsed, reasoning under the names
//! that templates read, content in a form that the template understands.

use serde_json::{Map, Value, json};

use super::forms::{Absent, CallForm, ContentForm, Forms};
use crate::TextError;

/// Names a message's reasoning goes by; the first is the one that most templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Letters and digits of an id of a call in the form that Mistral's templates ask for.
const SHORT_ID_LEN: usize = 9;

/// Brings OpenAI messages into the form that templates are written for.
pub(super) fn prepare(messages: &mut [Value], forms: &Forms) -> Result<(), TextError> {
    for (index, message) in messages.iter_mut().enumerate() {
        let Value::Object(message) = message else {
            return Err(invalid(format!("messages[{index}] must be an object")));
        };
        // As transformers: templates cope with a missing key, and print a null as "None".
        message.retain(|_, value| !value.is_null());
        alias_reasoning(message);
        fit_calls(message, forms.calls);
        if forms.rules.short_ids {
            fit_ids(message);
        }
        let role = message.get("role").and_then(Value::as_str);
        let form = forms.content_of(role);
        if let Some(content) = message.get_mut("content") {
            fit_content(content, form, index)?;
        }
    }
    Ok(())
}

/// Puts a message's reasoning under `reasoning_content` and `thinking`, as transformers does.
fn alias_reasoning(message: &mut Map<String, Value>) {
    let Some(reasoning) = REASONING.iter().find_map(|name| message.get(*name)).cloned() else {
        return;
    };
    if !message.contains_key("thinking") {
        message.insert("thinking".to_owned(), reasoning.clone());
    }
    message.insert("reasoning_content".to_owned(), reasoning);
}

/// OpenAI sends a call's arguments as JSON in a string, and no content beside it; most templates
/// expect the object.
fn fit_calls(message: &mut Map<String, Value>, form: CallForm) {
    if message.get("role").is_some_and(|role| role == "assistant") {
        let content = match form.absent {
            Absent::Missing => None,
            Absent::Empty => Some(json!("")),
            Absent::Null => Some(Value::Null),
        };
        if let (Some(content), false) = (content, message.contains_key("content")) {
            message.insert("content".to_owned(), content);
        }
    }
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
        if form.objects {
            parse_arguments(arguments);
        }
    }
}

/// Ids that others gave, or another model, in the form that the template takes: a call's as its
/// result's.
fn fit_ids(message: &mut Map<String, Value>) {
    let fit = |id: &mut Value| match id.as_str() {
        Some(text) if !is_short_id(text) => *id = json!(short_call_id(fnv_1a(text))),
        _ => {}
    };
    message.get_mut("tool_call_id").into_iter().for_each(fit);
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    calls.into_iter().flatten().filter_map(|call| call.get_mut("id")).for_each(fit);
}

/// An id of a call that every template takes: nine letters and digits, the same for the same number.
pub fn short_call_id(mut number: u64) -> String {
    let mut digit = || {
        let digit = (number % 36) as u32;
        number /= 36;
        char::from_digit(digit, 36).expect("below the base")
    };
    std::iter::repeat_with(&mut digit).take(SHORT_ID_LEN).collect()
}

fn is_short_id(id: &str) -> bool {
    id.len() == SHORT_ID_LEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The hash of Fowler, Noll and Vo, 64 bits, variant 1a.
fn fnv_1a(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn parse_arguments(arguments: &mut Value) {
    let Some(text) = arguments.as_str() else { return };
    let parsed = if text.is_empty() { Ok(json!({})) } else { serde_json::from_str(text) };
    if let Ok(object @ Value::Object(_)) = parsed {
        *arguments = object;
    }
}

fn fit_content(content: &mut Value, form: ContentForm, index: usize) -> Result<(), TextError> {
    match content {
        Value::String(text) if !form.strings => {
            let text = std::mem::take(text);
            *content = json!([{"type": "text", "text": text}]);
        }
        Value::Array(parts) if !form.parts => {
            let mut texts = Vec::new();
            for (part_index, part) in parts.iter().enumerate() {
                let text = part.get("text").and_then(Value::as_str).ok_or_else(|| {
                    invalid(format!(
                        "messages[{index}].content[{part_index}]: this model takes text parts only, \
                         {{\"type\": \"text\", \"text\": ..}}"
                    ))
                })?;
                texts.push(text);
            }
            *content = json!(texts.join("\n"));
        }
        _ => {}
    }
    Ok(())
}

fn invalid(message: String) -> TextError {
    TextError::InvalidMessages(message)
}

/// Gives functions a description and parameters, and these their properties, all of which may be left out. Whether
/// one lacked any.
pub(super) fn complete_tools<'a>(tools: impl Iterator<Item = &'a mut Value>) -> bool {
    let mut is_changed = false;
    let mut complete = |object: &mut Map<String, Value>, key: &str, default: Value| {
        if object.get(key).is_none_or(Value::is_null) {
            object.insert(key.to_owned(), default);
            is_changed = true;
        }
    };
    for function in tools.filter_map(|tool| tool.get_mut("function")?.as_object_mut()) {
        complete(function, "description", json!(""));
        complete(function, "parameters", json!({"type": "object"}));
        if let Some(parameters) = function.get_mut("parameters").and_then(Value::as_object_mut) {
            complete(parameters, "properties", json!({}));
        }
    }
    is_changed
}

#[cfg(test)]
mod tests {
    use super::super::forms::CallRules;
    use super::*;

    fn prepared(message: Value, forms: Forms) -> Value {
        let mut messages = [message];
        prepare(&mut messages, &forms).unwrap();
        messages[0].take()
    }

    #[test]
    fn nulls_go_and_arguments_become_objects() {
        let message = json!({"role": "assistant", "content": null, "tool_calls": [
            {"function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}},
            {"function": {"name": "g", "arguments": ""}},
            {"function": {"name": "h", "arguments": "not json"}},
        ]});
        let expected = json!({"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": {"b": 1, "a": 2}}},
            {"function": {"name": "g", "arguments": {}}},
            {"function": {"name": "h", "arguments": "not json"}},
        ]});
        assert_eq!(prepared(message, Forms::default()), expected);
    }

    #[test]
    fn calls_take_the_form_the_template_reads() {
        let message = || {
            json!({"role": "assistant", "content": null, "tool_calls": [
                {"function": {"name": "f", "arguments": "{\"b\": 1}"}},
            ]})
        };
        for (absent, content) in [(Absent::Empty, json!("")), (Absent::Null, Value::Null)] {
            let calls = CallForm { objects: false, absent };
            let prepared = prepared(message(), Forms { calls, ..Forms::default() });
            let calls = json!([{"function": {"name": "f", "arguments": "{\"b\": 1}"}}]);
            let expected = json!({"role": "assistant", "content": content, "tool_calls": calls});
            assert_eq!(prepared, expected);
        }
    }

    #[test]
    fn reasoning_is_readable_under_both_names() {
        let message = prepared(json!({"role": "assistant", "reasoning": "r"}), Forms::default());
        assert_eq!(
            (&message["reasoning_content"], &message["thinking"]),
            (&json!("r"), &json!("r"))
        );
    }

    #[test]
    fn content_takes_the_form_the_template_reads() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let message = json!({"content": parts});
        assert_eq!(prepared(message.clone(), Forms::default())["content"], "a\nb");
        let only_parts =
            Forms { content: [ContentForm { strings: false, parts: true }; 4], ..Forms::default() };
        assert_eq!(prepared(message.clone(), only_parts), message);
        let wrapped = prepared(json!({"content": "a"}), only_parts);
        assert_eq!(wrapped["content"], json!([{"type": "text", "text": "a"}]));
    }

    #[test]
    fn ids_are_cut_to_size_where_the_template_wants_it() {
        let rules = CallRules { short_ids: true, single: false };
        let short = Forms { rules, ..Forms::default() };
        let call = |id: &str| {
            let message = json!({"role": "assistant", "tool_calls": [{"id": id}]});
            prepared(message, short)["tool_calls"][0]["id"].clone()
        };
        let result = |id: &str| {
            prepared(json!({"role": "tool", "tool_call_id": id}), short)["tool_call_id"].clone()
        };
        assert_eq!(call("a1b2c3d4e"), "a1b2c3d4e", "as the template wants it");
        for id in ["call_1", "call_2", "functions.f:0", "ä", "a1b2c3d4_"] {
            assert!(is_short_id(call(id).as_str().unwrap()), "{id}");
            assert_eq!(call(id), result(id), "{id}");
        }
        assert_ne!(call("call_1"), call("call_2"));
        let other = json!({"role": "tool", "tool_call_id": "call_1", "content": "b"});
        assert_eq!(prepared(other.clone(), Forms::default()), other);
    }

    #[test]
    fn an_image_for_a_text_template_is_refused_by_place() {
        let mut messages = [json!({"content": [{"type": "image_url", "image_url": {}}]})];
        let error = prepare(&mut messages, &Forms::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("messages[0].content[0]: this model takes text parts only")
        );
    }
}
