//! One message of a chat: the shapes clients send, and the object a chat template sees.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// A message, as sent. Which fields a role needs is checked by [`Message::template_value`].
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[schemars(rename = "ChatMessage")]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    role: Role,
    content: Option<Content>,
    /// Of the speaker.
    name: Option<String>,
    /// History: what the assistant called.
    tool_calls: Option<Vec<ToolCall>>,
    /// History: which call a `tool` message answers.
    tool_call_id: Option<String>,
    /// History: what the assistant said instead of `content`.
    refusal: Option<String>,
    /// History: the assistant's thoughts, as vLLM and others name them.
    reasoning_content: Option<String>,
    /// The same, under its newer name.
    reasoning: Option<String>,
    /// Deprecated; clients that dump whole messages send null.
    function_call: Option<Value>,
    /// Clients that dump whole messages send null or nothing in it.
    audio: Option<Value>,
    /// The same.
    annotations: Option<Vec<Value>>,
    /// History: what the openai packages read out of `content`, and send back beside it.
    #[schemars(with = "Option<Value>")]
    parsed: Option<IgnoredAny>,
    /// History: where LiteLLM keeps a copy of fields that it has no name for.
    #[schemars(with = "Option<Value>")]
    provider_specific_fields: Option<IgnoredAny>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[schemars(rename = "ChatRole")]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    /// OpenAI's newer name for `system`; templates know only the old one.
    Developer,
    User,
    Assistant,
    Tool,
}

/// The text of a message, from a string or from parts.
#[derive(Debug)]
struct Content(String);

/// A part of a content array.
#[derive(serde::Deserialize, JsonSchema)]
#[schemars(
    rename = "ChatPart",
    extend(
        "if" = {"properties": {"type": {"const": "refusal"}}},
        "then" = {"required": ["refusal"], "properties": {"refusal": {"type": "string"}}},
        "else" = {"required": ["text"], "properties": {"text": {"type": "string"}}},
    )
)]
struct Part {
    r#type: PartType,
    text: Option<String>,
    refusal: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[schemars(rename = "ChatPartType")]
#[serde(rename_all = "snake_case")]
enum PartType {
    Text,
    InputText,
    OutputText,
    Refusal,
}

/// A call in the history.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[schemars(rename = "ChatMessageToolCall")]
struct ToolCall {
    id: Option<String>,
    r#type: Option<String>,
    function: CalledFunction,
}

#[derive(Debug, serde::Deserialize, JsonSchema)]
#[schemars(rename = "ChatMessageFunction")]
struct CalledFunction {
    name: String,
    /// JSON in a string, as at OpenAI.
    arguments: Option<String>,
}

impl Message {
    /// The object that the chat template sees; `path` (`messages[2]`) names it in errors.
    pub(crate) fn template_value(self, path: &str) -> Result<Value, ApiError> {
        let assistant = self.role == Role::Assistant;
        let tool_calls = self.tool_calls.unwrap_or_default();
        for (field, misplaced) in [
            ("tool_calls", !assistant && !tool_calls.is_empty()),
            ("tool_call_id", self.role != Role::Tool && self.tool_call_id.is_some()),
            ("refusal", !assistant && self.refusal.is_some()),
            ("parsed", !assistant && self.parsed.is_some()),
            ("provider_specific_fields", !assistant && self.provider_specific_fields.is_some()),
        ] {
            if misplaced {
                let message = format!("'{path}.{field}' does not belong to this role.");
                return Err(ApiError::invalid(format!("{path}.{field}"), message));
            }
        }
        for (field, used) in [
            ("function_call", self.function_call.is_some_and(|value| !value.is_null())),
            ("audio", self.audio.is_some_and(|value| !value.is_null())),
            ("annotations", self.annotations.is_some_and(|items| !items.is_empty())),
        ] {
            if used {
                return Err(ApiError::unsupported(&format!("{path}.{field}")));
            }
        }
        let content = match (self.content, self.refusal) {
            (Some(Content(text)), _) => Some(text),
            (None, refusal) => refusal,
        };
        if content.is_none() && tool_calls.is_empty() {
            let message = format!("'{path}.content' must be a string or an array of text parts.");
            return Err(ApiError::invalid(format!("{path}.content"), message));
        }
        let mut object = Map::new();
        object.insert("role".into(), self.role.template_name().into());
        object.insert("content".into(), content.unwrap_or_default().into());
        for (field, value) in [
            ("name", self.name),
            ("tool_call_id", self.tool_call_id),
            ("reasoning_content", self.reasoning_content.or(self.reasoning)),
        ] {
            if let Some(value) = value {
                object.insert(field.into(), value.into());
            }
        }
        if !tool_calls.is_empty() {
            let calls = tool_calls.into_iter().enumerate();
            let calls = calls
                .map(|(index, call)| call.template_value(&format!("{path}.tool_calls[{index}]")));
            object.insert("tool_calls".into(), Value::Array(calls.collect::<Result<_, _>>()?));
        }
        Ok(Value::Object(object))
    }
}

/// Refuses results of calls that nobody made: a `tool` message answers a call in the messages before
/// it, by its id where both have one.
pub(crate) fn check_results(messages: &[Value]) -> Result<(), ApiError> {
    let (mut any_call, mut ids, mut has_nameless) = (false, HashSet::new(), false);
    for (index, message) in messages.iter().enumerate() {
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            any_call = true;
            has_nameless |= call["id"].is_null();
            ids.extend(call["id"].as_str());
        }
        if message["role"] != "tool" {
            continue;
        }
        if !any_call {
            let path = format!("messages[{index}].role");
            let message = format!(
                "'{path}' is 'tool', but no message before it has 'tool_calls' that it could answer."
            );
            return Err(ApiError::invalid(path, message));
        }
        let id = message["tool_call_id"].as_str();
        if let Some(id) = id.filter(|id| !has_nameless && !ids.contains(id)) {
            let path = format!("messages[{index}].tool_call_id");
            let message =
                format!("'{path}' is \"{id}\", the id of no call in the messages before it.");
            return Err(ApiError::invalid(path, message));
        }
    }
    Ok(())
}

