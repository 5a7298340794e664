//! Deadlines, tenants and full queues, as a client sees them.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use engine::{EngineError, Share};
use serde_json::{Value, json};
use server::{App, ServerConfig};

use crate::fake::{
    Fake, Reply, app, app_with, chat, completion, config, get, post, post_request, send,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Asks for a chat and a completion with these headers.
async fn ask(app: &App, headers: &[(&str, &str)]) -> [Reply; 2] {
    let with = |path, body: Value| {
        let mut request: Request<Body> = post_request(path, body.to_string());
        for (name, value) in headers {
            request
                .headers_mut()
                .append(axum::http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        request
    };
    [
        send(app, with(CHAT, chat(&json!({})))).await,
        send(app, with(COMPLETIONS, completion(&json!({})))).await,
    ]
}

#[tokio::test]
async fn a_timeout_becomes_a_deadline() {
    const OWN: &str = "x-request-timeout-ms";
    const ENVOY: &str = "x-envoy-expected-rq-timeout-ms";
    for (headers, timeout) in [
        (vec![], None),
        (vec![(OWN, "30000")], Some(30)),
        (vec![(ENVOY, "15000")], Some(15)),
        (vec![(ENVOY, "15000"), (OWN, "30000")], Some(15)),
        (vec![(ENVOY, "60000"), (OWN, "30000")], Some(30)),
        (vec![(ENVOY, "0")], None),
    ] {
        let (app, fake) = app(Fake::answering("x"));
        let before = Instant::now();
        for reply in ask(&app, &headers).await {
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        let after = Instant::now();
        for seen in fake.seen.lock().unwrap().iter() {
            let wait = timeout.map(Duration::from_secs);
            assert_eq!(seen.deadline.is_some(), wait.is_some(), "{headers:?}");
            if let (Some(deadline), Some(wait)) = (seen.deadline, wait) {
                assert!((before + wait..=after + wait).contains(&deadline), "{headers:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_timeout_that_is_none_is_refused_by_name() {
    for name in ["x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms"] {
        for value in ["soon", "-1", "1.5", "", "18446744073709551616", "5s"] {
            let (app, fake) = app(Fake::answering("x"));
            for reply in ask(&app, &[(name, value)]).await {
                assert_eq!(reply.status, 400, "{name}: {value}");
                let error = &reply.json()["error"];
                assert_eq!(
                    (&error["param"], &error["code"]),
                    (&json!(name), &json!("invalid_value"))
                );
            }
            assert!(fake.seen.lock().unwrap().is_empty());
        }
    }
    let (app, _) = app(Fake::answering("x"));
    assert_eq!(ask(&app, &[("x-request-timeout-ms", "0")]).await[0].status, 400);
}

#[tokio::test]
async fn who_waited_too_long_is_told_so() {
    let late = || Fake { failure: Some(EngineError::DeadlineExceeded), ..Fake::answering("") };
    for (path, body) in [(CHAT, chat(&json!({"n": 2}))), (COMPLETIONS, completion(&json!({})))] {
        let (app, _) = app(late());
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 504);
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!("deadline_exceeded"), &json!("server_error"))
        );
        assert_eq!(reply.headers["x-should-retry"], "false", "or SDKs would wait once more");
        assert!(!reply.headers.contains_key("retry-after"));

        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        let reply = post(&app, path, &streamed).await;
        assert!(reply.text.ends_with("data: [DONE]\n\n"), "{}", reply.text);
        assert_eq!(reply.chunks().last().unwrap()["error"]["code"], "deadline_exceeded");
        assert!(!reply.text.contains("\"finish_reason\":\""), "{}", reply.text);
    }
}

#[tokio::test]
async fn a_full_queue_says_when_it_will_have_drained() {
    for (millis, seconds) in [(0, "1"), (900, "1"), (7_200, "8"), (60_000, "60"), (7_200_000, "60")]
    {
        for refusal in [
            EngineError::QueueFull { waiting: 8, limit: 8 },
            EngineError::QueueTokensFull { waiting: 900, new: 200, limit: 1000 },
            EngineError::QueueShareFull { own: 80, waiting: 81, limit: 90 },
        ] {
            let message = refusal.to_string();
            let time_to_drain = Duration::from_millis(millis);
            let refusal = Some(refusal);
            let (app, _) = app(Fake { refusal, time_to_drain, ..Fake::default() });
            for reply in ask(&app, &[]).await {
                assert_eq!(
                    (reply.status.as_u16(), &reply.headers["retry-after"]),
                    (429, &seconds.parse().unwrap())
                );
                let error = &reply.json()["error"];
                assert_eq!(
                    (&error["code"], &error["type"]),
                    (&json!("queue_full"), &json!("rate_limit_error"))
                );
                assert!(error["message"].as_str().unwrap().contains(&message));
            }
        }
    }
}

#[tokio::test]
async fn each_of_several_keys_is_a_tenant() {
    let share = |tenant: &str| Some(Share { tenant: tenant.into(), weight: NonZeroU16::MIN });
    for (keys, given, expected) in [
        (vec![], "b", None),
        (vec!["b"], "b", None),
        (vec!["a", "b"], "a", share("api-key-1")),
        (vec!["a", "b"], "b", share("api-key-2")),
    ] {
        let api_keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let (app, fake) = app_with(Fake::answering("xy"), ServerConfig { api_keys, ..config() });
        for reply in ask(&app, &[("authorization", &format!("Bearer {given}"))]).await {
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        for seen in fake.seen.lock().unwrap().iter() {
            assert_eq!(seen.share, expected);
        }
        // 21 tokens of a chat and 2 of a completion; each answer is two letters and an end.
        let metrics = get(&app, "/metrics").await.text;
        if let Some(Share { tenant, .. }) = expected {
            for (kind, count) in [("prompt", 23), ("generation", 6)] {
                let line = format!("sconce:key_{kind}_tokens_total{{key=\"{tenant}\"}} {count}\n");
                assert!(metrics.contains(&line), "{metrics}");
            }
            assert!(!metrics.contains("Bearer") && !metrics.contains("key=\"a\""));
        }
    }
}
