//! `/v1/chat/completions`: the response, and the chunks of a stream.

use axum::Json;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use text::OutputPart;

use super::response::{Head, TokenNames, Usage, finite};
use crate::generation::{Delta, TokenOut};
use crate::sse::{self, Event};

/// Renders deltas as a chat.
#[derive(Debug)]
pub(crate) struct ChatWire {
    pub(crate) head: Head,
    pub(crate) names: TokenNames,
    /// Alternatives at a position; `None` shows no log-probabilities.
    pub(crate) logprobs: Option<u32>,
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) prompt: Vec<u32>,
    pub(crate) return_token_ids: bool,
    /// Which choices of a stream have their role chunk behind them.
    pub(crate) opened: Vec<bool>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatCompletion")]
pub(crate) struct Completion<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<Choice>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatChoice")]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Value::is_null")]
    stop_reason: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// Reasoning goes by two names: vLLM's clients read one, DeepSeek's the other.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatAnswer")]
struct Message {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatToolCall")]
struct ToolCall {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatFunction")]
struct Function {
    name: String,
    arguments: String,
}

// A chunk as it is read. It is written in two parts: see `sse::chunk`.
#[derive(JsonSchema)]
#[schemars(rename = "ChatCompletionChunk")]
#[expect(dead_code, reason = "a description")]
pub(crate) struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    #[serde(flatten)]
    rest: ChunkRest<'a>,
}

#[derive(Serialize, JsonSchema)]
struct ChunkRest<'a> {
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "sse::UsageField::is_absent")]
    usage: sse::UsageField,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatChunkChoice")]
struct ChunkChoice {
    index: usize,
    delta: ChunkDelta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    stop_reason: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "ChatDelta")]
struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCallDelta; 1]>,
}

/// Id, type and name come once, with the call's beginning; a key that says nothing is left out, as
/// clients add up what they get.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatToolCallDelta")]
struct ToolCallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatFunctionDelta")]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChatLogprobs")]
pub(crate) struct Logprobs {
    pub(crate) content: Vec<Scored>,
    refusal: Option<Vec<Scored>>,
}

/// A token with its log-probability.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ScoredToken")]
pub(crate) struct Scored {
    #[serde(flatten)]
    token: Alternative,
    top_logprobs: Vec<Alternative>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TokenAlternative")]
struct Alternative {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Message {
    /// All parts of an answer. Without text there is null content if something else is said.
    fn new(parts: Vec<OutputPart>) -> Self {
        let mut message = Self { role: "assistant", ..Self::default() };
        let (mut content, mut reasoning) = (String::new(), String::new());
        for part in parts {
            match part {
                OutputPart::Text(text) => content += &text,
                OutputPart::Reasoning(text) => reasoning += &text,
                OutputPart::ToolCall { id, name, .. } => message.tool_calls.push(ToolCall {
                    id: id.unwrap_or_default(),
                    r#type: "function",
                    function: Function { name, arguments: String::new() },
                }),
                OutputPart::Arguments { index, json } => {
                    message.tool_calls[index].function.arguments += &json;
                }
            }
        }
        message.reasoning = (!reasoning.is_empty()).then_some(reasoning);
        message.reasoning_content.clone_from(&message.reasoning);
        let says_nothing = content.is_empty() && !message.tool_calls.is_empty();
        message.content = (!says_nothing).then_some(content);
        message
    }
}

impl From<OutputPart> for ChunkDelta {
    fn from(part: OutputPart) -> Self {
        match part {
            OutputPart::Text(text) => Self { content: Some(text), ..Self::default() },
            OutputPart::Reasoning(text) => Self {
                reasoning: Some(text.clone()),
                reasoning_content: Some(text),
                ..Self::default()
            },
            OutputPart::ToolCall { index, id, name } => Self::tool_call(ToolCallDelta {
                index,
                id,
                r#type: Some("function"),
                function: FunctionDelta { name: Some(name), arguments: String::new() },
            }),
            OutputPart::Arguments { index, json } => Self::tool_call(ToolCallDelta {
                index,
                id: None,
                r#type: None,
                function: FunctionDelta { name: None, arguments: json },
            }),
        }
    }
}

impl ChunkDelta {
    fn tool_call(call: ToolCallDelta) -> Self {
        Self { tool_calls: Some([call]), ..Self::default() }
    }
}

impl ChatWire {
    fn choice(&self, delta: Delta) -> Choice {
        let finish = delta.finish.expect("a folded choice has ended");
        Choice {
            index: delta.index,
            logprobs: self.scored(&delta.tokens),
            token_ids: self.token_ids(&delta.tokens),
            message: Message::new(delta.parts),
            finish_reason: finish.reason,
            stop_reason: finish.stop_reason,
        }
    }

