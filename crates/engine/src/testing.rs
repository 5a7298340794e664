//! What tests of the engine's parts ask for.

use std::sync::mpsc::{Receiver, channel};

use crate::request::{Event, Request, SamplingParams};

/// So many of the likeliest tokens that follow one, and where they come.
pub(crate) fn request(first: u32, max_tokens: usize) -> (Request, Receiver<Event>) {
    let (sender, events) = channel();
    let request = Request {
        prompt: vec![first],
        params: SamplingParams { temperature: 0.0, max_tokens, ..SamplingParams::default() },
        priority: 0,
        share: None,
        deadline: None,
        cache_salt: None,
        constraint: None,
        sink: Box::new(move |event| sender.send(event).is_ok()),
    };
    (request, events)
}
