//! The layer that every request passes: key, scope, limits on the way in, headers and the access log
//! on the way out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};

use super::call::{Call, refused};
use super::keys::{Key, KeySet, Scope, Unknown};
use super::limits::go_duration;
use super::log::{AccessLog, Entry, MAX_BODY_BYTES};
use crate::error::ApiError;
use crate::request_log::{CLIENT_LEFT, REQUEST_ID, shortened};
use crate::state::App;

/// What a path asks of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Any key.
    Key,
    Scope(Scope),
}

/// What stands open is listed; a path that nobody thought of is guarded.
fn needs(path: &str, guard_metrics: bool) -> Needs {
    match path {
        "/health" | "/ready" | "/docs" | "/openapi.json" => Needs::Nothing,
        "/metrics" if !guard_metrics => Needs::Nothing,
        "/metrics" | "/load" => Needs::Scope(Scope::Metrics),
        "/" | "/version" => Needs::Key,
        _ => Needs::Scope(Scope::Inference),
    }
}

/// 401 without a key where one is wanted, 403 if it may not, 429 past its limits.
pub(crate) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let needs = needs(request.uri().path(), app.config().guard_metrics);
    if needs == Needs::Nothing {
        return next.run(request).await;
    }
    let access = app.access();
    let log = access.log().cloned();
    let keys = access.keys();
    let (key, fault) = match find(&keys, request.headers()) {
        Ok(key) => (key, None),
        Err(error) => (None, Some(error)),
    };
    let keeps_bodies = log.as_ref().is_some_and(|log| log.bodies);
    let call = Call::new(key.clone(), access.origin(), keeps_bodies);
    let mut end = End::new(Arc::clone(&call), log, &request);
    let admitted = match (fault, &key) {
        (Some(error), _) => Err(error),
        (None, Some(key)) => admit(&call, key, needs, &request),
        (None, None) => Ok(None),
    };
    let mut response = match admitted {
        Ok(permit) => {
            end.permit = permit;
            // Where there is one key, all are one.
            if let Some(key) = key.as_ref().filter(|_| keys.keys.len() > 1) {
                request.extensions_mut().insert(key.share.clone());
            }
            call.run(next.run(request)).await
        }
        Err(error) => error.into_response(),
    };
    if let Some(key) = &key {
        tell_limits(key, &end.call, response.headers_mut());
    }
    end.status = response.status().as_u16();
    if end.permit.is_none() && end.log.is_none() {
        return response;
    }
    response.map(|inner| Body::new(Watched { inner, end }))
}

/// Whether `key` may do this, and what it holds while it does.
fn admit(
    call: &Call,
    key: &Arc<Key>,
    needs: Needs,
    request: &Request,
) -> Result<Option<Permit>, ApiError> {
    let Needs::Scope(scope) = needs else { return Ok(None) };
    if !key.may(scope) {
        let message = format!(
            "The API key '{}' lacks the scope '{scope}', which {} needs.",
            key.name,
            shortened(request.uri().path())
        );
        let error = ApiError::new(StatusCode::FORBIDDEN, message);
        return Err(ApiError { code: Some("insufficient_scope"), ..error });
    }
    // What asks the model for something is limited; to list, look up and stop things is not.
    if scope != Scope::Inference || request.method() != Method::POST {
        return Ok(None);
    }
    let entered = key.state.in_use.enter(call.now(), &key.limits);
    entered.map_err(|refusal| refused(key, refusal, (0, 0)))?;
    key.state.usage.request();
    Ok(Some(Permit(Arc::clone(key))))
}

/// The key that a request brings; `None` if none is wanted.
fn find(keys: &KeySet, headers: &HeaderMap) -> Result<Option<Arc<Key>>, ApiError> {
    if keys.keys.is_empty() {
        return Ok(None);
    }
    let now = jiff::Timestamp::now();
    let mut why = Unknown::NoKey;
    for given in given(headers).into_iter().flatten().filter(|given| !given.is_empty()) {
        match keys.find(given, now) {
            Ok(key) => return Ok(Some(Arc::clone(key))),
            Err(unknown) => why = unknown,
        }
    }
    Err(unauthorized(why))
}

/// What a request gives as its key. Some clients send both headers, and only one is meant for us.
fn given(headers: &HeaderMap) -> [Option<&[u8]>; 2] {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    // As Anthropic's clients send it.
    [bearer, headers.get("x-api-key").map(|key| key.as_bytes().trim_ascii())]
}

/// 401 in the words of why.
fn unauthorized(why: Unknown) -> ApiError {
    let message = match why {
        Unknown::NoKey => "No API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
        Unknown::NotAKey => "The API key is not known here.",
        Unknown::Expired => "The API key has expired.",
    };
    let error = ApiError::new(StatusCode::UNAUTHORIZED, message);
    ApiError { code: Some("invalid_api_key"), ..error }
}

/// OpenAI's headers about limits.
fn tell_limits(key: &Key, call: &Call, headers: &mut HeaderMap) {
    let standing = key.state.in_use.standing(call.now(), &key.limits);
    for (standing, [limit, remaining, reset]) in standing.into_iter().zip(LIMIT_HEADERS) {
        let Some(standing) = standing else { continue };
        headers.insert(limit, standing.limit.into());
        headers.insert(remaining, standing.remaining.into());
        let wait = go_duration(standing.reset);
        headers.insert(reset, HeaderValue::try_from(wait).expect("digits and letters"));
    }
}

/// Of requests and of tokens.
pub(crate) const LIMIT_HEADERS: [[&str; 3]; 2] = [
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
];

/// A place among the requests that a key has at once.
#[derive(Debug)]
struct Permit(Arc<Key>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state.in_use.leave();
    }
}

/// The end of a request, however it comes: its place is free and its line is written.
#[derive(Debug)]
struct End {
    call: Arc<Call>,
    permit: Option<Permit>,
    log: Option<(AccessLog, Box<Entry>)>,
    status: u16,
    response: Vec<u8>,
}

impl End {
    fn new(call: Arc<Call>, log: Option<AccessLog>, request: &Request) -> Self {
        let id = || request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let log = log.map(|log| {
            let entry = Entry {
                time: format!("{:.3}", jiff::Timestamp::now()),
                request_id: id().unwrap_or_default().to_owned(),
                method: request.method().as_str().chars().take(16).collect(),
                route: shortened(request.uri().path()).into_owned(),
                ..Entry::default()
            };
            (log, Box::new(entry))
        });
        Self { call, permit: None, log, status: CLIENT_LEFT, response: Vec::new() }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.call.keeps_bodies() {
            let room = MAX_BODY_BYTES - self.response.len();
            self.response.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Some((log, mut entry)) = self.log.take() else { return };
        self.call.describe(&mut entry);
        entry.status = self.status;
        let response = std::mem::take(&mut self.response);
        entry.response = self.call.keeps_bodies().then(|| response.into());
        log.write(*entry);
    }
}

/// A body with what happens at its end. The fields drop in this order: what generates it has told the
/// call about its tokens before the line is written.
#[derive(Debug)]
struct Watched {
    inner: Body,
    end: End,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.end.keep(data);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_open() {
        for path in ["/health", "/ready", "/metrics", "/docs", "/openapi.json"] {
            assert_eq!(needs(path, false), Needs::Nothing, "{path}");
        }
        assert_eq!(needs("/metrics", true), Needs::Scope(Scope::Metrics));
        for path in ["/health/", "//health", "/HEALTH", "/ready/x", "/metrics/", "", "/v1/x"] {
            assert_eq!(needs(path, false), Needs::Scope(Scope::Inference), "{path}");
        }
    }
}
