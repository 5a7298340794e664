//! From a request to a chat: its messages, its fields under a chat's names, and faults back under
//! this route's names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::input::{self, Given};
use super::messages::messages;
use super::object::Echo;
use super::request::Fields;
use super::store::{Owner, ResponseStore, Turn};
use super::tools::ToolSet;
use crate::error::ApiError;
use crate::generation::Job;
use crate::openai::chat_request::ChatRequest;
use crate::registry::Registry;
use crate::responses::answer::Answer;
use crate::routes::chat;
use crate::served_model::ServedModel;

/// What a chat's fields are called here.
const NAMES: &[(&str, &str)] = &[
    ("messages", "input"),
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format.json_schema.schema", "text.format.schema"),
    ("response_format", "text.format"),
    ("tool_choice.allowed_tools.mode", "tool_choice.mode"),
    ("tool_choice.allowed_tools.tools", "tool_choice.tools"),
];

/// A request that has passed every check.
pub(crate) struct Prepared {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) job: Job,
    pub(crate) answer: Answer,
    pub(crate) streams: bool,
    pub(crate) stores: bool,
    /// The items of the request, and the turns before them.
    pub(crate) input: Vec<Value>,
    pub(crate) previous: Option<Arc<Turn>>,
}

/// The part that takes time with large inputs.
pub(crate) fn prepare(
    models: &Registry,
    store: &ResponseStore,
    body: &[u8],
    owner: Owner,
) -> Result<Prepared, ApiError> {
    let (fields, passed) = Fields::parse(body)?;
    let model = models.generating(fields.model.as_deref())?;
    let previous = previous(store, fields.previous_response_id.as_deref(), owner)?;
    let input = resolve(input::read(fields.input.as_ref())?, store, owner)?;
    let mut items = previous.as_deref().map(Turn::items).unwrap_or_default();
    let num_stored = items.len();
    items.extend(input.iter().cloned());
    let messages = messages(fields.instructions.as_deref(), &items, num_stored)?;
    let mut body = chat_body(&fields, passed, messages);
    let given = fields.tools.as_deref().unwrap_or_default();
    let mut tools = ToolSet::read(given, true)?;
    let mut chat = chat_of(&model, &fields, &mut body, &tools);
    if tools.has_defaults && chat.as_ref().is_err_and(is_about_tools) {
        tools = ToolSet::read(given, false)?;
        chat = chat_of(&model, &fields, &mut body, &tools);
    }
    let chat = chat.map_err(|error| renamed(error, &tools))?;
    let (streams, stores) = (fields.streams(), fields.stores());
    let echo = Echo::new(fields, &tools, &chat.job, &model);
    let answer = Answer::new(echo, chat.wire, tools.names(), streams);
    Ok(Prepared { model, job: chat.job, answer, streams, stores, input, previous })
}

/// Whether a tool's schema, or the way in which the model calls, is at fault.
fn is_about_tools(error: &ApiError) -> bool {
    error.param.as_deref().is_some_and(|param| param.starts_with("tools"))
}

fn previous(
    store: &ResponseStore,
    id: Option<&str>,
    owner: Owner,
) -> Result<Option<Arc<Turn>>, ApiError> {
    let Some(id) = id else { return Ok(None) };
    let turn = store.turn(Instant::now(), owner, id);
    turn.map(Some).ok_or_else(|| {
        let message = format!("Previous response with id '{id}' not found.");
        let error = ApiError::invalid("previous_response_id", message);
        ApiError { code: Some("previous_response_not_found"), ..error }
    })
}

/// Puts items of stored responses in the place of their references.
fn resolve(given: Vec<Given>, store: &ResponseStore, owner: Owner) -> Result<Vec<Value>, ApiError> {
    let wanted: HashSet<&str> = given
        .iter()
        .filter_map(|given| match given {
            Given::Reference { id, .. } => Some(id.as_str()),
            Given::Item(_) => None,
        })
        .collect();
    let stored = if wanted.is_empty() {
        HashMap::new()
    } else {
        store.items(Instant::now(), owner, &wanted)
    };
    let given = given.into_iter().map(|given| match given {
        Given::Item(item) => Ok(item),
        Given::Reference { id, path } => stored.get(&id).cloned().ok_or_else(|| {
            let message = format!("Item with id '{id}' not found: give the item itself.");
            ApiError { code: Some("item_not_found"), ..ApiError::invalid(path, message) }
        }),
    });
    given.collect()
}

/// The request as a chat's, but for its tools.
fn chat_body(
    fields: &Fields,
    passed: Map<String, Value>,
    messages: Vec<Value>,
) -> Map<String, Value> {
    let mut body = passed;
    body.insert("messages".into(), messages.into());
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.into(), value);
        }
    };
    set("max_completion_tokens", fields.max_output_tokens.map(Value::from));
    set("parallel_tool_calls", fields.parallel_tool_calls.map(Value::from));
    set("reasoning_effort", fields.reasoning.as_ref().and_then(|field| field.effort.clone()));
    let format = fields.text.as_ref().and_then(|text| text.format.as_ref());
    set("response_format", format.map(super::request::Format::for_chat));
    if fields.wants_logprobs() {
        set("logprobs", Some(json!(true)));
        set("top_logprobs", fields.top_logprobs.map(Value::from));
    }
    body
}

fn chat_of(
    model: &ServedModel,
    fields: &Fields,
    body: &mut Map<String, Value>,
    tools: &ToolSet,
) -> Result<chat::Prepared, ApiError> {
    if !tools.for_chat.is_empty() {
        body.insert("tools".into(), tools.for_chat.clone().into());
    }
    if let Some(choice) = fields.tool_choice.as_ref().filter(|choice| !choice.is_null()) {
        body.insert("tool_choice".into(), tools.choice(choice)?);
    }
    let body = serde_json::to_vec(body).expect("JSON values have string keys");
    chat::prepare(model, ChatRequest::parse(&body)?, false)
}

/// A fault of the chat, told with the names of this route.
fn renamed(mut error: ApiError, tools: &ToolSet) -> ApiError {
    let Some(old) = &error.param else { return error };
    let known = NAMES.iter().find(|(name, _)| old == name).map(|(_, new)| (*new).to_owned());
    if let Some(new) = known.or_else(|| tools.place(old)) {
        error.message = error.message.replace(&format!("'{old}'"), &format!("'{new}'"));
        error.param = Some(new);
    }
    error
}
