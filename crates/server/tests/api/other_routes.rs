//! Models, tokenize, probes, metrics, CORS, keys, and what no route takes.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use server::{App, ServerConfig};

use crate::fake::{
    Fake, MAX_MODEL_LEN, app, app_with, chat, config, get, post, post_request, send,
};

#[tokio::test]
async fn models_are_listed_by_every_name() {
    let (app, _) = app(Fake::default());
    let list = get(&app, "/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|card| card["id"].clone()).collect();
    assert_eq!(ids, ["tiny", "org/alias"]);
    for path in ["/v1/models/org/alias", "/v1/models/org%2Falias"] {
        let card = get(&app, path).await.json();
        assert_eq!((&card["id"], &card["root"]), (&json!("org/alias"), &json!("tiny")));
        assert_eq!(card["max_model_len"], MAX_MODEL_LEN);
        assert!(
            card["created"].is_u64() && card["owned_by"].is_string() && card["object"] == "model"
        );
    }
    let missing = get(&app, "/v1/models/other").await;
    assert_eq!(
        (missing.status.as_u16(), &missing.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );
}

#[tokio::test]
async fn tokenize_and_back() {
    let (app, _) = app(Fake::default());
    let reply =
        post(&app, "/tokenize", &json!({"prompt": "a é<|im_end|>", "return_token_strs": true}))
            .await;
    assert_eq!(
        reply.json(),
        json!({"count": 5, "max_model_len": MAX_MODEL_LEN, "tokens": [97, 32, 195, 169, 257],
               "token_strs": ["a", "Ġ", "Ã", "©", "<|im_end|>"]})
    );
    let tokens = reply.json()["tokens"].clone();
    let text = post(&app, "/detokenize", &json!({"model": "tiny", "tokens": tokens})).await.json();
    assert_eq!(text, json!({"prompt": "a é<|im_end|>"}));

    let messages = json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]});
    let chat = post(&app, "/tokenize", &messages).await.json();
    assert_eq!((&chat["count"], &chat["token_strs"]), (&json!(21), &Value::Null));
}

#[tokio::test]
async fn tokenize_refuses_what_it_cannot_do() {
    let (app, _) = app(Fake::default());
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "messages": []}), "prompt"),
        ("/tokenize", json!({"messages": []}), "messages"),
        ("/tokenize", json!({"prompt": 5}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "x": 1}), "x"),
        (
            "/tokenize",
            json!({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}),
            "tools[0].function",
        ),
        (
            "/tokenize",
            json!({"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "high"}),
            "reasoning_effort",
        ),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": [300]}), "tokens"),
        ("/detokenize", json!({"tokens": ["a"]}), "tokens[0]"),
    ] {
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert_eq!(reply.json()["error"]["param"], param, "{body}: {}", reply.text);
    }
}

#[tokio::test]
async fn the_front_page_and_the_version() {
    let (app, _) = app(Fake::default());
    let index = get(&app, "/").await.json();
    assert_eq!((&index["name"], &index["models"]), (&json!("sconce"), &json!(["tiny"])));
    assert!(get(&app, "/version").await.json()["version"].is_string());
    let head = Request::builder().method(Method::HEAD).uri("/").body(Body::empty()).unwrap();
    let reply = send(&app, head).await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, ""));
}

#[tokio::test]
async fn metrics_in_the_text_format() {
    let (app, _) = app(Fake::answering("x"));
    post(&app, "/v1/chat/completions", &chat(&json!({}))).await;
    let reply = get(&app, "/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "vllm:num_requests_running{model_name=\"tiny\"} 3",
        "vllm:num_requests_waiting{model_name=\"tiny\"} 2",
        "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.25",
        "vllm:cache_config_info{model_name=\"tiny\",block_size=\"16\",cache_dtype=\"bfloat16\",\
         enable_prefix_caching=\"False\",num_gpu_blocks=\"64\"} 1",
    ] {
        assert!(reply.text.lines().any(|found| found == line), "{line}");
    }
    // Every sample belongs to a family that was announced, and every line parses.
    let mut family = String::new();
    for line in reply.text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(sample.starts_with(&family), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_get_the_envelope() {
    let (app, _) = app(Fake::default());
    for (method, path, status, code) in [
        (Method::GET, "/v1/nothing", 404, "unknown_url"),
        (Method::POST, "/", 405, "method_not_allowed"),
        (Method::GET, "/v1/chat/completions", 405, "method_not_allowed"),
        (Method::DELETE, "/v1/models", 405, "method_not_allowed"),
    ] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let reply = send(&app, request).await;
        assert_eq!(reply.status, status, "{path}");
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!(code), &json!("invalid_request_error"))
        );
        assert_eq!(reply.headers["access-control-allow-origin"], "*");
    }
}

