//! HTTP as the `prometheus_fastapi_instrumentator` of vLLM counts it: by route, method and class of status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::buckets;
use super::histogram::Histogram;
use super::page::Page;

/// `1xx` to `5xx`.
const NUM_CLASSES: usize = 5;

/// The route as the router has it, and the method; as many as the router has, and `none`.
type Route = (String, &'static str);

/// Requests by route.
#[derive(Debug, Default)]
pub(crate) struct HttpMetrics {
    routes: Mutex<BTreeMap<Route, Counts>>,
}

#[derive(Debug)]
struct Counts {
    by_class: [u64; NUM_CLASSES],
    seconds: Histogram,
}

impl HttpMetrics {
    /// A request ended.
    pub(crate) fn end(&self, route: &str, method: &str, status: u16, elapsed: Duration) {
        let method =
            ["GET", "POST", "DELETE", "HEAD", "OPTIONS"].into_iter().find(|own| *own == method);
        let method = method.unwrap_or("other");
        let class = usize::from(status / 100).clamp(1, NUM_CLASSES) - 1;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = routes.entry((route.to_owned(), method)).or_insert_with(|| Counts {
            by_class: [0; NUM_CLASSES],
            seconds: Histogram::new(buckets::HTTP),
        });
        counts.by_class[class] += 1;
        counts.seconds.observe(elapsed);
    }

    pub(crate) fn render(&self, page: &mut Page) {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = |(route, method): &Route| format!("handler=\"{route}\",method=\"{method}\"");
        let help = "Requests by route and class of status, probes and scrapes left out.";
        page.family(("counter", "http_requests_total", help), |samples| {
            for (route, counts) in &*routes {
                for (class, count) in counts.by_class.iter().enumerate().filter(|(_, n)| **n > 0) {
                    let labels = format!("{},status=\"{}xx\"", labels(route), class + 1);
                    samples.add(labels, *count as f64);
                }
            }
        });
        let help = "From a request's head to the end of its answer, streams included.";
        page.family(("histogram", "http_request_duration_seconds", help), |samples| {
            for (route, counts) in &*routes {
                samples.histogram(&labels(route), &counts.seconds.times());
            }
        });
    }
}
