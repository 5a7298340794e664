//! `tools` and `tool_choice`: functions, alone or in a namespace, as a chat knows them.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::input::{must_be, only, optional_text, text};
use crate::error::ApiError;
use crate::openai::tool_fields::{MAX_NAME_BYTES, MAX_TOOLS};

/// Built-in tools that are left out instead of refused: Codex always offers them, and a model that is
/// not told of them answers without. A response does not list them.
const LEFT_OUT: &[&str] = &["web_search"];

/// What may be called.
#[derive(Debug, Default)]
pub(crate) struct ToolSet {
    /// As a chat's `tools`.
    pub(super) for_chat: Vec<Value>,
    /// Where in the request each of them stands.
    places: Vec<String>,
    /// As the response lists them.
    pub(super) shown: Vec<Value>,
    /// Namespace and name, by the name that the model sees.
    names: HashMap<String, (String, String)>,
    /// Whether a tool is strict because it does not say.
    pub(super) has_defaults: bool,
}

/// How a function of a namespace is called where there are none.
pub(super) fn flat_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}__{name}"),
        None => name.to_owned(),
    }
}

impl ToolSet {
    /// Checks `tools`. A function that does not say whether it is strict gets `strict`: as at OpenAI
    /// that is tried first, and given up if its schema cannot be enforced.
    pub(super) fn read(tools: &[Value], strict: bool) -> Result<Self, ApiError> {
        let mut set = Self::default();
        for (index, tool) in tools.iter().enumerate() {
            let path = format!("tools[{index}]");
            let Value::Object(tool) = tool else { return Err(must_be(&path, "an object")) };
            match text(tool, &path, "type")? {
                "function" => {
                    let shown = set.function(tool, &path, None, strict)?;
                    set.shown.push(shown);
                }
                "namespace" => set.namespace(tool, &path, strict)?,
                kind if LEFT_OUT.contains(&kind) => {}
                kind => return Err(unsupported(&path, kind)),
            }
        }
        Ok(set)
    }

    fn namespace(
        &mut self,
        tool: &Map<String, Value>,
        path: &str,
        strict: bool,
    ) -> Result<(), ApiError> {
        only(tool, path, &["type", "name", "description", "tools"])?;
        let name = name_of(tool, path)?;
        let Some(functions) = tool.get("tools").and_then(Value::as_array) else {
            return Err(must_be(&format!("{path}.tools"), "an array of functions"));
        };
        let mut shown = Vec::new();
        for (index, function) in functions.iter().enumerate() {
            let path = format!("{path}.tools[{index}]");
            let Value::Object(function) = function else {
                return Err(must_be(&path, "an object"));
            };
            match text(function, &path, "type")? {
                "function" => shown.push(self.function(function, &path, Some(name), strict)?),
                kind => return Err(unsupported(&path, kind)),
            }
        }
        let description = optional_text(tool, path, "description")?.unwrap_or_default();
        self.shown.push(json!({
            "type": "namespace", "name": name, "description": description, "tools": shown,
        }));
        Ok(())
    }

    /// Adds one; returns how the response shows it.
    fn function(
        &mut self,
        tool: &Map<String, Value>,
        path: &str,
        namespace: Option<&str>,
        strict: bool,
    ) -> Result<Value, ApiError> {
        let direct_only =
            |name: &String, value: &Value| name == "allowed_callers" && value == &json!(["direct"]);
        let mut rest = tool.clone();
        rest.retain(|name, value| !direct_only(name, value));
        only(&rest, path, &["type", "name", "description", "parameters", "strict"])?;
        let name = name_of(tool, path)?;
        let description = optional_text(tool, path, "description")?;
        let parameters = tool.get("parameters").filter(|value| !value.is_null());
        if parameters.is_some_and(|schema| !schema.is_object()) {
            return Err(must_be(&format!("{path}.parameters"), "a JSON schema, an object"));
        }
        let strict = match tool.get("strict") {
            Some(Value::Bool(strict)) => *strict,
            None | Some(Value::Null) => {
                self.has_defaults = true;
                strict
            }
            Some(_) => return Err(must_be(&format!("{path}.strict"), "a boolean")),
        };
        if self.for_chat.len() == MAX_TOOLS {
            let message = format!("'tools' has more than {MAX_TOOLS} functions.");
            return Err(ApiError::invalid("tools", message));
        }
        let flat = flat_name(namespace, name);
        let is_taken = self.for_chat.iter().any(|tool| tool["function"]["name"] == flat.as_str());
        if is_taken || flat.len() > MAX_NAME_BYTES {
            let message = format!(
                "'{path}.name' makes the name '{flat}', which must be at most {MAX_NAME_BYTES} \
                 bytes long and that of no other tool."
            );
            return Err(ApiError::invalid(format!("{path}.name"), message));
        }
        let mut function = json!({"name": flat});
        if let Some(description) = description {
            function["description"] = description.into();
        }
        if let Some(parameters) = parameters {
            function["parameters"] = parameters.clone();
        }
        if strict {
            function["strict"] = true.into();
        }
        self.for_chat.push(json!({"type": "function", "function": function}));
        self.places.push(path.to_owned());
        if let Some(namespace) = namespace {
            self.names.insert(flat, (namespace.to_owned(), name.to_owned()));
        }
        Ok(json!({
            "type": "function", "name": name, "description": description,
            "parameters": parameters, "strict": strict,
        }))
    }

