//! What breaks clients, as a survey of seven of them found: no answer of ours has any of it,
//! whatever it says, wherever it is cut and however it fails.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::{Method, Request};
use engine::EngineError;
use serde_json::{Value, json};
use server::{App, ServerConfig};

use crate::fake::{Fake, Reply, app, app_with, chat, config, post, post_request, send, tool_app};

const CHAT: &str = "/v1/chat/completions";
const ANSWERS: [&str; 4] = [
    "plain é text",
    "<think>\nWho?\n</think>\n\nI look.",
    "<think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"sky\", \"arguments\": {\"n\": 1}}\n\
     </tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
    "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n",
];

/// One choice of a stream, as the strictest accumulators add it up.
#[derive(Default)]
struct Streamed {
    deltas: usize,
    calls: Vec<String>,
    ids: BTreeSet<String>,
    finish: Option<String>,
}

impl Streamed {
    fn add(&mut self, choice: &Value) {
        let delta = choice["delta"].as_object().unwrap();
        assert!(self.finish.is_none(), "nothing follows a finish reason: {choice}");
        assert!(delta.values().all(|value| !value.is_null()), "left out, not null: {choice}");
        assert_eq!(delta.contains_key("role"), self.deltas == 0, "once, at first: {choice}");
        let says = |field: &str| delta.get(field).is_some_and(|text| text != "");
        assert!(!(says("reasoning_content") && says("content")), "one is lost: {choice}");
        self.deltas += 1;
        for call in delta.get("tool_calls").map_or(&[][..], |calls| calls.as_array().unwrap()) {
            self.add_call(call.as_object().unwrap());
        }
        self.finish = choice["finish_reason"].as_str().map(str::to_owned);
    }

    fn add_call(&mut self, call: &serde_json::Map<String, Value>) {
        let index = call["index"].as_u64().unwrap() as usize;
        let function = call["function"].as_object().unwrap();
        let arguments = function["arguments"].as_str().expect("JSON in a string");
        if index == self.calls.len() {
            assert_eq!(call["type"], "function");
            assert_ne!(function["name"].as_str().unwrap(), "");
            let id = call["id"].as_str().unwrap();
            assert!(!id.is_empty() && self.ids.insert(id.to_owned()), "{id} comes twice");
            self.calls.push(arguments.to_owned());
            return;
        }
        assert_eq!(index + 1, self.calls.len(), "one call after the other");
        assert_eq!((call.len(), function.len()), (2, 1), "id, type and name come once: {call:?}");
        self.calls[index] += arguments;
    }
}

fn check_head(reply: &Reply, status: u16, content_type: &str) {
    assert_eq!(reply.status, status, "{}", reply.text);
    assert_eq!(reply.headers["content-type"], content_type, "some clients go by it");
}

fn check_finish(reason: &str, num_calls: usize) {
    match reason {
        "tool_calls" => assert!(num_calls > 0),
        "stop" => assert_eq!(num_calls, 0, "agents would stop early"),
        reason => assert_eq!(reason, "length"),
    }
}

fn check_usage(usage: &Value) {
    let count = |field: &str| usage[field].as_u64().unwrap();
    assert_eq!(count("prompt_tokens") + count("completion_tokens"), count("total_tokens"));
}

/// Checks a stream of `num_choices`; returns whether it told of an error.
fn check_stream(reply: &Reply, num_choices: usize, asks_usage: bool) -> bool {
    check_head(reply, 200, "text/event-stream");
    let events: Vec<_> = reply.text.split_terminator("\n\n").collect();
    let [events @ .., "data: [DONE]"] = events.as_slice() else { panic!("{}", reply.text) };
    let chunk = |event: &&str| -> Value {
        serde_json::from_str(event.strip_prefix("data: ").expect("no other fields")).unwrap()
    };
    let mut chunks: Vec<_> = events.iter().map(chunk).collect();
    let error = chunks.pop_if(|last| last.get("error").is_some());
    if let Some(error) = &error {
        check_envelope(error);
    } else if asks_usage {
        let last = chunks.pop().unwrap();
        assert_eq!(last["choices"], json!([]), "an empty array, and there");
        check_usage(&last["usage"]);
    }
    let mut choices: BTreeMap<u64, Streamed> = BTreeMap::new();
    for chunk in &chunks {
        assert_eq!(chunk.get("usage"), asks_usage.then_some(&Value::Null), "clients add it up");
        assert!(chunk["created"].is_u64() && chunk["id"].is_string());
        for field in ["id", "object", "created", "model"] {
            assert_eq!(chunk[field], chunks[0][field]);
        }
        let [choice] = chunk["choices"].as_array().unwrap().as_slice() else { panic!("{chunk}") };
        choices.entry(choice["index"].as_u64().unwrap()).or_default().add(choice);
    }
    if error.is_none() {
        assert_eq!(choices.len(), num_choices);
    }
    for choice in choices.values() {
        match &choice.finish {
            Some(reason) => check_finish(reason, choice.calls.len()),
            None => assert!(error.is_some(), "clients take a half answer for a whole one"),
        }
    }
    error.is_some()
}

fn check_whole(reply: &Reply, num_choices: usize) {
    check_head(reply, 200, "application/json");
    let answer = reply.json();
    assert!(answer["created"].is_u64() && answer["id"].is_string());
    check_usage(&answer["usage"]);
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), num_choices);
    for choice in choices {
        let message = &choice["message"];
        assert_eq!(message["role"], "assistant");
        assert!(message["content"].is_string() || message["content"].is_null());
        let calls = message.get("tool_calls").map_or(&[][..], |calls| calls.as_array().unwrap());
        for call in calls {
            assert_ne!(call["id"].as_str().unwrap(), "");
            assert_eq!(call["type"], "function");
            assert!(call["function"]["arguments"].is_string());
        }
        check_finish(choice["finish_reason"].as_str().unwrap(), calls.len());
    }
}

