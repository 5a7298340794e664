//! The response object: what it repeats of its request, and how it went.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::request::Fields;
use super::tools::ToolSet;
use crate::generation::Job;
use crate::openai::response::Usage;
use crate::random::random_id;
use crate::served_model::ServedModel;
use crate::state::unix_seconds;

/// What stays the same from the first event to the last. Every field that OpenAI's types and those
/// of Open Responses ask for is there, with the value that was in effect.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Echo {
    pub(super) id: String,
    object: &'static str,
    created_at: u64,
    model: String,
    previous_response_id: Option<String>,
    instructions: Option<String>,
    tools: Vec<Value>,
    tool_choice: Value,
    parallel_tool_calls: bool,
    text: Value,
    reasoning: Value,
    temperature: f32,
    top_p: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    top_logprobs: i64,
    max_output_tokens: Option<i64>,
    max_tool_calls: Option<i64>,
    truncation: &'static str,
    store: bool,
    background: bool,
    service_tier: &'static str,
    metadata: Map<String, Value>,
    prompt_cache_key: Option<String>,
    safety_identifier: Option<String>,
    user: Option<String>,
}

/// The whole object.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Response")]
pub(crate) struct ResponseObject<'a> {
    #[serde(flatten)]
    pub(super) echo: &'a Echo,
    pub(super) status: &'static str,
    pub(super) completed_at: Option<u64>,
    pub(super) error: Option<Value>,
    pub(super) incomplete_details: Option<Value>,
    pub(super) output: Vec<Value>,
    pub(super) usage: Option<ResponseUsage>,
}

impl Echo {
    /// A new id; `job` has what the request left to the model's defaults.
    pub(crate) fn new(fields: Fields, tools: &ToolSet, job: &Job, model: &ServedModel) -> Self {
        let params = &job.sampling.params;
        let text = fields.text.unwrap_or_default();
        let plain = || json!({"type": "text"});
        let format = text.format.as_ref().map_or_else(plain, |format| json!(format));
        let reasoning = fields.reasoning.unwrap_or_default();
        let choice = fields.tool_choice.filter(|choice| !choice.is_null());
        Self {
            store: fields.store != Some(false),
            id: random_id("resp_"),
            object: "response",
            created_at: unix_seconds(),
            model: model.names()[0].clone(),
            previous_response_id: fields.previous_response_id,
            instructions: fields.instructions,
            tools: tools.shown.clone(),
            tool_choice: choice.unwrap_or_else(|| "auto".into()),
            parallel_tool_calls: fields.parallel_tool_calls != Some(false),
            text: json!({"format": format, "verbosity": "medium"}),
            // Nothing is summarised, whatever was asked for.
            reasoning: json!({"effort": reasoning.effort, "summary": null}),
            temperature: params.temperature,
            top_p: params.top_p,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            top_logprobs: fields.top_logprobs.unwrap_or(0),
            max_output_tokens: fields.max_output_tokens,
            max_tool_calls: fields.max_tool_calls,
            truncation: "disabled",
            background: false,
            service_tier: "default",
            metadata: fields.metadata.unwrap_or_default(),
            prompt_cache_key: fields.prompt_cache_key,
            safety_identifier: fields.safety_identifier,
            user: fields.user,
        }
    }
}

/// A chat's usage under this route's names.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ResponseUsage {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseInputDetails")]
struct InputDetails {
    cached_tokens: u64,
    /// At OpenAI a thing to be paid for, and done on request; here nothing is written on request.
    cache_write_tokens: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResponseOutputDetails")]
struct OutputDetails {
    reasoning_tokens: u64,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens() as u64,
            input_tokens_details: InputDetails {
                cached_tokens: usage.cached_tokens() as u64,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens() as u64,
            output_tokens_details: OutputDetails {
                reasoning_tokens: usage.reasoning_tokens() as u64,
            },
            total_tokens: usage.total_tokens() as u64,
        }
    }
}
