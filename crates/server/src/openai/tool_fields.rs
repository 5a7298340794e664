//! Tools, and how much to think: OpenAI's fields and vLLM's.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use text::{CallRules, Calls, ChatTemplates, short_call_id};

use crate::error::ApiError;
use crate::random::{random_id, random_u64};

/// Most tools of a request, as at OpenAI.
pub(crate) const MAX_TOOLS: usize = 128;
/// Longest name of a function, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 128;

/// Fields of `/v1/chat/completions`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct ToolFields {
    /// Functions that the model may call.
    tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, one function, or `allowed_tools`.
    tool_choice: Option<Value>,
    /// If false, at most one call comes; so it is by default where the model's template has room for
    /// one only.
    parallel_tool_calls: Option<bool>,
    /// For templates that ask for it; `none` turns thinking off.
    reasoning_effort: Option<Effort>,
    /// vLLM: if false, reasoning is not shown.
    include_reasoning: Option<bool>,
}

/// `reasoning_effort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "ReasoningEffort")]
#[serde(rename_all = "lowercase")]
enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

/// What ids of calls look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CallIds {
    /// As OpenAI's.
    #[default]
    Long,
    /// As templates want them that take no others.
    Short,
}

impl CallIds {
    /// An id that no other call has.
    pub(crate) fn random(self) -> String {
        match self {
            Self::Long => random_id("call_"),
            Self::Short => short_call_id(random_u64()),
        }
    }
}

/// The tools of a request, checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tools {
    /// OpenAI definitions that the model sees, in the order and spelling of the request; empty if
    /// none may be called.
    pub(crate) definitions: Vec<Value>,
    /// Where in the request each of them stands.
    pub(crate) places: Vec<usize>,
    /// Whether an answer must be calls.
    pub(crate) forced: bool,
    /// Whether a call, where one comes, must follow its schema.
    pub(crate) strict: bool,
    /// Whether there may be several.
    pub(crate) parallel: bool,
    /// What ids of calls must look like.
    pub(crate) ids: CallIds,
    /// Calls in the messages.
    pub(crate) num_called: usize,
}

impl ToolFields {
    /// Checks every definition and the choice among them. `rules` are those of the model's template.
    pub(crate) fn tools(&self, rules: CallRules) -> Result<Tools, ApiError> {
        let definitions = self.tools.clone().unwrap_or_default();
        if definitions.len() > MAX_TOOLS {
            let message =
                format!("'tools' has {} tools; the limit is {MAX_TOOLS}.", definitions.len());
            return Err(ApiError::invalid("tools", message));
        }
        for (index, tool) in definitions.iter().enumerate() {
            let name = check_tool(index, tool)?;
            if definitions[..index].iter().any(|tool| name_of(tool) == Some(name)) {
                let path = format!("tools[{index}].function.name");
                let message = format!("'{path}' is '{name}', which another tool is called, too.");
                return Err(ApiError::invalid(path, message));
            }
        }
        let mut tools = Tools {
            places: (0..definitions.len()).collect(),
            definitions,
            forced: false,
            strict: false,
            parallel: self.parallel_tool_calls.unwrap_or(!rules.single),
            ids: if rules.short_ids { CallIds::Short } else { CallIds::Long },
            num_called: 0,
        };
        match &self.tool_choice {
            None | Some(Value::Null) => {}
            Some(choice) => tools.choose(choice)?,
        }
        tools.strict = tools.definitions.iter().any(|tool| tool["function"]["strict"] == true);
        Ok(tools)
    }

    /// Whether reasoning is shown.
    pub(crate) fn shows_reasoning(&self) -> bool {
        self.include_reasoning != Some(false)
    }

    /// Adds what `reasoning_effort` says to the variables of the templates that ask for it.
    pub(crate) fn add_effort(
        &self,
        templates: &ChatTemplates,
        kwargs: &mut Map<String, Value>,
    ) -> Result<(), ApiError> {
        let Some(effort) = self.reasoning_effort else { return Ok(()) };
        let mut known = false;
        let mut set = |name: &str, value: Value| {
            if templates.mention(name) {
                known = true;
                kwargs.entry(name).or_insert(value);
            }
        };
        set("reasoning_effort", json!(format!("{effort:?}").to_lowercase()));
        set("enable_thinking", json!(effort != Effort::None));
        set("thinking", json!(effort != Effort::None));
        if known || effort == Effort::None {
            return Ok(());
        }
        let message = "'reasoning_effort' is not supported by this model: its chat template does \
                       not ask for it.";
        Err(ApiError::invalid("reasoning_effort", message))
    }
}

