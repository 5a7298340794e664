//! An engine without a model behind a whole server: what the front end costs, and nothing else.

use engine::{EngineError, Event, FinishReason, Request, SeqId, Sink};
use server::{App, Generator, Load, ServedModel, ServerConfig};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use text::{TextFiles, TextModel};

use crate::Result;

/// The name that requests give.
pub const MODEL: &str = "stand-in";

/// Prompts of this length are to be tokenised.
const MAX_MODEL_LEN: usize = 1 << 20;

/// What every answer says, over and over.
pub const ANSWER: &str = "The front end of a server turns what a model writes into the events that its clients read. \
    Every token passes through a detokenizer, a parser of reasoning and calls, and a writer of JSON, and then it \
    is sent. None of that may take longer than the model takes, or an expensive machine waits for a cheap one. ";

/// Gives every sequence one token a step, or all of its tokens as soon as it comes.
#[derive(Default)]
pub struct StandIn {
    answers_at_once: bool,
    /// Ids of the answer.
    answer: Vec<u32>,
    vocab_size: usize,
    next_id: AtomicU64,
    running: Mutex<Vec<Running>>,
}

struct Running {
    id: SeqId,
    sink: Sink,
    num_tokens: usize,
    max_tokens: usize,
}

impl StandIn {
    /// `answers_at_once` leaves nothing for [`step`](Self::step) to do.
    pub fn new(text: &TextModel, answers_at_once: bool) -> Result<Self> {
        let tokenizer = text.tokenizer();
        // Each of them shows at once: whitespace alone is held back until it is known what follows.
        let shows = |id: &u32| !tokenizer.token_string(*id).trim().is_empty();
        let answer = tokenizer.encode(ANSWER, false)?.into_iter().filter(shows).collect();
        Ok(Self { answers_at_once, answer, vocab_size: tokenizer.vocab_size(), ..Self::default() })
    }

    /// The next token of every sequence; how many there were.
    pub fn step(&self) -> usize {
        let mut running = self.running();
        let num_running = running.len();
        running.retain_mut(|sequence| sequence.step(&self.answer));
        num_running
    }

    /// Sequences that have not ended.
    pub fn num_running(&self) -> usize {
        self.running().len()
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for StandIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandIn").field("num_running", &self.num_running()).finish_non_exhaustive()
    }
}

impl Running {
    /// Whether there is more to come.
    fn step(&mut self, answer: &[u32]) -> bool {
        let id = answer[self.num_tokens % answer.len()];
        self.num_tokens += 1;
        let listens = (self.sink)(Event::Token { id, logprobs: None });
        if self.num_tokens < self.max_tokens {
            return listens;
        }
        let reason = FinishReason::Length;
        (self.sink)(Event::Finished { reason, cached_tokens: 0, num_preemptions: 0 });
        false
    }
}

impl Generator for StandIn {
    fn max_num_queued_reqs(&self) -> usize {
        usize::MAX
    }

    fn submit_all(&self, requests: Vec<Request>) -> std::result::Result<Vec<SeqId>, EngineError> {
        let submit = |request: Request| {
            let id = SeqId(self.next_id.fetch_add(1, Ordering::Relaxed));
            let max_tokens = request.params.max_tokens;
            let mut sequence = Running { id, sink: request.sink, num_tokens: 0, max_tokens };
            (sequence.sink)(Event::Started { cached_tokens: 0 });
            if self.answers_at_once {
                while sequence.step(&self.answer) {}
            } else {
                self.running().push(sequence);
            }
            id
        };
        Ok(requests.into_iter().map(submit).collect())
    }

    fn abort(&self, id: SeqId) {
        self.running().retain(|sequence| sequence.id != id);
    }

    fn load(&self) -> Load {
        Load::default()
    }

    fn time_to_drain(&self) -> Duration {
        Duration::ZERO
    }

    fn is_alive(&self) -> bool {
        true
    }

    fn is_restarting(&self) -> bool {
        false
    }

    fn max_model_len(&self) -> usize {
        MAX_MODEL_LEN
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

/// The text side of the embedded model: its tokenizer and its template are like others.
pub fn text_model() -> Result<TextModel> {
    Ok(TextModel::from_files(&TextFiles {
        tokenizer: models::spark::TOKENIZER.to_vec(),
        tokenizer_config: Some(models::spark::TOKENIZER_CONFIG.to_vec()),
        generation_config: Some(models::spark::GENERATION_CONFIG.to_vec()),
        config: Some(models::spark::CONFIG.to_vec()),
        ..TextFiles::default()
    })?)
}

/// A loaded server whose model is a stand-in.
pub fn app(answers_at_once: bool) -> Result<(App, Arc<StandIn>)> {
    let text = text_model()?;
    let stand_in = Arc::new(StandIn::new(&text, answers_at_once)?);
    let app = App::new(ServerConfig::default());
    let generator: Arc<dyn Generator> = Arc::clone(&stand_in) as _;
    app.set_model(ServedModel::new(vec![MODEL.to_owned()], generator, Arc::new(text)));
    Ok((app, stand_in))
}
