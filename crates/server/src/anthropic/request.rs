//! `POST /v1/messages` and `/v1/messages/count_tokens`: their fields.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::block::{Content, Role};
use super::tools::{Tool, ToolChoice};
use crate::error::ApiError;
use crate::openai::body::{AnyObject, check_fields, read};
use crate::openai::field_names::field_names;
use crate::openai::refused::Route;
use crate::openai::sampling_fields::integer;
use crate::openapi::{Schemas, request};

/// The whole request. Counting takes the same fields, so that it counts the same prompt.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct MessagesRequest {
    /// A served name.
    pub(crate) model: String,
    /// At least one; the answer goes on with the last if that is the assistant's.
    #[schemars(length(min = 1))]
    pub(crate) messages: Vec<Turn>,
    /// The longest answer, thoughts included. Required where there is an answer.
    max_tokens: Option<i64>,
    /// Text, as a string or in blocks.
    pub(crate) system: Option<Content>,
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) tool_choice: Option<ToolChoice>,
    /// Left out, the model does not think, if it can be told not to.
    thinking: Option<Thinking>,
    pub(crate) stop_sequences: Option<Vec<String>>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    /// Answer in server-sent events.
    pub(crate) stream: Option<bool>,
    output_config: Option<OutputConfig>,
    /// The older place of `output_config.format`.
    output_format: Option<OutputForm>,
    context_management: Option<ContextManagement>,
    /// `auto` or `standard_only`: there is one tier here.
    #[schemars(extend("enum" = ["auto", "standard_only", null]))]
    service_tier: Option<String>,
    /// `standard`: there is one speed here.
    #[schemars(extend("enum" = ["standard", null]))]
    speed: Option<String>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    metadata: Option<AnyObject>,
    #[schemars(with = "Option<Value>")]
    #[expect(dead_code, reason = "every prefix is cached, asked or not")]
    cache_control: Option<IgnoredAny>,
    #[expect(
        dead_code,
        reason = "asks why Anthropic's cache missed: nothing to report is an answer"
    )]
    diagnostics: Option<AnyObject>,
}

/// A message.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicTurn")]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    pub(crate) role: Role,
    pub(crate) content: Content,
}

/// Whether to think.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicThinking")]
#[serde(deny_unknown_fields)]
struct Thinking {
    r#type: ThinkingType,
    /// Of `enabled`: a target that Anthropic's models, too, need not reach or keep.
    #[schemars(range(min = 1))]
    budget_tokens: Option<i64>,
    /// `summarized` shows thoughts (whole, here), `omitted` hides them.
    display: Option<Display>,
    block_binding: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicThinkingType")]
#[serde(rename_all = "lowercase")]
enum ThinkingType {
    Enabled,
    Disabled,
    /// The model decides, as the models here do wherever they may think.
    Adaptive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicDisplay")]
#[serde(rename_all = "lowercase")]
enum Display {
    Summarized,
    Omitted,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicOutputConfig")]
#[serde(deny_unknown_fields)]
struct OutputConfig {
    /// For templates that ask for it; others hear only whether to think at all.
    effort: Option<Effort>,
    format: Option<OutputForm>,
    task_budget: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicEffort")]
#[serde(rename_all = "lowercase")]
enum Effort {
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicOutputForm")]
#[serde(deny_unknown_fields)]
struct OutputForm {
    r#type: OutputFormType,
    schema: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicOutputFormType")]
#[serde(rename_all = "snake_case")]
enum OutputFormType {
    JsonSchema,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicContextManagement")]
#[serde(deny_unknown_fields)]
struct ContextManagement {
    edits: Option<Vec<Edit>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicEdit")]
struct Edit {
    r#type: String,
    /// Of `clear_thinking_20251015`: `"all"`, or an object with a number of turns.
    keep: Option<Value>,
}

impl MessagesRequest {
    /// Reads a body; every fault names its field.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        check_fields(body, Route::Messages, &[field_names::<Self>()])?;
        let request: Self = read(body)?;
        request.validate()?;
        Ok(request)
    }

    /// What [`Self::parse`] takes.
    pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
        request([schemas.fields::<Self>()], Route::Messages)
    }

    /// The same for an answer, which needs a length.
    pub(crate) fn answer_schema(schemas: &mut Schemas) -> Value {
        let mut schema = Self::request_schema(schemas);
        schema["properties"]["max_tokens"]["type"] = "integer".into();
        schema["properties"]["max_tokens"]["minimum"] = 1.into();
        schema["required"] = json!(["model", "messages", "max_tokens"]);
        schema
    }

