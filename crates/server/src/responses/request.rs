//! `POST /v1/responses`: its fields.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::openai::body::{AnyObject, check_fields, read};
use crate::openai::chat_request::Conversation;
use crate::openai::field_names::field_names;
use crate::openai::refused::Route;
use crate::openai::request_fields::RequestFields;
use crate::openai::sampling_fields::SamplingFields;
use crate::openai::tool_fields::ToolFields;
use crate::openapi::{Schemas, request};

/// Fields that mean the same in a chat; those but the first two are vLLM's.
pub(super) const PASSED: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "min_tokens",
    "logit_bias",
    "allowed_token_ids",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "chat_template_kwargs",
    "include_reasoning",
    "priority",
    "cache_salt",
];

/// What `include` may name. All but log-probabilities belong to items that never come from here, or
/// stand in them anyway: reasoning is not encrypted, its text is there.
const INCLUDES: &[&str] = &[
    LOGPROBS,
    "reasoning.encrypted_content",
    "web_search_call.results",
    "web_search_call.action.sources",
    "file_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "message.input_image.image_url",
];
const LOGPROBS: &str = "message.output_text.logprobs";

/// Bounds of `metadata`, as at OpenAI.
const MAX_LABELS: usize = 16;
const MAX_KEY_CHARS: usize = 64;
const MAX_VALUE_CHARS: usize = 512;

/// The fields of this route alone.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct Fields {
    /// A served name; left out, the only model there is.
    pub(super) model: Option<String>,
    /// A text of the user, or items.
    pub(super) input: Option<Value>,
    /// A system message in front of the conversation; not carried over to the next response.
    pub(super) instructions: Option<String>,
    /// The response that this one goes on from.
    pub(super) previous_response_id: Option<String>,
    pub(super) tools: Option<Vec<Value>>,
    pub(super) tool_choice: Option<Value>,
    /// If false, at most one call comes.
    pub(super) parallel_tool_calls: Option<bool>,
    /// What the answer looks like.
    pub(super) text: Option<TextField>,
    pub(super) reasoning: Option<ReasoningField>,
    /// Longest answer, thoughts included; left out, what the context leaves.
    pub(super) max_output_tokens: Option<i64>,
    /// Alternatives at each position, 0 to 20.
    pub(super) top_logprobs: Option<i64>,
    include: Option<Vec<String>>,
    /// Labels, given back.
    pub(super) metadata: Option<Map<String, Value>>,
    /// Keep the response for a while; true by default.
    pub(super) store: Option<bool>,
    /// `disabled`.
    #[schemars(extend("enum" = ["disabled", null]))]
    truncation: Option<String>,
    /// Answer in server-sent events.
    pub(super) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// `auto` or `default`.
    #[schemars(extend("enum" = ["auto", "default", null]))]
    service_tier: Option<String>,
    /// Of built-in tools; there are none, so any bound is kept.
    pub(super) max_tool_calls: Option<i64>,
    /// A label, given back.
    pub(super) prompt_cache_key: Option<String>,
    /// A label, given back.
    pub(super) safety_identifier: Option<String>,
    /// A label, given back.
    pub(super) user: Option<String>,
    #[expect(dead_code, reason = "labels of Codex: checked for their type only")]
    client_metadata: Option<AnyObject>,
}

/// `text`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "ResponseText")]
#[serde(deny_unknown_fields)]
pub(crate) struct TextField {
    pub(super) format: Option<Format>,
    /// `medium`.
    #[schemars(extend("enum" = ["medium", null]))]
    pub(super) verbosity: Option<String>,
}

/// `text.format`: a schema is enforced whether `strict` or not.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[schemars(
    rename = "ResponseTextFormat",
    extend(
        "if" = {"properties": {"type": {"const": "json_schema"}}},
        "then" = {
            "required": ["name", "schema"],
            "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
        },
    )
)]
#[serde(deny_unknown_fields)]
pub(crate) struct Format {
    pub(super) r#type: FormatType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) schema: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) strict: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "ResponseTextFormatType")]
#[serde(rename_all = "snake_case")]
pub(crate) enum FormatType {
    Text,
    JsonObject,
    JsonSchema,
}

/// `reasoning`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "ResponseReasoning")]
#[serde(deny_unknown_fields)]
pub(crate) struct ReasoningField {
    /// For templates that ask for it; `none` turns thinking off.
    pub(super) effort: Option<Value>,
    /// `auto`: whatever there is, and there is none.
    #[schemars(extend("enum" = ["auto", null]))]
    pub(super) summary: Option<String>,
    /// The older name of `summary`.
    #[schemars(extend("enum" = ["auto", null]))]
    generate_summary: Option<String>,
    /// `auto`: which earlier thoughts are shown is the template's to say.
    #[schemars(extend("enum" = ["auto", null]))]
    context: Option<String>,
    /// `standard`.
    #[schemars(extend("enum" = ["standard", null]))]
    mode: Option<String>,
}

/// What a stream reports: its usage always, padding never.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[schemars(rename = "ResponseStreamOptions")]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_obfuscation: Option<bool>,
    #[expect(dead_code, reason = "the last event always has it")]
    include_usage: Option<bool>,
}

