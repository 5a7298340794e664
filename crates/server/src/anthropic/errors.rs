//! Anthropic's error envelope: `{"type":"error","error":{"type","message"},"request_id"}`, its
//! names for what went wrong, and the words that its clients look for.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};

use crate::error::ApiError;

/// Where a translated request's fields stand in what the client sent.
const SPELLINGS: [(&str, &str); 8] = [
    (".function.name", ".name"),
    (".function.parameters", ".input_schema"),
    (".function.description", ".description"),
    (".function.strict", ".strict"),
    ("response_format.json_schema.schema", "output_config.format.schema"),
    ("response_format", "output_config.format"),
    ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
    ("'stop'", "'stop_sequences'"),
];

/// Rewrites every error below `/v1/messages` or told to a client that speaks of Anthropic's API,
/// whoever made it, and names the request as such clients want it.
pub(crate) async fn envelope(request: Request, next: Next) -> Response {
    const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
    let path = request.uri().path();
    let ours = path == "/v1/messages"
        || path.starts_with("/v1/messages/")
        || request.headers().contains_key("anthropic-version");
    let mut response = next.run(request).await;
    if !ours {
        return response;
    }
    let id = response.headers().get("x-request-id").cloned();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let mut body = body(&error);
        body["request_id"] = json!(id.as_ref().and_then(|id| id.to_str().ok()));
        *response.status_mut() = status(&error);
        *response.body_mut() = Body::from(body.to_string());
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The envelope without the request's id, as it stands in a stream.
pub(crate) fn body(error: &ApiError) -> Value {
    let mut body =
        json!({"type": "error", "error": {"type": kind(error), "message": error.message}});
    if error.param.as_deref() == Some("thread") {
        // The SDKs' tool runners ask for a thread that the server keeps, and go on without if they read this.
        let details =
            json!({"error_code": "thread_unsupported_request", "unsupported": ["thread"]});
        body["error"]["details"] = details;
    }
    body
}

/// A full server is 529 here; 429 is for a client that asks too much.
fn status(error: &ApiError) -> StatusCode {
    match error.code {
        Some("queue_full") => StatusCode::from_u16(529).expect("three digits"),
        _ => error.status,
    }
}

fn kind(error: &ApiError) -> &'static str {
    match status(error).as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// 400 for a field that there is not, in Anthropic's words: clients that try newer fields fall back
/// when they read them.
pub(crate) fn extra_input(path: &str) -> ApiError {
    let error = ApiError::invalid(path, format!("{path}: Extra inputs are not permitted"));
    ApiError { code: Some("unknown_parameter"), ..error }
}

/// 400 for a prompt that leaves no room for an answer. Claude Code compacts the conversation when it
/// reads this, by as much as the numbers say.
pub(crate) fn prompt_too_long(num_tokens: usize, context: usize) -> ApiError {
    let most = context.saturating_sub(1);
    let message = format!("prompt is too long: {num_tokens} tokens > {most} maximum");
    ApiError { code: Some("context_length_exceeded"), ..ApiError::invalid("messages", message) }
}

/// An error of the chat that a request was translated to, in the words of the request.
pub(crate) fn respelled(error: &ApiError) -> ApiError {
    let respell = |text: &str| {
        SPELLINGS.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let message = match (error.code, &error.param) {
        (Some("unknown_parameter"), Some(path)) => return extra_input(path),
        (Some("context_length_exceeded"), _) if !error.message.starts_with("prompt is too") => {
            let message = error.message.trim_end_matches(" (context_length_exceeded)");
            format!("prompt is too long: {message}")
        }
        _ => respell(&error.message),
    };
    ApiError { message, param: error.param.as_deref().map(respell), ..error.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_anthropics_names() {
        for (status, kind, code) in [
            (400, "invalid_request_error", 400),
            (401, "authentication_error", 401),
            (403, "permission_error", 403),
            (404, "not_found_error", 404),
            (405, "invalid_request_error", 405),
            (408, "timeout_error", 408),
            (413, "request_too_large", 413),
            (415, "invalid_request_error", 415),
            (429, "rate_limit_error", 429),
            (500, "api_error", 500),
            (503, "overloaded_error", 503),
            (504, "timeout_error", 504),
        ] {
            let error = ApiError::new(StatusCode::from_u16(status).expect("a status"), "x");
            assert_eq!((super::kind(&error), super::status(&error).as_u16()), (kind, code));
        }
    }
}
