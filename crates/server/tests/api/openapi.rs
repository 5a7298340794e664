//! `/openapi.json` and `/docs`: the description is complete, and true of what the server takes.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use server::ServerConfig;

use crate::contract::document;
use crate::fake::{Fake, app, app_with, chat, config, get, post, send};

#[tokio::test]
async fn every_route_is_described_with_its_methods() {
    let (app, _) = app(Fake::default());
    let document = document().await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let described: BTreeSet<_> =
            methods.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        let uri = path.replace("{id}", "x");
        let request = Request::builder().method(Method::PATCH).uri(&uri).body(Body::empty());
        let reply = send(&app, request.unwrap()).await;
        assert_eq!(reply.status, 405, "{path} is not there");
        let allowed = reply.headers["allow"].to_str().unwrap();
        let allowed = allowed.split(',').map(str::to_owned);
        let allowed: BTreeSet<_> = allowed.filter(|method| method != "HEAD").collect();
        assert_eq!(described, allowed, "{path}");
    }
}

#[tokio::test]
async fn every_example_is_taken() {
    let (app, _) = app(Fake::answering("x"));
    let mut taken = 0;
    for (path, methods) in document().await["paths"].as_object().unwrap() {
        let example = &methods["post"]["requestBody"]["content"]["application/json"]["example"];
        if example.is_null() {
            continue;
        }
        if methods["post"]["tags"][0] == "Embeddings and scores" {
            continue; // Of other models; their own tests are held to the description.
        }
        let mut example = example.clone();
        assert_eq!(example["model"], "MODEL", "{path}");
        example["model"] = json!("tiny");
        let reply = post(&app, path, &example).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        taken += 1;
    }
    assert!(taken >= 7, "{taken}");
}

/// The ranges stand in the types and in the checks: both must say the same.
#[tokio::test]
async fn ranges_are_those_that_are_checked() {
    let (app, _) = app(Fake::answering("x"));
    let document = document().await;
    let path = "/v1/chat/completions";
    let body = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"];
    let mut num_ranges = 0;
    for (name, field) in body["schema"]["properties"].as_object().unwrap() {
        for (bound, sign) in [("minimum", -1), ("maximum", 1)] {
            let Some(limit) = field[bound].as_f64().filter(|limit| limit.abs() < 1e15) else {
                continue;
            };
            let is_whole = field["type"].to_string().contains("integer");
            let beyond = if is_whole {
                json!(limit as i64 + sign)
            } else {
                json!(limit + 0.1 * f64::from(sign as i32))
            };
            let reply = post(&app, path, &chat(&json!({name: beyond, "logprobs": true}))).await;
            let error = &reply.json()["error"];
            assert_eq!((reply.status.as_u16(), &error["param"]), (400, &json!(name)), "{beyond}");
            let limit = if is_whole { json!(limit as i64) } else { json!(limit) };
            let reply = post(&app, path, &chat(&json!({name: limit, "logprobs": true}))).await;
            let message = reply.text;
            assert!(!message.contains("must be between"), "{name} {limit}: {message}");
            num_ranges += 1;
        }
    }
    assert!(num_ranges > 12, "{num_ranges}");
}

#[tokio::test]
async fn both_are_open_and_the_page_needs_nothing_from_elsewhere() {
    let config = ServerConfig { api_keys: vec!["k".into()], ..config() };
    let (app, _) = app_with(Fake::default(), config);
    let reply = get(&app, "/openapi.json").await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let reply = get(&app, "/docs").await;
    assert_eq!(reply.status, 200);
    let policy = reply.headers["content-security-policy"].to_str().unwrap();
    assert_eq!(policy, "default-src 'none'; style-src 'unsafe-inline'");
    for part in ["<script", " src=", "<link", "url(", "http://", "https://"] {
        assert!(!reply.text.contains(part), "{part}");
    }
    for (path, methods) in document().await["paths"].as_object().unwrap() {
        assert!(reply.text.contains(&format!("<code>{path}</code>")), "{path}");
        for (_, operation) in methods.as_object().unwrap() {
            let anchor = format!("href=\"#{}\"", operation["operationId"].as_str().unwrap());
            assert!(reply.text.contains(&anchor), "{anchor}");
        }
    }
    let ids: BTreeSet<_> =
        reply.text.split("id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    for link in reply.text.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(ids.contains(link), "nothing is called {link}");
    }
}

#[tokio::test]
async fn load_counts_the_requests_in_flight() {
    let (app, fake) = app(Fake::holding());
    assert_eq!(get(&app, "/load").await.json(), json!({"server_load": 0}));
    let asking = tokio::spawn({
        let app = app.clone();
        async move { post(&app, "/v1/chat/completions", &chat(&json!({}))).await }
    });
    while fake.sinks.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(get(&app, "/load").await.json(), json!({"server_load": 1}));
    fake.finish(0);
    assert_eq!(asking.await.unwrap().status, 200);
    assert_eq!(get(&app, "/load").await.json()["server_load"], Value::from(0));
}
