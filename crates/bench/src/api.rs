//! The three APIs: what a request looks like and what an event of its stream says.

use std::borrow::Cow;

use clap::ValueEnum;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::failure::error_message;

/// Which API of the server is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    /// One text: a prompt, or the only message of a user.
    Text(String),
    /// A conversation, each with `role` and `content`.
    Messages(Vec<Value>),
}

/// Fields that not every server takes, found out before the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fields {
    /// `ignore_eos`: the answer is as long as it may be.
    pub(crate) ignore_eos: bool,
    /// `stream_options.include_usage`: the server counts the tokens.
    pub(crate) include_usage: bool,
}

impl Api {
    /// Path below the API's base.
    pub(crate) fn endpoint(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Responses => "/responses",
        }
    }

    /// As `vllm bench serve` calls it.
    pub(crate) fn endpoint_type(self) -> &'static str {
        match self {
            Self::Chat => "openai-chat",
            Self::Completions => "openai",
            Self::Responses => "openai-responses",
        }
    }

    /// The JSON of a request; `extra` is laid over it.
    pub(crate) fn body(
        self,
        model: &str,
        input: &Input,
        max_tokens: usize,
        fields: Fields,
        extra: &Map<String, Value>,
    ) -> Value {
        let messages = match input {
            Input::Text(text) => json!([{"role": "user", "content": text}]),
            Input::Messages(messages) => json!(messages),
        };
        let mut body = match (self, input) {
            (Self::Completions, Input::Text(text)) => json!({"prompt": text}),
            (Self::Completions | Self::Chat, _) => json!({"messages": messages}),
            (Self::Responses, _) => json!({"input": messages}),
        };
        body["model"] = json!(model);
        body["stream"] = json!(true);
        let limit = if self == Self::Responses { "max_output_tokens" } else { "max_tokens" };
        body[limit] = json!(max_tokens);
        if fields.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        if fields.include_usage && self != Self::Responses {
            body["stream_options"] = json!({"include_usage": true});
        }
        for (key, value) in extra {
            body[key] = value.clone();
        }
        body
    }

    /// What one event says; its text is added to `text` where that is wanted.
    pub(crate) fn read_event(
        self,
        data: &[u8],
        text: Option<&mut String>,
    ) -> serde_json::Result<Event> {
        if data == b"[DONE]" {
            return Ok(Event { finished: true, last: true, ..Event::default() });
        }
        if self == Self::Responses {
            return serde_json::from_slice::<ResponseEvent<'_>>(data).map(|e| e.read(text));
        }
        serde_json::from_slice::<Chunk<'_>>(data).map(|chunk| chunk.read(text))
    }
}

/// Token counts of a request by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    #[serde(alias = "input_tokens")]
    pub(crate) prompt_tokens: usize,
    #[serde(alias = "output_tokens", default)]
    pub(crate) completion_tokens: usize,
    #[serde(alias = "input_tokens_details", default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<usize>,
}

impl Usage {
    /// As an engine in this process counts.
    pub(crate) fn new(
        prompt_tokens: usize,
        completion_tokens: usize,
        cached_tokens: usize,
    ) -> Self {
        let details = PromptDetails { cached_tokens: Some(cached_tokens) };
        Self { prompt_tokens, completion_tokens, prompt_tokens_details: Some(details) }
    }

    /// Tokens of the prompt that the server had in its prefix cache.
    pub(crate) fn cached_tokens(self) -> usize {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0)
    }
}

/// What matters of one event.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Event {
    /// It carries something that the model wrote: text, reasoning or a call.
    pub(crate) has_output: bool,
    pub(crate) usage: Option<Usage>,
    /// The answer is complete; usage may still follow.
    pub(crate) finished: bool,
    /// Nothing follows.
    pub(crate) last: bool,
    pub(crate) error: Option<String>,
}

/// Text that is borrowed from the event unless it has escapes.
#[derive(Debug, Deserialize)]
struct Piece<'a>(#[serde(borrow)] Cow<'a, str>);

/// An event of chat and completions.
#[derive(Debug, Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
    error: Option<Value>,
    /// Some servers send an error without an envelope.
    object: Option<Piece<'a>>,
    message: Option<Piece<'a>>,
}

#[derive(Debug, Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<Piece<'a>>,
    finish_reason: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Piece<'a>>,
    #[serde(borrow)]
    reasoning: Option<Piece<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Piece<'a>>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

impl Chunk<'_> {
    fn read(self, mut text: Option<&mut String>) -> Event {
        let mut event = Event { usage: self.usage, ..Event::default() };
        if let Some(error) = self.error {
            event.error = Some(error_message(&error));
        } else if self.object.is_some_and(|object| object.0 == "error") {
            event.error = Some(self.message.map_or_else(String::new, |text| text.0.into_owned()));
        }
        for choice in self.choices {
            event.finished |= choice.finish_reason.is_some();
            let delta = choice.delta.as_ref();
            let content = choice.text.as_ref().or(delta.and_then(|d| d.content.as_ref()));
            let content = content.map_or("", |piece| &piece.0);
            let others = delta.is_some_and(|delta| {
                let reasoning = [&delta.reasoning, &delta.reasoning_content];
                reasoning.into_iter().flatten().any(|piece| !piece.0.is_empty())
                    || delta.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
            });
            event.has_output |= others || !content.is_empty();
            if let Some(text) = &mut text {
                text.push_str(content);
            }
        }
        event
    }
}