fn check_envelope(body: &Value) {
    let error = body["error"].as_object().unwrap();
    assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
    for field in ["param", "code"] {
        assert!(error[field].is_string() || error[field].is_null(), "{body}");
    }
}

fn asking(extra: &Value) -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let mut body = chat(&json!({"tools": [tool("sky"), tool("now")]}));
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn no_answer_breaks_a_client_wherever_it_is_cut() {
    for answer in ANSWERS {
        for max_tokens in 1..=answer.len() + 1 {
            let (app, _) = tool_app(Fake::answering(answer));
            let body = asking(&json!({"max_tokens": max_tokens}));
            check_whole(&post(&app, CHAT, &body).await, 1);
            let mut body = body;
            body["stream"] = json!(true);
            assert!(!check_stream(&post(&app, CHAT, &body).await, 1, false));
        }
    }
}

#[tokio::test]
async fn no_answer_breaks_a_client_whatever_else_is_asked() {
    for answer in ANSWERS {
        for extra in [
            json!({}),
            json!({"n": 3}),
            json!({"tool_choice": "none"}),
            json!({"parallel_tool_calls": false}),
            json!({"include_reasoning": false}),
            json!({"stop": "look"}),
            json!({"stop": "</tool_call>"}),
            json!({"logprobs": true, "top_logprobs": 2}),
            json!({"return_token_ids": true}),
        ] {
            let num_choices = extra["n"].as_u64().unwrap_or(1) as usize;
            for asks_usage in [false, true] {
                let (app, _) = tool_app(Fake::answering(answer));
                let mut body = asking(&extra);
                check_whole(&post(&app, CHAT, &body).await, num_choices);
                body["stream"] = json!(true);
                body["stream_options"] = json!({"include_usage": asks_usage});
                let reply = post(&app, CHAT, &body).await;
                assert!(!check_stream(&reply, num_choices, asks_usage), "{}", reply.text);
            }
        }
    }
}

#[tokio::test]
async fn a_failure_breaks_no_client_wherever_it_comes() {
    for answer in ANSWERS {
        for at in (0..answer.len()).filter(|at| answer.is_char_boundary(*at)) {
            let failure = Some(EngineError::Step("out of luck".into()));
            let (app, _) = tool_app(Fake { failure, ..Fake::answering(&answer[..at]) });
            let body = asking(&json!({"stream": true, "stream_options": {"include_usage": true}}));
            let reply = post(&app, CHAT, &body).await;
            assert!(check_stream(&reply, 1, true), "{}", reply.text);
            assert!(!reply.text.contains("\"finish_reason\":\""), "{}", reply.text);
        }
    }
}

/// What an empty queue could not take is refused for good, before anything is made of it.
#[tokio::test]
async fn more_choices_than_may_wait_are_no_full_queue() {
    let (app, fake) = app(Fake { most_at_once: 3, ..Fake::answering("x") });
    let two = post(&app, CHAT, &chat(&json!({"n": 3}))).await;
    assert_eq!(two.status, 200);
    let more = post(&app, CHAT, &chat(&json!({"n": 4}))).await;
    let error = &more.json()["error"];
    assert_eq!((more.status.as_u16(), &error["param"]), (400, &json!("n")));
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("4 choices") && message.contains("--max-num-queued-reqs"),
        "{message}"
    );
    assert_eq!(fake.seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn every_error_is_in_the_envelope() {
    let request = |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::from(body.to_owned())).unwrap()
    };
    let json = ("content-type", "application/json");
    let gzip = ("content-encoding", "gzip");
    let hello = chat(&json!({})).to_string();
    let guarded = ServerConfig { api_keys: vec!["sesame".into()], ..config() };
    let full = EngineError::QueueFull { waiting: 9, limit: 8 };
    let failing = |refusal: Option<EngineError>, panics: bool| {
        app(Fake { refusal, panics, ..Fake::default() }).0
    };
    let draining = app(Fake::default()).0;
    draining.start_draining();
    let late = Fake { failure: Some(EngineError::DeadlineExceeded), ..Fake::default() };
    for (app, request, status) in [
        (App::new(config()), post_request(CHAT, hello.clone()), 503),
        (draining, post_request(CHAT, hello.clone()), 503),
        (failing(Some(EngineError::Stopped), false), post_request(CHAT, hello.clone()), 503),
        (failing(Some(full), false), post_request(CHAT, hello.clone()), 429),
        (failing(None, true), post_request(CHAT, hello.clone()), 500),
        (app(late).0, post_request(CHAT, hello.clone()), 504),
        (app_with(Fake::default(), guarded).0, post_request(CHAT, hello.clone()), 401),
        (failing(None, false), post_request(CHAT, "{"), 400),
        (failing(None, false), post_request(CHAT, " ".repeat(100_001)), 413),
        (failing(None, false), post_request("/v1/nothing", hello.clone()), 404),
        (failing(None, false), request(Method::GET, CHAT, &[], ""), 405),
        (failing(None, false), request(Method::POST, CHAT, &[], &hello), 415),
        (failing(None, false), request(Method::POST, CHAT, &[json, gzip], &hello), 415),
        (failing(None, false), request(Method::GET, "/v1/models/gpt-9", &[json], ""), 404),
        (failing(None, false), request(Method::GET, "/v1/models/%ff", &[json], ""), 400),
        (failing(None, false), request(Method::GET, "/v1/responses/%ff", &[json], ""), 400),
    ] {
        let reply = send(&app, request).await;
        check_head(&reply, status, "application/json");
        check_envelope(&reply.json());
    }
}