impl Tools {
    /// The calls that an answer is held to, if any, and the field that says so. With a `reply`, what
    /// is no call must look like something, too.
    pub(crate) fn calls(&self, reply: bool) -> Option<(&'static str, Calls)> {
        let several = if self.parallel { Calls::Some } else { Calls::One };
        match (self.forced, reply, self.strict) {
            _ if self.definitions.is_empty() => None,
            (true, ..) => Some(("tool_choice", several)),
            (false, true, _) => Some(("tools", several)),
            (false, false, true) => Some(("tools", Calls::AmongText)),
            (false, false, false) => None,
        }
    }

    fn choose(&mut self, choice: &Value) -> Result<(), ApiError> {
        let kind = choice.as_str().or_else(|| choice["type"].as_str()).unwrap_or_default();
        if self.definitions.is_empty() && !["none", "auto"].contains(&kind) {
            let message = "'tool_choice' is only allowed when 'tools' are specified.";
            return Err(ApiError::invalid("tool_choice", message));
        }
        match (choice, kind) {
            (Value::String(_), "auto") => {}
            (Value::String(_), "none") => {
                self.definitions.clear();
                self.places.clear();
            }
            (Value::String(_), "required") => self.forced = true,
            (Value::Object(_), "function") => {
                self.keep("tool_choice.function.name", &[&choice["function"]["name"]])?;
                self.forced = true;
                self.parallel = false;
            }
            (Value::Object(_), "allowed_tools") => self.allow(&choice["allowed_tools"])?,
            _ => {
                let message = format!(
                    "'tool_choice' is {choice}; it may be \"none\", \"auto\", \"required\", \
                     {{\"type\": \"function\", \"function\": {{\"name\": ..}}}} or \
                     {{\"type\": \"allowed_tools\", ..}}."
                );
                return Err(ApiError::invalid("tool_choice", message));
            }
        }
        Ok(())
    }

    fn allow(&mut self, allowed: &Value) -> Result<(), ApiError> {
        let path = "tool_choice.allowed_tools";
        self.forced = match allowed["mode"].as_str() {
            Some("auto") => false,
            Some("required") => true,
            _ => {
                let message = format!("'{path}.mode' must be 'auto' or 'required'.");
                return Err(ApiError::invalid(format!("{path}.mode"), message));
            }
        };
        let tools = allowed["tools"].as_array().filter(|tools| !tools.is_empty());
        let Some(tools) = tools else {
            let message = format!("'{path}.tools' must be an array of at least one tool.");
            return Err(ApiError::invalid(format!("{path}.tools"), message));
        };
        let names: Vec<_> = tools.iter().map(|tool| &tool["function"]["name"]).collect();
        self.keep(&format!("{path}.tools"), &names)
    }

    /// Keeps the tools of these names.
    fn keep(&mut self, path: &str, names: &[&Value]) -> Result<(), ApiError> {
        for name in names {
            let known = name.as_str().is_some_and(|name| {
                self.definitions.iter().any(|tool| name_of(tool) == Some(name))
            });
            if !known {
                let message = format!("'{path}' names {name}, which is not among 'tools'.");
                return Err(ApiError::invalid(path, message));
            }
        }
        let is_kept = |tool: &Value| names.iter().any(|name| name.as_str() == name_of(tool));
        let definitions = std::mem::take(&mut self.definitions);
        let places = std::mem::take(&mut self.places);
        let kept = definitions.into_iter().zip(places).filter(|(tool, _)| is_kept(tool));
        (self.definitions, self.places) = kept.unzip();
        Ok(())
    }
}

fn name_of(tool: &Value) -> Option<&str> {
    tool["function"]["name"].as_str()
}

/// Returns the name.
fn check_tool(index: usize, tool: &Value) -> Result<&str, ApiError> {
    let wrong = |path: String, what: &str| {
        let message = format!("'{path}' must be {what}.");
        Err(ApiError::invalid(path, message))
    };
    let path = format!("tools[{index}]");
    if !tool.is_object() {
        return wrong(path, "an object");
    }
    if tool.get("type").is_some_and(|kind| kind != "function") {
        return wrong(path + ".type", "'function'");
    }
    let function = &tool["function"];
    if !function.is_object() {
        return wrong(path + ".function", "an object");
    }
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let name = function["name"].as_str().filter(|name| {
        (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_name_char)
    });
    let Some(name) = name else {
        let what = "a string of 1 to 128 letters, digits, '_', '-' and '.'";
        return wrong(path + ".function.name", what);
    };
    if !matches!(function["parameters"], Value::Null | Value::Object(_)) {
        return wrong(path + ".function.parameters", "a JSON schema, an object");
    }
    if !matches!(function["description"], Value::Null | Value::String(_)) {
        return wrong(path + ".function.description", "a string");
    }
    match function["strict"] {
        Value::Null | Value::Bool(_) => Ok(name),
        _ => wrong(path + ".function.strict", "a boolean"),
    }
}
