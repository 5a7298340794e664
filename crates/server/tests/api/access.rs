//! Keys of a file, their limits, and the access log.

use std::path::PathBuf;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::{AccessLogConfig, App, KeySpec, Scope, ServerConfig, new_key};

use crate::fake::{
    Fake, Reply, app, app_with, chat, completion, config, get, open, post, post_request, send,
};

const CHAT: &str = "/v1/chat/completions";

/// A server with one key, which `change` describes.
fn keyed(fake: Fake, change: impl FnOnce(&mut KeySpec)) -> (App, std::sync::Arc<Fake>, String) {
    let (app, fake) = app(fake);
    let (key, mut spec) = new_key("alice").unwrap();
    change(&mut spec);
    assert_eq!(app.set_keys(&[spec]), Ok(1));
    (app, fake, key)
}

fn with_key(mut request: Request<Body>, key: &str) -> Request<Body> {
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

fn request(method: Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

async fn ask(app: &App, key: &str, path: &str, body: &Value) -> Reply {
    send(app, with_key(post_request(path, body.to_string()), key)).await
}

fn error(reply: &Reply) -> (u16, String, String) {
    let error = &reply.json()["error"];
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    (reply.status.as_u16(), text("code"), text("message"))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

#[tokio::test]
async fn scopes_open_what_they_say_and_everything_else_is_guarded() {
    let config = ServerConfig { guard_metrics: true, ..config() };
    let (app, _) = app_with(Fake::answering("x"), config);
    let keys: Vec<_> = [Scope::Inference, Scope::Metrics, Scope::Admin]
        .into_iter()
        .map(|scope| {
            let (key, spec) = new_key(&scope.to_string()).unwrap();
            (key, KeySpec { scopes: Some(vec![scope]), ..spec })
        })
        .collect();
    let specs: Vec<_> = keys.iter().map(|(_, spec)| spec.clone()).collect();
    app.set_keys(&specs).unwrap();
    // Without a key, then with those for inference, metrics and everything.
    for (path, statuses) in [
        ("/health", [200, 200, 200, 200]),
        ("/ready", [200, 200, 200, 200]),
        ("/", [401, 200, 200, 200]),
        ("/version", [401, 200, 200, 200]),
        ("/metrics", [401, 403, 200, 200]),
        ("/v1/models", [401, 200, 403, 200]),
        ("/v1/nothing", [401, 404, 403, 404]),
        ("/v1/chat/completions", [401, 405, 403, 405]),
        ("/metrics/", [401, 404, 403, 404]),
    ] {
        let given = std::iter::once("").chain(keys.iter().map(|(key, _)| key.as_str()));
        for (key, status) in given.zip(statuses) {
            let reply = send(&app, with_key(request(Method::GET, path), key)).await;
            assert_eq!(reply.status, status, "{path} with '{key}'");
            match status {
                401 => {
                    assert_eq!(error(&reply).1, "invalid_api_key");
                    assert_eq!(header(&reply.headers, "www-authenticate"), "Bearer");
                }
                403 => {
                    let (_, code, message) = error(&reply);
                    assert_eq!(code, "insufficient_scope");
                    assert!(message.contains("lacks the scope"), "{message}");
                    assert_eq!(reply.json()["error"]["type"], "permission_error");
                }
                _ => {}
            }
        }
    }
    // As Anthropic's clients send it, some of them beside another's key.
    for (bearer, status) in [(None, 200), (Some("another"), 200), (Some(keys[1].0.as_str()), 403)] {
        let mut request = post_request(CHAT, chat(&json!({})).to_string());
        request.headers_mut().insert("x-api-key", keys[0].0.parse().unwrap());
        if let Some(bearer) = bearer {
            request = with_key(request, bearer);
        }
        assert_eq!(send(&app, request).await.status, status, "{bearer:?}");
    }
}

#[tokio::test]
async fn a_key_of_the_file_stands_beside_those_of_the_command_line_until_it_expires() {
    let (app, _) =
        app_with(Fake::answering("x"), ServerConfig { api_keys: vec!["k".into()], ..config() });
    let (key, spec) = new_key("alice").unwrap();
    app.set_keys(std::slice::from_ref(&spec)).unwrap();
    for key in ["k", &key] {
        assert_eq!(ask(&app, key, CHAT, &chat(&json!({}))).await.status, 200);
    }
    app.set_keys(&[KeySpec { expires: Some("2020-01-01T00:00:00Z".into()), ..spec }]).unwrap();
    let (status, code, message) = error(&ask(&app, &key, CHAT, &chat(&json!({}))).await);
    assert_eq!((status, code.as_str()), (401, "invalid_api_key"));
    assert!(message.contains("expired"), "{message}");
    assert_eq!(ask(&app, "k", CHAT, &chat(&json!({}))).await.status, 200);
}

#[tokio::test]
async fn requests_per_minute() {
    let (app, _, key) = keyed(Fake::answering("x"), |spec| spec.requests_per_minute = Some(2));
    for remaining in ["1", "0"] {
        let reply = ask(&app, &key, CHAT, &chat(&json!({}))).await;
        assert_eq!(reply.status, 200);
        assert_eq!(header(&reply.headers, "x-ratelimit-limit-requests"), "2");
        assert_eq!(header(&reply.headers, "x-ratelimit-remaining-requests"), remaining);
        assert!(!reply.headers.contains_key("x-ratelimit-limit-tokens"), "tokens are free");
    }
    let reply = ask(&app, &key, "/tokenize", &json!({"prompt": "a"})).await;
    let (status, code, message) = error(&reply);
    assert_eq!((status, code.as_str()), (429, "rate_limit_exceeded"));
    assert!(message.contains("2 requests per minute") && message.contains("'alice'"), "{message}");
    let wait: u64 = header(&reply.headers, "retry-after").parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    assert_eq!(header(&reply.headers, "x-ratelimit-remaining-requests"), "0");
    let reset = header(&reply.headers, "x-ratelimit-reset-requests");
    assert!(reset.starts_with("1m") || reset.ends_with('s'), "{reset}");
    // To list is no request to the model, and its answer tells the limits, too.
    let reply = send(&app, with_key(request(Method::GET, "/v1/models"), &key)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(header(&reply.headers, "x-ratelimit-remaining-requests"), "0");
}

#[tokio::test]
async fn tokens_per_minute_are_reserved_and_settled() {
    let (app, fake, key) = keyed(Fake::holding(), |spec| spec.tokens_per_minute = Some(40));
    // Two prompt tokens and ten that may come, twice.
    let body = completion(&json!({"max_tokens": 10, "n": 2, "stream": true}));
    let stream =
        open(&app, with_key(post_request("/v1/completions", body.to_string()), &key)).await;
    assert_eq!(stream.status(), 200);
    assert_eq!(header(stream.headers(), "x-ratelimit-limit-tokens"), "40");
    assert_eq!(header(stream.headers(), "x-ratelimit-remaining-tokens"), "18");
    let body = completion(&json!({"max_tokens": 17}));
    let reply = ask(&app, &key, "/v1/completions", &body).await;
    let (status, code, message) = error(&reply);
    assert_eq!((status, code.as_str()), (429, "rate_limit_exceeded"));
    assert!(message.contains("40 tokens per minute"), "{message}");
    assert!(reply.headers.contains_key("retry-after"));
    // Seven tokens came before both choices ended: eleven of the 22 come back.
    fake.say(0, "abc");
    fake.finish(0);
    fake.say(1, "abcd");
    fake.finish(1);
    stream.into_body().collect().await.unwrap();
    let reply = send(&app, with_key(request(Method::GET, "/v1/models"), &key)).await;
    assert_eq!(header(&reply.headers, "x-ratelimit-remaining-tokens"), "31");
    // What can never fit is no matter of waiting.
    let reply = ask(&app, &key, "/v1/completions", &completion(&json!({"max_tokens": 39}))).await;
    let (status, code, message) = error(&reply);
    assert_eq!((status, code.as_str()), (400, "tokens_per_minute_exceeded"));
    assert!(message.contains("'max_tokens'") && message.contains("40"), "{message}");
    assert_eq!(reply.json()["error"]["param"], "max_tokens");
    // A request that the engine refuses costs no tokens, one that fails in parsing neither.
    ask(&app, &key, "/v1/completions", &completion(&json!({"max_tokens": -1}))).await;
    let reply = send(&app, with_key(request(Method::GET, "/v1/models"), &key)).await;
    assert_eq!(header(&reply.headers, "x-ratelimit-remaining-tokens"), "31");
}

#[tokio::test]
async fn a_request_that_the_engine_refuses_costs_no_tokens() {
    let refusal = engine::EngineError::QueueFull { waiting: 1, limit: 1 };
    let fake = Fake { refusal: Some(refusal), ..Fake::default() };
    let (app, _, key) = keyed(fake, |spec| spec.tokens_per_minute = Some(40));
    let reply = ask(&app, &key, "/v1/completions", &completion(&json!({"max_tokens": 10}))).await;
    assert_eq!(error(&reply).1, "queue_full");
    assert_eq!(header(&reply.headers, "x-ratelimit-remaining-tokens"), "40");
}

#[tokio::test]
async fn concurrent_requests_are_limited_until_one_ends_or_its_client_leaves() {
    let (app, fake, key) = keyed(Fake::holding(), |spec| spec.max_concurrent_requests = Some(2));
    let body = chat(&json!({"stream": true}));
    let stream =
        || async { open(&app, with_key(post_request(CHAT, body.to_string()), &key)).await };
    let (first, second) = (stream().await, stream().await);
    let reply = ask(&app, &key, CHAT, &body).await;
    let (status, code, message) = error(&reply);
    assert_eq!((status, code.as_str()), (429, "rate_limit_exceeded"));
    assert!(message.contains("2 requests at once"), "{message}");
    assert_eq!(header(&reply.headers, "retry-after"), "1");
    drop(first);
    let third = stream().await;
    assert_eq!(third.status(), 200, "the client of one has left");
    fake.finish(1);
    second.into_body().collect().await.unwrap();
    let fourth = stream().await;
    assert_eq!(fourth.status(), 200, "one has ended");
    assert_eq!(stream().await.status(), 429);
    drop((third, fourth));
    // A handler that panics frees its place, too.
    let (app, _, key) = keyed(Fake { panics: true, ..Fake::default() }, |spec| {
        spec.max_concurrent_requests = Some(1);
    });
    for _ in 0..3 {
        assert_eq!(ask(&app, &key, CHAT, &chat(&json!({}))).await.status, 500);
    }
}

#[tokio::test]
async fn a_reload_keeps_streams_and_what_is_in_use_and_a_broken_one_changes_nothing() {
    let (app, fake) = app(Fake::holding());
    let (key, mut spec) = new_key("alice").unwrap();
    spec.max_concurrent_requests = Some(1);
    spec.requests_per_minute = Some(10);
    app.set_keys(std::slice::from_ref(&spec)).unwrap();
    let body = chat(&json!({"stream": true}));
    let stream = open(&app, with_key(post_request(CHAT, body.to_string()), &key)).await;
    let broken = KeySpec { sha256: "?".into(), ..spec.clone() };
    assert!(app.set_keys(&[broken]).unwrap_err().contains("sha256"));
    assert_eq!(ask(&app, &key, CHAT, &body).await.status, 429, "the old keys hold");
    // The same name with another key and other limits.
    let (fresh, fresh_spec) = new_key("alice").unwrap();
    app.set_keys(&[KeySpec { sha256: fresh_spec.sha256, ..spec.clone() }]).unwrap();
    assert_eq!(ask(&app, &key, CHAT, &body).await.status, 401);
    let reply = ask(&app, &fresh, CHAT, &body).await;
    assert_eq!(reply.status, 429, "its stream runs on");
    assert_eq!(header(&reply.headers, "x-ratelimit-remaining-requests"), "9");
    fake.say(0, "abc");
    fake.finish(0);
    let text = stream.into_body().collect().await.unwrap().to_bytes();
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    let next = open(&app, with_key(post_request(CHAT, body.to_string()), &fresh)).await;
    assert_eq!(next.status(), 200);
}

#[tokio::test]
async fn models_that_a_key_may_not_use() {
    let (app, _, key) =
        keyed(Fake::answering("x"), |spec| spec.models = Some(vec!["org/alias".into()]));
    let reply = send(&app, with_key(request(Method::GET, "/v1/models"), &key)).await;
    let ids: Vec<Value> =
        reply.json()["data"].as_array().unwrap().iter().map(|card| card["id"].clone()).collect();
    assert_eq!(ids, ["org/alias"]);
    for (path, mut body) in [
        (CHAT, chat(&json!({}))),
        ("/v1/completions", completion(&json!({}))),
        ("/tokenize", json!({"prompt": "a"})),
        ("/detokenize", json!({"tokens": [97]})),
    ] {
        body["model"] = json!("org/alias");
        assert_eq!(ask(&app, &key, path, &body).await.status, 200, "{path}");
        // Without a name it would be the first.
        for model in [json!("tiny"), json!(null)] {
            body["model"] = model;
            let reply = ask(&app, &key, path, &body).await;
            assert_eq!(reply.status, 403, "{path}");
            assert_eq!(reply.json()["error"]["param"], "model");
            assert_eq!(error(&reply).1, "model_not_allowed");
        }
        body["model"] = json!("nobody");
        assert_eq!(ask(&app, &key, path, &body).await.status, 404, "{path}");
    }
    for (path, status) in [("/v1/models/tiny", 403), ("/v1/models/org/alias", 200)] {
        let reply = send(&app, with_key(request(Method::GET, path), &key)).await;
        assert_eq!(reply.status, status, "{path}");
    }
}

#[tokio::test]
async fn the_keys_priority_is_default_and_bound() {
    let (app, fake, key) = keyed(Fake::answering("x"), |spec| spec.priority = Some(3));
    for (path, body) in [(CHAT, chat(&json!({}))), ("/v1/completions", completion(&json!({})))] {
        for (asked, got) in [(json!(null), 3), (json!(3), 3), (json!(9), 9)] {
            let mut body = body.clone();
            body["priority"] = asked;
            assert_eq!(ask(&app, &key, path, &body).await.status, 200);
            assert_eq!(fake.last().priority, got);
        }
        let mut body = body.clone();
        body["priority"] = json!(2);
        let reply = ask(&app, &key, path, &body).await;
        assert_eq!(reply.status, 400);
        assert_eq!(reply.json()["error"]["param"], "priority");
    }
    let (app, fake, key) = keyed(Fake::answering("x"), |_| {});
    assert_eq!(ask(&app, &key, CHAT, &chat(&json!({"priority": -1}))).await.status, 400);
    assert_eq!(ask(&app, &key, CHAT, &chat(&json!({}))).await.status, 200);
    assert_eq!(fake.last().priority, 0);
}

#[tokio::test]
async fn usage_by_key_in_the_metrics() {
    let (app, _, key) = keyed(Fake::answering("abc"), |spec| spec.requests_per_minute = Some(2));
    for _ in 0..3 {
        ask(&app, &key, "/v1/completions", &completion(&json!({}))).await;
    }
    let page = get(&app, "/metrics").await.text;
    for line in [
        "sconce:key_requests_total{key=\"alice\"} 2",
        "sconce:key_requests_running{key=\"alice\"} 0",
        "sconce:key_prompt_tokens_total{key=\"alice\"} 4",
        "sconce:key_prompt_tokens_cached_total{key=\"alice\"} 32",
        "sconce:key_generation_tokens_total{key=\"alice\"} 8",
        "sconce:key_refusals_total{key=\"alice\",limit=\"requests\"} 1",
        "sconce:key_refusals_total{key=\"alice\",limit=\"concurrent\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
}

/// A log in a file of its own.
fn log(app: &App, name: &str, bodies: bool) -> PathBuf {
    let path = std::env::temp_dir().join(format!("sconce-api-{name}-{}", std::process::id()));
    drop(std::fs::remove_file(&path));
    app.start_access_log(&AccessLogConfig { path: Some(path.clone()), bodies }).unwrap();
    path
}

async fn lines(app: &App, path: &PathBuf) -> Vec<Value> {
    app.flush_access_log().await;
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::remove_file(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_line_for_each_request_without_its_text() {
    let (app, _, key) = keyed(Fake::answering("secret answer"), |_| {});
    let path = log(&app, "lines", false);
    let mut question = chat(&json!({"stream": true, "max_tokens": 5}));
    question["messages"][0]["content"] = json!("secret question");
    let mut request = with_key(post_request(CHAT, question.to_string()), &key);
    request.headers_mut().insert("x-request-id", "my-id".parse().unwrap());
    send(&app, request).await;
    let reply = ask(&app, &key, "/v1/completions", &completion(&json!({"model": "secret"}))).await;
    assert_eq!(reply.status, 404);
    let id = header(&reply.headers, "x-request-id").to_owned();
    assert_eq!(post(&app, CHAT, &question).await.status, 401);
    get(&app, "/health").await;
    get(&app, "/metrics").await;
    let lines = lines(&app, &path).await;
    assert_eq!(lines.len(), 3, "probes are not logged: {lines:?}");
    assert!(!format!("{lines:?}").contains("secret"), "{lines:?}");
    let line = &lines[0];
    for (field, value) in [
        ("request_id", json!("my-id")),
        ("key", json!("alice")),
        ("method", json!("POST")),
        ("route", json!(CHAT)),
        ("model", json!("tiny")),
        ("status", json!(200)),
        ("completion_tokens", json!(5)),
        ("cached_tokens", json!(16)),
        ("finish_reason", json!("length")),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert!(line["prompt_tokens"].as_u64().unwrap() > 10);
    let (ttft, duration) =
        (line["ttft_ms"].as_f64().unwrap(), line["duration_ms"].as_f64().unwrap());
    assert!(0.0 < ttft && ttft <= duration, "{line}");
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    let fields: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(!fields.contains(&"request") && !fields.contains(&"response"), "{fields:?}");
    assert_eq!((&lines[1]["status"], &lines[1]["request_id"]), (&json!(404), &json!(id)));
    assert_eq!(lines[1]["model"], Value::Null, "what a client made up is not repeated");
    assert_eq!((&lines[2]["status"], &lines[2]["key"]), (&json!(401), &Value::Null));
}

#[tokio::test]
async fn how_requests_end_in_the_log() {
    let (app, fake) = app(Fake::holding());
    let path = log(&app, "ends", false);
    let body = chat(&json!({"stream": true})).to_string();
    let stream = open(&app, post_request(CHAT, body.clone())).await;
    fake.say(0, "ab");
    let mut stream = stream.into_body();
    stream.frame().await.unwrap().unwrap();
    stream.frame().await.unwrap().unwrap();
    drop(stream); // The client leaves in the middle of a stream,
    let whole = post_request(CHAT, chat(&json!({})).to_string());
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(100), send(&app, whole));
    waiting.await.unwrap_err(); // and before the answer.
    let failing = open(&app, post_request(CHAT, body)).await;
    fake.send(2, engine::Event::Failed(engine::EngineError::Step("x".into())));
    failing.into_body().collect().await.unwrap();
    let lines = lines(&app, &path).await;
    let ends: Vec<_> =
        lines.iter().map(|line| (line["status"].clone(), line["finish_reason"].clone())).collect();
    let expected = [(200, "abort"), (499, "abort"), (200, "error")];
    assert_eq!(ends, expected.map(|(status, reason)| (json!(status), json!(reason))));
    assert_eq!(lines[0]["completion_tokens"], 1, "what was generated for it as far as it read");
    assert_eq!(lines[0]["key"], Value::Null);
}

#[tokio::test]
async fn bodies_are_logged_if_asked_for() {
    let (app, _) = app(Fake::answering("the answer"));
    let path = log(&app, "bodies", true);
    let question = chat(&json!({}));
    let reply = post(&app, CHAT, &question).await;
    let long = completion(&json!({"prompt": "ä".repeat(40_000)}));
    assert_eq!(post(&app, "/v1/completions", &long).await.status, 400);
    let lines = lines(&app, &path).await;
    assert_eq!(lines[0]["request"], question.to_string());
    assert_eq!(lines[0]["response"], reply.text);
    let cut = lines[1]["request"].as_str().unwrap();
    assert!(long.to_string().starts_with(cut) && cut.len() == 64 << 10, "{} bytes", cut.len());
}

#[tokio::test]
async fn a_stored_response_is_its_own_keys_alone() {
    let (app, _) = app(Fake::answering("x"));
    let ((alice, alices), (bob, bobs)) = (new_key("alice").unwrap(), new_key("bob").unwrap());
    app.set_keys(&[alices.clone(), bobs.clone()]).unwrap();
    let reply = ask(&app, &alice, "/v1/responses", &json!({"model": "tiny", "input": "hi"})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let path = format!("/v1/responses/{}", reply.json()["id"].as_str().unwrap());
    for (method, key, status) in
        [(Method::GET, &bob, 404), (Method::DELETE, &bob, 404), (Method::GET, &alice, 200)]
    {
        let reply = send(&app, with_key(request(method.clone(), &path), key)).await;
        assert_eq!(reply.status, status, "{method}");
    }
    // A new key under the old name is the same user.
    let (fresh, fresh_spec) = new_key("alice").unwrap();
    app.set_keys(&[fresh_spec, bobs]).unwrap();
    let reply = send(&app, with_key(request(Method::GET, &path), &fresh)).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn the_other_apis_keep_to_limits_and_models_in_their_own_envelope() {
    let (app, _, key) = keyed(Fake::answering("x"), |spec| {
        spec.models = Some(vec!["org/alias".into()]);
        spec.tokens_per_minute = Some(100);
    });
    let mut body = json!({
        "model": "tiny", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}],
    });
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let mut counted = body.clone();
        if path.ends_with("count_tokens") {
            counted.as_object_mut().unwrap().remove("max_tokens");
        }
        let reply = ask(&app, &key, path, &counted).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["type"]),
            (403, &json!("permission_error"))
        );
    }
    body["model"] = json!("org/alias");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let reply = ask(&app, &key, "/v1/messages", &body).await;
        statuses.push(reply.status.as_u16());
        assert_eq!(header(&reply.headers, "x-ratelimit-limit-tokens"), "100");
        if reply.status == 429 {
            assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
            assert!(reply.headers.contains_key("retry-after"));
        }
    }
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
    let input = json!({"model": "tiny", "input": "hi"});
    assert_eq!(error(&ask(&app, &key, "/v1/responses", &input).await).1, "model_not_allowed");
    let mut request = with_key(request(Method::GET, "/v1/models"), &key);
    request.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
    let page = send(&app, request).await.json();
    assert_eq!(
        (&page["data"].as_array().unwrap().len(), &page["first_id"]),
        (&1, &json!("org/alias"))
    );
}