impl Fields {
    /// Reads a body; every fault names its field. Also returns the fields that a chat takes as they
    /// are.
    pub(crate) fn parse(body: &[u8]) -> Result<(Self, Map<String, Value>), ApiError> {
        check_fields(body, Route::Responses, &[field_names::<Self>(), PASSED])?;
        let fields: Self = read(body)?;
        fields.validate()?;
        let mut passed: Map<String, Value> = read(body)?;
        passed.retain(|name, _| PASSED.contains(&name.as_str()));
        Ok((fields, passed))
    }

    /// What [`Self::parse`] takes.
    pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
        let own = schemas.fields::<Self>();
        let of_chats = [
            schemas.fields::<RequestFields>(),
            schemas.fields::<SamplingFields>(),
            schemas.fields::<ToolFields>(),
            schemas.fields::<Conversation>(),
        ];
        let passed = of_chats.into_iter().map(|mut fields| {
            if let Some(fields) = fields["properties"].as_object_mut() {
                fields.retain(|name, _| PASSED.contains(&name.as_str()));
            }
            fields
        });
        let mut schema = request(passed.chain([own]), Route::Responses);
        schema["required"] = json!(["input"]);
        schema
    }

    /// Checks what serde cannot.
    fn validate(&self) -> Result<(), ApiError> {
        let reasoning = self.reasoning.as_ref();
        let text = self.text.as_ref();
        only("truncation", self.truncation.as_ref(), &["disabled"])?;
        only("service_tier", self.service_tier.as_ref(), &["auto", "default"])?;
        only("text.verbosity", text.and_then(|text| text.verbosity.as_ref()), &["medium"])?;
        for (name, value, allowed) in [
            ("reasoning.summary", reasoning.and_then(|r| r.summary.as_ref()), "auto"),
            (
                "reasoning.generate_summary",
                reasoning.and_then(|r| r.generate_summary.as_ref()),
                "auto",
            ),
            ("reasoning.context", reasoning.and_then(|r| r.context.as_ref()), "auto"),
            ("reasoning.mode", reasoning.and_then(|r| r.mode.as_ref()), "standard"),
        ] {
            only(name, value, &[allowed])?;
        }
        for (index, name) in self.include.iter().flatten().enumerate() {
            only(&format!("include[{index}]"), Some(name), INCLUDES)?;
        }
        if let Some(options) = self.stream_options {
            if self.stream != Some(true) {
                let message = "'stream_options' is only allowed when 'stream' is true.";
                return Err(ApiError::invalid("stream_options", message));
            }
            if options.include_obfuscation == Some(true) {
                return Err(ApiError::unsupported("stream_options.include_obfuscation"));
            }
        }
        if let Some(format) = text.and_then(|text| text.format.as_ref()) {
            format.validate()?;
        }
        check_labels(self.metadata.as_ref())
    }

    /// Whether the text of messages comes with log-probabilities.
    pub(super) fn wants_logprobs(&self) -> bool {
        self.include.iter().flatten().any(|name| name == LOGPROBS)
            || self.top_logprobs.is_some_and(|count| count != 0)
    }

    /// Whether the response is kept.
    pub(crate) fn stores(&self) -> bool {
        self.store != Some(false)
    }

    /// Whether to answer in events.
    pub(crate) fn streams(&self) -> bool {
        self.stream == Some(true)
    }
}

impl Format {
    fn validate(&self) -> Result<(), ApiError> {
        let is_schema = self.r#type == FormatType::JsonSchema;
        for (field, given) in [("name", self.name.is_some()), ("schema", self.schema.is_some())] {
            let path = format!("text.format.{field}");
            if is_schema && !given {
                return Err(ApiError::missing(path));
            }
            if !is_schema && given {
                let message = format!("'{path}' belongs to the type 'json_schema' only.");
                return Err(ApiError::invalid(path, message));
            }
        }
        Ok(())
    }

    /// The same as a chat's `response_format`.
    pub(super) fn for_chat(&self) -> Value {
        match self.r#type {
            FormatType::Text | FormatType::JsonObject => json!({"type": self.r#type}),
            FormatType::JsonSchema => json!({"type": "json_schema", "json_schema": {
                "name": self.name, "description": self.description, "schema": self.schema,
                "strict": self.strict,
            }}),
        }
    }
}

/// Refuses a text that is not one of `allowed`.
fn only(name: &str, value: Option<&String>, allowed: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !allowed.contains(&value.as_str()) => {
            let allowed = allowed.join("', '");
            let message =
                format!("'{name}' is '{value}'; this server supports '{allowed}'. Leave it out.");
            Err(ApiError::invalid(name, message))
        }
        _ => Ok(()),
    }
}

fn check_labels(labels: Option<&Map<String, Value>>) -> Result<(), ApiError> {
    let labels = labels.into_iter().flatten();
    for (number, (key, value)) in labels.enumerate() {
        let path = format!("metadata.{key}");
        if number >= MAX_LABELS {
            let message = format!("'metadata' has more than {MAX_LABELS} pairs.");
            return Err(ApiError::invalid("metadata", message));
        }
        if key.chars().count() > MAX_KEY_CHARS {
            let message = format!("'metadata' has a key of more than {MAX_KEY_CHARS} characters.");
            return Err(ApiError::invalid("metadata", message));
        }
        if value.as_str().is_none_or(|text| text.chars().count() > MAX_VALUE_CHARS) {
            let message =
                format!("'{path}' must be a string of at most {MAX_VALUE_CHARS} characters.");
            return Err(ApiError::invalid(path, message));
        }
    }
    Ok(())
}