    /// Checks what serde cannot.
    fn validate(&self) -> Result<(), ApiError> {
        if self.messages.is_empty() {
            let message = "'messages' must be an array of at least one message.";
            return Err(ApiError::invalid("messages", message));
        }
        for (name, value, allowed) in [
            ("service_tier", &self.service_tier, &["auto", "standard_only"][..]),
            ("speed", &self.speed, &["standard"]),
        ] {
            if let Some(value) = value
                && !allowed.contains(&value.as_str())
            {
                let allowed = allowed.join("' or '");
                let message = format!("'{name}' is '{value}'; it may be '{allowed}'.");
                return Err(ApiError::invalid(name, message));
            }
        }
        for (path, value) in [
            (
                "thinking.block_binding",
                self.thinking.as_ref().and_then(|t| t.block_binding.as_ref()),
            ),
            (
                "output_config.task_budget",
                self.output_config.as_ref().and_then(|c| c.task_budget.as_ref()),
            ),
        ] {
            if value.is_some_and(|value| !value.is_null()) {
                return Err(ApiError::unsupported(path));
            }
        }
        if let Some(thinking) = &self.thinking {
            integer("thinking.budget_tokens", thinking.budget_tokens, 1, i64::MAX)?;
        }
        Ok(())
    }

    /// The longest answer asked for.
    pub(crate) fn max_tokens(&self) -> Result<usize, ApiError> {
        let max_tokens = integer("max_tokens", self.max_tokens, 1, i64::MAX)?;
        max_tokens.map(|count| count as usize).ok_or_else(|| ApiError::missing("max_tokens"))
    }

    /// Whether the model may think.
    pub(crate) fn thinks(&self) -> bool {
        self.thinking.as_ref().is_some_and(|thinking| thinking.r#type != ThinkingType::Disabled)
    }

    /// Most tokens of thoughts.
    pub(crate) fn budget_tokens(&self) -> Option<i64> {
        self.thinking.as_ref()?.budget_tokens
    }

    /// Whether the answer has blocks of thinking, should the model think.
    pub(crate) fn shows_thinking(&self) -> bool {
        let display = self.thinking.as_ref().and_then(|thinking| thinking.display);
        self.thinks() && display != Some(Display::Omitted)
    }

    /// How much to think, in a chat's words.
    pub(crate) fn effort(&self) -> Option<&'static str> {
        let effort = self.output_config.as_ref()?.effort?;
        Some(match effort {
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::Xhigh => "xhigh",
            Effort::Max => "max",
        })
    }

    /// The schema that the answer must follow.
    pub(crate) fn schema(&self) -> Result<Option<&Map<String, Value>>, ApiError> {
        let new = self.output_config.as_ref().and_then(|config| config.format.as_ref());
        let (path, form) = match (new, &self.output_format) {
            (Some(_), Some(_)) => {
                let message = "'output_format' is the older name of 'output_config.format'; give \
                               one of them.";
                return Err(ApiError::invalid("output_format", message));
            }
            (Some(form), None) => ("output_config.format.schema", form),
            (None, Some(form)) => ("output_format.schema", form),
            (None, None) => return Ok(None),
        };
        let OutputForm { r#type: OutputFormType::JsonSchema, schema } = form;
        schema.as_ref().map(Some).ok_or_else(|| ApiError::missing(path))
    }

    /// How many of the assistant's last thoughts the model is shown; `None` for all.
    pub(crate) fn kept_thoughts(&self) -> Result<Option<usize>, ApiError> {
        let edits = self.context_management.as_ref().and_then(|context| context.edits.as_ref());
        let mut kept = None;
        for (index, edit) in edits.into_iter().flatten().enumerate() {
            let path = format!("context_management.edits[{index}]");
            if edit.r#type != "clear_thinking_20251015" {
                let message = format!(
                    "'{path}' is of type '{}', which this server does not support; leave it out.",
                    edit.r#type
                );
                let code = Some("unsupported_parameter");
                return Err(ApiError { code, ..ApiError::invalid(path + ".type", message) });
            }
            let turns = match edit.keep.as_ref().unwrap_or(&Value::Null) {
                Value::Null => Some(1),
                Value::String(all) if all == "all" => None,
                Value::Object(keep) if keep.get("type").is_some_and(|kind| kind == "all") => None,
                keep => match keep["value"].as_u64() {
                    Some(turns) if keep["type"] == "thinking_turns" => Some(turns as usize),
                    _ => {
                        let message = format!(
                            "'{path}.keep' must be \"all\" or {{\"type\": \"thinking_turns\", \
                             \"value\": N}}."
                        );
                        return Err(ApiError::invalid(path + ".keep", message));
                    }
                },
            };
            kept = kept.into_iter().chain(turns).min();
        }
        Ok(kept)
    }
}
