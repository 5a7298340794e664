//! On which terms a request runs: whose share it takes, and until when it may wait.

use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use engine::Share;

use crate::error::ApiError;
use crate::request_trace::RequestTrace;

/// How long the request may wait to run, in milliseconds from its arrival.
const TIMEOUT: &str = "x-request-timeout-ms";
/// What Envoy, and the gateways made of it, tell of their own patience; they answer 504 themselves
/// after that. 0 is none.
const ENVOY_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";

/// What of a request is not in its body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// Of the key that it brought, if there are several.
    pub(crate) share: Option<Share>,
    /// When it is of no more use to begin.
    pub(crate) deadline: Option<Instant>,
    /// Its span, if traces are wanted.
    pub(crate) trace: Option<RequestTrace>,
}

impl<S: Sync> FromRequestParts<S> for Terms {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let now = Instant::now();
        let own = milliseconds(&parts.headers, TIMEOUT)?;
        if own == Some(0) {
            return Err(invalid(TIMEOUT, "0"));
        }
        let envoy = milliseconds(&parts.headers, ENVOY_TIMEOUT)?.filter(|timeout| *timeout > 0);
        let timeout = own.into_iter().chain(envoy).min();
        // A time that the clock cannot name is never reached.
        let deadline = timeout.and_then(|timeout| now.checked_add(Duration::from_millis(timeout)));
        let extensions = &parts.extensions;
        let (share, trace) = (extensions.get().cloned(), extensions.get().cloned());
        Ok(Self { share, deadline, trace })
    }
}

fn milliseconds(headers: &HeaderMap, name: &str) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?").trim();
    text.parse().map(Some).map_err(|_| invalid(name, text))
}

fn invalid(name: &str, given: &str) -> ApiError {
    let message = format!(
        "The header '{name}' is '{given}'; give the milliseconds that the request may wait, a whole \
         number from 1 on."
    );
    ApiError::invalid(name, message)
}