    /// `tool_choice` as a chat's.
    pub(super) fn choice(&self, choice: &Value) -> Result<Value, ApiError> {
        let path = "tool_choice";
        match choice {
            Value::String(word) if ["none", "auto", "required"].contains(&word.as_str()) => {
                Ok(choice.clone())
            }
            Value::Object(fields) => match text(fields, path, "type")? {
                "function" => self.one(fields, path),
                "allowed_tools" => {
                    let Some(tools) = fields.get("tools").and_then(Value::as_array) else {
                        return Err(must_be("tool_choice.tools", "an array of tools"));
                    };
                    let tools = tools.iter().enumerate().map(|(index, tool)| {
                        let path = format!("tool_choice.tools[{index}]");
                        match tool {
                            Value::Object(tool) if tool.get("type") == Some(&json!("function")) => {
                                self.one(tool, &path)
                            }
                            _ => Err(must_be(&path, "an object of type 'function'")),
                        }
                    });
                    let tools = tools.collect::<Result<Vec<_>, _>>()?;
                    let allowed = json!({"mode": fields.get("mode"), "tools": tools});
                    Ok(json!({"type": "allowed_tools", "allowed_tools": allowed}))
                }
                kind => Err(unsupported(path, kind)),
            },
            _ => {
                let what = "\"none\", \"auto\", \"required\", {\"type\": \"function\", \"name\": \
                            ..} or {\"type\": \"allowed_tools\", ..}";
                Err(must_be(path, what))
            }
        }
    }

    fn one(&self, fields: &Map<String, Value>, path: &str) -> Result<Value, ApiError> {
        let name = text(fields, path, "name")?;
        let flat = flat_name(optional_text(fields, path, "namespace")?, name);
        if !self.for_chat.iter().any(|tool| tool["function"]["name"] == flat.as_str()) {
            let message = format!("'{path}.name' is '{name}', which is not among 'tools'.");
            return Err(ApiError::invalid(format!("{path}.name"), message));
        }
        Ok(json!({"type": "function", "function": {"name": flat}}))
    }

    /// Namespace and name of what the model called.
    pub(super) fn names(self) -> HashMap<String, (String, String)> {
        self.names
    }

    /// The path in the request of what a chat calls `param`, such as `tools[2].function.parameters`.
    pub(super) fn place(&self, param: &str) -> Option<String> {
        let (index, rest) = param.strip_prefix("tools[")?.split_once(']')?;
        let place = self.places.get(index.parse::<usize>().ok()?)?;
        Some(format!("{place}{}", rest.strip_prefix(".function").unwrap_or(rest)))
    }
}

fn name_of<'a>(tool: &'a Map<String, Value>, path: &str) -> Result<&'a str, ApiError> {
    let name = text(tool, path, "name")?;
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_name_char) {
        return Ok(name);
    }
    let what = "a string of 1 to 128 letters, digits, '_', '-' and '.'";
    Err(must_be(&format!("{path}.name"), what))
}

fn unsupported(path: &str, kind: &str) -> ApiError {
    let message = format!(
        "'{path}.type' is '{kind}', which this server does not support; tools may be of type \
         'function', or 'namespace' with functions in it."
    );
    let code = Some("unsupported_parameter");
    ApiError { code, ..ApiError::invalid(format!("{path}.type"), message) }
}
