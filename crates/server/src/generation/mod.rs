//! One request in the engine: its sequences submitted together, their events turned into deltas of
//! text. Streams show the deltas one by one, other responses fold them: there is one path.

mod choice;
mod output;
mod reasoning_tokens;
mod refusal;
mod steer;
mod thinking_budget;

use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::StatusCode;
use engine::{EngineError, Event, Request, SamplingParams};
use text::Detokenizer;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use self::choice::Choice;
pub(crate) use self::choice::{Delta, Echo, Finish, TokenOut};
pub(crate) use self::output::OutputRules;
use self::refusal::check_num_choices;
pub(crate) use self::refusal::refused;
use self::steer::steer;
pub(crate) use self::thinking_budget::ThinkingBudget;
use crate::access::{Account, Call, Tokens};
use crate::constraint::Held;
use crate::error::ApiError;
use crate::generator::{Generator, SeqId};
use crate::metrics::{Ending, Metrics};
use crate::openai::response::Usage;
use crate::openai::sampling_fields::Sampling;
use crate::random::random_u64;
use crate::request_trace::{Asked, Generated, RequestTrace};
use crate::seldom::Seldom;
use crate::served_model::ServedModel;
use crate::state::{App, InFlight};
use crate::terms::Terms;

/// What to generate: each prompt `n` times.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) prompts: Vec<JobPrompt>,
    pub(crate) sampling: Sampling,
    /// What each answer must look like.
    pub(crate) held: Option<Held>,
    /// How long a chat may think.
    pub(crate) thinking: Option<ThinkingBudget>,
    /// How to read a chat; other outputs are text.
    pub(crate) output: Option<OutputRules>,
    /// The answer goes on with the prompt's text instead of starting its own.
    pub(crate) continues_prompt: bool,
    /// `None`: the key's.
    pub(crate) priority: Option<i32>,
    pub(crate) cache_salt: Option<String>,
}

/// A prompt and how long its answers may become.
#[derive(Debug)]
pub(crate) struct JobPrompt {
    pub(crate) ids: Vec<u32>,
    pub(crate) max_tokens: usize,
    /// Shown before each answer.
    pub(crate) echo: Option<Arc<Echo>>,
}

impl Job {
    /// From the tokens of an answer to its text.
    fn detokenizer(&self, model: &ServedModel, prompt: &JobPrompt) -> Detokenizer {
        let skip = self.sampling.text.skip_special_tokens;
        let continued = if self.continues_prompt { &*prompt.ids } else { &[] };
        match self.output {
            None => model.text().detokenizer(skip, continued),
            Some(_) => model.text().output_detokenizer(skip, continued),
        }
    }
}

/// Sequences at work. Dropping it aborts those that have not ended.
pub(crate) struct Generation {
    choices: Vec<Choice>,
    /// In the order of `choices`; `None` once ended.
    open: Vec<Option<SeqId>>,
    prompt_tokens: usize,
    /// Choices of a prompt.
    n: usize,
    /// Whether a choice was ended before its end.
    is_broken: bool,
    events: UnboundedReceiver<(usize, Instant, Event)>,
    /// The server does not wait for it any longer.
    cut: Seldom<'static, ()>,
    /// Somebody cancels it.
    cancelled: Option<Seldom<'static, ()>>,
    generator: Arc<dyn Generator>,
    metrics: Arc<Metrics>,
    account: Account,
    /// The field of the request that says what the answers must look like.
    held_by: Option<String>,
    traced: Option<Traced>,
    _in_flight: InFlight,
}

/// What a trace says of it.
struct Traced {
    trace: RequestTrace,
    model: String,
    asked: Asked,
}

impl Traced {
    fn new(trace: RequestTrace, model: &ServedModel, job: &Job) -> Self {
        Self { trace, model: model.names()[0].clone(), asked: (&job.sampling).into() }
    }
}

