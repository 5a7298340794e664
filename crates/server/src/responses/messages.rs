//! Items as the messages of a chat: thoughts, text and calls of one turn become one message.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::input::must_be;
use super::tools::flat_name;
use crate::error::ApiError;

/// The messages of `items`, behind `instructions`. The last items come from the request; the first
/// `num_stored` of them do not, and cannot be at fault.
pub(crate) fn messages(
    instructions: Option<&str>,
    items: &[Value],
    num_stored: usize,
) -> Result<Vec<Value>, ApiError> {
    let mut chat = Chat::default();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        chat.system(&json!(instructions));
    }
    for (index, item) in items.iter().enumerate() {
        let text = |field: &str| item[field].as_str().unwrap_or_default();
        match (text("type"), text("role")) {
            ("message", "assistant") => chat.say(&item["content"]),
            ("message", "system" | "developer") => chat.system(&item["content"]),
            ("message", _) => {
                chat.close();
                chat.messages.push(json!({"role": "user", "content": item["content"]}));
            }
            ("reasoning", _) => chat.think(&item["content"]),
            ("function_call", _) => chat.call(item),
            ("function_call_output", _) => {
                if !chat.calls.contains(text("call_id")) {
                    let path = format!("input[{}].call_id", index.saturating_sub(num_stored));
                    let what = "the 'call_id' of a 'function_call' that comes before it";
                    return Err(must_be(&path, what));
                }
                chat.close();
                let (call_id, output) = (&item["call_id"], &item["output"]);
                let message = json!({"role": "tool", "tool_call_id": call_id, "content": output});
                chat.messages.push(message);
            }
            (kind, _) => unreachable!("an item of type '{kind}' was let in"),
        }
    }
    chat.close();
    Ok(chat.messages)
}

/// What has been translated, and the assistant's turn that may go on.
#[derive(Debug, Default)]
struct Chat {
    messages: Vec<Value>,
    turn: Turn,
    /// Ids of the calls so far.
    calls: HashSet<String>,
}

#[derive(Debug, Default)]
struct Turn {
    reasoning: Option<String>,
    content: Option<Value>,
    calls: Vec<Value>,
}

impl Chat {
    /// Messages at the very start become one: many templates take a single system message, and only
    /// there.
    fn system(&mut self, content: &Value) {
        self.close();
        let text = flat(content);
        match self.messages.as_mut_slice() {
            [message] if message["role"] == "system" => {
                let all = format!("{}\n\n{text}", message["content"].as_str().unwrap_or_default());
                message["content"] = all.into();
            }
            _ => self.messages.push(json!({"role": "system", "content": text})),
        }
    }

    fn think(&mut self, content: &Value) {
        let text = flat(content);
        if text.is_empty() {
            return; // Encrypted elsewhere, or a summary only.
        }
        self.close();
        self.turn.reasoning = Some(text);
    }

    fn say(&mut self, content: &Value) {
        if self.turn.content.is_some() || !self.turn.calls.is_empty() {
            self.close();
        }
        self.turn.content = Some(content.clone());
    }

    fn call(&mut self, item: &Value) {
        let arguments = item["arguments"].as_str().unwrap_or_default();
        let name = item["name"].as_str().unwrap_or_default();
        let name = flat_name(item["namespace"].as_str(), name);
        let function = json!({"name": name, "arguments": arguments});
        self.calls.insert(item["call_id"].as_str().unwrap_or_default().to_owned());
        self.turn
            .calls
            .push(json!({"id": item["call_id"], "type": "function", "function": function}));
    }

    /// The assistant's turn is over.
    fn close(&mut self) {
        let Turn { reasoning, content, calls } = std::mem::take(&mut self.turn);
        if reasoning.is_none() && content.is_none() && calls.is_empty() {
            return;
        }
        let mut message = json!({"role": "assistant"});
        match content {
            Some(content) => message["content"] = content,
            None if calls.is_empty() => message["content"] = "".into(),
            None => {}
        }
        if let Some(reasoning) = reasoning {
            message["reasoning_content"] = reasoning.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        self.messages.push(message);
    }
}

/// The text of a content; parts are joined as those of a chat are.
fn flat(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<_> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}
