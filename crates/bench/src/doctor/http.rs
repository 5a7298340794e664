//! What browsers, probes and logs want, and what happens when a client leaves.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::chat;
use super::report::Report;
use super::subject::{CHAT, Subject, laid_over};
use super::verdict::{Verdict, not_shown, not_supported, wrong};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Gauges of running requests, by the servers that have them.
const RUNNING: [&str; 4] = [
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
    "tgi_batch_current_size",
];

pub(super) async fn examine(subject: &Subject, report: &mut Report) {
    report.add("http.cors", cors(subject).await);
    report.add("http.head", head(subject).await);
    report.add("http.request_id", request_id(subject).await);
    report.add("http.cancel", cancel(subject).await);
}

async fn cors(subject: &Subject) -> Verdict {
    let browser = subject.with(
        None,
        &[
            "origin: https://doctor.example",
            "access-control-request-method: POST",
            "access-control-request-headers: authorization,content-type,x-stainless-os",
        ],
    )?;
    let reply = browser.call(Method::OPTIONS, CHAT, "").await?;
    let origin = reply.header("access-control-allow-origin");
    if origin.is_empty() {
        return not_supported(format!("HTTP {}, no access-control-allow-origin", reply.status));
    }
    if !(200..300).contains(&reply.status) {
        return wrong(format!("HTTP {}: a preflight carries no key", reply.status));
    }
    let allowed = reply.header("access-control-allow-headers").to_lowercase();
    for name in ["authorization", "content-type", "x-stainless-os"] {
        // A `*` does not stand for authorization.
        let star = allowed.contains('*') && name != "authorization";
        if !star && !allowed.split(',').any(|allowed| allowed.trim() == name) {
            return wrong(format!("{name} is not in access-control-allow-headers: {allowed}"));
        }
    }
    let methods = reply.header("access-control-allow-methods").to_uppercase();
    if !methods.contains('*') && !methods.contains("POST") {
        return wrong(format!("POST is not in access-control-allow-methods: {methods}"));
    }
    // The answer itself must say so, too.
    let page = subject.with_headers(&["origin: https://doctor.example"])?;
    let reply = page.get("/models").await?;
    if reply.header("access-control-allow-origin").is_empty() {
        return wrong("the preflight is answered, but GET /models allows no origin");
    }
    Ok(format!("origin {origin}, headers {}", if allowed.contains('*') { "*" } else { "listed" }))
}

async fn head(subject: &Subject) -> Verdict {
    let reply = subject.send(Method::HEAD, "/", "").await?;
    if reply.status >= 500 {
        return wrong(format!("HTTP {} for HEAD /", reply.status));
    }
    let models = subject.call(Method::HEAD, "/models", "").await?;
    if models.status != 200 && models.status != 405 {
        return wrong(format!("HTTP {} for HEAD on the models", models.status));
    }
    Ok(format!("HTTP {}, HTTP {} on the models", reply.status, models.status))
}

async fn request_id(subject: &Subject) -> Verdict {
    let id = "doctor-7f3a";
    let named = subject.with_headers(&[&format!("x-request-id: {id}")])?;
    let ours = named.get("/models").await?;
    let (first, second) = (subject.get("/models").await?, subject.get("/models").await?);
    let name = "x-request-id";
    let [ours, first, second] = [&ours, &first, &second].map(|reply| reply.header(name));
    if [ours, first, second].iter().all(|id| id.is_empty()) {
        return not_supported(format!("no {name} in answers"));
    }
    if first == second {
        return wrong(format!("two requests have the id `{first}`"));
    }
    let fault = subject.call(Method::POST, CHAT, "{").await?;
    if fault.header(name).is_empty() {
        return wrong(format!("an error has no {name}, which is where one is needed"));
    }
    Ok(if ours == id { "the client's is kept" } else { "each has its own" }.to_owned())
}

async fn cancel(subject: &Subject) -> Verdict {
    let before = running(subject).await?;
    // As much as a context has beside the question, also a short one.
    let beside = |length: usize| length.saturating_sub(256).max(length / 2).max(1);
    let mut question = chat::question_with(&json!({
        "max_tokens": subject.max_model_len.map_or(4096, beside), "ignore_eos": true,
        "messages": [{"role": "user", "content": "Count from 1 to 100000."}],
    }));
    let mut stream = subject.start(CHAT, &question).await?;
    if stream.status() != 200 {
        // Not every server knows ignore_eos.
        laid_over(&mut question, &json!({"ignore_eos": Value::Null}));
        stream = subject.start(CHAT, &question).await?;
    }
    if stream.status() != 200 {
        return wrong(format!("HTTP {} for a long answer", stream.status()));
    }
    match timeout(subject.timeout, stream.next()).await {
        Ok(Some(Ok(_))) => {}
        Ok(Some(Err(failure))) => return Err(failure.into()),
        _ => return wrong("no event came"),
    }
    let during = running(subject).await?;
    drop(stream);
    if during <= before {
        return not_shown(format!("{during} requests ran during a stream: it was over"));
    }
    let left = Instant::now();
    while running(subject).await? > before {
        if left.elapsed() > subject.freed_within {
            return wrong(format!(
                "still running {:?} after the client left",
                subject.freed_within
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(format!("freed after {} ms", left.elapsed().as_millis()))
}

/// Requests that run, as the server's metrics say.
async fn running(subject: &Subject) -> Verdict<f64> {
    let reply = subject.get_root("/metrics").await?;
    if reply.status != 200 {
        return not_supported(format!("/metrics: HTTP {}", reply.status));
    }
    let text = String::from_utf8_lossy(&reply.body);
    let lines = text
        .lines()
        .filter(|line| RUNNING.contains(&line.split(['{', ' ']).next().unwrap_or_default()));
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    if values.is_empty() {
        return not_supported("/metrics has no gauge of running requests that is known");
    }
    Ok(values.iter().sum())
}
