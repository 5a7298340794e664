//! Deltas of a generation, folded into output items. A stream shows every step of the fold, another
//! response its result: there is one path.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value, json};
use text::OutputPart;

use super::events::EventLog;
use super::item::{Item, Kind};
use super::object::{Echo, ResponseObject};
use crate::error::ApiError;
use crate::generation::{Delta, TokenOut};
use crate::openai::chat_response::{ChatWire, Scored};
use crate::openai::response::Usage;
use crate::random::random_id;
use crate::sse::Event;
use crate::state::unix_seconds;

/// An answer that grows.
#[derive(Debug)]
pub(crate) struct Answer {
    echo: Echo,
    /// Renders log-probabilities.
    chat: ChatWire,
    /// Namespace and name of functions that the model knows by one.
    names: HashMap<String, (String, String)>,
    items: Vec<Item>,
    /// Whether the last item is still growing.
    is_open: bool,
    /// Tokens behind text that has not come yet.
    pending: Vec<TokenOut>,
    usage: Option<Usage>,
    end: Option<End>,
    /// Of a stream.
    log: Option<EventLog>,
}

/// How it ended.
#[derive(Debug)]
struct End {
    status: &'static str,
    at: u64,
    error: Option<Value>,
}

/// The event that comes for every token.
#[derive(Serialize)]
struct DeltaEvent<'a> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [Scored]>,
}

impl Answer {
    /// An answer without anything in it; if it `streams`, its first events are ready.
    pub(crate) fn new(
        echo: Echo,
        chat: ChatWire,
        names: HashMap<String, (String, String)>,
        streams: bool,
    ) -> Self {
        let mut answer = Self {
            echo,
            chat,
            names,
            items: Vec::new(),
            is_open: false,
            pending: Vec::new(),
            usage: None,
            end: None,
            log: streams.then(EventLog::default),
        };
        answer.show_response("response.created");
        answer.show_response("response.in_progress");
        answer
    }

    pub(crate) fn id(&self) -> &str {
        &self.echo.id
    }

    /// Whether nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// The object as it stands, as JSON.
    pub(crate) fn object(&self) -> String {
        serde_json::to_string(&self.response()).expect("wire types have string keys")
    }

    /// The output items as they stand.
    pub(crate) fn output(&self) -> Vec<Value> {
        self.items.iter().map(Item::value).collect()
    }

