//! The engine's half of a sequence: what sampling, stopping and answering need. The scheduler has
//! the other half, under the same id.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::sample::{RowLogprobs, SampleRow, Sampled};
use scheduler::{NewSequence, SeqId};

use crate::handle::RequestLimits;
use crate::request::{
    EngineError, Event, FinishReason, Request, SamplingParams, Sink, TokenLogprobs,
};
use crate::speculation::{Drafter, Source};
use crate::steering::{Mask, Steering};

/// State of one request from its arrival in the engine to its last event.
pub(crate) struct Sequence {
    params: SamplingParams,
    sink: Sink,
    priority: i32,
    cache_salt: Option<String>,
    /// Prompt and output.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// `max_tokens`, or less where the context ends.
    max_new_tokens: usize,
    eos: Vec<u32>,
    /// Filled by the steps that score the prompt; taken when it is reported.
    prompt_scores: Option<Vec<Option<TokenLogprobs>>>,
    pub(crate) lists: SampleLists,
    steering: Option<Steering>,
    drafter: Drafter,
    /// Whether it has been in a step.
    pub(crate) started: bool,
    /// Prompt tokens found in the prefix cache at the first step.
    pub(crate) cached_tokens: usize,
}

/// What the sampler reads beside the numbers, kept up to date token by token.
#[derive(Debug, Default)]
pub(crate) struct SampleLists {
    /// Distinct ids of the prompt, if a penalty looks at them.
    pub(crate) prompt_tokens: Vec<u32>,
    /// How often each id occurs in the output, if a penalty looks at it.
    pub(crate) output_counts: HashMap<u32, u32>,
    pub(crate) bias: Vec<(u32, f32)>,
    /// Ids impossible until `min_tokens`.
    pub(crate) banned: Vec<u32>,
    /// One bit a token, 1 allows it.
    pub(crate) mask: Option<Vec<u32>>,
}

impl Sequence {
    /// `request` must have passed [`RequestLimits::check`].
    pub(crate) fn new(request: Request, limits: &RequestLimits, eos: &[u32]) -> Self {
        let Request { prompt, params, priority, cache_salt, constraint, sink } = request;
        let lists = SampleLists::new(&prompt, &params, limits.vocab_size, eos);
        let prompt_scores = params.prompt_logprobs.map(|_| vec![None; prompt.len()]);
        Self {
            prompt_len: prompt.len(),
            max_new_tokens: params.max_tokens.min(limits.max_model_len - prompt.len()),
            eos: if params.ignore_eos { Vec::new() } else { eos.to_vec() },
            tokens: prompt,
            params,
            sink,
            priority,
            cache_salt,
            prompt_scores,
            lists,
            steering: constraint.map(Steering::new),
            drafter: Drafter::default(),
            started: false,
            cached_tokens: 0,
        }
    }

    /// What the scheduler is to compute from here on: all of it, or what is left after a restart.
    pub(crate) fn to_schedule(&self, id: SeqId) -> NewSequence {
        NewSequence {
            id,
            prompt: self.tokens.clone(),
            max_new_tokens: self.max_new_tokens - self.num_generated(),
            priority: self.priority,
            salt: self.cache_salt.clone(),
            need_prompt_logits: self.prompt_scores.is_some(),
        }
    }

    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    fn num_generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Whether only the prompt is wanted.
    fn only_scores(&self) -> bool {
        self.max_new_tokens == 0
    }

    /// Parameters of the row that samples the token after `num_drafts` drafts. Its random number is keyed by the index
    /// in the output, so that neither the batch nor a preemption can change it.
    pub(crate) fn sample_row(&self, num_drafts: usize) -> SampleRow {
        let params = &self.params;
        SampleRow {
            temperature: params.temperature,
            top_p: params.top_p,
            top_k: params.top_k,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            seed: params.seed,
            position: (self.num_generated() + num_drafts) as u64,
            num_top: params.logprobs,
            mask: None,
        }
    }

    /// Ids that the token after `num_drafts` drafts may not be.
    pub(crate) fn banned(&self, num_drafts: usize) -> &[u32] {
        let num_before = self.num_generated() + num_drafts;
        if num_before < self.params.min_tokens { &self.lists.banned } else { &[] }
    }

    /// Whether penalties look at what was generated.
    pub(crate) fn counts_output(&self) -> bool {
        penalizes_output(&self.params)
    }

    /// What the next token and those after `drafts` must be chosen through, if not from all.
    pub(crate) fn mask<'a>(&'a self, drafts: &'a [u32]) -> Option<Mask<'a>> {
        let (steering, allowed) = (self.steering.as_ref(), self.lists.mask.as_deref());
        let is_masked = steering.is_some() || allowed.is_some();
        is_masked.then(|| {
            let banned = (0..=drafts.len()).map(|num_drafts| self.banned(num_drafts)).collect();
            Mask { steering, allowed, banned, drafts }
        })
    }

    /// Guesses the next tokens, at most `max`; see [`Drafter::propose`]. Returns how many.
    pub(crate) fn propose(&mut self, least_probability: f64, max: usize) -> usize {
        if self.num_generated() == 0 {
            return 0;
        }
        let Self { drafter, tokens, steering, .. } = self;
        drafter.propose(tokens, steering.as_mut(), least_probability, max)
    }

    /// The guesses for the step at hand.
    pub(crate) fn drafts(&self) -> &[u32] {
        self.drafter.ids()
    }

    /// Where they came from.
    pub(crate) fn draft_source(&self) -> Source {
        self.drafter.source()
    }

