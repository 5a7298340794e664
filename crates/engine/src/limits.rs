//! What a request must keep to, checked at the door.

use crate::request::{EngineError, Request, SamplingParams};

/// What a request must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestLimits {
    pub(crate) max_model_len: usize,
    pub(crate) vocab_size: usize,
    pub(crate) max_num_queued_reqs: usize,
    pub(crate) max_num_queued_tokens: Option<usize>,
    /// Whether prompts become vectors and nothing is generated.
    pub(crate) pools: bool,
}

impl RequestLimits {
    /// Refuses what could never run or would fail the step it runs in, neighbours included.
    pub(crate) fn check(&self, request: &Request, eos: &[u32]) -> Result<(), EngineError> {
        let Request { prompt, params, .. } = request;
        let reject = |message: String| Err(EngineError::Rejected(message));
        if self.pools && params.max_tokens > 0 {
            return reject("this engine pools and generates nothing: max_tokens must be 0".into());
        }
        if prompt.is_empty() {
            return reject("prompt is empty: give at least one token".into());
        }
        let longest = self.max_model_len - usize::from(params.max_tokens > 0);
        if prompt.len() > longest {
            return reject(format!(
                "prompt has {} tokens but the context length is {}: shorten it to {longest}",
                prompt.len(),
                self.max_model_len
            ));
        }
        let bias = params.logit_bias.iter().map(|(id, _)| id);
        let allowed = params.allowed_token_ids.iter().flat_map(|allowed| &**allowed);
        let named = [("prompt", prompt.iter().max()), ("logit_bias", bias.max())];
        for (field, id) in named.into_iter().chain([("allowed_token_ids", allowed.max())]) {
            if let Some(&id) = id
                && id as usize >= self.vocab_size
            {
                return reject(format!(
                    "{field} names token {id} but the vocabulary has {}",
                    self.vocab_size
                ));
            }
        }
        check_params(params).and_then(|()| check_allowed(params, eos)).or_else(reject)
    }
}

/// Refuses numbers that the sampler would refuse for the whole step.
fn check_params(params: &SamplingParams) -> Result<(), String> {
    let numbers = [
        ("temperature", params.temperature, params.temperature >= 0.0),
        ("top_p", params.top_p, params.top_p > 0.0 && params.top_p <= 1.0),
        ("min_p", params.min_p, (0.0..=1.0).contains(&params.min_p)),
        ("repetition_penalty", params.repetition_penalty, params.repetition_penalty > 0.0),
        ("presence_penalty", params.presence_penalty, true),
        ("frequency_penalty", params.frequency_penalty, true),
    ];
    for (field, value, in_range) in numbers {
        if !in_range || !value.is_finite() {
            return Err(format!("{field} is {value}, outside its range"));
        }
    }
    if let Some((id, bias)) = params.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
        return Err(format!("logit_bias of token {id} is {bias}: give a finite number"));
    }
    Ok(())
}

/// Refuses a mask that, with what `min_tokens` forbids, leaves no token.
fn check_allowed(params: &SamplingParams, eos: &[u32]) -> Result<(), String> {
    let Some(allowed) = &params.allowed_token_ids else { return Ok(()) };
    if allowed.is_empty() {
        return Err("allowed_token_ids is empty: allow at least one token".into());
    }
    let ends = |id: &u32| eos.contains(id) || params.stop_token_ids.contains(id);
    if params.min_tokens > 0 && allowed.iter().all(ends) {
        return Err("allowed_token_ids holds only tokens that min_tokens forbids".into());
    }
    Ok(())
}