/// An event of `/v1/responses`.
#[derive(Debug, Deserialize)]
struct ResponseEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    delta: Value,
    response: Option<ResponseState>,
    error: Option<Value>,
    message: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ResponseState {
    usage: Option<Usage>,
    error: Option<Value>,
}

impl ResponseEvent<'_> {
    fn read(self, text: Option<&mut String>) -> Event {
        let mut event = Event::default();
        let delta = if self.kind.ends_with(".delta") { self.delta.as_str() } else { None };
        if let Some(delta) = delta {
            event.has_output = !delta.is_empty();
            if let (Some(text), "response.output_text.delta") = (text, &*self.kind) {
                text.push_str(delta);
            }
        }
        let state_error = match &self.response {
            Some(state) => {
                event.usage = state.usage;
                state.error.as_ref().filter(|error| !error.is_null()).map(error_message)
            }
            None => None,
        };
        match &*self.kind {
            "response.completed" | "response.incomplete" => {
                (event.finished, event.last) = (true, true);
            }
            "response.failed" => {
                event.error = Some(state_error.unwrap_or_else(|| "response.failed".to_owned()));
            }
            "error" => {
                let error = self.error.as_ref().map(error_message);
                event.error = Some(error.or(self.message).unwrap_or_default());
            }
            _ => {}
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(api: Api, data: &str) -> (Event, String) {
        let mut text = String::new();
        let event = api.read_event(data.as_bytes(), Some(&mut text)).unwrap();
        (event, text)
    }

    #[test]
    fn chat_events() {
        let role = r#"{"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant",
            "content": ""}, "finish_reason": null}], "usage": null}"#;
        assert_eq!(read(Api::Chat, role), (Event::default(), String::new()));
        let (event, text) = read(Api::Chat, r#"{"choices": [{"delta": {"content": "a\n\"é"}}]}"#);
        assert!(event.has_output && !event.finished);
        assert_eq!(text, "a\n\"é");
        for delta in [
            r#"{"reasoning": "hm"}"#,
            r#"{"reasoning_content": "hm", "content": null}"#,
            r#"{"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}"#,
        ] {
            let data = format!(r#"{{"choices": [{{"delta": {delta}}}]}}"#);
            let (event, text) = read(Api::Chat, &data);
            assert!(event.has_output && text.is_empty(), "{delta}");
        }
        let last = r#"{"choices": [{"delta": {}, "finish_reason": "length"}], "usage":
            {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details":
            {"cached_tokens": 8}}}"#;
        let (event, _) = read(Api::Chat, last);
        let usage = event.usage.unwrap();
        assert!(event.finished && !event.has_output);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (9, 3));
        assert_eq!(usage.cached_tokens(), 8);
        assert!(read(Api::Chat, "[DONE]").0.finished);
    }

    #[test]
    fn completions_events() {
        let (event, text) = read(Api::Completions, r#"{"choices": [{"text": " a"}]}"#);
        assert!(event.has_output);
        assert_eq!(text, " a");
        let usage = r#"{"choices": [], "usage": {"prompt_tokens": 5, "total_tokens": 5}}"#;
        assert_eq!(read(Api::Completions, usage).0.usage.unwrap().completion_tokens, 0);
    }

    #[test]
    fn responses_events() {
        let delta =
            r#"{"type": "response.output_text.delta", "delta": "hi", "sequence_number": 3}"#;
        let (event, text) = read(Api::Responses, delta);
        assert!(event.has_output);
        assert_eq!(text, "hi");
        let done = r#"{"type": "response.incomplete", "response": {"id": "r", "error": null,
            "usage": {"input_tokens": 4, "input_tokens_details": {"cached_tokens": 1},
            "output_tokens": 2, "total_tokens": 6}}}"#;
        let (event, _) = read(Api::Responses, done);
        assert!(event.finished && event.error.is_none());
        assert_eq!(event.usage.unwrap().completion_tokens, 2);
        assert_eq!(event.usage.unwrap().cached_tokens(), 1);
        let item = r#"{"type": "response.output_item.done", "item": {"type": "message"}}"#;
        assert_eq!(read(Api::Responses, item).0, Event::default());
    }

    #[test]
    fn errors_in_streams() {
        for (api, data) in [
            (Api::Chat, r#"{"error": {"message": "out of blocks", "code": 500}}"#),
            (Api::Completions, r#"{"object": "error", "message": "out of blocks"}"#),
            (Api::Responses, r#"{"type": "error", "message": "out of blocks"}"#),
            (
                Api::Responses,
                r#"{"type": "response.failed", "response": {"error": {"message": "out of blocks"}}}"#,
            ),
        ] {
            assert_eq!(read(api, data).0.error.as_deref(), Some("out of blocks"), "{data}");
        }
        assert!(Api::Chat.read_event(b"{\"choices\": [", None).is_err());
    }

    #[test]
    fn bodies() {
        let fields = Fields { ignore_eos: true, include_usage: true };
        let mut extra = Map::new();
        extra.insert("temperature".to_owned(), json!(0));
        let text = Input::Text("a".to_owned());
        let body = Api::Completions.body("m", &text, 3, fields, &extra);
        let expected = json!({"prompt": "a", "model": "m", "stream": true, "max_tokens": 3,
            "ignore_eos": true, "stream_options": {"include_usage": true}, "temperature": 0});
        assert_eq!(body, expected);
        let none = Fields { ignore_eos: false, include_usage: false };
        let body = Api::Responses.body("m", &text, 3, none, &Map::new());
        let expected = json!({"input": [{"role": "user", "content": "a"}], "model": "m",
            "stream": true, "max_output_tokens": 3});
        assert_eq!(body, expected);
    }
}