impl Role {
    fn template_name(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl ToolCall {
    /// Templates want the arguments as an object, as transformers hands them over.
    fn template_value(self, path: &str) -> Result<Value, ApiError> {
        if let Some(kind) = self.r#type.filter(|kind| kind != "function") {
            let message = format!("'{path}.type' is '{kind}'; it may be 'function'.");
            return Err(ApiError::invalid(format!("{path}.type"), message));
        }
        let text = self.function.arguments.unwrap_or_default();
        let arguments: Map<String, Value> = if text.trim().is_empty() {
            Map::new()
        } else {
            // A model that was cut off wrote no object, and the client cannot help it: shown as it is.
            let as_written =
                |_| Map::from_iter([("invalid_json".to_owned(), text.as_str().into())]);
            serde_json::from_str(&text).unwrap_or_else(as_written)
        };
        let function = json!({"name": self.function.name, "arguments": arguments});
        Ok(json!({"id": self.id, "type": "function", "function": function}))
    }
}

impl JsonSchema for Content {
    fn schema_name() -> Cow<'static, str> {
        "ChatContent".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let part = generator.subschema_for::<Part>();
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": part}]})
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of text parts")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content(text.to_owned()))
    }

    /// Parts are joined by line breaks, as vLLM does for templates that want a string.
    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
        let mut texts: Vec<String> = Vec::new();
        while let Some(part) = parts.next_element::<Part>()? {
            let (field, text) = match part.r#type {
                PartType::Refusal => ("refusal", part.refusal),
                PartType::Text | PartType::InputText | PartType::OutputText => ("text", part.text),
            };
            texts.push(text.ok_or_else(|| serde::de::Error::missing_field(field))?);
        }
        Ok(Content(texts.join("\n")))
    }
}
