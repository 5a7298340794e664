//! `/v1/embeddings`: shapes, faults, what reaches the engine.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use engine::{EngineError, Event};
use serde_json::{Value, json};
use server::{App, new_key};

use crate::fake::{
    Fake, MAX_MODEL_LEN, Reply, app, get, open, pooling_app, post, post_request, pretty, send,
    vector,
};

const PATH: &str = "/v1/embeddings";

fn pooling() -> Fake {
    Fake::default()
}

/// The texts "ab" and "c", with `extra` fields.
fn body(extra: &Value) -> Value {
    let mut body = json!({"model": "tiny", "input": ["ab", "c"]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()
}

fn vectors(reply: &Reply) -> Vec<Vec<f32>> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let read = |item: &Value| serde_json::from_value(item["embedding"].clone()).unwrap();
    reply.json()["data"].as_array().unwrap().iter().map(read).collect()
}

#[tokio::test]
async fn a_whole_answer() {
    let (app, fake) = pooling_app(pooling());
    insta::assert_snapshot!(pretty(&post(&app, PATH, &body(&json!({}))).await));
    let seen = fake.last();
    assert_eq!((seen.prompt, seen.params.max_tokens), (vec![99], 0));
    let base64 = post(&app, PATH, &body(&json!({"encoding_format": "base64"}))).await;
    insta::assert_snapshot!(pretty(&base64));
}

#[tokio::test]
async fn every_form_of_input_is_read_in_its_order() {
    let (app, _) = pooling_app(pooling());
    let ab = unit(&vector(&[97, 98]));
    for (input, expected) in [
        (json!("ab"), vec![ab.clone()]),
        (json!(["ab"]), vec![ab.clone()]),
        (json!([97, 98]), vec![ab.clone()]),
        (json!([[97, 98]]), vec![ab.clone()]),
        (json!(["c", "ab", "c"]), vec![unit(&vector(&[99])), ab.clone(), unit(&vector(&[99]))]),
        (json!([[99], [97, 98]]), vec![unit(&vector(&[99])), ab]),
    ] {
        let reply = post(&app, PATH, &json!({"input": input})).await;
        assert_eq!(vectors(&reply), expected, "{input}");
    }
}

#[tokio::test]
async fn a_request_says_how_long_vectors_are() {
    let (app, _) = pooling_app(pooling());
    let whole = vector(&[97, 98]);
    for (extra, expected) in [
        (json!({"dimensions": 3}), unit(&whole)),
        (json!({"dimensions": 2}), unit(&whole[..2])),
        (json!({"dimensions": 2, "use_activation": false}), whole[..2].to_vec()),
        (json!({"use_activation": false}), whole.clone()),
    ] {
        assert_eq!(vectors(&post(&app, PATH, &body(&extra)).await)[0], expected, "{extra}");
    }
}

#[tokio::test]
async fn a_request_says_how_texts_are_cut() {
    let (app, fake) = pooling_app(pooling());
    let long = "x".repeat(MAX_MODEL_LEN) + "yz";
    for (extra, expected) in [
        (json!({"truncate_prompt_tokens": 3}), "abc"),
        (json!({"truncate_prompt_tokens": 3, "truncation_side": "left"}), "efg"),
        (json!({"truncate_prompt_tokens": 30}), "abcdefg"),
    ] {
        for input in [json!("abcdefg"), json!([97, 98, 99, 100, 101, 102, 103])] {
            let mut body = body(&extra);
            body["input"] = input;
            assert_eq!(post(&app, PATH, &body).await.status, 200, "{body}");
            let ids: Vec<u32> = expected.bytes().map(u32::from).collect();
            assert_eq!(fake.last().prompt, ids, "{body}");
        }
    }
    let reply = post(&app, PATH, &json!({"input": long, "truncate_prompt_tokens": -1})).await;
    assert_eq!(reply.json()["usage"]["prompt_tokens"], MAX_MODEL_LEN);
}

#[tokio::test]
async fn faults_are_told_by_field_and_reach_no_engine() {
    let long = "x".repeat(MAX_MODEL_LEN + 1);
    for (extra, param, says) in [
        (json!({"input": null}), "input", "an array of token ids"),
        (json!({"input": []}), "input", "none of them empty"),
        (json!({"input": [[]]}), "input", "'input' number 0 is empty"),
        (json!({"input": ""}), "input", "'input' number 0 is empty"),
        (json!({"input": ["a", ""]}), "input", "'input' number 1 is empty"),
        (json!({"input": ["a", 5]}), "input", "expected a string"),
        (json!({"input": 5}), "input", "expected a string"),
        (json!({"input": [258]}), "input", "the vocabulary has ids 0 to 257"),
        (json!({"input": ["a", long]}), "input", "your 'input' number 1 has 201 tokens"),
        (json!({"input": vec![5; MAX_MODEL_LEN + 1]}), "input", "(context_length_exceeded)"),
        (json!({"input": "x".repeat(90_000)}), "input", "(context_length_exceeded)"),
        (json!({"input": vec!["a"; 2049]}), "input", "more than 2048"),
        (json!({"encoding_format": "int8"}), "encoding_format", "expected `float` or `base64`"),
        (json!({"dimensions": 0}), "dimensions", "'dimensions' is 0; it may be 2 or 3"),
        (json!({"dimensions": -1}), "dimensions", "-1"),
        (json!({"dimensions": 4}), "dimensions", "it may be 2 or 3"),
        (json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens", "1 to 200, or -1"),
        (json!({"truncate_prompt_tokens": 201}), "truncate_prompt_tokens", "1 to 200"),
        (json!({"truncation_side": "middle"}), "truncation_side", "`left` or `right`"),
        (json!({"messages": [{"role": "user", "content": "a"}]}), "messages", "not supported"),
        (json!({"normalize": true}), "normalize", "use 'use_activation'"),
        (json!({"embed_dtype": "float16"}), "embed_dtype", "not supported"),
        (json!({"input_type": "query"}), "input_type", "not supported"),
        (json!({"temperature": 0}), "temperature", "Unrecognized"),
    ] {
        let (app, fake) = pooling_app(pooling());
        let reply = post(&app, PATH, &body(&extra)).await;
        assert_eq!(reply.status, 400, "{extra}: {}", reply.text);
        let error = &reply.json()["error"];
        let at = error["param"].as_str().unwrap();
        assert!(at == param || at.starts_with(&format!("{param}[")), "{extra}: {error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{extra}: {error}");
        assert!(fake.seen.lock().unwrap().is_empty(), "{extra}");
    }
    let (app, _) = pooling_app(pooling());
    let reply = post(&app, PATH, &json!({"model": "tiny"})).await;
    assert_eq!(reply.json()["error"]["code"], "missing_required_parameter");
    assert_eq!(post(&app, PATH, &body(&json!({"model": "gpt-9"}))).await.status, 404);
    for harmless in
        [json!({"embed_dtype": "float32", "endianness": "little"}), json!({"user": "u"})]
    {
        assert_eq!(post(&app, PATH, &body(&harmless)).await.status, 200, "{harmless}");
    }
}

#[tokio::test]
async fn each_model_says_what_it_is_for() {
    let ask = json!({"role": "user", "content": "a"});
    let (pooling, fake) = pooling_app(pooling());
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": [ask]})),
        ("/v1/completions", json!({"prompt": "a"})),
        ("/v1/responses", json!({"input": "a"})),
        ("/v1/messages", json!({"model": "tiny", "max_tokens": 5, "messages": [ask]})),
    ] {
        let reply = post(&pooling, path, &body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text);
        assert!(reply.text.contains("ask it at /v1/embeddings"), "{path}: {}", reply.text);
    }
    assert!(fake.seen.lock().unwrap().is_empty());
    let (generating, _) = app(Fake::answering("x"));
    let reply = post(&generating, PATH, &body(&json!({}))).await;
    assert_eq!(reply.json()["error"]["code"], "model_task_mismatch");
    assert!(reply.text.contains("--runner pooling"), "{}", reply.text);
}

#[tokio::test]
async fn many_inputs_go_through_a_small_queue() {
    let (app, fake) = pooling_app(Fake { most_at_once: 3, ..pooling() });
    let input: Vec<Vec<u32>> = (0..700).map(|id| vec![id % 200, 7]).collect();
    let reply = post(&app, PATH, &json!({"input": input, "use_activation": false})).await;
    let expected: Vec<_> = input.iter().map(|ids| vector(ids)).collect();
    assert_eq!(vectors(&reply), expected);
    let seen: Vec<_> = fake.seen.lock().unwrap().iter().map(|seen| seen.prompt.clone()).collect();
    assert_eq!(seen, input, "each once, in order");
}

#[tokio::test]
async fn a_full_queue_is_told_with_the_time_to_wait() {
    let refusal = Some(EngineError::QueueFull { waiting: 9, limit: 9 });
    let (app, _) =
        pooling_app(Fake { refusal, time_to_drain: Duration::from_secs(7), ..pooling() });
    let reply = post(&app, PATH, &body(&json!({}))).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["retry-after"]),
        (429, &"7".parse().unwrap())
    );
}

