//! How a connection passes its time: a client that keeps one open without using it, or that does
//! not read its answers, must not hold it for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, sleep};

/// What a connection is doing, told by its service, its bodies and its writes.
#[derive(Debug)]
pub(super) struct Activity {
    since: Instant,
    /// Requests whose response has not begun.
    handling: AtomicUsize,
    /// Responses whose body has not ended.
    answering: AtomicUsize,
    /// HTTP/2 writes by itself, pings for instance: its writes say nothing of answers. So until a
    /// request says that the connection speaks HTTP/1.
    is_multiplexed: AtomicBool,
    /// HTTP/1.1: an answer came before its request was read to the end.
    is_sending: AtomicBool,
    /// When something last went on, in milliseconds since `since`.
    last_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            since: Instant::now(),
            handling: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            is_multiplexed: AtomicBool::new(true),
            is_sending: AtomicBool::new(false),
            last_ms: AtomicU64::new(0),
        })
    }

    /// Counts a request until its response begins.
    pub(super) fn handle(self: &Arc<Self>, version: hyper::Version) -> Handling {
        self.is_multiplexed.store(version == hyper::Version::HTTP_2, Ordering::Relaxed);
        self.handling.fetch_add(1, Ordering::Relaxed);
        Handling(Arc::clone(self))
    }

    /// The client may be sending still, though nobody reads it.
    pub(super) fn is_sending(&self) -> bool {
        self.is_sending.load(Ordering::Relaxed)
    }

    /// Bytes have left.
    pub(super) fn wrote(&self) {
        if !self.is_multiplexed.load(Ordering::Relaxed) {
            self.touch();
        }
    }

    fn touch(&self) {
        self.last_ms.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// No request is being worked on or answered.
    pub(super) fn is_idle(&self) -> bool {
        self.handling.load(Ordering::Relaxed) + self.answering.load(Ordering::Relaxed) == 0
    }

    /// Returns once the connection has been idle for `idle`, or has not got on with an answer for
    /// `stalled`.
    pub(super) async fn wasted(&self, idle: Duration, stalled: Duration) {
        // What it is doing changes meanwhile: it is looked at this often.
        let pause = idle.min(stalled);
        loop {
            let quiet = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let quiet = self.since.elapsed().saturating_sub(quiet);
            let limit = if self.is_idle() { idle } else { stalled };
            if self.handling.load(Ordering::Relaxed) > 0 {
                sleep(pause).await;
            } else if let Some(rest) = limit.checked_sub(quiet).filter(|rest| !rest.is_zero()) {
                sleep(rest.min(pause)).await;
            } else {
                return;
            }
        }
    }
}

/// A request whose response has not begun.
#[derive(Debug)]
pub(super) struct Handling(Arc<Activity>);

impl Handling {
    /// The response has begun; `body` tells how it gets on.
    pub(super) fn answering<B>(self, body: B) -> Answering<B> {
        self.0.answering.fetch_add(1, Ordering::Relaxed);
        Answering { body, activity: Arc::clone(&self.0) }
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.touch();
        self.0.handling.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a request, which may be dropped before its end.
#[derive(Debug)]
pub(super) struct Arriving {
    body: Incoming,
    /// A body in chunks does not say so itself.
    has_ended: bool,
    activity: Arc<Activity>,
}

impl Arriving {
    pub(super) fn new(body: Incoming, activity: &Arc<Activity>) -> Self {
        Self { body, has_ended: false, activity: Arc::clone(activity) }
    }
}

impl Body for Arriving {
    type Data = <Incoming as Body>::Data;
    type Error = <Incoming as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.has_ended |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let has_ended = self.has_ended || self.body.is_end_stream();
        if !has_ended && !self.activity.is_multiplexed.load(Ordering::Relaxed) {
            self.activity.is_sending.store(true, Ordering::Relaxed);
        }
    }
}

/// A body that counts as an answer under way.
#[derive(Debug)]
pub(super) struct Answering<B> {
    body: B,
    activity: Arc<Activity>,
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            self.activity.touch();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        self.activity.touch();
        self.activity.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{interval, timeout};

    /// HTTP/2 has pings of its own from the start.
    #[tokio::test]
    async fn what_is_written_before_the_first_request_keeps_nothing_open() {
        let activity = Activity::new();
        let mut ticks = interval(Duration::from_millis(5));
        let pings = async {
            loop {
                ticks.tick().await;
                activity.wrote();
            }
        };
        let wasted = activity.wasted(Duration::from_millis(50), Duration::from_hours(1));
        let is_over = async {
            tokio::select! {
                () = wasted => true,
                () = pings => false,
            }
        };
        assert_eq!(timeout(Duration::from_mins(1), is_over).await, Ok(true));
    }
}
