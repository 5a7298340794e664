//! Several models in one server: each request goes to the one it names.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use server::{App, Generator, KeySpec, ServedModel, new_key};

use crate::fake::{Fake, app, config, get, post, post_request, prompt_text, send, text_model};

/// A model by these names, which says `answer`.
fn add(app: &App, names: &[&str], answer: &str) -> Arc<Fake> {
    let fake = Arc::new(Fake { extra_len: 100, ..Fake::answering(answer) });
    let names = names.iter().map(|&name| name.into()).collect();
    let generator: Arc<dyn Generator> = fake.clone();
    app.set_model(ServedModel::new(names, generator, Arc::new(text_model())));
    fake
}

/// `tiny`, also `org/alias`, which says "one", and `second`, also `two`, which says "two".
fn both() -> (App, Arc<Fake>, Arc<Fake>) {
    let (app, first) = app(Fake::answering("one"));
    let second = add(&app, &["second", "two"], "two");
    (app, first, second)
}

/// The routes that name a model, with what else they need.
fn requests(model: &str) -> [(&'static str, Value); 7] {
    let messages = json!([{"role": "user", "content": "hi"}]);
    [
        ("/v1/chat/completions", json!({"model": model, "messages": messages})),
        ("/v1/completions", json!({"model": model, "prompt": "hi"})),
        ("/v1/messages", json!({"model": model, "messages": messages, "max_tokens": 9})),
        ("/v1/messages/count_tokens", json!({"model": model, "messages": messages})),
        ("/v1/responses", json!({"model": model, "input": "hi"})),
        ("/tokenize", json!({"model": model, "prompt": "hi"})),
        ("/detokenize", json!({"model": model, "tokens": [65]})),
    ]
}

#[tokio::test]
async fn each_request_goes_to_the_model_that_it_names() {
    let (app, first, second) = both();
    for (name, reported, answer) in
        [("org/alias", "tiny", "one"), ("second", "second", "two"), ("two", "second", "two")]
    {
        for (path, body) in requests(name) {
            let reply = post(&app, path, &body).await;
            assert_eq!(reply.status, 200, "{path} {name}: {}", reply.text);
            let value = reply.json();
            if value["model"].is_string() {
                assert_eq!(value["model"], reported, "{path} {name}");
                assert!(reply.text.contains(&format!("\"{answer}\"")), "{path}: {}", reply.text);
            }
        }
    }
    assert_eq!((first.seen.lock().unwrap().len(), second.seen.lock().unwrap().len()), (4, 8));
    assert!(prompt_text(&second.last().prompt).contains("user\nhi"));
    let (_, body) = &requests("two")[5];
    let lens = post(&app, "/tokenize", body).await.json()["max_model_len"].clone();
    assert_eq!(lens, second.max_model_len());
}

#[tokio::test]
async fn a_name_that_is_not_served_is_a_404_and_no_name_is_refused() {
    let (app, ..) = both();
    for (path, mut body) in requests("third") {
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.text.contains("'tiny', 'org/alias', 'second', 'two'"), "{}", reply.text);
        body.as_object_mut().unwrap().remove("model");
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 400, "{path}");
        assert!(reply.text.contains("'model'"), "{path}: {}", reply.text);
    }
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let error = post(&app, "/v1/chat/completions", &body).await.json()["error"].clone();
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("model"), &json!("missing_required_parameter"))
    );
    assert!(error["message"].as_str().unwrap().contains("'second'"), "{error}");
}

#[tokio::test]
async fn all_are_listed_by_every_name() {
    let (app, ..) = both();
    let list = get(&app, "/v1/models").await.json();
    let cards: Vec<_> = list["data"].as_array().unwrap().iter().collect();
    let ids: Vec<_> = cards.iter().map(|card| &card["id"]).collect();
    assert_eq!(ids, ["tiny", "org/alias", "second", "two"]);
    assert_eq!((&cards[3]["root"], &cards[3]["max_model_len"]), (&json!("second"), &json!(300)));
    assert_eq!(get(&app, "/v1/models/two").await.json()["root"], "second");
    assert_eq!(get(&app, "/").await.json()["models"], json!(["tiny", "second"]));
    let request = Request::builder().uri("/v1/models").header("anthropic-version", "2023-06-01");
    let page = send(&app, request.body(Body::empty()).unwrap()).await.json();
    assert_eq!((&page["first_id"], &page["last_id"]), (&json!("tiny"), &json!("two")));
    assert_eq!(page["data"][2]["max_tokens"], 300);
}