    /// The prompt token after each position of `start..end` that has one, with the number of
    /// most likely tokens to report beside it.
    pub(crate) fn score_targets(&self, start: usize, end: usize) -> Option<(&[u32], u32)> {
        let num_top = self.params.prompt_logprobs?;
        let end = end.min(self.prompt_len - 1);
        (self.prompt_scores.is_some() && start < end)
            .then(|| (&self.tokens[start + 1..=end], num_top))
    }

    /// Keeps the scores of the prompt tokens after `start`.
    pub(crate) fn record_scores(&mut self, start: usize, scores: Vec<RowLogprobs>) {
        if let Some(kept) = &mut self.prompt_scores {
            for (slot, score) in kept[start + 1..].iter_mut().zip(scores) {
                *slot = Some(score.into());
            }
        }
    }

    /// Records that positions below `computed` are done and what the row of each draft (the first
    /// `num_drafts` were computed) and the row before gave. Returns what comes of it.
    pub(crate) fn advance(
        &mut self,
        computed: usize,
        num_drafts: usize,
        sampled: Vec<Sampled>,
    ) -> Progress {
        let mut progress = Progress::default();
        if computed >= self.prompt_len
            && let Some(scores) = self.prompt_scores.take()
        {
            progress.events.push(Event::PromptScored(scores));
        }
        let mut reason = None;
        if sampled.is_empty() && self.only_scores() && computed >= self.prompt_len {
            reason = Some(FinishReason::Length);
        }
        for (at, Sampled { id, logprobs }) in sampled.into_iter().enumerate() {
            let accepted = self.steering.as_mut().map_or(Ok(false), |s| s.accept(at, id));
            let is_complete = match accepted {
                Ok(is_complete) => is_complete,
                Err(error) => return progress.failed(EngineError::Constraint(error)),
            };
            self.push(id);
            progress.tokens.push(id);
            reason = self.finish_reason(id, is_complete);
            let logprobs = logprobs.map(TokenLogprobs::from);
            progress.events.push(Event::Token { id, logprobs });
            let is_right = at < num_drafts && self.drafts()[at] == id;
            progress.num_right_drafts += usize::from(is_right);
            if reason.is_some() || !is_right {
                let num_checked = num_drafts.min(at + 1);
                self.drafter.record(progress.num_right_drafts, num_checked);
                break;
            }
        }
        if let Some(reason) = reason {
            let cached_tokens = self.cached_tokens;
            progress.events.push(Event::Finished { reason, cached_tokens });
            progress.finished = true;
        }
        progress
    }

    fn push(&mut self, id: u32) {
        self.tokens.push(id);
        if penalizes_output(&self.params) {
            *self.lists.output_counts.entry(id).or_default() += 1;
        }
    }

    fn finish_reason(&self, last: u32, is_complete: bool) -> Option<FinishReason> {
        if self.eos.contains(&last) {
            Some(FinishReason::Stop(None))
        } else if self.params.stop_token_ids.contains(&last) {
            Some(FinishReason::Stop(Some(last)))
        } else if is_complete {
            Some(FinishReason::Stop(None))
        } else {
            (self.num_generated() == self.max_new_tokens).then_some(FinishReason::Length)
        }
    }

    /// Sends an event. `false` if nobody listens; a sink that panics listens no more.
    pub(crate) fn emit(&mut self, event: Event) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.sink)(event))).unwrap_or(false)
    }
}

/// What a step made of a sequence.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) tokens: Vec<u32>,
    /// Drafts among `tokens`.
    pub(crate) num_right_drafts: usize,
    pub(crate) events: Vec<Event>,
    pub(crate) finished: bool,
}

impl Progress {
    fn failed(mut self, error: EngineError) -> Self {
        self.events.push(Event::Failed(error));
        self.finished = true;
        self
    }

    /// Whether the sequence ends without an answer.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.events.last(), Some(Event::Failed(_)))
    }
}

fn penalizes_output(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
        || params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0
}

impl SampleLists {
    fn new(prompt: &[u32], params: &SamplingParams, vocab_size: usize, eos: &[u32]) -> Self {
        let distinct = |ids: &[u32]| ids.iter().copied().collect::<BTreeSet<_>>();
        let prompt_tokens =
            if params.repetition_penalty == 1.0 { BTreeSet::new() } else { distinct(prompt) };
        let mut banned = BTreeSet::new();
        if params.min_tokens > 0 {
            banned = distinct(eos);
            banned.extend(&params.stop_token_ids);
        }
        let mask = params.allowed_token_ids.as_ref().map(|allowed| {
            let mut words = vec![0_u32; vocab_size.div_ceil(32)];
            for &id in allowed {
                words[id as usize / 32] |= 1 << (id % 32);
            }
            words
        });
        Self {
            prompt_tokens: prompt_tokens.into_iter().collect(),
            output_counts: HashMap::new(),
            bias: params
                .logit_bias
                .iter()
                .copied()
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect(),
            banned: banned.into_iter().filter(|&id| (id as usize) < vocab_size).collect(),
            mask,
        }
    }
}

impl From<RowLogprobs> for TokenLogprobs {
    fn from(row: RowLogprobs) -> Self {
        Self { logprob: row.logprob, rank: row.rank, top: row.top }
    }
}

impl RequestLimits {
    /// Refuses what could never run or would fail the step it runs in, neighbours included.
    pub(crate) fn check(&self, request: &Request, eos: &[u32]) -> Result<(), EngineError> {
        let Request { prompt, params, .. } = request;
        let reject = |message: String| Err(EngineError::Rejected(message));
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
        let allowed = params.allowed_token_ids.iter().flatten();
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
