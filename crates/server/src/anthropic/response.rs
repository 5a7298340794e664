//! The response, and the events of a stream: both are made from the same deltas.

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use text::OutputPart;

use super::{errors, partial_json};
use crate::error::ApiError;
use crate::generation::{Delta, Finish};
use crate::openai::response::Usage;
use crate::random::random_id;
use crate::served_model::ServedModel;
use crate::sse::{self, Event, UsageField};

/// Thoughts are not signed here. Clients drop a block of thinking that has no signature from what
/// they send next, and with it what the model had thought.
const SIGNATURE: &str = "unsigned";

/// Renders deltas as a message.
#[derive(Debug)]
pub(crate) struct MessagesWire {
    id: String,
    model: String,
    /// The context ends before the length that was asked for.
    ends_with_context: bool,
    /// Blocks begun so far; the last may be open.
    num_blocks: usize,
    open: Option<Kind>,
    finish: Option<Finish>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    ToolUse,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AnthropicMessage")]
pub(crate) struct Message<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block>,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
    usage: MessageUsage,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AnthropicAnswerBlock")]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    Thinking {
        thinking: String,
        signature: &'static str,
    },
    ToolUse {
        id: String,
        name: String,
        #[schemars(with = "Map<String, Value>")]
        input: Box<RawValue>,
    },
}

/// Prompt tokens in all are those read from the cache and those that were not.
#[expect(clippy::struct_field_names, reason = "Anthropic's names")]
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AnthropicUsage")]
struct MessageUsage {
    input_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
}

impl From<Usage> for MessageUsage {
    fn from(usage: Usage) -> Self {
        let cached = usage.cached_tokens().min(usage.prompt_tokens());
        Self {
            input_tokens: usage.prompt_tokens() - cached,
            // What is kept costs nobody anything here.
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: usage.completion_tokens(),
        }
    }
}

impl MessagesWire {
    pub(crate) fn new(model: &ServedModel, ends_with_context: bool) -> Self {
        Self {
            id: random_id("msg_"),
            model: model.names()[0].clone(),
            ends_with_context,
            num_blocks: 0,
            open: None,
            finish: None,
        }
    }

    fn message(&self, content: Vec<Block>, usage: Usage) -> Message<'_> {
        Message {
            id: &self.id,
            r#type: "message",
            role: "assistant",
            model: &self.model,
            content,
            stop_reason: None,
            stop_sequence: None,
            usage: usage.into(),
        }
    }

    /// `stop_reason` and `stop_sequence`.
    fn stop<'a>(&self, finish: &'a Finish) -> (&'static str, Option<&'a str>) {
        match (finish.reason, &finish.stop_reason) {
            ("tool_calls", _) => ("tool_use", None),
            ("length", _) if self.ends_with_context => ("model_context_window_exceeded", None),
            ("length", _) => ("max_tokens", None),
            (_, Value::String(stop)) => ("stop_sequence", Some(stop)),
            _ => ("end_turn", None),
        }
    }

    /// Opens a block unless one of `kind` is open that takes more.
    fn open(&mut self, kind: Kind, block: impl FnOnce() -> Value, events: &mut Vec<Event>) {
        if self.open == Some(kind) && kind != Kind::ToolUse {
            return;
        }
        self.close(events);
        let start = json!({
            "type": "content_block_start", "index": self.num_blocks, "content_block": block(),
        });
        events.push(event("content_block_start", &start));
        self.open = Some(kind);
        self.num_blocks += 1;
    }

    fn delta(&self, delta: &Value, events: &mut Vec<Event>) {
        let index = self.num_blocks - 1;
        let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
        events.push(event("content_block_delta", &delta));
    }

    fn close(&mut self, events: &mut Vec<Event>) {
        let Some(kind) = self.open.take() else { return };
        if kind == Kind::Thinking {
            self.delta(&json!({"type": "signature_delta", "signature": SIGNATURE}), events);
        }
        let stop = json!({"type": "content_block_stop", "index": self.num_blocks - 1});
        events.push(event("content_block_stop", &stop));
    }

    fn part(&mut self, part: OutputPart, events: &mut Vec<Event>) {
        match part {
            OutputPart::Text(text) => {
                self.open(Kind::Text, || json!({"type": "text", "text": ""}), events);
                self.delta(&json!({"type": "text_delta", "text": text}), events);
            }
            OutputPart::Reasoning(text) => {
                let block = || json!({"type": "thinking", "thinking": "", "signature": ""});
                self.open(Kind::Thinking, block, events);
                self.delta(&json!({"type": "thinking_delta", "thinking": text}), events);
            }
            OutputPart::ToolCall { id, name, .. } => {
                let block = || json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.open(Kind::ToolUse, block, events);
            }
            OutputPart::Arguments { json, .. } => {
                let delta = json!({"type": "input_json_delta", "partial_json": json});
                self.delta(&delta, events);
            }
        }
    }
}

