//! Faults of the caller, in a table: each is told by status, field and reason, and nothing of it
//! reaches the engine.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::fake::{Fake, app, chat, completion, post, post_request, send};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Asserts a fault of status 400: its `param`, and what its message says.
async fn refused(path: &str, body: &str, param: Option<&str>, says: &str) {
    let (app, fake) = app(Fake::answering("x"));
    let reply = send(&app, post_request(path, body.to_owned())).await;
    assert_eq!(reply.status, 400, "{body}: {}", reply.text);
    let error = &reply.json()["error"];
    assert_eq!(error["type"], "invalid_request_error", "{body}");
    assert_eq!(error["param"], json!(param), "{body}: {error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(says), "{body}: {message:?} does not say {says:?}");
    assert!(fake.seen.lock().unwrap().is_empty(), "{body} reached the engine");
}

#[tokio::test]
async fn bodies_that_are_not_json() {
    for (body, says) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{\"model\": \"tiny\",\n \"messages\": [}", "expected value at line 2 column 15"),
        ("{\"model\": \"tiny\"} x", "trailing characters at line 1 column 19"),
        ("{'model': 1}", "key must be a string at line 1 column 2"),
        ("{\"temperature\": NaN}", "expected value at line 1 column 17"),
        ("{\"model\": \"\\ud800\"}", "line 1 column"),
        ("[]", "must be a JSON object"),
        ("\"hi\"", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("17", "must be a JSON object"),
    ] {
        refused(CHAT, body, None, says).await;
        refused(COMPLETIONS, body, None, says).await;
    }
    let huge = chat(&json!({"temperature": 1})).to_string().replace("1}", "1e999}");
    refused(CHAT, &huge, None, "number out of range").await;
    let deep = format!("{{\"tools\": {}{}}}", "[".repeat(300), "]".repeat(300));
    refused(CHAT, &deep, None, "recursion limit").await;
    let twice = "{\"messages\": [], \"max_tokens\": 3, \"max_tokens\": 3}";
    refused(CHAT, twice, Some("max_tokens"), "there twice").await;
}

#[tokio::test]
async fn text_that_is_not_utf8() {
    let (app, _) = app(Fake::answering("x"));
    let body = b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}".to_vec();
    let reply = send(&app, post_request(CHAT, body)).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text.contains("invalid unicode code point at line 1"), "{}", reply.text);
}

/// Rows of `bad_fields.json`: the fields, the `param` at fault, what the message says.
fn rows(table: &str) -> Vec<(Value, String, String)> {
    let mut tables: Value = serde_json::from_str(include_str!("bad_fields.json")).unwrap();
    serde_json::from_value(tables[table].take()).unwrap()
}

#[tokio::test]
async fn fields_of_both_routes() {
    for (extra, param, says) in rows("both") {
        refused(CHAT, &chat(&extra).to_string(), Some(&param), &says).await;
        refused(COMPLETIONS, &completion(&extra).to_string(), Some(&param), &says).await;
    }
    let stops = json!({"stop": vec!["x"; 65]});
    refused(CHAT, &chat(&stops).to_string(), Some("stop"), "65 strings").await;
}

#[tokio::test]
async fn fields_of_chat() {
    for (extra, param, says) in rows("chat") {
        refused(CHAT, &chat(&extra).to_string(), Some(&param), &says).await;
    }
    refused(CHAT, r#"{"model":"tiny"}"#, Some("messages"), "at least one message").await;
}

#[tokio::test]
async fn fields_of_completions() {
    for (extra, param, says) in rows("completions") {
        refused(COMPLETIONS, &completion(&extra).to_string(), Some(&param), &says).await;
    }
    let many = completion(&json!({"prompt": vec!["x"; 2049]}));
    refused(COMPLETIONS, &many.to_string(), Some("prompt"), "2048").await;
    let choices = completion(&json!({"prompt": vec!["x"; 100], "n": 100}));
    refused(COMPLETIONS, &choices.to_string(), Some("n"), "10000 choices").await;
    refused(COMPLETIONS, r#"{"model":"tiny"}"#, Some("prompt"), "Missing required field").await;
}

#[tokio::test]
async fn prompts_that_are_too_long_say_so_in_the_known_words() {
    let (app, _) = app(Fake::answering("x"));
    let content = "x".repeat(190);
    let cases = [
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": content}], "max_tokens": 5}),
            "messages",
            "However, you requested 214 tokens (209 in the messages, 5 in the completion).",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": content}]}),
            "messages",
            "However, you requested 210 tokens (209 in the messages, at least 1 in the completion).",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 180}),
            "messages",
            "However, you requested 201 tokens (21 in the messages, 180 in the completion).",
        ),
        (
            COMPLETIONS,
            json!({"prompt": vec![1; 150], "max_tokens": 51}),
            "prompt",
            "However, you requested 201 tokens (150 in the prompt, 51 in the completion).",
        ),
        (COMPLETIONS, json!({"prompt": "x".repeat(50_000)}), "prompt", "have 50000 bytes of text"),
    ];
    for (path, body, param, says) in cases {
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["param"], param);
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("This model's maximum context length is 200 tokens. However, "),
            "{message}"
        );
        assert!(message.contains(says), "{message}");
        // LangChain over openai-python 3 sees the message alone and looks for the code in it.
        assert!(message.ends_with(" (context_length_exceeded)"), "{message}");
    }
}

#[tokio::test]
async fn an_unknown_model_is_404() {
    let (app, _) = app(Fake::answering("x"));
    for (path, body) in
        [(CHAT, chat(&json!({"model": "gpt-x"}))), (COMPLETIONS, completion(&json!({"model": ""})))]
    {
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 404);
        let error = &reply.json()["error"];
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
        assert!(error["message"].as_str().unwrap().contains("'tiny', 'org/alias'"), "{error}");
    }
}

#[tokio::test]
async fn content_types_and_sizes() {
    let (app, _) = app(Fake::answering("x"));
    for (content_type, status) in [
        (None, 415),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("application/json; charset=utf-8"), 200),
        (Some("Application/JSON"), 200),
        (Some("application/problem+json"), 200),
    ] {
        let mut request = Request::builder().method(Method::POST).uri(CHAT);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let body = Body::from(chat(&json!({})).to_string());
        let reply = send(&app, request.body(body).unwrap()).await;
        assert_eq!(reply.status, status, "{content_type:?}");
        if status == 415 {
            assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
        }
    }
    // Announced and streamed.
    let long = vec![b' '; 100_001];
    let announced = send(&app, post_request(CHAT, long.clone())).await;
    let stream = futures_util::stream::iter(
        long.chunks(5000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>(),
    );
    let streamed = send(&app, post_request(CHAT, Body::from_stream(stream))).await;
    for reply in [announced, streamed] {
        assert_eq!(reply.status, 413);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "request_too_large");
        assert!(error["message"].as_str().unwrap().contains("100000 bytes"), "{error}");
    }
}
