//! How to sample and when to stop: OpenAI's and vLLM's fields, their ranges and their defaults.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::SamplingParams;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use text::{GenerationConfig, StopStrings};

use crate::error::ApiError;

/// Most choices of one prompt, as at OpenAI.
const MAX_N: i64 = 128;
/// Most stop strings; OpenAI takes 4, clients of vLLM send more.
const MAX_STOP_STRINGS: usize = 64;
/// Longest stop string, in bytes: a stream may hold back this much.
const MAX_STOP_BYTES: usize = 4096;
/// Most ids that end an answer: each new token is compared with them.
const MAX_STOP_TOKEN_IDS: usize = 1024;
/// Most alternatives that log-probabilities list at a position.
pub(crate) const MAX_TOP_LOGPROBS: i64 = 20;

/// Fields of both generation routes that change what is sampled or shown.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct SamplingFields {
    /// 0 (greedy) to 2.
    #[schemars(range(min = 0, max = 2))]
    temperature: Option<f64>,
    /// Above 0, at most 1.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    top_p: Option<f64>,
    /// vLLM: -1 and 0 keep all.
    #[schemars(range(min = -1, max = u32::MAX))]
    top_k: Option<i64>,
    /// vLLM: 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    min_p: Option<f64>,
    /// vLLM: above 0, at most 10; 1 is neutral.
    #[schemars(range(max = 10), extend("exclusiveMinimum" = 0))]
    repetition_penalty: Option<f64>,
    /// -2 to 2.
    #[schemars(range(min = -2, max = 2))]
    presence_penalty: Option<f64>,
    /// -2 to 2.
    #[schemars(range(min = -2, max = 2))]
    frequency_penalty: Option<f64>,
    /// Choice `i` of a prompt is sampled with `seed + i`; left out, a random one.
    seed: Option<i64>,
    /// Choices of each prompt, 1 to 128.
    #[schemars(range(min = 1, max = MAX_N))]
    n: Option<i64>,
    /// One string or up to 64.
    stop: Option<StopField>,
    /// vLLM: ids that end the answer, up to 1024.
    stop_token_ids: Option<Vec<u32>>,
    /// vLLM: generate past end-of-sequence tokens.
    ignore_eos: Option<bool>,
    /// vLLM: nothing ends the answer before this many tokens.
    #[schemars(range(min = 0, max = i32::MAX))]
    min_tokens: Option<i64>,
    /// Longest answer; each route has its own default.
    #[schemars(range(min = 0))]
    pub(crate) max_tokens: Option<i64>,
    /// Token id (as a string) to a bias of -100 to 100.
    logit_bias: Option<BTreeMap<String, f64>>,
    /// vLLM: if given, no other token can be sampled.
    #[schemars(length(min = 1))]
    allowed_token_ids: Option<Vec<u32>>,
    /// vLLM: log-probabilities of the prompt, with 0 to 20 alternatives; not with `stream`.
    #[schemars(range(min = 0, max = MAX_TOP_LOGPROBS))]
    prompt_logprobs: Option<i64>,
    /// vLLM: show the stop string (or stop token) that ended the answer.
    include_stop_str_in_output: Option<bool>,
    /// vLLM: leave special tokens out of the text; true by default.
    skip_special_tokens: Option<bool>,
    #[expect(dead_code, reason = "only slow tokenizers know it; every one here is fast")]
    spaces_between_special_tokens: Option<bool>,
    /// vLLM: keep only the last tokens of the prompt.
    #[schemars(range(min = 1))]
    pub(crate) truncate_prompt_tokens: Option<i64>,
}

/// `stop`: one string or several.
#[derive(Debug)]
struct StopField(Vec<String>);

impl JsonSchema for StopField {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Stop".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json!({"type": "string", "minLength": 1});
        json_schema!({"anyOf": [
            text, {"type": "array", "items": text, "maxItems": MAX_STOP_STRINGS},
        ]})
    }
}

