//! The content of a turn: a string or blocks, what they may be, and what of them a chat can say.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::errors::extra_input;
use crate::error::ApiError;

/// Text in place of blocks means one block of text.
#[derive(Debug)]
pub(crate) enum Content {
    Text(String),
    Blocks(Vec<Block>),
    /// Of blocks that are refused for their type.
    Object,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicRole")]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    User,
    Assistant,
    /// Between turns, as newer clients send it.
    System,
}

/// What a block may be.
const TYPES: [&str; 5] = ["text", "thinking", "redacted_thinking", "tool_use", "tool_result"];

/// A block, as sent: the fields of every type that is understood.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicBlock", deny_unknown_fields)]
pub(crate) struct Block {
    #[schemars(extend("enum" = TYPES))]
    r#type: String,
    text: Option<String>,
    thinking: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<Map<String, Value>>,
    tool_use_id: Option<String>,
    content: Option<Content>,
    is_error: Option<bool>,
    #[schemars(with = "Option<Value>")]
    #[expect(dead_code, reason = "nothing here signs or checks thoughts")]
    signature: Option<IgnoredAny>,
    #[schemars(with = "Option<Value>")]
    #[expect(dead_code, reason = "encrypted thoughts of another server: nothing to read")]
    data: Option<IgnoredAny>,
    #[schemars(with = "Option<Value>")]
    #[expect(dead_code, reason = "every prefix is cached, asked or not")]
    cache_control: Option<IgnoredAny>,
    /// Nothing here cites.
    citations: Option<Value>,
    #[schemars(with = "Option<Value>")]
    #[expect(dead_code, reason = "who called a tool: a label in what clients give back")]
    caller: Option<IgnoredAny>,
    #[serde(flatten)]
    #[schemars(skip)]
    #[expect(clippy::zero_sized_map_values, reason = "unknown fields: only their names matter")]
    rest: BTreeMap<String, IgnoredAny>,
}

/// What a block says.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Thought(&'a str),
    Call { id: &'a str, name: &'a str, input: &'a Map<String, Value> },
    Result { id: &'a str, text: String },
}

impl Content {
    /// What a turn of `role` says; `path` (`messages[2].content`) names it in errors.
    pub(crate) fn pieces(&self, role: Role, path: &str) -> Result<Vec<Piece<'_>>, ApiError> {
        match self {
            Self::Text(text) => Ok(vec![Piece::Text(text)]),
            Self::Blocks(blocks) => {
                let pieces = blocks.iter().enumerate();
                let pieces =
                    pieces.map(|(index, block)| block.piece(role, &format!("{path}[{index}]")));
                pieces.filter_map(Result::transpose).collect()
            }
            Self::Object => {
                Err(ApiError::invalid(path, format!("'{path}' must not be an object.")))
            }
        }
    }

    /// The text of a tool's result.
    fn result_text(&self, path: &str) -> Result<String, ApiError> {
        let texts = self.pieces(Role::System, path)?.into_iter().map(|piece| match piece {
            Piece::Text(text) => text,
            _ => unreachable!("a system turn has text only"),
        });
        Ok(texts.collect::<Vec<_>>().join("\n"))
    }
}

impl Block {
    /// Nothing for what is accepted and cannot be shown to the model.
    fn piece(&self, role: Role, path: &str) -> Result<Option<Piece<'_>>, ApiError> {
        let kind = self.r#type.as_str();
        let belongs_to = match kind {
            "text" => role,
            "thinking" | "redacted_thinking" | "tool_use" => Role::Assistant,
            "tool_result" => Role::User,
            _ => {
                let message = format!(
                    "'{path}' is a block of type '{kind}', which this server does not support; \
                     leave it out."
                );
                let code = Some("unsupported_parameter");
                return Err(ApiError {
                    code,
                    ..ApiError::invalid(format!("{path}.type"), message)
                });
            }
        };
        if belongs_to != role {
            let message = format!("'{path}' is a block of type '{kind}', which has no place here.");
            return Err(ApiError::invalid(format!("{path}.type"), message));
        }
        if let Some(name) = self.rest.keys().next() {
            return Err(extra_input(&format!("{path}.{name}")));
        }
        if self
            .citations
            .as_ref()
            .is_some_and(|value| *value != Value::Null && *value != Value::Array(Vec::new()))
        {
            return Err(ApiError::unsupported(&format!("{path}.citations")));
        }
        let missing = |field: &str| ApiError::missing(format!("{path}.{field}"));
        Ok(Some(match kind {
            "text" => Piece::Text(self.text.as_deref().ok_or_else(|| missing("text"))?),
            "thinking" => {
                Piece::Thought(self.thinking.as_deref().ok_or_else(|| missing("thinking"))?)
            }
            "tool_use" => Piece::Call {
                id: self.id.as_deref().ok_or_else(|| missing("id"))?,
                name: self.name.as_deref().ok_or_else(|| missing("name"))?,
                input: self.input.as_ref().ok_or_else(|| missing("input"))?,
            },
            "tool_result" => Piece::Result {
                id: self.tool_use_id.as_deref().ok_or_else(|| missing("tool_use_id"))?,
                text: self.result(&format!("{path}.content"))?,
            },
            _ => return Ok(None),
        }))
    }

    /// Templates know no field for a failed call, so its text says it.
    fn result(&self, path: &str) -> Result<String, ApiError> {
        let text = self.content.as_ref().map(|content| content.result_text(path)).transpose()?;
        let text = text.unwrap_or_default();
        Ok(match (self.is_error == Some(true), text.is_empty()) {
            (false, _) => text,
            (true, true) => "Error".to_owned(),
            (true, false) => format!("Error: {text}"),
        })
    }
}

impl JsonSchema for Content {
    fn schema_name() -> Cow<'static, str> {
        "AnthropicContent".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let block = generator.subschema_for::<Block>();
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": block}]})
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
        f.write_str("a string or an array of blocks")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut blocks = Vec::new();
        while let Some(block) = items.next_element()? {
            blocks.push(block);
        }
        Ok(Content::Blocks(blocks))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Content, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Content::Object)
    }
}
