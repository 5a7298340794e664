//! The answer of a generation route: whole, or as server-sent events.
//!
//! Each event leaves as one body frame, whole: a client that splits every network chunk at line
//! breaks, with no buffer of its own, still sees whole lines of JSON.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use futures_util::Stream;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::ApiError;
use crate::generation::{Delta, Generation};
use crate::openai::request_fields::StreamOptions;
use crate::openai::response::{Head, Usage};
use crate::seldom::Seldom;

/// One event, ready to be sent: `data: ...` and an empty line.
pub(crate) type Event = Bytes;

pub(crate) const DONE: Event = Bytes::from_static(b"data: [DONE]\n\n");
/// A comment: the one keep-alive that no client mistakes for data.
const PING: Event = Bytes::from_static(b": ping\n\n");

/// Renders the deltas of a stream.
pub(crate) trait Frames: Send + Unpin + 'static {
    /// The chunks for `delta`, each carrying `usage`.
    fn events(&mut self, delta: Delta, usage: UsageField) -> Vec<Event>;

    /// What tells the usage after the last delta, if the deltas do not.
    fn usage_event(&self, usage: Usage) -> Option<Event>;

    /// What comes before the first delta.
    fn start(&mut self, _usage: Usage) -> Vec<Event> {
        Vec::new()
    }

    /// The last event of a stream that has said all.
    fn done(&self) -> Event {
        DONE
    }

    /// What a silent stream says.
    fn ping(&self) -> Event {
        PING
    }

    /// A failure after the start: every client shows the error, none takes the text for complete.
    fn failure(&mut self, error: &ApiError) -> Vec<Event> {
        vec![data(&error.body()), DONE]
    }
}

/// Renders the deltas of one route, streamed or not.
pub(crate) trait Wire: Frames {
    /// The response that is not streamed; `choices` have ended.
    fn whole(&self, choices: Vec<Delta>, usage: Usage) -> Response;
}

/// The `usage` key of a chunk: without `include_usage` there is none, with it all chunks but the
/// last say null.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum UsageField {
    Absent,
    Null,
    Known(Usage),
}

impl UsageField {
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// What a chunk has beside its head is mostly shorter than this, in bytes.
const USUAL_LEN: usize = 256;

/// An event with `value` as its data.
pub(crate) fn data(value: &impl Serialize) -> Event {
    event(Vec::with_capacity(USUAL_LEN), "", value)
}

/// An event with an object as its data: the fields of `head`, which are the same in every chunk and
/// written once, then those of `rest`, at least one.
pub(crate) fn chunk(head: &Head, rest: &impl Serialize) -> Event {
    let head = head.fields();
    event(Vec::with_capacity(head.len() + USUAL_LEN), head, rest)
}

fn event(mut event: Vec<u8>, head: &str, rest: &impl Serialize) -> Event {
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(head.as_bytes());
    let brace = event.len();
    serde_json::to_writer(&mut event, rest)
        .expect("wire types have string keys and finite numbers");
    if !head.is_empty() {
        event[brace] = b',';
    }
    event.extend_from_slice(b"\n\n");
    event.into()
}

/// Answers with what `generation` gives: in events if `stream` says so, else as a whole.
pub(crate) async fn answer(
    generation: Generation,
    wire: impl Wire,
    stream: Option<StreamOptions>,
    heartbeat: Duration,
) -> Result<Response, ApiError> {
    if let Some(options) = stream {
        return Ok(stream_response(generation, wire, options, heartbeat));
    }
    let (choices, usage) = generation.collect().await?;
    Ok(wire.whole(choices, usage))
}

/// Dropping the body aborts the generation.
pub(crate) fn stream_response(
    generation: Generation,
    mut wire: impl Frames,
    options: StreamOptions,
    heartbeat: Duration,
) -> Response {
    let ready = wire.start(generation.usage()).into();
    let events = Events {
        generation,
        wire,
        options,
        heartbeat,
        next_ping: Instant::now() + heartbeat,
        alarm: Seldom::new(sleep(heartbeat)),
        ready,
        done: false,
    };
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // nginx and its kin would hold events back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

struct Events<W> {
    generation: Generation,
    wire: W,
    options: StreamOptions,
    heartbeat: Duration,
    /// Counts from the last frame: text that is held back sends none.
    next_ping: Instant,
    /// Rings at some former `next_ping`: to set it anew with every frame would cost more than the frame.
    alarm: Seldom<'static, ()>,
    ready: VecDeque<Event>,
    done: bool,
}

impl<W: Frames> Stream for Events<W> {
    type Item = Result<Event, Infallible>;

    /// The next frame; `None` at the end.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let frame = loop {
            if let Some(event) = this.ready.pop_front() {
                break event;
            }
            if this.done {
                return Poll::Ready(None);
            }
            match this.generation.poll_next(cx) {
                Poll::Ready(Some(Ok(delta))) => {
                    let usage = this.usage_field();
                    this.ready.extend(this.wire.events(delta, usage));
                }
                Poll::Ready(Some(Err(error))) => this.end_with(&error),
                Poll::Ready(None) => this.end(),
                Poll::Pending => {
                    ready!(Pin::new(&mut this.alarm).poll(cx));
                    let now = Instant::now();
                    if now < this.next_ping {
                        this.alarm = Seldom::new(sleep_until(this.next_ping));
                    } else {
                        this.alarm = Seldom::new(sleep_until(now + this.heartbeat));
                        break this.wire.ping();
                    }
                }
            }
        };
        this.next_ping = Instant::now() + this.heartbeat;
        Poll::Ready(Some(Ok(frame)))
    }
}

impl<W: Frames> Events<W> {
    fn usage_field(&self) -> UsageField {
        if self.options.continuous_usage_stats == Some(true) {
            UsageField::Known(self.generation.usage())
        } else if self.options.include_usage == Some(true) {
            UsageField::Null
        } else {
            UsageField::Absent
        }
    }

    fn end(&mut self) {
        if self.options.include_usage == Some(true) {
            self.ready.extend(self.wire.usage_event(self.generation.usage()));
        }
        self.ready.push_back(self.wire.done());
        self.done = true;
    }

    fn end_with(&mut self, error: &ApiError) {
        self.ready.extend(self.wire.failure(error));
        self.done = true;
    }
}
