//! A future that seldom has anything to say, beside others that wake their task all the time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

/// Polls what is in it only when that has woken, not whenever its task has: to ask a timer, or a
/// signal that thousands share, takes longer than to read a token. Such is what a set of futures does
/// for each of its own; this is a set of one.
pub(crate) struct Seldom<'a, T>(FuturesUnordered<BoxFuture<'a, T>>);

impl<'a, T> Seldom<'a, T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        let future: BoxFuture<'a, T> = Box::pin(future);
        Self(FuturesUnordered::from_iter([future]))
    }
}

impl<T> Future for Seldom<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.0.poll_next_unpin(cx) {
            Poll::Ready(Some(output)) => Poll::Ready(output),
            // It has said what it had to say.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::sync::oneshot;
    use tokio::task::yield_now;
    use tokio::time::timeout;

    #[tokio::test]
    async fn only_its_own_waking_polls_what_is_in_it() {
        let num_polls = Arc::new(AtomicUsize::new(0));
        let (sender, mut receiver) = oneshot::channel();
        let counter = Arc::clone(&num_polls);
        let mut seldom = Seldom::new(poll_fn(move |cx| {
            counter.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut receiver).poll(cx)
        }));
        let waiting = tokio::spawn(async move {
            tokio::select! {
                biased;
                output = &mut seldom => output,
                () = async { while num_polls.load(Ordering::Relaxed) < 2 { yield_now().await } } => {
                    panic!("polled without having woken")
                }
            }
        });
        for _ in 0..100 {
            yield_now().await;
        }
        sender.send(7).expect("it waits");
        let output = timeout(Duration::from_mins(1), waiting).await;
        assert_eq!(output.expect("in time").expect("no panic"), Ok(7));
    }

    #[tokio::test]
    async fn it_is_heard_from_whichever_task_has_it() {
        let (sender, receiver) = oneshot::channel();
        let mut seldom = Seldom::new(receiver);
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut seldom).poll(cx)));
        assert_eq!(first.await, Poll::Pending);
        let waiting = tokio::spawn(seldom);
        yield_now().await;
        sender.send(7).expect("it waits");
        let output = timeout(Duration::from_mins(1), waiting).await;
        assert_eq!(output.expect("in time").expect("no panic"), Ok(7));
    }
}
