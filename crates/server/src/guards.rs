//! What every request passes first: a request id.

use std::hash::BuildHasher;
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::access::Call;
use crate::random::random_id;
use crate::state::App;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken over from a client.
const MAX_REQUEST_ID_LEN: usize = 128;

/// Echoes `x-request-id`, or makes one up, and logs the request under it.
pub(crate) async fn request_id(mut request: Request, next: Next) -> Response {
    let id = match request.headers().get(&REQUEST_ID) {
        Some(id) if is_plain(id.as_bytes()) => id.clone(),
        _ => HeaderValue::try_from(random_id("req_")).expect("hexadecimal is visible ASCII"),
    };
    // The access log has the id that is answered.
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let start = Instant::now();
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    // A stream goes on after its head: this is the time to the head.
    tracing::debug!(?id, %method, path, status, elapsed = ?start.elapsed(), "answered");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Nothing that could confuse a log.
fn is_plain(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    (1..=MAX_REQUEST_ID_LEN).contains(&id.len()) && id.iter().all(plain)
}

/// Who asks: one number for each key's name, where there are keys.
pub(crate) fn owner(app: &App) -> Option<u64> {
    let call = Call::current();
    call.key_name().map(|name| app.responses().keys.hash_one(name))
}
