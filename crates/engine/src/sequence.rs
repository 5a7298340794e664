//! The engine's half of a sequence: what sampling, stopping and answering need. The scheduler has
//! the other half, under the same id.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use kernels::sample::{RowFault, SampleRow, Sampled, SampledRow, TokenLogprobs};
use parking_lot::Mutex;
use scheduler::{Entry, NewSequence, SeqId, Share};

use crate::backlog::Left;
use crate::limits::RequestLimits;
use crate::request::{EngineError, Event, FinishReason, Request, SamplingParams, Sink};
use crate::speculation::{Drafter, Price, Source};
use crate::steering::{Mask, Steering};
use crate::step::EntryOutput;

/// State of one request from its arrival in the engine to its last event.
pub(crate) struct Sequence {
    params: SamplingParams,
    /// Behind a lock that nobody waits for: ranks look at a sequence at the same time, and none of them emits.
    sink: Mutex<Sink>,
    priority: i32,
    share: Option<Share>,
    pub(crate) deadline: Option<Instant>,
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
    pub(crate) num_preemptions: usize,
    /// Faults of unknown cause while it waited.
    pub(crate) num_faults: usize,
}

/// What the sampler reads beside the numbers, kept up to date token by token.
#[derive(Debug, Default)]
pub(crate) struct SampleLists {
    /// Distinct ids of the prompt, if a penalty looks at them.
    pub(crate) prompt_tokens: Vec<u32>,
    /// How often each id occurs in the output, if a penalty looks at it.
    pub(crate) output_counts: HashMap<u32, u32>,
    pub(crate) bias: Arc<[(u32, f32)]>,
    /// Ids impossible until `min_tokens`.
    pub(crate) banned: Vec<u32>,
    /// One bit a token, 1 allows it.
    pub(crate) mask: Option<Vec<u32>>,
}

impl Sequence {
    /// `request` must have passed [`RequestLimits::check`].
    pub(crate) fn new(request: Request, limits: &RequestLimits, eos: &[u32]) -> Self {
        let Request { prompt, params, priority, share, deadline, cache_salt, constraint, sink } =
            request;
        let lists = SampleLists::new(&prompt, &params, limits.vocab_size, eos);
        let prompt_scores = params.prompt_logprobs.map(|_| vec![None; prompt.len()]);
        Self {
            prompt_len: prompt.len(),
            max_new_tokens: params.max_tokens.min(limits.max_model_len - prompt.len()),
            eos: if params.ignore_eos { Vec::new() } else { eos.to_vec() },
            tokens: prompt,
            params,
            sink: Mutex::new(sink),
            priority,
            share,
            deadline,
            cache_salt,
            prompt_scores,
            lists,
            steering: constraint.map(Steering::new),
            drafter: Drafter::default(),
            started: false,
            cached_tokens: 0,
            num_preemptions: 0,
            num_faults: 0,
        }
    }

    /// What the scheduler is to compute from here on: all of it, or what is left after a restart.
    pub(crate) fn to_schedule(&self, id: SeqId) -> NewSequence {
        NewSequence {
            id,
            prompt: self.tokens.clone(),
            max_new_tokens: self.max_new_tokens - self.num_generated(),
            priority: self.priority,
            share: self.share.clone(),
            salt: self.cache_salt.clone(),
            need_prompt_logits: self.prompt_scores.is_some(),
        }
    }

    /// What it gives back when it leaves the queue.
    pub(crate) fn left_queue(&self, started: bool) -> Left {
        let tenant = self.share.as_ref().map(|share| share.tenant.clone());
        Left { tenant, prompt_len: self.prompt_len, started }
    }

    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Whether all of the prompt is computed for its scores, whatever the prefix cache has.
    pub(crate) fn scores_prompt(&self) -> bool {
        self.params.prompt_logprobs.is_some()
    }

