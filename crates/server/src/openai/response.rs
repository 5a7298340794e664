//! What the responses of both routes share: the head, the usage, token names, prompt scores.

use engine::TokenLogprobs;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use text::Tokenizer;

use crate::random::random_id;
use crate::served_model::ServedModel;
use crate::state::unix_seconds;

/// JSON knows no infinity; vLLM writes this for a token that cannot be.
const LEAST_LOGPROB: f32 = -9999.0;

/// Says which build answered: with it, a model and a seed, an answer can be had again.
pub(crate) const SYSTEM_FINGERPRINT: &str = concat!("sconce-", env!("CARGO_PKG_VERSION"));

/// The same on every chunk of a response.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    #[serde(skip)]
    fields: String,
}

impl Head {
    /// A new id; `model` is reported by its first name, as vLLM does.
    pub(crate) fn new(prefix: &str, object: &'static str, model: &ServedModel) -> Self {
        let mut head = Self {
            id: random_id(prefix),
            object,
            created: unix_seconds(),
            model: model.names()[0].clone(),
            system_fingerprint: SYSTEM_FINGERPRINT,
            fields: String::new(),
        };
        let json = serde_json::to_string(&head).expect("strings and a number are JSON");
        json.strip_suffix('}').expect("an object").clone_into(&mut head.fields);
        head
    }

    /// As JSON, from the object's brace to the last field.
    pub(crate) fn fields(&self) -> &str {
        &self.fields
    }
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptTokensDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
struct CompletionTokensDetails {
    reasoning_tokens: usize,
}

impl Usage {
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(crate) fn completion_tokens(&self) -> usize {
        self.completion_tokens
    }

    /// Prompt tokens that came from the prefix cache, as far as that is known.
    pub(crate) fn cached_tokens(&self) -> usize {
        self.prompt_tokens_details.map_or(0, |details| details.cached_tokens)
    }

    /// Completion tokens between the marks of reasoning; 0 where that is not said.
    pub(crate) fn reasoning_tokens(&self) -> usize {
        self.completion_tokens_details.map_or(0, |details| details.reasoning_tokens)
    }

    pub(crate) fn total_tokens(&self) -> usize {
        self.total_tokens
    }

    /// `cached` is unknown until a sequence has run to an end of its own; `reasoning` is said of
    /// chats.
    pub(crate) fn new(
        prompt: usize,
        completion: usize,
        cached: Option<usize>,
        reasoning: Option<usize>,
    ) -> Self {
        Self {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: cached
                .map(|cached_tokens| PromptTokensDetails { cached_tokens }),
            completion_tokens_details: reasoning
                .map(|reasoning_tokens| CompletionTokensDetails { reasoning_tokens }),
        }
    }
}

/// How tokens are named in log-probabilities.
#[derive(Debug, Clone)]
pub(crate) struct TokenNames {
    pub(crate) tokenizer: Tokenizer,
    /// vLLM's `return_tokens_as_token_ids`.
    pub(crate) as_ids: bool,
}

impl TokenNames {
    /// The token's text; part of a character as `bytes:\xe2\x82`, as at OpenAI, so that different
    /// tokens have different names.
    pub(crate) fn name(&self, id: u32) -> String {
        if self.as_ids {
            return format!("token_id:{id}");
        }
        let bytes = self.tokenizer.token_bytes(id);
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                bytes.iter().fold("bytes:".into(), |name, byte| format!("{name}\\x{byte:02x}"))
            }
        }
    }

    /// vLLM's `prompt_logprobs`: for each token but the first an object from ids to scores, the
    /// prompt's own token and the `num_top` most likely.
    pub(crate) fn prompt_logprobs(
        &self,
        prompt: &[u32],
        scores: &[Option<TokenLogprobs>],
        num_top: u32,
    ) -> Vec<Option<Map<String, Value>>> {
        let entry = |id: u32, logprob: f32, rank: u32| {
            let score = json!({
                "logprob": number(finite(logprob)),
                "rank": rank,
                "decoded_token": self.name(id),
            });
            (id.to_string(), score)
        };
        let position = |(&id, score): (&u32, &Option<TokenLogprobs>)| {
            let score = score.as_ref()?;
            let own = entry(id, score.logprob, score.rank);
            let top = score.top.iter().take(num_top as usize).zip(1..);
            let top = top.filter(|((other, _), _)| *other != id);
            let top = top.map(|(&(other, logprob), rank)| entry(other, logprob, rank));
            Some(std::iter::once(own).chain(top).collect())
        };
        prompt.iter().zip(scores).map(position).collect()
    }
}

/// A log-probability that JSON can hold.
pub(crate) fn finite(logprob: f32) -> f32 {
    logprob.max(LEAST_LOGPROB)
}

/// As it is written on its own: as an f64 it would have twice the digits.
pub(crate) fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_digits_that_it_has_on_its_own() {
        for x in [-0.020_494_994_f32, -17.25, 0.0, LEAST_LOGPROB, -1e-20] {
            assert_eq!(number(x).as_f64().map(|x| x as f32), Some(x));
            let alone: f64 = serde_json::to_string(&x).unwrap().parse().unwrap();
            assert_eq!(number(x), json!(alone));
        }
    }
}