impl Generation {
    /// Submits all sequences of `job`, or none. `arrived` is when the request came.
    ///
    /// What sequences of one job have in common they share: a request has as many as may wait.
    pub(crate) fn start(
        app: &App,
        model: &ServedModel,
        job: &Job,
        (in_flight, arrived): (InFlight, Instant),
    ) -> Result<Self, ApiError> {
        let n = job.sampling.n;
        check_num_choices(model, job.prompts.len(), n)?;
        let (sender, events) = unbounded_channel();
        // Without a seed every sequence gets its own; with one, choice `i` of each prompt is what
        // a request of its own with `seed + i` would give.
        let random = random_u64();
        let Terms { share, deadline, trace } = in_flight.terms.clone();
        let mut requests = Vec::with_capacity(job.prompts.len() * n);
        let mut choices = Vec::with_capacity(job.prompts.len() * n);
        let call = Call::current();
        let priority = call.priority(job.priority)?;
        let prompt_tokens = job.prompts.iter().map(|prompt| prompt.ids.len()).sum();
        let longest: usize = job.prompts.iter().map(|prompt| prompt.max_tokens).sum();
        let account = call.reserve(prompt_tokens, longest.saturating_mul(n))?;
        for (number, prompt) in job.prompts.iter().enumerate() {
            for i in 0..n {
                let index = number * n + i;
                let seed = match job.sampling.seed {
                    Some(seed) => seed.wrapping_add(i as u64),
                    None => random.wrapping_add(index as u64),
                };
                let params = SamplingParams {
                    seed,
                    max_tokens: prompt.max_tokens,
                    ..job.sampling.params.clone()
                };
                let sender = sender.clone();
                requests.push(Request {
                    prompt: prompt.ids.clone(),
                    params,
                    priority,
                    share: share.clone(),
                    deadline,
                    cache_salt: job.cache_salt.clone(),
                    constraint: steer(model, job, prompt),
                    // At most max_tokens + 3 small events: the channel is bounded by the request.
                    // They are timed here, whenever the client comes to read them.
                    sink: Box::new(move |event| {
                        sender.send((index, Instant::now(), event)).is_ok()
                    }),
                });
                choices.push(Choice::new(model, index, job, (prompt, arrived)));
            }
        }
        let generator = Arc::clone(model.generator());
        let ids = generator.submit_all(requests).map_err(|error| refused(model, &error))?;
        Ok(Self {
            choices,
            open: ids.into_iter().map(Some).collect(),
            prompt_tokens,
            n,
            is_broken: false,
            events,
            cut: Seldom::new(said(app.cut_signal())),
            cancelled: None,
            generator,
            metrics: Arc::clone(model.metrics()),
            account,
            held_by: job.held.as_ref().map(|held| held.field.clone()),
            traced: trace.map(|trace| Traced::new(trace, model, job)),
            _in_flight: in_flight,
        })
    }

