//! A caller of the engine: submits and collects.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use engine::{
    EngineError, EngineHandle, Event, FinishReason, Request, SamplingParams, TokenLogprobs,
};

use crate::fake::mix;

/// Everything a request was told.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<Option<TokenLogprobs>>,
    pub(crate) prompt_scores: Option<Vec<Option<TokenLogprobs>>>,
    pub(crate) vector: Option<Vec<f32>>,
    pub(crate) reason: Option<FinishReason>,
    pub(crate) started: bool,
    pub(crate) cached_tokens: usize,
    pub(crate) failed: Option<EngineError>,
}

pub(crate) fn request(prompt: &[u32], params: SamplingParams) -> (Request, Receiver<Event>) {
    let (sender, receiver) = channel();
    let request = Request {
        prompt: prompt.to_vec(),
        params,
        priority: 0,
        share: None,
        deadline: None,
        cache_salt: None,
        constraint: None,
        sink: Box::new(move |event| sender.send(event).is_ok()),
    };
    (request, receiver)
}

pub(crate) fn submit(
    engine: &EngineHandle,
    prompt: &[u32],
    params: SamplingParams,
) -> Receiver<Event> {
    let (request, receiver) = request(prompt, params);
    engine.submit(request).unwrap();
    receiver
}

/// Waits for the last event and checks that the events came in the promised order.
pub(crate) fn collect(events: &Receiver<Event>) -> Answer {
    let mut answer = Answer::default();
    for event in events {
        assert!(answer.reason.is_none() && answer.failed.is_none(), "{event:?} after the end");
        match event {
            Event::Started { cached_tokens } => {
                assert!(!answer.started && answer.prompt_scores.is_none());
                (answer.started, answer.cached_tokens) = (true, cached_tokens);
            }
            Event::PromptScored(scores) => {
                assert!(
                    answer.started && answer.tokens.is_empty() && answer.prompt_scores.is_none()
                );
                answer.prompt_scores = Some(scores);
            }
            Event::Token { id, logprobs } => {
                assert!(answer.started);
                answer.tokens.push(id);
                answer.logprobs.push(logprobs);
            }
            Event::Finished { reason, cached_tokens, .. } => {
                answer.reason = Some(reason);
                assert_eq!(cached_tokens, answer.cached_tokens, "as it was told at the start");
            }
            Event::Failed(error) => answer.failed = Some(error),
            Event::Pooled(vector) => {
                assert!(answer.vector.is_none(), "one vector a prompt");
                answer.vector = Some(vector);
            }
        }
    }
    answer
}

pub(crate) fn ask(engine: &EngineHandle, prompt: &[u32], params: SamplingParams) -> Answer {
    collect(&submit(engine, prompt, params))
}

pub(crate) fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams { temperature: 0.0, max_tokens, ..SamplingParams::default() }
}

/// Waits for what another thread is about to do.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never came true: {what}");
}

/// A stream of numbers from a seed.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        (mix(self.0) % bound as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
