//! What a request passes before its handler: a key, where one is wanted.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::state::App;

/// 401 unless the request brings one of the keys, or none is configured.
pub(crate) async fn api_key(State(app): State<App>, request: Request, next: Next) -> Response {
    let keys = &app.config().api_keys;
    if keys.is_empty() {
        return next.run(request).await;
    }
    let given = bearer(request.headers()).unwrap_or_default();
    // Every key is compared in full, so that time tells nothing.
    let known = keys.iter().fold(false, |known, key| known | same(key.as_bytes(), given));
    if known {
        return next.run(request).await;
    }
    let message = if given.is_empty() {
        "No API key: send it as 'Authorization: Bearer KEY'."
    } else {
        "The API key is not known here."
    };
    let error = ApiError::new(StatusCode::UNAUTHORIZED, message);
    ApiError { code: Some("invalid_api_key"), ..error }.into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// Compares in a time that depends on the lengths only.
fn same(left: &[u8], right: &[u8]) -> bool {
    let differs = left.iter().zip(right).fold(0, |differs, (a, b)| differs | (a ^ b));
    left.len() == right.len() && std::hint::black_box(differs) == 0
}