#[tokio::test]
async fn a_failure_of_one_ends_the_others() {
    let (app, fake) = pooling_app(Fake { hold: true, ..pooling() });
    let asking = tokio::spawn({
        let app = app.clone();
        async move { post(&app, PATH, &body(&json!({}))).await }
    });
    while fake.sinks.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    fake.send(1, Event::Failed(EngineError::DeadlineExceeded));
    let reply = asking.await.unwrap();
    assert_eq!(reply.status, 504, "{}", reply.text);
    assert_eq!(*fake.aborted.lock().unwrap(), [0, 1]);
}

#[tokio::test]
async fn who_goes_away_leaves_nothing_running() {
    let (app, fake) = pooling_app(Fake { hold: true, ..pooling() });
    let request = post_request(PATH, body(&json!({})).to_string());
    let asking = tokio::spawn({
        let app = app.clone();
        async move { open(&app, request).await.status() }
    });
    while fake.sinks.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    asking.abort();
    asking.await.unwrap_err();
    assert_eq!(*fake.aborted.lock().unwrap(), [0, 1]);
}

async fn ask_with(app: &App, key: &str, body: &Value) -> Reply {
    let mut request: Request<Body> = post_request(PATH, body.to_string());
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    send(app, request).await
}

#[tokio::test]
async fn keys_limit_and_count_embeddings_too() {
    let (app, fake) = pooling_app(pooling());
    let (key, mut spec) = new_key("alice").unwrap();
    spec.tokens_per_minute = Some(5);
    let (stranger, mut other) = new_key("bob").unwrap();
    other.models = Some(vec!["another".into()]);
    assert_eq!(app.set_keys(&[spec, other]), Ok(2));
    assert_eq!(post(&app, PATH, &body(&json!({}))).await.status, 401);
    assert_eq!(ask_with(&app, &stranger, &body(&json!({}))).await.status, 403);
    assert_eq!(ask_with(&app, &key, &body(&json!({}))).await.status, 200);
    let again = ask_with(&app, &key, &body(&json!({}))).await;
    assert_eq!(again.status, 429, "3 of 5 tokens are used: {}", again.text);
    let never = ask_with(&app, &key, &json!({"input": "abcdef"})).await;
    assert_eq!(never.json()["error"]["param"], "input", "{}", never.text);
    assert_eq!(fake.seen.lock().unwrap().len(), 2, "what is refused reaches no engine");
    let page = get(&app, "/metrics").await.text;
    for line in [
        "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"stop\"} 2",
        "vllm:request_prompt_tokens_sum{model_name=\"tiny\"} 3",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    let used = page.lines().find(|line| line.contains("alice") && line.contains("prompt"));
    assert!(used.is_some_and(|line| line.ends_with(" 3")), "{used:?} in\n{page}");
}