    /// The events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        self.log.as_mut().map(EventLog::take).unwrap_or_default()
    }

    /// Adds a delta; the last one ends the answer.
    pub(crate) fn take(&mut self, delta: Delta, usage: Usage) {
        if self.is_over() {
            return; // It was cancelled.
        }
        self.usage = Some(usage);
        if self.chat.logprobs.is_some() {
            self.pending.extend(delta.tokens);
        }
        for part in delta.parts {
            self.part(part);
        }
        if let Some(finish) = delta.finish {
            let is_cut = finish.reason == "length";
            self.finish(if is_cut { "incomplete" } else { "completed" }, None);
        }
    }

    /// Ends it before its time.
    pub(crate) fn cancel(&mut self) {
        if !self.is_over() {
            self.finish("cancelled", None);
        }
    }

    /// Ends it because of `error`.
    pub(crate) fn fail(&mut self, error: &ApiError) {
        if self.is_over() {
            return;
        }
        self.close("incomplete");
        // Clients that know the envelope find it, and those that know the event's own fields, too.
        let mut event = error.body();
        for field in ["code", "message", "param"] {
            event[field] = event["error"][field].clone();
        }
        self.show("error", &event);
        // The words that OpenAI has for it; the exact one is in the event before.
        let code = match error.status.as_u16() {
            429 => "rate_limit_exceeded",
            400 => "invalid_prompt",
            _ => "server_error",
        };
        self.finish("failed", Some(json!({"code": code, "message": error.message})));
    }

    fn finish(&mut self, status: &'static str, error: Option<Value>) {
        self.close(if status == "completed" { "completed" } else { "incomplete" });
        self.end = Some(End { status, at: unix_seconds(), error });
        self.show_response(match status {
            "completed" => "response.completed",
            "failed" => "response.failed",
            // There is no event for a response that was cancelled.
            _ => "response.incomplete",
        });
    }

    fn part(&mut self, part: OutputPart) {
        match part {
            OutputPart::Text(text) => self.say(&text),
            OutputPart::Reasoning(text) => self.think(&text),
            OutputPart::ToolCall { id, name, .. } => self.call(id, name),
            OutputPart::Arguments { json, .. } => self.argue(&json),
        }
    }

    fn say(&mut self, more: &str) {
        let is_message = |item: &Item| matches!(item.kind, Kind::Message { .. });
        if !(self.is_open && self.items.last().is_some_and(is_message)) {
            self.open("msg_", Kind::Message { text: String::new(), scores: Vec::new() });
            self.keep_tokens_of(more);
        }
        let tokens = std::mem::take(&mut self.pending);
        let scored = self.chat.scored(&tokens).map(|logprobs| logprobs.content).unwrap_or_default();
        self.show_delta("response.output_text.delta", more, Some(0), Some(&scored));
        let Some(Item { kind: Kind::Message { text, scores }, .. }) = self.items.last_mut() else {
            unreachable!("a message is open");
        };
        text.push_str(more);
        scores.extend(scored);
    }

    fn think(&mut self, more: &str) {
        self.pending.clear();
        let is_reasoning = |item: &Item| matches!(item.kind, Kind::Reasoning(_));
        if !(self.is_open && self.items.last().is_some_and(is_reasoning)) {
            self.open("rs_", Kind::Reasoning(String::new()));
        }
        self.show_delta("response.reasoning_text.delta", more, Some(0), None);
        if let Some(Item { kind: Kind::Reasoning(text), .. }) = self.items.last_mut() {
            text.push_str(more);
        }
    }

    fn call(&mut self, id: Option<String>, name: String) {
        self.pending.clear();
        let (namespace, name) = match self.names.get(&name) {
            Some((namespace, name)) => (Some(namespace.clone()), name.clone()),
            None => (None, name),
        };
        let call_id = id.unwrap_or_else(|| random_id("call_"));
        self.open("fc_", Kind::Call { call_id, name, namespace, arguments: String::new() });
    }

    fn argue(&mut self, more: &str) {
        self.pending.clear();
        self.show_delta("response.function_call_arguments.delta", more, None, None);
        let Some(Item { kind: Kind::Call { arguments, .. }, .. }) = self.items.last_mut() else {
            unreachable!("arguments follow the call that they belong to");
        };
        arguments.push_str(more);
    }

    /// Of the tokens that wait, the last ones that make `text`: before them stand tags.
    fn keep_tokens_of(&mut self, text: &str) {
        let mut num_bytes = 0;
        let is_behind = |token: &TokenOut| {
            let is_tag = num_bytes >= text.len();
            num_bytes += self.chat.names.tokenizer.token_bytes(token.id).len();
            is_tag
        };
        let first = self.pending.iter().rposition(is_behind).map_or(0, |last| last + 1);
        self.pending.drain(..first);
    }

    /// Begins the next item.
    fn open(&mut self, prefix: &str, kind: Kind) {
        self.close("completed");
        self.is_open = true;
        let item = Item { id: random_id(prefix), status: "in_progress", kind };
        let part = item.part();
        self.items.push(item);
        self.show_item("response.output_item.added");
        if let Some(part) = part {
            self.show_part("response.content_part.added", &part);
        }
    }

    /// Ends the item that is open.
    fn close(&mut self, status: &'static str) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let index = self.items.len() - 1;
        let Some(item) = self.items.last_mut() else { return };
        item.status = status;
        if let Some(log) = &mut self.log {
            let at = json!({"item_id": item.id, "output_index": index, "content_index": 0});
            let with = |name: &str, value: &str| {
                let mut fields = at.clone();
                fields[name] = value.into();
                fields
            };
            match &item.kind {
                Kind::Reasoning(text) => {
                    log.push("response.reasoning_text.done", &with("text", text));
                }
                Kind::Message { text, scores } => {
                    let mut fields = with("text", text);
                    fields["logprobs"] = json!(scores);
                    log.push("response.output_text.done", &fields);
                }
                Kind::Call { arguments, name, .. } => {
                    let fields = json!({"item_id": item.id, "output_index": index,
                                        "name": name, "arguments": arguments});
                    log.push("response.function_call_arguments.done", &fields);
                }
            }
            let part = item.part();
            if let Some(part) = part {
                self.show_part("response.content_part.done", &part);
            }
        }
        self.show_item("response.output_item.done");
    }

    fn response(&self) -> ResponseObject<'_> {
        let end = self.end.as_ref();
        let status = end.map_or("in_progress", |end| end.status);
        ResponseObject {
            echo: &self.echo,
            status,
            completed_at: end.filter(|_| status == "completed").map(|end| end.at),
            error: end.and_then(|end| end.error.clone()),
            incomplete_details: (status == "incomplete")
                .then(|| json!({"reason": "max_output_tokens"})),
            output: self.output(),
            usage: end.and(self.usage).map(Into::into),
        }
    }

    fn show(&mut self, kind: &str, fields: &impl Serialize) {
        if let Some(log) = &mut self.log {
            log.push(kind, fields);
        }
    }

    fn show_response(&mut self, kind: &str) {
        if self.log.is_some() {
            let fields = json!({"response": self.response()});
            self.show(kind, &fields);
        }
    }

    fn show_item(&mut self, kind: &str) {
        if self.log.is_some()
            && let Some(item) = self.items.last()
        {
            let fields = json!({"output_index": self.items.len() - 1, "item": item.value()});
            self.show(kind, &fields);
        }
    }

    fn show_part(&mut self, kind: &str, part: &Value) {
        if self.log.is_some()
            && let Some(item) = self.items.last()
        {
            let index = self.items.len() - 1;
            let fields = json!({"item_id": item.id, "output_index": index, "content_index": 0, "part": part});
            self.show(kind, &fields);
        }
    }

    fn show_delta(
        &mut self,
        kind: &str,
        delta: &str,
        content_index: Option<usize>,
        logprobs: Option<&[Scored]>,
    ) {
        if let (Some(log), Some(item)) = (&mut self.log, self.items.last()) {
            let output_index = self.items.len() - 1;
            let item_id = &item.id;
            let fields = DeltaEvent { item_id, output_index, content_index, delta, logprobs };
            log.push(kind, &fields);
        }
    }
}
