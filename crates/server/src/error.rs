//! The one error envelope: `{"error":{"message","type","param","code"}}`, with its HTTP status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::EngineError;
use serde_json::{Value, json};

/// Everything that a client is told when a request fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// The HTTP status, when the response has not started yet.
    pub status: StatusCode,
    /// What is wrong and what to do, for a person.
    pub message: String,
    /// OpenAI's error type, by status family.
    pub kind: &'static str,
    /// The request field at fault, as a path such as `messages[1].role`.
    pub param: Option<String>,
    /// A name for programs, such as `context_length_exceeded`.
    pub code: Option<&'static str>,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// Any status; the type follows from it.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let message = clipped(message.into(), MAX_MESSAGE_BYTES);
        Self { status, message, kind, param: None, code: None, retry_after: None }
    }

    /// 400 for the field `param`.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, message);
        let param = clipped(param.into(), MAX_PARAM_BYTES);
        Self { param: Some(param), code: Some("invalid_value"), ..error }
    }

    /// 400 for a field that must be there.
    pub(crate) fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Missing required field '{param}'.");
        Self { code: Some("missing_required_parameter"), ..Self::invalid(param, message) }
    }

    /// 400 for a field that this server knows and does not honour.
    pub(crate) fn unsupported(param: &str) -> Self {
        let message = format!("'{param}' is not supported by this server yet; leave it out.");
        Self { code: Some("unsupported_parameter"), ..Self::invalid(param, message) }
    }

    /// 404 for a model that is not served, naming those that are.
    pub(crate) fn unknown_model<'a>(name: &str, served: impl Iterator<Item = &'a str>) -> Self {
        let served = list(served);
        let message = format!("The model '{name}' does not exist. Served here: {served}.");
        let error = Self::new(StatusCode::NOT_FOUND, message);
        Self { param: Some("model".into()), code: Some("model_not_found"), ..error }
    }

    /// 400 for a request that names none of several models.
    pub(crate) fn which_model<'a>(served: impl Iterator<Item = &'a str>) -> Self {
        let served = list(served);
        let message = format!("Missing required field 'model'. Served here: {served}.");
        Self { message, ..Self::missing("model") }
    }

    /// The server ends before the answer does.
    pub(crate) fn cut_off() -> Self {
        Self::unavailable("draining", "The server is shutting down; the answer is incomplete.")
    }

    /// 503 with a reason for programs (`loading`, `draining`) and a hint when to come back.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, message);
        Self { code: Some(code), retry_after: Some(1), ..error }
    }

    /// 500: a fault of ours.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The envelope, as the body of a response or the data of a stream's last event.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

/// Names and values of a client are told back to it, but not megabytes of them, nor logged.
const MAX_MESSAGE_BYTES: usize = 2_000;
const MAX_PARAM_BYTES: usize = 200;

/// The beginning and the end of a text that is longer.
fn clipped(text: String, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text;
    }
    let start = text.floor_char_boundary(max_bytes * 2 / 3);
    let end = text.ceil_char_boundary(text.len() - max_bytes / 3);
    format!("{} ... {}", &text[..start], &text[end..])
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::QueueFull { .. }
            | EngineError::QueueTokensFull { .. }
            | EngineError::QueueShareFull { .. } => Self {
                code: Some("queue_full"),
                retry_after: Some(1),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    format!("The server is overloaded: {message}. Try again later."),
                )
            },
            // Not 408: the request has come in whole, and clients may repeat a 408 at once (RFC 9110,
            // 15.5.9). 504 is what gateways make of a deadline that passed upstream.
            EngineError::DeadlineExceeded => Self {
                code: Some("deadline_exceeded"),
                ..Self::new(StatusCode::GATEWAY_TIMEOUT, message)
            },
            EngineError::Stopped => Self::unavailable("engine_stopped", message),
            EngineError::Rejected(_) => Self::new(StatusCode::BAD_REQUEST, message),
            EngineError::Constraint(_) => {
                let code = Some("constraint_failed");
                Self { code, ..Self::new(StatusCode::BAD_REQUEST, message) }
            }
            EngineError::Step(_) | EngineError::Logits(_) => {
                Self { code: Some("engine_error"), ..Self::internal(message) }
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::GATEWAY_TIMEOUT {
            // Whom the client served has stopped waiting; its SDK would try again at once.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For those who tell it in another API's envelope.
        response.extensions_mut().insert(self);
        response
    }
}
