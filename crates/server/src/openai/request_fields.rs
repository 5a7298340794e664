//! What every generation request may say besides how to sample: the model, streaming, labels.

use schemars::JsonSchema;
use serde::Deserialize;

use super::body::AnyObject;
use crate::error::ApiError;

/// Fields of both generation routes that do not change what is sampled.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct RequestFields {
    /// A served name; left out, the only model there is.
    pub(crate) model: Option<String>,
    /// Answer in server-sent events, a chunk per token.
    pub(crate) stream: Option<bool>,
    /// Only with `stream`.
    pub(crate) stream_options: Option<StreamOptions>,
    /// vLLM: give back the ids of prompt and answer.
    pub(crate) return_token_ids: Option<bool>,
    /// vLLM: name tokens `token_id:7` instead of by their text in log-probabilities.
    pub(crate) return_tokens_as_token_ids: Option<bool>,
    /// vLLM: lower runs first.
    pub(crate) priority: Option<i32>,
    /// vLLM: share cached prefixes only with requests of the same salt.
    pub(crate) cache_salt: Option<String>,
    /// OpenAI's stored completions: refused if true.
    store: Option<bool>,
    /// `auto` or `default`.
    #[schemars(extend("enum" = ["auto", "default", null]))]
    service_tier: Option<String>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    user: Option<String>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    metadata: Option<AnyObject>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    prompt_cache_key: Option<String>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    safety_identifier: Option<String>,
}

/// What a stream reports besides its deltas.
#[derive(Debug, Default, Clone, Copy, Deserialize, JsonSchema)]
#[schemars(rename = "ChatStreamOptions")]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// A last chunk without choices carries the usage; all others carry `"usage":null`.
    pub(crate) include_usage: Option<bool>,
    /// vLLM: every chunk carries the usage so far.
    pub(crate) continuous_usage_stats: Option<bool>,
    /// OpenAI's padding against traffic analysis: refused if true.
    pub(crate) include_obfuscation: Option<bool>,
}

impl RequestFields {
    /// Checks what serde cannot.
    pub(crate) fn validate(&self) -> Result<(), ApiError> {
        if self.store == Some(true) {
            return Err(ApiError::unsupported("store"));
        }
        if let Some(tier) = &self.service_tier
            && tier != "auto"
            && tier != "default"
        {
            let message = format!("'service_tier' is '{tier}'; it may be 'auto' or 'default'.");
            return Err(ApiError::invalid("service_tier", message));
        }
        if let Some(options) = self.stream_options {
            if !self.streams() {
                let message = "'stream_options' is only allowed when 'stream' is true.";
                return Err(ApiError::invalid("stream_options", message));
            }
            if options.include_obfuscation == Some(true) {
                return Err(ApiError::unsupported("stream_options.include_obfuscation"));
            }
        }
        Ok(())
    }

    /// Whether to answer in events.
    pub(crate) fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    /// What a stream reports; `None` if the answer is not streamed.
    pub(crate) fn stream_options(&self) -> Option<StreamOptions> {
        self.streams().then(|| self.stream_options.unwrap_or_default())
    }

    /// The `object` of a chat's response or chunks.
    pub(crate) fn chat_object(&self) -> &'static str {
        if self.streams() { "chat.completion.chunk" } else { "chat.completion" }
    }

    /// As vLLM: scores of the prompt only come with a whole response.
    pub(crate) fn check_prompt_logprobs(&self, num_top: Option<u32>) -> Result<(), ApiError> {
        if num_top.is_some() && self.streams() {
            let message = "'prompt_logprobs' is not available when 'stream' is true.";
            return Err(ApiError::invalid("prompt_logprobs", message));
        }
        Ok(())
    }
}
