//! Traces against a collector: what arrives, what does not, and that a request never waits for it.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::json;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use tests::{Server, root, sconce, wait_until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

type Post = (HeaderMap, Bytes);

/// A collector on a port of its own: its base URL, and what it gets.
fn collector() -> (String, Receiver<Post>) {
    let (sender, posts) = channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let take = move |headers: HeaderMap, body: Bytes| async move {
        sender.send((headers, body)).map_or(StatusCode::GONE, |()| StatusCode::OK)
    };
    let app = Router::new().route("/v1/traces", post(take));
    std::thread::spawn(move || runtime.block_on(async { axum::serve(listener, app).await }));
    (base, posts)
}

fn chat(server: &Server, flags: &str) -> String {
    let place = format!("00-{TRACE}-{PARENT}-{flags}");
    let headers = [("traceparent", place.as_str()), ("x-request-id", "the-request")];
    let question = json!([{"role": "user", "content": "Hello"}]);
    let body = json!({"messages": question, "n": 2, "max_tokens": 6, "temperature": 0.5});
    let (status, headers, text) =
        server.post_with(&headers, "/v1/chat/completions", &body.to_string());
    assert_eq!(status, 200, "{text}");
    headers["traceparent"].clone()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn attribute<'a>(attributes: &'a [KeyValue], name: &str) -> &'a Attribute {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    let found = found.unwrap_or_else(|| panic!("no {name} in {attributes:?}"));
    found.value.as_ref().unwrap().value.as_ref().unwrap()
}

fn int(span: &Span, name: &str) -> i64 {
    match attribute(&span.attributes, name) {
        Attribute::IntValue(value) => *value,
        other => panic!("{name} is {other:?}"),
    }
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    match attribute(attributes, name) {
        Attribute::StringValue(value) => value.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn a_request_is_a_span_with_the_parts_of_its_way() {
    let (base, posts) = collector();
    let server = Server::start_with(
        &[],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &base),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-collector"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ],
    );
    let unsampled = chat(&server, "00");
    assert!(unsampled.starts_with(&format!("00-{TRACE}-")) && unsampled.ends_with("-00"));
    let ours = chat(&server, "01");
    assert!(ours.starts_with(&format!("00-{TRACE}-")) && ours.ends_with("-01"), "{ours}");
    // Sent at the end at the latest, though the pace is one post in five seconds.
    server.signal("TERM");
    assert!(server.wait().success());
    let (root, children) = way(&posts, |headers, resource| {
        assert_eq!(headers["authorization"], "Bearer of-the-collector");
        assert_eq!(text(resource, "deployment.environment.name"), "test");
    });
    let root = &root;
    assert_eq!(hex(&root.trace_id), TRACE);
    assert_eq!(root.name, "POST /v1/chat/completions");
    assert_eq!(
        (hex(&root.parent_span_id).as_str(), hex(&root.span_id).as_str()),
        (PARENT, &ours[36..52])
    );
    assert_eq!(text(&root.attributes, "http.route"), "/v1/chat/completions");
    assert_eq!(int(root, "http.response.status_code"), 200);
    assert_eq!(text(&root.attributes, "gen_ai.request.id"), "the-request");
    assert_eq!(text(&root.attributes, "gen_ai.response.model"), "spark");
    assert_eq!((int(root, "gen_ai.request.n"), int(root, "gen_ai.request.max_tokens")), (2, 6));
    assert_eq!(int(root, "gen_ai.usage.num_sequences"), 2);
    assert_eq!(
        attribute(&root.attributes, "gen_ai.request.temperature"),
        &Attribute::DoubleValue(0.5)
    );
    for name in ["time_in_queue", "time_to_first_token", "e2e", "time_in_model_prefill"] {
        let Attribute::DoubleValue(seconds) =
            attribute(&root.attributes, &format!("gen_ai.latency.{name}"))
        else {
            panic!("{name} is a number of seconds")
        };
        let whole = (root.end_time_unix_nano - root.start_time_unix_nano) as f64 / 1e9;
        assert!((0.0..=whole).contains(seconds), "{name}: {seconds} of {whole}");
    }
    let generated: i64 = children
        .iter()
        .filter(|span| span.name == "decode")
        .map(|span| int(span, "gen_ai.usage.output_tokens"))
        .sum();
    assert!(generated > 0 && generated == int(root, "gen_ai.usage.output_tokens"));
    assert_eq!(generated, int(root, "gen_ai.usage.completion_tokens"));
    assert_way(root, &children);
}

/// The spans of the only request that is told of, its own first; `check` is on each post.
fn way(posts: &Receiver<Post>, check: impl Fn(&HeaderMap, &[KeyValue])) -> (Span, Vec<Span>) {
    let mut spans = Vec::new();
    for (headers, body) in posts.try_iter() {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        for part in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
            let resource = part.resource.unwrap().attributes;
            assert_eq!(text(&resource, "service.name"), "sconce");
            check(&headers, &resource);
            spans.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let (mut roots, children): (Vec<_>, Vec<_>) =
        spans.into_iter().partition(|span| span.kind == SpanKind::Server as i32);
    let root = roots.pop().unwrap();
    assert!(roots.is_empty(), "one request is sampled: {roots:?}");
    assert!(children.iter().all(|span| span.trace_id == root.trace_id));
    (root, children)
}

#[test]
fn vectors_are_traced_as_answers_are() {
    let (base, posts) = collector();
    let model = root().join("models/golden_pooling/llama_mean");
    let args = [model.to_str().unwrap(), "--served-model-name", "m"];
    let server = Server::start_with(&args, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &base)]);
    server.ok("/v1/embeddings", &json!({"model": "m", "input": ["hello", "you"]}));
    server.signal("TERM");
    assert!(server.wait().success());
    let (root, children) = way(&posts, |_, _| ());
    assert_eq!(root.name, "POST /v1/embeddings");
    assert_eq!(text(&root.attributes, "gen_ai.response.model"), "m");
    assert_eq!(int(&root, "gen_ai.usage.num_sequences"), 2);
    assert!(int(&root, "gen_ai.usage.prompt_tokens") > 1);
    assert_eq!(int(&root, "gen_ai.usage.completion_tokens"), 0);
    let asked = root.attributes.iter().filter(|pair| pair.key.starts_with("gen_ai.request."));
    assert_eq!(asked.map(|pair| &pair.key).collect::<Vec<_>>(), ["gen_ai.request.id"]);
    let names: Vec<_> = children.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["tokenize", "queue", "prefill", "queue", "prefill"]);
    for span in &children {
        assert_eq!(span.parent_span_id, root.span_id);
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano, "{}", span.name);
    }
}

