//! The name of a request, its line in the log when its answer has ended, and its place in a trace.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::random::random_id;
use crate::request_trace::RequestTrace;
use crate::state::App;
use crate::trace_context::{self, TraceContext};

/// Names a request, in it and in its answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from a client.
const MAX_REQUEST_ID_LEN: usize = 128;
/// nginx's status for a client that left before its answer.
pub(crate) const CLIENT_LEFT: u16 = 499;
/// Most that logs and errors show of a path: it is the client's text.
const MAX_PATH_LEN: usize = 200;
/// Probes and scrapes: several a minute that nobody wants to read.
const QUIET: &[&str] = &["/health", "/ready", "/metrics", "/version"];

/// Echoes `x-request-id`, or makes one up; goes on with the trace; logs the request under both.
pub(crate) async fn follow(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    // The access log has the id that is answered.
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let theirs = TraceContext::of(request.headers());
    let spans = if is_quiet(&request) { None } else { RequestTrace::begin(&app, &request, theirs) };
    let trace = match &spans {
        Some(spans) => Some(spans.place()),
        None => theirs.map(TraceContext::child),
    };
    let span = tracing::info_span!("request", id = text(&id), trace_id = Empty);
    if let Some(trace) = trace {
        span.record("trace_id", trace.trace_id());
    }
    let mut line = Line::new(app, &request, span.clone());
    if let Some(spans) = spans {
        spans.name(text(&id));
        request.extensions_mut().insert(spans.clone());
        line.spans = Some(spans);
    }
    let mut response = next.run(request).instrument(span).await;
    line.status = Some(response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    if let Some(trace) = trace {
        let ours = HeaderValue::try_from(trace.to_string());
        headers.insert(trace_context::HEADER, ours.expect("digits and dashes"));
    }
    response.map(|body| Body::new(Followed { body, line }))
}

fn is_quiet(request: &Request) -> bool {
    QUIET.contains(&request.uri().path())
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(id) if is_plain(id.as_bytes()) => id.clone(),
        _ => HeaderValue::try_from(random_id("req_")).expect("hexadecimal is visible ASCII"),
    }
}

/// Nothing that could confuse a log.
fn is_plain(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    (1..=MAX_REQUEST_ID_LEN).contains(&id.len()) && id.iter().all(plain)
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// The whole answer was handed to the connection.
    Answered,
    /// The connection was closed, or the stream reset, before that.
    ClientLeft,
    /// The answer broke off.
    Failed,
}

impl Ending {
    fn message(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::ClientLeft => "the client left",
            Self::Failed => "the answer broke off",
        }
    }
}

/// Written when dropped.
#[derive(Debug)]
struct Line {
    app: App,
    span: Span,
    method: Method,
    path: String,
    /// As the router has it.
    route: Option<MatchedPath>,
    spans: Option<RequestTrace>,
    start: Instant,
    /// Unknown until the answer begins.
    status: Option<u16>,
    ending: Ending,
}

impl Line {
    fn new(app: App, request: &Request, span: Span) -> Self {
        Self {
            app,
            span,
            method: request.method().clone(),
            path: shortened(request.uri().path()).into_owned(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            spans: None,
            start: Instant::now(),
            status: None,
            ending: Ending::ClientLeft,
        }
    }
}

impl Line {
    /// As metrics and traces count it: whoever leaves before the answer begins has not been failed by us,
    /// and a stream that breaks has been. Logs have the status that was sent.
    fn final_status(&self) -> u16 {
        match (self.status, self.ending) {
            (Some(_), Ending::Failed) => 500,
            (Some(status), _) => status,
            (None, _) => CLIENT_LEFT,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        let Self { method, path, status, ending, .. } = self;
        let duration_ms = self.start.elapsed().as_millis() as u64;
        let message = ending.message();
        if QUIET.contains(&path.as_str()) {
            tracing::debug!(%method, path, status, duration_ms, "{message}");
        } else {
            tracing::info!(%method, path, status, duration_ms, "{message}");
            let route = self.route.as_ref().map_or("none", MatchedPath::as_str);
            let (status, elapsed) = (self.final_status(), self.start.elapsed());
            self.app.http_metrics().end(route, self.method.as_str(), status, elapsed);
            if let Some(spans) = &self.spans {
                spans.end(status);
            }
        }
    }
}

/// A path as it is shown.
pub(crate) fn shortened(path: &str) -> Cow<'_, str> {
    match path.char_indices().nth(MAX_PATH_LEN) {
        None => path.into(),
        Some((end, _)) => format!("{}...", &path[..end]).into(),
    }
}

/// A body that knows whether it came to its end.
#[derive(Debug)]
struct Followed {
    body: Body,
    line: Line,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(None) => self.line.ending = Ending::Answered,
            Poll::Ready(Some(Err(_))) => self.line.ending = Ending::Failed,
            _ => {}
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

impl Drop for Followed {
    fn drop(&mut self) {
        // A body that says that it has ended is not asked again.
        if self.body.is_end_stream() && !matches!(self.line.ending, Ending::Failed) {
            self.line.ending = Ending::Answered;
        }
    }
}
