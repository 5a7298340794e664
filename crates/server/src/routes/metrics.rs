//! `GET /metrics`: what Prometheus and load-aware routers scrape, some of them 20 times a second.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, header};

use crate::metrics::{OPEN_METRICS, Page, TEXT, open_metrics, process};
use crate::state::App;

/// Reads atomics only; never waits for an engine. OpenMetrics for those who say that they read it.
pub(crate) async fn show(
    State(app): State<App>,
    headers: HeaderMap,
) -> ([(HeaderName, &'static str); 1], String) {
    let registry = app.registry();
    let mut page = Page::new(registry.loaded().count());
    page.models(registry.loaded().map(|model| &**model));
    process::render(&mut page, app.config().restarted_at);
    app.http_metrics().render(&mut page);
    app.access().render(&mut page);
    let accepted = headers.get_all(header::ACCEPT).iter();
    let wants_open = |accept: &str| accept.contains("application/openmetrics-text");
    if accepted.filter_map(|accept| accept.to_str().ok()).any(wants_open) {
        return ([(header::CONTENT_TYPE, OPEN_METRICS)], open_metrics(&page.finish()));
    }
    ([(header::CONTENT_TYPE, TEXT)], page.finish())
}