    /// Where the second text of a pair begins.
    pub(crate) fn second_text(&self) -> Option<usize> {
        self.params.second_text
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
    pub(crate) fn mask<'a>(&'a self, drafts: &'a [u32], is_shared: bool) -> Option<Mask<'a>> {
        let (steering, allowed) = (self.steering.as_ref(), self.lists.mask.as_deref());
        let is_masked = steering.is_some() || allowed.is_some();
        is_masked.then(|| {
            let banned = (0..=drafts.len()).map(|num_drafts| self.banned(num_drafts)).collect();
            let num_tokens = self.tokens.len();
            Mask { steering, allowed, banned, num_tokens, drafts, is_shared }
        })
    }

    /// Prompt and output.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Guesses the next tokens, at most `max`; see [`Drafter::propose`].
    pub(crate) fn propose(&mut self, price: Price, max: usize) -> usize {
        if self.num_generated() == 0 {
            return 0;
        }
        let Self { drafter, tokens, steering, .. } = self;
        drafter.propose(tokens, steering.as_mut(), price, max)
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

    /// Records what a step gave to the entry: scores of prompt tokens, and what the row before each of
    /// the drafts and the last row gave. Returns what comes of it.
    pub(crate) fn advance(&mut self, entry: &Entry, given: EntryOutput) -> Progress {
        let EntryOutput { drafts, sampled, scores, pooled } = given;
        let computed = entry.start + entry.len - entry.num_drafts;
        let mut progress = Progress::default();
        if let Err(fault) = self.record_scores(entry.start, scores) {
            return progress.failed(EngineError::Logits(fault.to_string()));
        }
        if computed >= self.prompt_len
            && let Some(scores) = self.prompt_scores.take()
        {
            progress.events.push(Event::PromptScored(scores));
        }
        if let Some(vector) = pooled {
            if !vector.iter().all(|x| x.is_finite()) {
                return progress.failed(EngineError::Logits(RowFault::NotFinite.to_string()));
            }
            progress.events.push(Event::Pooled(vector));
        }
        let mut reason = None;
        if sampled.is_empty() && self.only_scores() && computed >= self.prompt_len {
            reason = Some(FinishReason::Length);
        }
        for (at, row) in sampled.into_iter().enumerate() {
            let (Sampled { id, logprobs }, is_complete) = match self.accept(row) {
                Ok(accepted) => accepted,
                Err(error) => return progress.failed(error),
            };
            self.push(id);
            progress.tokens.push(id);
            reason = self.finish_reason(id, is_complete);
            progress.events.push(Event::Token { id, logprobs });
            let is_right = drafts.get(at) == Some(&id);
            progress.num_right_drafts += usize::from(is_right);
            if reason.is_some() || !is_right {
                let num_checked = drafts.len().min(at + 1);
                self.drafter.record(progress.num_right_drafts, num_checked);
                break;
            }
        }
        if let Some(reason) = reason {
            let Self { cached_tokens, num_preemptions, .. } = *self;
            progress.events.push(Event::Finished { reason, cached_tokens, num_preemptions });
            progress.finished = true;
        }
        progress
    }

    /// Keeps the scores of the prompt tokens after `start`.
    fn record_scores(&mut self, start: usize, scores: Vec<SampledRow>) -> Result<(), RowFault> {
        if let Some(kept) = &mut self.prompt_scores {
            for (slot, score) in kept[start + 1..].iter_mut().zip(scores) {
                *slot = score?.logprobs;
            }
        }
        Ok(())
    }

    /// The token of a row, and whether it completes the constraint.
    fn accept(&mut self, row: SampledRow) -> Result<(Sampled, bool), EngineError> {
        let sampled = row.map_err(|fault| match fault {
            RowFault::NotFinite => EngineError::Logits(fault.to_string()),
            RowFault::NothingPossible => {
                let reason = self.steering.as_mut().and_then(Steering::take_fault);
                EngineError::Constraint(reason.unwrap_or_else(|| fault.to_string()))
            }
        })?;
        let steering = self.steering.as_mut();
        let is_complete = steering.map_or(Ok(false), |steering| steering.accept(sampled.id));
        Ok((sampled, is_complete.map_err(EngineError::Constraint)?))
    }

    fn push(&mut self, id: u32) {
        self.tokens.push(id);
        if penalizes_output(&self.params) {
            *self.lists.output_counts.entry(id).or_default() += 1;
        }
    }

    /// Whether this token ends the sequence.
    pub(crate) fn is_end(&self, id: u32) -> bool {
        self.eos.contains(&id) || self.params.stop_token_ids.contains(&id)
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
        catch_unwind(AssertUnwindSafe(|| (self.sink.get_mut())(event))).unwrap_or(false)
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
            for &id in &**allowed {
                words[id as usize / 32] |= 1 << (id % 32);
            }
            words
        });
        Self {
            prompt_tokens: prompt_tokens.into_iter().collect(),
            output_counts: HashMap::new(),
            bias: if params.logit_bias.is_sorted_by(|(a, _), (b, _)| a < b) {
                Arc::clone(&params.logit_bias)
            } else {
                let by_id: BTreeMap<_, _> = params.logit_bias.iter().copied().collect();
                by_id.into_iter().collect()
            },
            banned: banned.into_iter().filter(|&id| (id as usize) < vocab_size).collect(),
            mask,
        }
    }
}
