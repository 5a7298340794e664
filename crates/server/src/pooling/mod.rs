//! Models that make vectors of prompts instead of answers: their rules, and prompts on their way
//! through the engine.

mod pairs;
mod prompt;
mod rules;

use std::sync::Arc;
use std::time::Instant;

use engine::{EngineError, Event, Request, SamplingParams};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

pub(crate) use self::pairs::ScoringJob;
pub(crate) use self::prompt::cut_ids;
pub(crate) use self::rules::shaped;
pub use self::rules::{HeadRules, Matryoshka, PoolingRules};
use crate::access::{Account, Call, Tokens};
use crate::error::ApiError;
use crate::generation::refused;
use crate::generator::SeqId;
use crate::metrics::{Course, Ending};
use crate::request_trace::Generated;
use crate::served_model::ServedModel;
use crate::state::{App, InFlight};
use crate::terms::Terms;

/// Prompts of a request that are in the engine at once: enough to fill its steps, and not so many
/// that one request fills its queue.
const MAX_OPEN: usize = 256;

/// What to make vectors of.
#[derive(Debug)]
pub(crate) struct PoolingJob {
    pub(crate) prompts: Vec<PoolingPrompt>,
    /// `None`: the key's.
    pub(crate) priority: Option<i32>,
    pub(crate) cache_salt: Option<String>,
}

/// A prompt, tokenised.
#[derive(Debug)]
pub(crate) struct PoolingPrompt {
    pub(crate) ids: Vec<u32>,
    /// Where the second text of a pair begins, if the tokenizer tells both apart.
    pub(crate) second_text: Option<usize>,
}

impl PoolingPrompt {
    /// One text.
    pub(crate) fn of(ids: Vec<u32>) -> Self {
        Self { ids, second_text: None }
    }
}

impl PoolingJob {
    /// Tokens of all prompts.
    pub(crate) fn num_tokens(&self) -> usize {
        num_tokens(&self.prompts)
    }
}

fn num_tokens(prompts: &[PoolingPrompt]) -> usize {
    prompts.iter().map(|prompt| prompt.ids.len()).sum()
}

/// A job at work. Dropping it aborts what has not ended.
pub(crate) struct PoolingRun {
    model: Arc<ServedModel>,
    job: PoolingJob,
    priority: i32,
    terms: Terms,
    /// Of each prompt that was submitted, until it ends.
    open: Vec<Option<SeqId>>,
    /// Of the same.
    courses: Vec<Course>,
    vectors: Vec<Vec<f32>>,
    arrived: Instant,
    sender: UnboundedSender<(usize, Instant, Event)>,
    events: UnboundedReceiver<(usize, Instant, Event)>,
    cut: watch::Receiver<bool>,
    account: Account,
    _in_flight: InFlight,
}

impl PoolingRun {
    /// Makes the vectors, in the order of the prompts. `arrived` is when the request came.
    pub(crate) async fn vectors(
        app: &App,
        model: &Arc<ServedModel>,
        job: PoolingJob,
        (in_flight, arrived): (InFlight, Instant),
    ) -> Result<Vec<Vec<f32>>, ApiError> {
        let call = Call::current();
        let (sender, events) = unbounded_channel();
        let mut run = Self {
            model: Arc::clone(model),
            priority: call.priority(job.priority)?,
            terms: in_flight.terms.clone(),
            open: Vec::new(),
            courses: Vec::new(),
            vectors: vec![Vec::new(); job.prompts.len()],
            arrived,
            sender,
            events,
            cut: app.cut_signal(),
            account: call.reserve(job.num_tokens(), 0)?,
            job,
            _in_flight: in_flight,
        };
        let result = run.finish().await;
        if result.is_err() {
            run.close(Ending::Error);
        }
        result.map(|()| std::mem::take(&mut run.vectors))
    }

