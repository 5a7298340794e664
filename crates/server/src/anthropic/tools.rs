//! Tools and the choice among them, as a chat's.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::errors::extra_input;
use crate::error::ApiError;

/// A tool, as sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicTool", deny_unknown_fields)]
pub(crate) struct Tool {
    /// `custom`, or left out. Every other type is of Anthropic's own making.
    r#type: Option<String>,
    name: Option<String>,
    description: Option<String>,
    input_schema: Option<Map<String, Value>>,
    /// Calls follow the schema token by token.
    strict: Option<bool>,
    #[schemars(with = "Option<Value>")]
    #[expect(dead_code, reason = "every prefix is cached, asked or not")]
    cache_control: Option<IgnoredAny>,
    #[expect(dead_code, reason = "inputs are always streamed as they come")]
    eager_input_streaming: Option<bool>,
    /// Needs a search for tools, which there is not.
    defer_loading: Option<bool>,
    /// No template shows them.
    input_examples: Option<Vec<Value>>,
    /// `direct`: the model itself.
    allowed_callers: Option<Vec<String>>,
    #[serde(flatten)]
    #[schemars(skip)]
    #[expect(clippy::zero_sized_map_values, reason = "unknown fields: only their names matter")]
    rest: BTreeMap<String, IgnoredAny>,
}

/// `tool_choice`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicToolChoice")]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolChoice {
    r#type: ChoiceType,
    /// Of `tool`.
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicToolChoiceType")]
#[serde(rename_all = "lowercase")]
enum ChoiceType {
    Auto,
    Any,
    Tool,
    None,
}

impl Tool {
    /// The definition of a function; `path` (`tools[2]`) names it in errors.
    pub(crate) fn function(&self, path: &str) -> Result<Value, ApiError> {
        if let Some(kind) = self.r#type.as_deref().filter(|kind| *kind != "custom") {
            let message = format!(
                "'{path}' is of type '{kind}', a tool that Anthropic defines and this server does \
                 not have; give tools with an 'input_schema' of their own."
            );
            let code = Some("unsupported_parameter");
            return Err(ApiError { code, ..ApiError::invalid(format!("{path}.type"), message) });
        }
        if let Some(name) = self.rest.keys().next() {
            return Err(extra_input(&format!("{path}.{name}")));
        }
        let callers = self.allowed_callers.iter().flatten();
        for (field, used) in [
            ("defer_loading", self.defer_loading == Some(true)),
            ("input_examples", self.input_examples.iter().flatten().next().is_some()),
            ("allowed_callers", callers.into_iter().any(|caller| caller != "direct")),
        ] {
            if used {
                return Err(ApiError::unsupported(&format!("{path}.{field}")));
            }
        }
        let name = self.name.as_ref().ok_or_else(|| ApiError::missing(format!("{path}.name")))?;
        let schema = self.input_schema.as_ref();
        let schema = schema.ok_or_else(|| ApiError::missing(format!("{path}.input_schema")))?;
        let mut function = json!({"name": name});
        if let Some(description) = &self.description {
            function["description"] = json!(description);
        }
        function["parameters"] = json!(schema);
        if let Some(strict) = self.strict {
            function["strict"] = json!(strict);
        }
        Ok(json!({"type": "function", "function": function}))
    }
}

impl ToolChoice {
    /// A chat's `tool_choice`.
    pub(crate) fn chosen(&self) -> Result<Value, ApiError> {
        match (self.r#type, &self.name) {
            (ChoiceType::Auto, None) => Ok(json!("auto")),
            (ChoiceType::Any, None) => Ok(json!("required")),
            (ChoiceType::None, None) => Ok(json!("none")),
            (ChoiceType::Tool, None) => Err(ApiError::missing("tool_choice.name")),
            (ChoiceType::Tool, Some(name)) => {
                Ok(json!({"type": "function", "function": {"name": name}}))
            }
            (_, Some(_)) => Err(extra_input("tool_choice.name")),
        }
    }

    /// Whether several calls may come, if it says so.
    pub(crate) fn parallel(&self) -> Option<bool> {
        self.disable_parallel_tool_use.map(|disabled| !disabled)
    }
}
