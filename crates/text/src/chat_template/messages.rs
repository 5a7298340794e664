//! What a template sees of the messages: nulls dropped, arguments parsed, reasoning under the names
//! that templates read, content in a form that the template understands.

use serde_json::{Map, Value, json};

use super::forms::{Absent, CallForm, ContentForm, Forms};
use crate::TextError;

/// Names a message's reasoning goes by; the first is the one that most templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

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

#[cfg(test)]
mod tests {
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
