//! `GET /metrics`: what Prometheus and load-aware routers scrape, some of them 20 times a second.

use axum::extract::State;
use axum::http::{HeaderName, header};

use crate::metrics;
use crate::state::App;

/// Prometheus 3 refuses a scrape whose type is not exactly this.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Reads atomics only; never waits for an engine.
pub(crate) async fn show(State(app): State<App>) -> ([(HeaderName, &'static str); 1], String) {
    let mut page = metrics::render(app.registry().loaded().map(|model| &**model));
    app.access().render(&mut page);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page)
}
