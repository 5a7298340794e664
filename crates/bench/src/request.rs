//! One request from the moment it is due to the end of its answer.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::Method;

use crate::api::{Input, Usage};
use crate::failure::{Failure, FailureKind};
use crate::server::Server;
use crate::sse::EventStream;

/// How long the end of a body may come after the last event.
const END_WITHIN: Duration = Duration::from_secs(1);

/// What the answer is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// How long the prompt was made, if that is known.
    pub(crate) prompt_tokens: Option<usize>,
    pub(crate) output_tokens: usize,
    /// Whether the answer's text is wanted, for the next turn.
    pub(crate) keep_text: bool,
}

/// One finished request. Times are since the start of the run.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) asked: Asked,
    /// When it should have been sent: what latencies are measured from.
    pub(crate) due: Duration,
    /// When the generator began to send it.
    pub(crate) started: Duration,
    /// When each event with output arrived.
    pub(crate) chunks: Vec<Duration>,
    pub(crate) end: Duration,
    pub(crate) usage: Option<Usage>,
    pub(crate) text: String,
    pub(crate) failure: Option<Failure>,
}

impl Sample {
    pub(crate) fn new(asked: Asked, due: Duration, started: Duration) -> Self {
        Self {
            asked,
            due,
            started,
            chunks: Vec::new(),
            end: started,
            usage: None,
            text: String::new(),
            failure: None,
        }
    }

    /// Time to the first token.
    pub(crate) fn ttft(&self) -> Option<Duration> {
        Some(self.chunks.first()?.saturating_sub(self.due))
    }

    /// The whole request.
    pub(crate) fn e2el(&self) -> Duration {
        self.end.saturating_sub(self.due)
    }

    /// Tokens of the answer: as the server counts, else one an event.
    pub(crate) fn output_tokens(&self) -> usize {
        self.usage.map_or(self.chunks.len(), |usage| usage.completion_tokens)
    }

    /// Time per output token after the first. All in one event is no time: there is none then.
    pub(crate) fn tpot(&self) -> Option<Duration> {
        let (first, last) = (self.chunks.first()?, self.chunks.last()?);
        let steps = u32::try_from(self.output_tokens().checked_sub(1)?).ok()?;
        (self.chunks.len() > 1 && steps > 0).then(|| last.saturating_sub(*first) / steps)
    }
}

/// Sends one request and follows its answer. `epoch` is the start of the run.
pub(crate) async fn ask(
    server: &Server,
    input: &Input,
    asked: Asked,
    epoch: Instant,
    due: Instant,
    timeout: Duration,
) -> Sample {
    let started = epoch.elapsed();
    let mut sample = Sample::new(asked, due.saturating_duration_since(epoch), started);
    let done = tokio::time::timeout(timeout, follow(server, input, epoch, &mut sample)).await;
    sample.failure = match done {
        // It ended with its last event.
        Ok(Ok(())) => return sample,
        Ok(Err(failure)) => Some(failure),
        Err(_) => {
            let message = format!("not done after {timeout:?} (--timeout)");
            Some(Failure::new(FailureKind::Timeout, message))
        }
    };
    sample.end = epoch.elapsed();
    sample
}

async fn follow(
    server: &Server,
    input: &Input,
    epoch: Instant,
    sample: &mut Sample,
) -> Result<(), Failure> {
    let path = server.client.api_path(server.api.endpoint());
    let body = server.body(input, sample.asked.output_tokens);
    let mut answer = server.client.send(Method::POST, &path, body).await?.checked().await?;
    let mut events = EventStream::default();
    let mut state = State { finished: false, last: false, failure: None };
    loop {
        let next = answer.next();
        let bytes = if state.last {
            // Only the end of the body is to come. A server that forgets it has answered all the
            // same; its connection is of no more use.
            match tokio::time::timeout(END_WITHIN, next).await {
                Ok(next) => next,
                Err(_) => return Ok(()),
            }
        } else {
            next.await
        };
        let Some(bytes) = bytes else { break };
        let arrived = epoch.elapsed();
        let pushed = events.push(&bytes?, |data| state.read(server, data, arrived, sample));
        if pushed.is_err() {
            return Err(Failure::new(FailureKind::Malformed, "an event of more than 16 MiB"));
        }
        sample.end = arrived;
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
    }
    if !state.finished {
        let message = format!("the stream ended after {} events, unfinished", sample.chunks.len());
        return Err(Failure::new(FailureKind::StreamCut, message));
    }
    answer.done();
    Ok(())
}

/// What the events so far have said.
struct State {
    finished: bool,
    last: bool,
    failure: Option<Failure>,
}

impl State {
    fn read(&mut self, server: &Server, data: &[u8], arrived: Duration, sample: &mut Sample) {
        if self.failure.is_some() {
            return;
        }
        let text = sample.asked.keep_text.then_some(&mut sample.text);
        match server.api.read_event(data, text) {
            Err(error) => {
                let show = String::from_utf8_lossy(&data[..data.len().min(80)]).into_owned();
                let message = format!("an event that cannot be read ({error}): {show}");
                self.failure = Some(Failure::new(FailureKind::Malformed, message));
            }
            Ok(event) => {
                if let Some(message) = event.error {
                    self.failure = Some(Failure::new(FailureKind::ErrorEvent, message));
                }
                if event.has_output {
                    sample.chunks.push(arrived);
                    server.num_events.fetch_add(1, Ordering::Relaxed);
                }
                sample.usage = event.usage.or(sample.usage);
                self.finished |= event.finished;
                self.last |= event.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_begin_when_due() {
        let asked = Asked { prompt_tokens: None, output_tokens: 4, keep_text: false };
        let ms = Duration::from_millis;
        let mut sample = Sample::new(asked, ms(100), ms(130));
        assert_eq!((sample.ttft(), sample.tpot()), (None, None));
        sample.chunks = vec![ms(200)];
        assert_eq!((sample.ttft(), sample.tpot()), (Some(ms(100)), None));
        sample.chunks = vec![ms(200), ms(210), ms(230)];
        sample.end = ms(260);
        assert_eq!((sample.e2el(), sample.tpot()), (ms(160), Some(ms(15))));
        // Four tokens came in three events.
        sample.usage = serde_json::from_str(r#"{"prompt_tokens": 1, "completion_tokens": 4}"#).ok();
        assert_eq!(sample.tpot(), Some(ms(10)));
    }
}
