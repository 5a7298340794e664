//! What a template sees of the messages: nulls dropped, arguments parsed, reasoning under the names
//! that templates read, content in a form that the template understands.

use serde_json::{Map, Value, json};

use crate::TextError;

/// Names a message's reasoning goes by; the first is the one that most templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Which forms of `content` a template shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentSupport {
    strings: bool,
    parts: bool,
}

impl Default for ContentSupport {
    fn default() -> Self {
        Self { strings: true, parts: false }
    }
}

impl ContentSupport {
    /// Tries the template on a message in each form. A list counts as shown when both its texts
    /// appear and its structure does not: a template that prints lists as they are does not.
    pub(super) fn probe(render: impl Fn(Vec<Value>) -> Result<String, TextError>) -> Self {
        let shown = |content: Value| render(vec![json!({"role": "user", "content": content})]);
        let strings = shown(json!("first-probe")).is_ok_and(|text| text.contains("first-probe"));
        let parts = json!([
            {"type": "text", "text": "first-probe"},
            {"type": "text", "text": "second-probe"},
        ]);
        let parts = shown(parts).is_ok_and(|text| {
            let structure = ["'text'", "\"text\""].iter().any(|mark| text.contains(mark));
            text.contains("first-probe") && text.contains("second-probe") && !structure
        });
        Self { strings: strings || !parts, parts }
    }
}

/// Brings OpenAI messages into the form that templates are written for.
pub(super) fn prepare(messages: &mut [Value], support: ContentSupport) -> Result<(), TextError> {
    for (index, message) in messages.iter_mut().enumerate() {
        let Value::Object(message) = message else {
            return Err(invalid(format!("messages[{index}] must be an object")));
        };
        // As transformers: templates cope with a missing key, and print a null as "None".
        message.retain(|_, value| !value.is_null());
        alias_reasoning(message);
        parse_arguments(message);
        if let Some(content) = message.get_mut("content") {
            fit_content(content, support, index)?;
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

/// OpenAI sends a call's arguments as JSON in a string; templates expect the object.
fn parse_arguments(message: &mut Map<String, Value>) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
        let Some(text) = arguments.as_str() else { continue };
        let parsed = if text.is_empty() { Ok(json!({})) } else { serde_json::from_str(text) };
        if let Ok(object @ Value::Object(_)) = parsed {
            *arguments = object;
        }
    }
}

fn fit_content(
    content: &mut Value,
    support: ContentSupport,
    index: usize,
) -> Result<(), TextError> {
    match content {
        Value::String(text) if !support.strings => {
            let text = std::mem::take(text);
            *content = json!([{"type": "text", "text": text}]);
        }
        Value::Array(parts) if !support.parts => {
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

    const STRINGS: ContentSupport = ContentSupport { strings: true, parts: false };

    fn prepared(message: Value, support: ContentSupport) -> Value {
        let mut messages = [message];
        prepare(&mut messages, support).unwrap();
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
        assert_eq!(prepared(message, STRINGS), expected);
    }

    #[test]
    fn reasoning_is_readable_under_both_names() {
        let message = prepared(json!({"role": "assistant", "reasoning": "r"}), STRINGS);
        assert_eq!(
            (&message["reasoning_content"], &message["thinking"]),
            (&json!("r"), &json!("r"))
        );
    }

    #[test]
    fn content_takes_the_form_the_template_reads() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let message = json!({"content": parts});
        assert_eq!(prepared(message.clone(), STRINGS)["content"], "a\nb");
        let only_parts = ContentSupport { strings: false, parts: true };
        assert_eq!(prepared(message.clone(), only_parts), message);
        let wrapped = prepared(json!({"content": "a"}), only_parts);
        assert_eq!(wrapped["content"], json!([{"type": "text", "text": "a"}]));
    }

    #[test]
    fn an_image_for_a_text_template_is_refused_by_place() {
        let mut messages = [json!({"content": [{"type": "image_url", "image_url": {}}]})];
        let error = prepare(&mut messages, STRINGS).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("messages[0].content[0]: this model takes text parts only")
        );
    }
}