impl sse::Wire for MessagesWire {
    fn whole(&self, choices: Vec<Delta>, usage: Usage) -> Response {
        let mut choices = choices.into_iter();
        let choice = choices.next().expect("a message is one choice");
        let finish = choice.finish.expect("a folded choice has ended");
        let (stop_reason, stop_sequence) = self.stop(&finish);
        let message = Message {
            stop_reason: Some(stop_reason),
            stop_sequence,
            ..self.message(blocks(choice.parts), usage)
        };
        Json(message).into_response()
    }
}

impl sse::Frames for MessagesWire {
    /// At once, so that a client knows that it is heard while it waits in the queue.
    fn start(&mut self, usage: Usage) -> Vec<Event> {
        let message = self.message(Vec::new(), usage);
        vec![event("message_start", &json!({"type": "message_start", "message": message}))]
    }

    fn events(&mut self, delta: Delta, _: UsageField) -> Vec<Event> {
        let mut events = Vec::new();
        for part in delta.parts {
            self.part(part, &mut events);
        }
        if delta.finish.is_some() {
            self.close(&mut events);
            self.finish = delta.finish;
        }
        events
    }

    fn usage_event(&self, usage: Usage) -> Option<Event> {
        let finish = self.finish.as_ref().expect("a stream without an error has ended");
        let (stop_reason, stop_sequence) = self.stop(finish);
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        let usage = MessageUsage::from(usage);
        Some(event(
            "message_delta",
            &json!({"type": "message_delta", "delta": delta, "usage": usage}),
        ))
    }

    fn done(&self) -> Event {
        event("message_stop", &json!({"type": "message_stop"}))
    }

    fn ping(&self) -> Event {
        Bytes::from_static(b"event: ping\ndata: {\"type\":\"ping\"}\n\n")
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Event> {
        vec![event("error", &errors::body(error))]
    }
}

/// The parts of a whole answer. Arguments follow the call that they belong to.
fn blocks(parts: Vec<OutputPart>) -> Vec<Block> {
    let mut parts = parts.into_iter().peekable();
    let mut blocks = Vec::new();
    while let Some(part) = parts.next() {
        blocks.push(match part {
            OutputPart::Text(text) => Block::Text { text },
            OutputPart::Reasoning(thinking) => Block::Thinking { thinking, signature: SIGNATURE },
            OutputPart::ToolCall { id, name, .. } => {
                let mut arguments = String::new();
                while let Some(OutputPart::Arguments { json, .. }) =
                    parts.next_if(|part| matches!(part, OutputPart::Arguments { .. }))
                {
                    arguments += &json;
                }
                let id = id.unwrap_or_default();
                Block::ToolUse { id, name, input: partial_json::object(arguments) }
            }
            OutputPart::Arguments { .. } => unreachable!("arguments follow their call"),
        });
    }
    blocks
}

/// An event that says its type twice, as Anthropic's do.
fn event(name: &str, value: &impl Serialize) -> Event {
    let mut event = format!("event: {name}\n").into_bytes();
    event.extend_from_slice(&sse::data(value));
    event.into()
}