    /// The log-probabilities of `tokens`, if they are wanted.
    pub(crate) fn scored(&self, tokens: &[TokenOut]) -> Option<Logprobs> {
        let num_top = self.logprobs? as usize;
        let alternative = |id: u32, logprob: f32| Alternative {
            token: self.names.name(id),
            logprob: finite(logprob),
            bytes: self.names.tokenizer.token_bytes(id).to_vec(),
        };
        let content = tokens.iter().filter_map(|token| {
            let scores = token.logprobs.as_ref()?;
            let top = scores.top.iter().take(num_top);
            Some(Scored {
                token: alternative(token.id, scores.logprob),
                top_logprobs: top.map(|&(id, logprob)| alternative(id, logprob)).collect(),
            })
        });
        Some(Logprobs { content: content.collect(), refusal: None })
    }

    fn token_ids(&self, tokens: &[TokenOut]) -> Option<Vec<u32>> {
        self.return_token_ids.then(|| tokens.iter().map(|token| token.id).collect())
    }

    fn event(&self, choices: Vec<ChunkChoice>, usage: sse::UsageField, first: bool) -> Event {
        let prompt_token_ids = (first && self.return_token_ids).then_some(self.prompt.as_slice());
        sse::chunk(&self.head, &ChunkRest { choices, usage, prompt_token_ids })
    }
}

impl sse::Wire for ChatWire {
    fn whole(&self, choices: Vec<Delta>, usage: Usage) -> Response {
        let scores = choices.first().and_then(|choice| choice.prompt_logprobs.as_deref());
        let prompt_logprobs = self.prompt_logprobs.zip(scores);
        let completion = Completion {
            head: &self.head,
            prompt_logprobs: prompt_logprobs
                .map(|(top, scores)| self.names.prompt_logprobs(&self.prompt, scores, top)),
            prompt_token_ids: self.return_token_ids.then_some(&self.prompt),
            choices: choices.into_iter().map(|choice| self.choice(choice)).collect(),
            usage,
        };
        Json(completion).into_response()
    }
}

impl sse::Frames for ChatWire {
    /// The role comes first and alone, then text, then the finish reason with an empty delta.
    fn events(&mut self, delta: Delta, usage: sse::UsageField) -> Vec<Event> {
        let mut events = Vec::new();
        let index = delta.index;
        if !self.opened[index] {
            let first = !self.opened.contains(&true);
            self.opened[index] = true;
            let content = Some(String::new());
            let role = ChunkDelta { role: Some("assistant"), content, ..ChunkDelta::default() };
            let choice = ChunkChoice { index, delta: role, ..ChunkChoice::default() };
            events.push(self.event(vec![choice], usage, first));
        }
        let wants_tokens = self.logprobs.is_some() || self.return_token_ids;
        let mut deltas: Vec<_> = delta.parts.into_iter().map(ChunkDelta::from).collect();
        if deltas.is_empty() && wants_tokens && !delta.tokens.is_empty() {
            deltas.push(OutputPart::Text(String::new()).into());
        }
        let mut tokens = delta.tokens;
        for delta in deltas {
            let choice = ChunkChoice {
                index,
                delta,
                logprobs: self.scored(&tokens),
                token_ids: self.token_ids(&tokens),
                ..ChunkChoice::default()
            };
            events.push(self.event(vec![choice], usage, false));
            tokens.clear(); // They go with the first part of what they stand behind.
        }
        if let Some(finish) = delta.finish {
            let choice = ChunkChoice {
                index,
                finish_reason: Some(finish.reason),
                stop_reason: finish.stop_reason,
                ..ChunkChoice::default()
            };
            events.push(self.event(vec![choice], usage, false));
        }
        events
    }

    fn usage_event(&self, usage: Usage) -> Option<Event> {
        Some(self.event(Vec::new(), sse::UsageField::Known(usage), false))
    }
}