impl<'de> Deserialize<'de> for StopField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Stops;
        impl<'de> serde::de::Visitor<'de> for Stops {
            type Value = StopField;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StopField, E> {
                Ok(StopField(vec![text.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<StopField, A::Error> {
                let mut stops = Vec::new();
                while let Some(stop) = items.next_element()? {
                    stops.push(stop);
                }
                Ok(StopField(stops))
            }
        }
        deserializer.deserialize_any(Stops)
    }
}

/// Validated: what goes to the engine, and what the server applies to the text.
#[derive(Debug, Clone)]
pub(crate) struct Sampling {
    /// `max_tokens` and the log-probabilities of the answer are the route's to fill in.
    pub(crate) params: SamplingParams,
    /// Choices of each prompt.
    pub(crate) n: usize,
    /// Without one, each sequence gets its own random one.
    pub(crate) seed: Option<u64>,
    pub(crate) text: TextRules,
}

/// How ids become the text of a choice.
#[derive(Debug, Clone)]
pub(crate) struct TextRules {
    /// Before any text.
    pub(crate) stop: StopStrings,
    pub(crate) include_stop: bool,
    pub(crate) skip_special_tokens: bool,
    /// Stop strings do not count before this many tokens.
    pub(crate) min_tokens: usize,
    /// Ids that end a sequence and are not part of its text.
    pub(crate) end_ids: Vec<u32>,
}

impl SamplingFields {
    /// Checks every range. `defaults` fills what the request leaves out, `vocab_size` bounds ids.
    pub(crate) fn validate(
        &self,
        defaults: &GenerationConfig,
        vocab_size: usize,
    ) -> Result<Sampling, ApiError> {
        let eos = &defaults.eos_token_ids;
        let mut params = self.filters(defaults)?;
        params.presence_penalty =
            ranged("presence_penalty", self.presence_penalty, -2.0, 2.0)?.unwrap_or(0.0);
        params.frequency_penalty =
            ranged("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?.unwrap_or(0.0);
        params.logit_bias = self.logit_bias(vocab_size)?;
        params.allowed_token_ids = self.allowed(vocab_size)?;
        params.stop_token_ids = self.stop_ids(vocab_size)?;
        params.prompt_logprobs =
            integer("prompt_logprobs", self.prompt_logprobs, 0, MAX_TOP_LOGPROBS)?
                .map(|count| count as u32);
        let min_tokens = integer("min_tokens", self.min_tokens, 0, i64::from(i32::MAX))?;
        params.min_tokens = min_tokens.unwrap_or(0) as usize;
        params.ignore_eos = self.ignore_eos == Some(true);
        let mut end_ids = params.stop_token_ids.clone();
        if !params.ignore_eos {
            end_ids.extend(eos);
        }
        let include_stop = self.include_stop_str_in_output == Some(true);
        let text = TextRules {
            stop: StopStrings::new(self.stop_strings()?, include_stop),
            include_stop,
            skip_special_tokens: self.skip_special_tokens != Some(false),
            min_tokens: params.min_tokens,
            end_ids,
        };
        let n = integer("n", self.n, 1, MAX_N)?.unwrap_or(1) as usize;
        Ok(Sampling { params, n, seed: self.seed.map(|seed| seed as u64), text })
    }

    /// The parameters for which generation_config.json may set a default.
    fn filters(&self, defaults: &GenerationConfig) -> Result<SamplingParams, ApiError> {
        let neutral = SamplingParams::default();
        let top_k = integer("top_k", self.top_k, -1, i64::from(u32::MAX))?;
        Ok(SamplingParams {
            temperature: ranged("temperature", self.temperature, 0.0, 2.0)?
                .or(defaults.temperature)
                .unwrap_or(neutral.temperature),
            top_p: positive("top_p", self.top_p, 1.0)?.or(defaults.top_p).unwrap_or(neutral.top_p),
            top_k: top_k.map(|k| k.max(0) as u32).or(defaults.top_k).unwrap_or(neutral.top_k),
            min_p: ranged("min_p", self.min_p, 0.0, 1.0)?
                .or(defaults.min_p)
                .unwrap_or(neutral.min_p),
            repetition_penalty: positive("repetition_penalty", self.repetition_penalty, 10.0)?
                .or(defaults.repetition_penalty)
                .unwrap_or(neutral.repetition_penalty),
            ..neutral
        })
    }

    fn stop_strings(&self) -> Result<Vec<String>, ApiError> {
        let Some(StopField(stops)) = &self.stop else {
            return Ok(Vec::new());
        };
        if stops.len() > MAX_STOP_STRINGS {
            let message = format!(
                "'stop' has {} strings; at most {MAX_STOP_STRINGS} are allowed.",
                stops.len()
            );
            return Err(ApiError::invalid("stop", message));
        }
        if let Some(stop) = stops.iter().find(|stop| !(1..=MAX_STOP_BYTES).contains(&stop.len())) {
            let message = format!(
                "A string in 'stop' has {} bytes; 1 to {MAX_STOP_BYTES} are allowed.",
                stop.len()
            );
            return Err(ApiError::invalid("stop", message));
        }
        Ok(stops.clone())
    }

    fn stop_ids(&self, vocab_size: usize) -> Result<Vec<u32>, ApiError> {
        let ids: BTreeSet<u32> = self.stop_token_ids.iter().flatten().copied().collect();
        check_ids("stop_token_ids", &ids, vocab_size)?;
        if ids.len() > MAX_STOP_TOKEN_IDS {
            let message = format!(
                "'stop_token_ids' has {} ids; at most {MAX_STOP_TOKEN_IDS} are allowed.",
                ids.len()
            );
            return Err(ApiError::invalid("stop_token_ids", message));
        }
        Ok(ids.into_iter().collect())
    }

    fn allowed(&self, vocab_size: usize) -> Result<Option<Arc<[u32]>>, ApiError> {
        let Some(allowed) = &self.allowed_token_ids else { return Ok(None) };
        let ids: BTreeSet<u32> = allowed.iter().copied().collect();
        check_ids("allowed_token_ids", &ids, vocab_size)?;
        if ids.is_empty() {
            let message = "'allowed_token_ids' must not be empty.";
            return Err(ApiError::invalid("allowed_token_ids", message));
        }
        Ok(Some(ids.into_iter().collect()))
    }

    fn logit_bias(&self, vocab_size: usize) -> Result<Arc<[(u32, f32)]>, ApiError> {
        let biases = self.logit_bias.iter().flatten();
        let by_id: BTreeMap<u32, f32> = biases
            .map(|(key, &bias)| {
                let path = format!("logit_bias.{key}");
                let id = key.parse().map_err(|_| {
                    let message = format!("The key '{key}' of 'logit_bias' is not a token id.");
                    ApiError::invalid(&path, message)
                })?;
                check_ids(&path, [&id], vocab_size)?;
                let bias = ranged(&path, Some(bias), -100.0, 100.0)?.unwrap_or(0.0);
                Ok((id, bias))
            })
            .collect::<Result<_, ApiError>>()?;
        Ok(by_id.into_iter().collect())
    }
}

impl Sampling {
    /// The answer must have room for its least length.
    pub(crate) fn check_min_tokens(&self, max_tokens: usize) -> Result<(), ApiError> {
        let min_tokens = self.params.min_tokens;
        if min_tokens > max_tokens {
            let message =
                format!("'min_tokens' is {min_tokens}; at most {max_tokens} will be generated.");
            return Err(ApiError::invalid("min_tokens", message));
        }
        Ok(())
    }
}

/// Checks that a number is in `[low, high]`.
fn ranged(name: &str, value: Option<f64>, low: f64, high: f64) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if !(low..=high).contains(&value) => {
            let message = format!("'{name}' is {value}; it must be between {low} and {high}.");
            Err(ApiError::invalid(name, message))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// Checks that a number is in `(0, high]`.
fn positive(name: &str, value: Option<f64>, high: f64) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if !(f64::from(f32::MIN_POSITIVE)..=high).contains(&value) => {
            let message = format!("'{name}' is {value}; it must be above 0 and at most {high}.");
            Err(ApiError::invalid(name, message))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// Checks that an integer is in `[low, high]`.
pub(crate) fn integer(
    name: &str,
    value: Option<i64>,
    low: i64,
    high: i64,
) -> Result<Option<i64>, ApiError> {
    match value {
        Some(value) if !(low..=high).contains(&value) => {
            let message = format!("'{name}' is {value}; it must be between {low} and {high}.");
            Err(ApiError::invalid(name, message))
        }
        value => Ok(value),
    }
}

/// Checks that token ids are below the vocabulary's size.
pub(crate) fn check_ids<'a>(
    name: &str,
    ids: impl IntoIterator<Item = &'a u32>,
    vocab_size: usize,
) -> Result<(), ApiError> {
    match ids.into_iter().find(|&&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => {
            let message = format!(
                "'{name}' holds the token id {id}; the vocabulary has ids 0 to {}.",
                vocab_size.saturating_sub(1)
            );
            Err(ApiError::invalid(name, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(fields: serde_json::Value) -> Result<Sampling, ApiError> {
        let fields: SamplingFields = serde_json::from_value(fields).unwrap();
        fields.validate(&GenerationConfig::default(), 5000)
    }

    #[test]
    fn lists_of_ids_have_each_once_and_those_that_end_are_few() {
        let ids: Vec<u32> = (0..1024).rev().collect();
        let twice = [&ids[..], &ids].concat();
        let sampling =
            validate(json!({"stop_token_ids": twice, "allowed_token_ids": [9, 7, 9]})).unwrap();
        assert_eq!(sampling.params.stop_token_ids, (0..1024).collect::<Vec<_>>());
        assert_eq!(sampling.params.allowed_token_ids.as_deref(), Some(&[7, 9][..]));
        let ids: Vec<u32> = (0..1025).collect();
        let error = validate(json!({"stop_token_ids": ids})).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("stop_token_ids"));
        assert!(error.message.contains("1025 ids; at most 1024"), "{}", error.message);
    }
}