/// The parts follow each other without a gap, within the request.
fn assert_way(root: &Span, children: &[Span]) {
    let names: Vec<_> = children.iter().map(|span| span.name.as_str()).collect();
    let each = ["queue", "prefill", "decode"];
    assert_eq!(names, [&["tokenize"], &each[..], &each[..]].concat());
    for span in children {
        assert_eq!(span.parent_span_id, root.span_id);
        assert!(span.start_time_unix_nano >= root.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano, "{}", span.name);
    }
    for sequence in children[1..].chunks(3) {
        for (before, after) in sequence.iter().zip(&sequence[1..]) {
            assert_eq!(before.end_time_unix_nano, after.start_time_unix_nano);
            assert_eq!(int(before, "sconce.choice"), int(after, "sconce.choice"));
        }
    }
}

/// Nobody listens there: requests are answered as ever, the log says so once, the process ends.
#[test]
fn a_collector_that_is_gone_costs_a_line_in_the_log() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{gone}/v1/traces");
    let environment = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ];
    let server = Server::start_with(&[], &environment);
    let mut log = String::new();
    wait_until("a line in the log", || {
        chat(&server, "01");
        log += &server.log_so_far();
        log.contains("traces cannot be sent to")
    });
    for _ in 0..5 {
        chat(&server, "01");
    }
    server.signal("TERM");
    let (status, rest) = server.wait_with_log();
    assert!(status.success());
    log += &rest;
    assert_eq!(log.matches("traces cannot be sent to").count(), 1, "{log}");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    for (name, value, says) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "OTEL_EXPORTER_OTLP"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem", "OTEL_EXPORTER_OTLP_CERTIFICATE is set"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "key.pem", "TRACES_CLIENT_KEY is set"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
        ("OTEL_TRACES_SAMPLER", "xray", "parentbased_always_on"),
        ("OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG"),
    ] {
        let mut command = sconce(&["serve", "--port", "0", "--log-level", "error"]);
        let output = command.envs([endpoint, (name, value)]).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(says), "{name}={value}: {stderr}");
    }
}
