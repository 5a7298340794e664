//! `/v1/completions`: the response, and the chunks of a stream, which look the same.

use axum::Json;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::response::{Head, TokenNames, Usage, finite, number};
use crate::generation::{Delta, Finish, TokenOut};
use crate::sse::{self, Event};

/// Renders deltas as completions.
#[derive(Debug)]
pub(crate) struct CompletionWire {
    pub(crate) head: Head,
    pub(crate) names: TokenNames,
    /// Alternatives at a position; `None` shows no log-probabilities.
    pub(crate) logprobs: Option<u32>,
    pub(crate) prompt_logprobs: Option<u32>,
    /// Choice `i` belongs to prompt `i / n`.
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) n: usize,
    pub(crate) return_token_ids: bool,
    /// Which choices of a stream have shown something already.
    pub(crate) opened: Vec<bool>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Completion<'a> {
    #[serde(flatten)]
    head: &'a Head,
    #[serde(flatten)]
    rest: CompletionRest,
}

#[derive(Serialize, JsonSchema)]
struct CompletionRest {
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "sse::UsageField::is_absent")]
    usage: sse::UsageField,
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "CompletionChoice")]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    stop_reason: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// Four lists, an entry a token; lm-evaluation-harness reads the second and the third.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "CompletionLogprobs")]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
struct Logprobs {
    text_offset: Vec<usize>,
    token_logprobs: Vec<Option<f32>>,
    tokens: Vec<String>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
}

impl CompletionWire {
    /// `first`: nothing of this choice has been shown before.
    fn choice(&self, mut delta: Delta, finish: Option<Finish>, first: bool) -> Choice {
        let prompt = &self.prompts[delta.index / self.n];
        let scores = self.prompt_logprobs.zip(delta.prompt_logprobs.as_deref());
        let (finish_reason, stop_reason) = match finish {
            Some(finish) => (Some(finish.reason), finish.stop_reason),
            None => (None, Value::Null),
        };
        let sampled = delta.tokens.iter().filter(|token| !token.echoed);
        Choice {
            index: delta.index,
            logprobs: self.scored(&delta.tokens),
            finish_reason,
            stop_reason,
            prompt_logprobs: scores
                .map(|(top, scores)| self.names.prompt_logprobs(prompt, scores, top)),
            token_ids: self.return_token_ids.then(|| sampled.map(|token| token.id).collect()),
            prompt_token_ids: (self.return_token_ids && first).then(|| prompt.clone()),
            text: delta.take_text(),
        }
    }

    fn scored(&self, tokens: &[TokenOut]) -> Option<Logprobs> {
        let num_top = self.logprobs? as usize;
        let mut lists = Logprobs::default();
        for token in tokens {
            lists.text_offset.push(token.text_offset);
            lists.tokens.push(self.names.name(token.id));
            let Some(scores) = &token.logprobs else {
                lists.token_logprobs.push(None);
                lists.top_logprobs.push(None);
                continue;
            };
            lists.token_logprobs.push(Some(finite(scores.logprob)));
            // The token itself is always listed, as at OpenAI.
            let top = scores.top.iter().take(num_top).copied();
            let top = top.chain([(token.id, scores.logprob)]);
            let top = top.map(|(id, logprob)| (self.names.name(id), number(finite(logprob))));
            lists.top_logprobs.push(Some(top.collect()));
        }
        Some(lists)
    }
}

impl sse::Wire for CompletionWire {
    fn whole(&self, choices: Vec<Delta>, usage: Usage) -> Response {
        let choices = choices.into_iter();
        let choices = choices.map(|mut delta| {
            let finish = delta.finish.take();
            self.choice(delta, finish, true)
        });
        let usage = sse::UsageField::Known(usage);
        let rest = CompletionRest { choices: choices.collect(), usage };
        Json(Completion { head: &self.head, rest }).into_response()
    }
}

impl sse::Frames for CompletionWire {
    fn events(&mut self, mut delta: Delta, usage: sse::UsageField) -> Vec<Event> {
        let mut events = Vec::new();
        let index = delta.index;
        let finish = delta.finish.take();
        let wants_tokens = self.logprobs.is_some() || self.return_token_ids;
        let choice = |this: &mut Self, delta, finish| {
            let first = !std::mem::replace(&mut this.opened[index], true);
            let choices = vec![this.choice(delta, finish, first)];
            sse::chunk(&this.head, &CompletionRest { choices, usage })
        };
        if !delta.parts.is_empty() || (wants_tokens && !delta.tokens.is_empty()) {
            events.push(choice(self, delta, None));
        }
        if finish.is_some() {
            events.push(choice(self, Delta::empty(index), finish));
        }
        events
    }

    fn usage_event(&self, usage: Usage) -> Option<Event> {
        let usage = sse::UsageField::Known(usage);
        Some(sse::chunk(&self.head, &CompletionRest { choices: Vec::new(), usage }))
    }
}