#[tokio::test]
async fn a_preflight_needs_no_key_and_allows_what_sdks_send() {
    let config = ServerConfig { api_keys: vec!["k".into()], ..config() };
    let (app, _) = app_with(Fake::default(), config);
    let request = Request::builder()
        .method(Method::OPTIONS)
        .uri("/v1/chat/completions")
        .header("origin", "https://chat.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,x-stainless-os");
    let reply = send(&app, request.body(Body::empty()).unwrap()).await;
    assert!(reply.status.is_success());
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    let allowed = reply.headers["access-control-allow-headers"].to_str().unwrap();
    assert_eq!(allowed, "authorization,content-type,x-stainless-os");
    let reply = get(&app, "/version").await;
    let exposed = reply.headers["access-control-expose-headers"].to_str().unwrap();
    assert!(
        exposed.starts_with(
            "x-request-id,request-id,x-should-retry,retry-after,traceparent,x-ratelimit-limit-requests,"
        ),
        "{exposed}"
    );
}

#[tokio::test]
async fn origins_can_be_restricted() {
    let config =
        ServerConfig { allowed_origins: Some(vec!["https://a.example".into()]), ..config() };
    let (app, _) = app_with(Fake::default(), config);
    for (origin, allowed) in [("https://a.example", true), ("https://b.example", false)] {
        let request = Request::builder().uri("/version").header("origin", origin);
        let reply = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.headers.contains_key("access-control-allow-origin"), allowed, "{origin}");
    }
}

#[tokio::test]
async fn keys_guard_the_api_and_leave_the_probes_open() {
    let config = ServerConfig { api_keys: vec!["first".into(), "second".into()], ..config() };
    let (app, _) = app_with(Fake::answering("x"), config);
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(get(&app, path).await.status, 200, "{path}");
    }
    for path in ["/", "/version", "/v1/nothing"] {
        assert_eq!(get(&app, path).await.status, 401, "{path}");
    }
    for (value, status) in [
        (None, 401),
        (Some("Bearer third"), 401),
        (Some("Bearer firs"), 401),
        (Some("Bearer "), 401),
        (Some("Basic first"), 401),
        (Some("Bearer first"), 200),
        (Some("bearer second"), 200),
    ] {
        for path in ["/v1/models", "/v1/models/tiny"] {
            let mut request = Request::builder().uri(path);
            if let Some(value) = value {
                request = request.header("authorization", value);
            }
            let reply = send(&app, request.body(Body::empty()).unwrap()).await;
            assert_eq!(reply.status, status, "{value:?}");
            if status == 401 {
                assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
                assert_eq!(reply.headers["www-authenticate"], "Bearer");
            }
        }
    }
    for path in ["/v1/chat/completions", "/tokenize"] {
        assert_eq!(post(&app, path, &chat(&json!({}))).await.status, 401);
    }
}

#[tokio::test]
async fn request_ids_are_echoed_if_they_are_harmless() {
    let app = App::new(config());
    for (given, echoed) in
        [("abc-1/2", true), ("a b", false), ("", false), (&"x".repeat(129), false)]
    {
        let request = Request::builder().uri("/version").header("x-request-id", given);
        let reply = send(&app, request.body(Body::empty()).unwrap()).await;
        let id = reply.headers["x-request-id"].to_str().unwrap();
        assert_eq!(id == given, echoed, "{given:?}");
        assert!(echoed || id.starts_with("req_"), "{id}");
    }
    let reply = send(&app, post_request("/v1/chat/completions", "{")).await;
    assert!(reply.headers.contains_key("x-request-id"));
}
