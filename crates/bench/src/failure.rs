//! Why a request failed, by kind: what is counted, and the first message of each kind.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// Nobody listens, or the name or certificate is wrong.
    Connect,
    /// The key is missing or wrong: 401 or 403.
    Unauthorized,
    /// The server has too much to do: 429.
    RateLimited,
    /// The server found fault with the request: another 4xx.
    BadRequest,
    /// The server failed: 5xx.
    ServerError,
    /// An error event in a stream that had begun.
    ErrorEvent,
    /// The stream ended without saying that it was complete.
    StreamCut,
    /// What came is not what the API promises.
    Malformed,
    /// Not done within `--timeout`.
    Timeout,
}

impl FailureKind {
    fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Unauthorized,
            429 => Self::RateLimited,
            400..500 => Self::BadRequest,
            500.. => Self::ServerError,
            _ => Self::Malformed,
        }
    }

    /// As it stands in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::BadRequest => "bad_request",
            Self::ServerError => "server_error",
            Self::ErrorEvent => "error_event",
            Self::StreamCut => "stream_cut",
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
        }
    }
}

/// One failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it counts as.
    pub(crate) kind: FailureKind,
    /// For people, at most a few hundred characters.
    pub(crate) message: String,
    /// What a 429 or 503 asked for.
    pub(crate) retry_after: Option<Duration>,
}

/// Longest message kept of a server's answer.
const MAX_MESSAGE_CHARS: usize = 300;

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
        Self { kind, message, retry_after: None }
    }

    /// From an answer with an error status; the envelope's message if there is one.
    pub(crate) fn of_answer(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let message = match serde_json::from_slice(body) {
            Ok(json) => error_message(&json),
            Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
        };
        let wait = retry_after.map(|wait| format!(" (Retry-After {} s)", wait.as_secs()));
        let message = format!("HTTP {status}{}: {message}", wait.unwrap_or_default());
        Self { retry_after, ..Self::new(FailureKind::of_status(status), message) }
    }
}

/// The message in any of the shapes that servers give errors: `{"error": {"message"}}`,
/// `{"error": text}`, `{"message"}`, `{"detail"}`.
pub(crate) fn error_message(json: &serde_json::Value) -> String {
    let error = json.get("error").unwrap_or(json);
    let text = ["message", "detail"].iter().find_map(|key| error.get(key)?.as_str());
    text.or_else(|| error.as_str()).map_or_else(|| error.to_string(), str::to_owned)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A connection that broke.
pub(crate) fn broken_io(error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::StreamCut, format!("the connection broke: {error}"))
}

/// One kind of failure over a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailureCount {
    /// Which.
    pub(crate) kind: FailureKind,
    /// How often.
    pub(crate) count: usize,
    /// The first one's message.
    pub(crate) first: String,
}

/// Counts failures by kind.
#[derive(Debug, Default)]
pub(crate) struct FailureCounts(BTreeMap<FailureKind, (usize, String)>);

impl FailureCounts {
    pub(crate) fn add(&mut self, failure: &Failure) {
        let entry = self.0.entry(failure.kind).or_insert_with(|| (0, failure.message.clone()));
        entry.0 += 1;
    }

    pub(crate) fn total(&self) -> usize {
        self.0.values().map(|(count, _)| count).sum()
    }

    /// The most frequent first.
    pub(crate) fn list(&self) -> Vec<FailureCount> {
        let list = self.0.iter();
        let list = list.map(|(&kind, (count, first))| FailureCount {
            kind,
            count: *count,
            first: first.clone(),
        });
        let mut list: Vec<_> = list.collect();
        list.sort_by_key(|failures| std::cmp::Reverse(failures.count));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_every_envelope() {
        for body in [
            r#"{"error": {"message": "no such model", "type": "x"}}"#,
            r#"{"error": "no such model"}"#,
            r#"{"detail": "no such model"}"#,
            r#"{"object": "error", "message": "no such model"}"#,
            " no such model\n",
        ] {
            let failure = Failure::of_answer(404, body.as_bytes(), None);
            assert_eq!(failure.kind, FailureKind::BadRequest);
            assert_eq!(failure.message, "HTTP 404: no such model");
        }
    }

    #[test]
    fn kinds_are_counted_and_keep_their_first_message() {
        let mut counts = FailureCounts::default();
        counts.add(&Failure::of_answer(500, b"first", None));
        for status in [429, 429, 401, 503] {
            counts.add(&Failure::of_answer(status, b"later", Some(Duration::from_secs(2))));
        }
        let list = counts.list();
        assert_eq!(counts.total(), 5);
        let count =
            |kind| list.iter().find(|f| f.kind == kind).map(|f| (f.count, f.first.as_str()));
        assert_eq!(count(FailureKind::ServerError), Some((2, "HTTP 500: first")));
        let limited = (2, "HTTP 429 (Retry-After 2 s): later");
        assert_eq!(count(FailureKind::RateLimited), Some(limited));
        assert_eq!(count(FailureKind::Unauthorized).unwrap().0, 1);
    }
}
