//! The events of a stream: named, numbered, one frame each.

use serde::Serialize;

use crate::sse::Event;

/// Events that have not been sent yet.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    next_number: u64,
    ready: Vec<Event>,
}

#[derive(Serialize)]
struct Frame<'a, T> {
    r#type: &'a str,
    sequence_number: u64,
    #[serde(flatten)]
    fields: &'a T,
}

impl EventLog {
    /// An event with these fields besides its type and its number.
    pub(super) fn push(&mut self, kind: &str, fields: &impl Serialize) {
        let frame = Frame { r#type: kind, sequence_number: self.next_number, fields };
        self.next_number += 1;
        let mut event = format!("event: {kind}\ndata: ").into_bytes();
        serde_json::to_writer(&mut event, &frame)
            .expect("wire types have string keys and finite numbers");
        event.extend_from_slice(b"\n\n");
        self.ready.push(event.into());
    }

    pub(super) fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.ready)
    }
}
