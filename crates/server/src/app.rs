//! The router: every path, and the layers around it.

use std::any::Any;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::access;
use crate::anthropic;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::request_log;
use crate::routes::{
    chat, completions, embeddings, messages, metrics, models, rerank, responses, score, status,
    tokenize,
};
use crate::state::App;
use crate::trace_context;

impl App {
    /// All routes. From the outside in: CORS (errors carry its headers too, and a preflight needs
    /// no key), Anthropic's error envelope, request id, key and limits for all that is not listed as
    /// open, panics to 500.
    pub fn router(&self) -> Router {
        let routes = routes().into_iter();
        routes
            .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
            .fallback(unknown_route)
            .method_not_allowed_fallback(wrong_method)
            .layer(DefaultBodyLimit::max(self.config().max_body_bytes))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(from_fn_with_state(self.clone(), access::guard))
            .layer(from_fn_with_state(self.clone(), request_log::follow))
            .layer(from_fn(anthropic::errors::envelope))
            .layer(cors(self.config()))
            .with_state(self.clone())
    }
}

/// Every path, with what it takes.
fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    vec![
        ("/v1/chat/completions", post(chat::create)),
        ("/v1/completions", post(completions::create)),
        ("/v1/messages", post(messages::create)),
        ("/v1/messages/count_tokens", post(messages::count_tokens)),
        ("/v1/responses", post(responses::create)),
        ("/v1/responses/input_tokens", post(responses::input_tokens)),
        ("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete)),
        ("/v1/responses/{id}/cancel", post(responses::cancel)),
        ("/v1/responses/{id}/input_items", get(responses::input_items)),
        ("/v1/embeddings", post(embeddings::create)),
        ("/v1/rerank", post(rerank::create)),
        ("/v2/rerank", post(rerank::create)),
        ("/rerank", post(rerank::create)),
        ("/v1/score", post(score::create)),
        ("/score", post(score::create)),
        ("/v1/models", get(models::list)),
        ("/v1/models/{*id}", get(models::show)),
        ("/tokenize", post(tokenize::tokenize)),
        ("/detokenize", post(tokenize::detokenize)),
        ("/", get(status::index)),
        ("/health", get(status::health)),
        ("/ready", get(status::ready)),
        ("/load", get(status::load)),
        ("/version", get(status::version)),
        ("/metrics", get(metrics::show)),
        ("/openapi.json", get(status::openapi)),
        ("/docs", get(status::docs)),
    ]
}

fn cors(config: &ServerConfig) -> CorsLayer {
    let origins = match &config.allowed_origins {
        None => AllowOrigin::any(),
        Some(origins) => AllowOrigin::list(
            origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()),
        ),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::OPTIONS])
        // SDKs send a dozen x-stainless-* headers and more; none of them is dangerous here.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            [
                request_log::REQUEST_ID,
                HeaderName::from_static("request-id"),
                HeaderName::from_static("x-should-retry"),
                header::RETRY_AFTER,
                trace_context::HEADER,
            ]
            .into_iter()
            .chain(access::LIMIT_HEADERS.into_iter().flatten().map(HeaderName::from_static))
            .collect::<Vec<_>>(),
        )
        .max_age(std::time::Duration::from_mins(10))
}

async fn unknown_route(request: Request) -> ApiError {
    let message = format!("There is no route {} {}.", request.method(), request.uri().path());
    let error = ApiError::new(StatusCode::NOT_FOUND, message);
    ApiError { code: Some("unknown_url"), ..error }
}

async fn wrong_method(request: Request) -> ApiError {
    let path = request.uri().path();
    let message = format!("{path} does not take {}.", request.method());
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message);
    ApiError { code: Some("method_not_allowed"), ..error }
}

/// A handler panicked: a fault of ours, told without its details.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    tracing::error!(panic = text, "a request handler panicked");
    ApiError::internal("The server failed to handle this request.").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_is_described() {
        let document: serde_json::Value =
            serde_json::from_str(&openapi::reference().document).unwrap();
        let described = document["paths"].as_object().unwrap().keys().cloned();
        let served = routes().into_iter().map(|(path, _)| path.replace("{*", "{"));
        assert_eq!(described.collect::<BTreeSet<_>>(), served.collect::<BTreeSet<_>>());
        let page = include_str!("../../../docs/api.md");
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                let named = page.lines().any(|line| {
                    line.contains(&format!("{path}`")) && line.contains(&method.to_uppercase())
                });
                assert!(named, "docs/api.md does not name {method} {path}");
            }
        }
    }
}
