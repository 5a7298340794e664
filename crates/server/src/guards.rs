//! What a request passes before its handler: a key, where one is wanted.

use std::hash::BuildHasher;
use std::num::NonZeroU16;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use engine::Share;

use crate::error::ApiError;
use crate::state::App;

/// 401 unless the request brings one of the keys, or none is configured. Each of several keys is a
/// tenant with a share of its own.
pub(crate) async fn api_key(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let keys = &app.config().api_keys;
    if keys.is_empty() {
        return next.run(request).await;
    }
    let given = [bearer(request.headers()), x_api_key(request.headers())];
    // Every key is compared in full, so that time tells nothing.
    let given: Vec<&[u8]> = given.into_iter().flatten().collect();
    let is_given =
        |key: &String| given.iter().fold(false, |is, given| is | same(key.as_bytes(), given));
    let compared: Vec<_> = keys.iter().map(is_given).collect();
    if let Some(at) = compared.iter().position(|same| *same) {
        if keys.len() > 1 {
            let tenant = format!("key-{}", at + 1).into();
            request.extensions_mut().insert(Share { tenant, weight: NonZeroU16::MIN });
        }
        return next.run(request).await;
    }
    let message = if given.iter().all(|given| given.is_empty()) {
        "No API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
    } else {
        "The API key is not known here."
    };
    let error = ApiError::new(StatusCode::UNAUTHORIZED, message);
    ApiError { code: Some("invalid_api_key"), ..error }.into_response()
}

/// Who asks: one number for each key, where there are keys.
pub(crate) fn owner(app: &App, headers: &HeaderMap) -> Option<u64> {
    if app.config().api_keys.is_empty() {
        return None;
    }
    let other = headers.get("x-api-key").map(HeaderValue::as_bytes);
    Some(app.responses().keys.hash_one((bearer(headers), other)))
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// As Anthropic's clients send it.
fn x_api_key(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("x-api-key").map(|key| key.as_bytes().trim_ascii())
}

/// Compares in a time that depends on the lengths only.
fn same(left: &[u8], right: &[u8]) -> bool {
    let differs = left.iter().zip(right).fold(0, |differs, (a, b)| differs | (a ^ b));
    left.len() == right.len() && std::hint::black_box(differs) == 0
}