    async fn finish(&mut self) -> Result<(), ApiError> {
        let mut num_open = self.submit(0)?;
        while num_open > 0 {
            let events = &mut self.events;
            let received = tokio::select! {
                biased;
                received = events.recv() => received,
                _ = self.cut.wait_for(|cut| *cut) => return Err(ApiError::cut_off()),
            };
            let (index, at, event) = received.expect("the run itself holds a sender");
            let course = &mut self.courses[index];
            match event {
                Event::Started { .. } => course.started = Some(at),
                Event::Pooled(vector) => {
                    course.first_token = Some(at);
                    self.vectors[index] = vector;
                }
                Event::Finished { cached_tokens, num_preemptions, .. } => {
                    (course.cached_tokens, course.num_preemptions) =
                        (cached_tokens, num_preemptions);
                    self.end(index, Ending::Stop);
                    num_open -= 1;
                    num_open += self.submit(num_open)?;
                }
                Event::Failed(error) => {
                    if matches!(error, EngineError::Logits(_)) {
                        self.model.metrics().corrupted();
                    }
                    return Err(error.into());
                }
                Event::Token { .. } | Event::PromptScored(_) => {
                    unreachable!("an engine that pools generates nothing")
                }
            }
        }
        Ok(())
    }

    /// Submits further prompts, as many as may be open and the engine takes, and returns how many.
    /// If it takes none although none is open, that is its answer.
    fn submit(&mut self, num_open: usize) -> Result<usize, ApiError> {
        let first = self.open.len();
        let mut count = (self.job.prompts.len() - first).min(MAX_OPEN - num_open);
        while count > 0 {
            let requests = (first..first + count).map(|index| self.request(index)).collect();
            match self.model.generator().submit_all(requests) {
                Ok(ids) => {
                    self.open.extend(ids.into_iter().map(Some));
                    let prompts = &self.job.prompts[first..first + count];
                    let course =
                        |prompt: &PoolingPrompt| Course::new(prompt.ids.len(), 0, self.arrived);
                    self.courses.extend(prompts.iter().map(course));
                    return Ok(count);
                }
                Err(error) if is_full(&error) && (count > 1 || num_open > 0) => count /= 2,
                Err(error) => return Err(refused(&self.model, &error)),
            }
        }
        Ok(0)
    }

    fn request(&self, index: usize) -> Request {
        let sender = self.sender.clone();
        let PoolingPrompt { ids, second_text } = &self.job.prompts[index];
        let second_text = *second_text;
        Request {
            prompt: ids.clone(),
            params: SamplingParams { max_tokens: 0, second_text, ..SamplingParams::default() },
            priority: self.priority,
            share: self.terms.share.clone(),
            deadline: self.terms.deadline,
            cache_salt: self.job.cache_salt.clone(),
            constraint: None,
            // Three events a prompt: the channel is bounded by the request.
            sink: Box::new(move |event| sender.send((index, Instant::now(), event)).is_ok()),
        }
    }

    fn end(&mut self, index: usize, ending: Ending) {
        self.open[index] = None;
        self.model.metrics().end(ending, &self.courses[index]);
        self.account.end(match ending {
            Ending::Error => "error",
            Ending::Abort => "abort",
            Ending::Stop | Ending::Length => "stop",
        });
    }

    fn close(&mut self, ending: Ending) {
        for index in 0..self.open.len() {
            if let Some(id) = self.open[index] {
                self.model.generator().abort(id);
                self.end(index, ending);
            }
        }
    }
}

impl Drop for PoolingRun {
    fn drop(&mut self) {
        self.close(Ending::Abort);
        let prompt_tokens = num_tokens(&self.job.prompts[..self.open.len()]);
        if let Some(trace) = &self.terms.trace {
            let (model, courses) = (&self.model.names()[0], self.courses.iter().collect());
            trace.generated(&Generated { model, asked: None, courses, prompt_tokens });
        }
        self.account.used(Tokens {
            prompt: prompt_tokens as u64,
            cached: self.courses.iter().map(|course| course.cached_tokens as u64).sum(),
            completion: 0,
        });
    }
}

/// Whether the engine would take the request if less waited.
fn is_full(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::QueueFull { .. }
            | EngineError::QueueTokensFull { .. }
            | EngineError::QueueShareFull { .. }
    )
}