    /// The next delta of any choice; `None` when all have ended. After an error there is nothing
    /// more.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Delta, ApiError>>> {
        loop {
            if self.open.iter().all(Option::is_none) {
                return Poll::Ready(None);
            }
            let received = self.events.poll_recv(cx);
            let Poll::Ready(Some((index, at, event))) = received else {
                if self.cancelled.as_mut().is_some_and(|end| Pin::new(end).poll(cx).is_ready()) {
                    self.close(Ending::Abort);
                    let message = "The response was cancelled.";
                    return Poll::Ready(Some(Err(ApiError::new(StatusCode::BAD_REQUEST, message))));
                }
                let error = if Pin::new(&mut self.cut).poll(cx).is_ready() {
                    ApiError::cut_off()
                } else if received.is_ready() {
                    EngineError::Stopped.into() // It dropped our sinks without a last event.
                } else {
                    return Poll::Pending;
                };
                return Poll::Ready(Some(Err(self.fail(error))));
            };
            if self.open[index].is_none() {
                continue; // It sampled on before it heard of the stop string.
            }
            match self.take(index, at, event) {
                Ok(Some(delta)) => return Poll::Ready(Some(Ok(delta))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(self.fail(error)))),
            }
        }
    }

    /// The same as a future. Dropping it loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// What ends it from elsewhere.
    pub(crate) fn canceller(&mut self) -> Canceller {
        let (cancelled, receiver) = watch::channel(false);
        self.cancelled = Some(Seldom::new(said(receiver)));
        let ids = self.open.iter().copied().flatten().collect();
        Canceller { cancelled, ids, generator: Arc::clone(&self.generator) }
    }

    fn take(&mut self, index: usize, at: Instant, event: Event) -> Result<Option<Delta>, ApiError> {
        let ended = matches!(event, Event::Finished { .. });
        let choice = &mut self.choices[index];
        match &event {
            Event::Started { .. } => choice.course.started = Some(at),
            Event::Token { .. } => {
                self.metrics.token(&mut choice.course, at);
                self.account.token();
            }
            Event::Failed(EngineError::Logits(_)) => self.metrics.corrupted(),
            _ => {}
        }
        let field = &self.held_by;
        let delta = choice.take(event).map_err(|error| named(error, field.as_deref()))?;
        if let Some(finish) = delta.as_ref().and_then(|delta| delta.finish.as_ref()) {
            let id = self.open[index].take().expect("an open choice");
            if !ended {
                self.generator.abort(id); // A stop string: the engine does not know.
            }
            let ending = if finish.reason == "length" { Ending::Length } else { Ending::Stop };
            self.metrics.end(ending, &self.choices[index].course);
            self.account.end(finish.reason);
            self.choices[index].course.finish_reason = Some(finish.reason);
        }
        Ok(delta)
    }

    /// Ends everything because of `error`.
    fn fail(&mut self, error: ApiError) -> ApiError {
        self.close(Ending::Error);
        error
    }

    fn close(&mut self, ending: Ending) {
        for (id, choice) in self.open.iter_mut().zip(&self.choices) {
            let Some(id) = id.take() else { continue };
            self.is_broken = true;
            self.generator.abort(id);
            self.metrics.end(ending, &choice.course);
            self.account.end(if ending == Ending::Error { "error" } else { "abort" });
        }
    }

    /// Tokens so far. Prompts count once, however many choices they have.
    pub(crate) fn usage(&self) -> Usage {
        let completion_tokens = self.choices.iter().map(|choice| choice.course.num_tokens).sum();
        let cached = self.cached_tokens();
        let reasoning = self.choices.iter().map(Choice::reasoning_tokens).sum();
        Usage::new(self.prompt_tokens, completion_tokens, cached, reasoning)
    }

    fn cached_tokens(&self) -> Option<usize> {
        self.choices.iter().filter_map(|choice| choice.cached_tokens).max()
    }

    /// Number of choices, over all prompts.
    pub(crate) fn num_choices(&self) -> usize {
        self.choices.len()
    }

    /// Runs to the end and folds the deltas of each choice into one.
    pub(crate) async fn collect(mut self) -> Result<(Vec<Delta>, Usage), ApiError> {
        let indices = 0..self.num_choices();
        let mut whole: Vec<Delta> = indices.map(Delta::empty).collect();
        while let Some(delta) = self.next().await {
            let delta = delta?;
            whole[delta.index].append(delta);
        }
        Ok((whole, self.usage()))
    }
}

/// Ends a generation from elsewhere, even if nobody waits for its deltas.
pub(crate) struct Canceller {
    cancelled: watch::Sender<bool>,
    ids: Vec<SeqId>,
    generator: Arc<dyn Generator>,
}

impl Canceller {
    /// The generation ends with an error once what has come is read.
    pub(crate) fn cancel(&self) {
        self.cancelled.send_replace(true);
        for &id in &self.ids {
            self.generator.abort(id);
        }
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("ids", &self.ids).finish_non_exhaustive()
    }
}

/// Resolves once `signal` is true; never if nobody can say so any more.
async fn said(mut signal: watch::Receiver<bool>) {
    if signal.wait_for(|is_so| *is_so).await.is_err() {
        pending::<()>().await;
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.close(Ending::Abort);
        if !self.is_broken {
            for choices in self.choices.chunks(self.n) {
                let longest = choices.iter().map(|choice| choice.course.num_tokens).max();
                self.metrics.end_request(self.n, longest.unwrap_or(0));
            }
        }
        if let Some(Traced { trace, model, asked }) = &self.traced {
            let courses: Vec<_> = self.choices.iter().map(|choice| &choice.course).collect();
            let prompt_tokens = self.prompt_tokens;
            trace.generated(&Generated { model, asked: Some(*asked), courses, prompt_tokens });
        }
        let tokens = self.choices.iter().map(|choice| choice.course.num_tokens);
        let completion: usize = tokens.sum();
        self.account.used(Tokens {
            prompt: self.prompt_tokens as u64,
            cached: self.cached_tokens().unwrap_or(0) as u64,
            completion: completion as u64,
        });
    }
}

/// A constraint that fails on the way, told with the field that asked for it.
fn named(error: ApiError, held_by: Option<&str>) -> ApiError {
    match held_by {
        Some(field) if error.code == Some("constraint_failed") => {
            let message = format!("'{field}': {}", error.message);
            ApiError { param: Some(field.to_owned()), message, ..error }
        }
        _ => error,
    }
}