#[tokio::test]
async fn ready_waits_for_all_and_each_answers_once_it_is_loaded() {
    let app = App::new(config());
    app.expect_model(vec!["tiny".into()]);
    app.expect_model(vec!["second".into()]);
    let chat = |model| requests(model)[0].1.clone();
    let reply = get(&app, "/v1/models").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (503, &json!("loading")));
    add(&app, &["second"], "two");
    assert_eq!(post(&app, "/v1/chat/completions", &chat("second")).await.status, 200);
    for reply in [
        post(&app, "/v1/chat/completions", &chat("tiny")).await,
        get(&app, "/v1/models/tiny").await,
        get(&app, "/ready").await,
    ] {
        assert_eq!(reply.status, 503);
        assert_eq!(reply.json()["error"]["code"], "loading");
        assert!(reply.text.contains("'tiny'"), "{}", reply.text);
    }
    assert_eq!(post(&app, "/v1/chat/completions", &chat("third")).await.status, 404);
    let list = get(&app, "/v1/models").await.json();
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "only what is loaded");
    add(&app, &["tiny"], "one");
    assert_eq!(get(&app, "/ready").await.status, 200);
    let list = get(&app, "/v1/models").await.json();
    assert_eq!(list["data"][0]["id"], "tiny", "in the order in which they were named");
}

#[tokio::test]
async fn one_that_fails_is_named_and_leaves_the_others() {
    let (app, ..) = both();
    app.set_failed(vec!["third".into()], "config.json is missing");
    for path in ["/ready", "/health", "/v1/models/third"] {
        let reply = get(&app, path).await;
        assert_eq!(reply.status, 503, "{path}");
        assert!(reply.text.contains("'third' could not be loaded: config"), "{}", reply.text);
    }
    let (path, body) = &requests("two")[0];
    assert_eq!(post(&app, path, body).await.status, 200);

    let (app, first, _) = both();
    first.dead.store(true, Ordering::Relaxed);
    for path in ["/ready", "/health"] {
        assert_eq!(get(&app, path).await.status, 503, "{path}");
    }
    assert_eq!(post(&app, path, body).await.status, 200);
    let (path, body) = &requests("tiny")[0];
    assert_eq!(post(&app, path, body).await.status, 503);
}

#[tokio::test]
async fn keys_name_the_models_that_they_may_use() {
    let (app, ..) = both();
    let (key, spec) = new_key("alice").unwrap();
    app.set_keys(&[KeySpec { models: Some(vec!["second".into(), "org/alias".into()]), ..spec }])
        .unwrap();
    let with_key = |mut request: Request<Body>| {
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        request
    };
    for (name, status) in [("second", 200), ("org/alias", 200), ("two", 403), ("tiny", 403)] {
        for (path, body) in requests(name) {
            let reply = send(&app, with_key(post_request(path, body.to_string()))).await;
            assert_eq!(reply.status, status, "{path} {name}");
        }
    }
    let request = Request::builder().method(Method::GET).uri("/v1/models");
    let list = send(&app, with_key(request.body(Body::empty()).unwrap())).await.json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|card| &card["id"]).collect();
    assert_eq!(ids, ["org/alias", "second"]);
}

#[tokio::test]
async fn metrics_are_counted_by_model_and_families_stand_together() {
    let (app, ..) = both();
    for (name, times) in [("tiny", 1), ("two", 2)] {
        for _ in 0..times {
            post(&app, "/v1/completions", &requests(name)[1].1).await;
        }
    }
    let text = get(&app, "/metrics").await.text;
    for line in [
        "vllm:num_requests_running{model_name=\"tiny\"} 3",
        "vllm:num_requests_running{model_name=\"second\"} 3",
        "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"stop\"} 1",
        "vllm:request_success_total{model_name=\"second\",finished_reason=\"stop\"} 2",
        "vllm:request_prompt_tokens_sum{model_name=\"tiny\"} 2",
        "vllm:request_prompt_tokens_sum{model_name=\"second\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let mut families: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let announced = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), announced, "each is announced once");
}

#[tokio::test]
async fn a_text_side_is_changed_for_its_model_alone() {
    let (app, ..) = both();
    let changed = app.update_text("second", |_| {
        let mut text = text_model();
        text.set_output_format(text::OutputFormat::detect("<think>", None));
        Ok::<_, ()>(text)
    });
    assert_eq!(changed, Ok(true));
    assert_eq!(app.update_text("third", |_| Ok::<_, ()>(text_model())), Ok(false));
    let budget = |model| {
        let mut body = requests(model)[0].1.clone();
        body["thinking_token_budget"] = json!(5);
        body
    };
    assert_eq!(post(&app, "/v1/chat/completions", &budget("two")).await.status, 200);
    assert_eq!(post(&app, "/v1/chat/completions", &budget("tiny")).await.status, 400);
    let metrics = get(&app, "/metrics").await.text;
    let line = "vllm:request_success_total{model_name=\"second\",finished_reason=\"stop\"} 1\n";
    assert!(metrics.contains(line), "what was counted stays");
}

#[tokio::test]
async fn draining_refuses_requests_for_all() {
    let (app, ..) = both();
    app.start_draining();
    for name in ["tiny", "second"] {
        let (path, body) = &requests(name)[0];
        let reply = post(&app, path, body).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["code"]),
            (503, &json!("draining"))
        );
    }
}
