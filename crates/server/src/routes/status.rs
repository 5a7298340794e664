//! `/`, `/health`, `/ready`, `/load`, `/version`, `/docs`, `/openapi.json`: for people, probes and load
//! balancers.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::openapi;
use crate::state::App;

/// `GET /`: what this is and where to go on.
pub(crate) async fn index(State(app): State<App>) -> Json<Value> {
    let registry = app.registry();
    let models: Vec<_> = registry.loaded().map(|model| &model.names()[0]).collect();
    Json(json!({
        "name": "sconce",
        "version": env!("CARGO_PKG_VERSION"),
        "models": models,
        "links": {
            "chat": "/v1/chat/completions",
            "completions": "/v1/completions",
            "responses": "/v1/responses",
            "models": "/v1/models",
            "tokenize": "/tokenize",
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
            "docs": "/docs",
            "openapi": "/openapi.json",
        },
    }))
}

/// `GET /health`: 200 while a restart of the process would not help.
pub(crate) async fn health(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    match app.fault() {
        None if app.is_restarting() => Ok(Json(json!({"status": "restarting"}))),
        None => Ok(Json(json!({"status": "ok"}))),
        Some(error) => Err(error),
    }
}

/// `GET /ready`: 200 while new requests should be sent here.
pub(crate) async fn ready(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    app.wants_requests().map(|()| Json(json!({"status": "ready"})))
}

/// `GET /load`, as vLLM's: how many requests are in flight on the routes that generate.
pub(crate) async fn load(State(app): State<App>) -> Json<Value> {
    Json(json!({"server_load": app.num_in_flight()}))
}

/// `GET /openapi.json`: the API, for programs.
pub(crate) async fn openapi() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, openapi::reference().document.as_str()).into_response()
}

/// `GET /docs`: the API, for people. The page needs nothing from anywhere.
pub(crate) async fn docs() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ];
    (headers, openapi::reference().page.as_str()).into_response()
}

/// `GET /version`
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}
