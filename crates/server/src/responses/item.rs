//! Output items, as they stand and as they grow.

use serde_json::{Value, json};

use crate::openai::chat_response::Scored;

/// One of them.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) kind: Kind,
}

/// What it holds so far.
#[derive(Debug)]
pub(super) enum Kind {
    Reasoning(String),
    Message { text: String, scores: Vec<Scored> },
    Call { call_id: String, name: String, namespace: Option<String>, arguments: String },
}

impl Item {
    /// The item as it stands. What it will have in it comes in parts.
    pub(super) fn value(&self) -> Value {
        let (id, status) = (&self.id, self.status);
        let is_new = |text: &str| text.is_empty() && status == "in_progress";
        match &self.kind {
            Kind::Reasoning(text) => {
                let content = if is_new(text) { json!([]) } else { json!([self.part()]) };
                json!({"type": "reasoning", "id": id, "summary": [], "content": content,
                       "encrypted_content": null, "status": status})
            }
            Kind::Message { text, .. } => {
                let content = if is_new(text) { json!([]) } else { json!([self.part()]) };
                json!({"type": "message", "id": id, "role": "assistant", "content": content,
                       "status": status})
            }
            Kind::Call { call_id, name, namespace, arguments } => {
                let mut call = json!({"type": "function_call", "id": id, "call_id": call_id,
                                      "name": name, "arguments": arguments, "status": status});
                if let Some(namespace) = namespace {
                    call["namespace"] = namespace.as_str().into();
                }
                call
            }
        }
    }

    /// Its content, if it is of a kind that has any.
    pub(super) fn part(&self) -> Option<Value> {
        match &self.kind {
            Kind::Reasoning(text) => Some(json!({"type": "reasoning_text", "text": text})),
            Kind::Message { text, scores } => Some(json!({
                "type": "output_text", "text": text, "annotations": [], "logprobs": scores,
            })),
            Kind::Call { .. } => None,
        }
    }
}
