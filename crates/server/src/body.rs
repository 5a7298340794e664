//! The bytes of a JSON request: content type, size and time are checked before they are read.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use tokio::time::timeout;

use crate::access::Call;
use crate::error::ApiError;
use crate::state::App;

/// The body of a request that says that it is JSON.
#[derive(Debug)]
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl FromRequest<App> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        check_content_encoding(request.headers())?;
        let limit = app.config().max_body_bytes;
        if content_length(request.headers()).is_some_and(|length| length > limit as u64) {
            return Err(too_large(limit));
        }
        match timeout(app.config().body_timeout, Bytes::from_request(request, app)).await {
            Ok(Ok(bytes)) => {
                Call::current().keep_request(&bytes);
                Ok(Self(bytes))
            }
            Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(
                _,
            )))) => Err(too_large(limit)),
            Ok(Err(error)) => {
                let message = format!("The request body could not be read: {error}.");
                Err(ApiError::new(StatusCode::BAD_REQUEST, message))
            }
            Err(_) => {
                let message = "The request body took too long to arrive.";
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
            }
        }
    }
}

/// Wants JSON by name. Browsers send other types across origins without asking first.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given.map_or("", |value| value.to_str().unwrap_or("?"));
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if json {
        return Ok(());
    }
    let message = format!("The Content-Type is '{given}'; it must be 'application/json'.");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

/// Wants it as it is: what a compressed body holds has no bound that its length tells.
fn check_content_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let message = format!(
                "The Content-Encoding {coding:?} is not supported: send the body as it is."
            );
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
        _ => Ok(()),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("The request body is larger than the limit of {limit} bytes.");
    let error = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message);
    ApiError { code: Some("request_too_large"), ..error }
}
