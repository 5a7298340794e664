//! Streams to the byte: the reference stream, one event a frame, heartbeats, errors midway.

use std::time::Duration;

use engine::{EngineError, Event};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::fake::{
    Fake, app, app_with, chat, completion, config, open, post, post_request, stable,
};

const CHAT: &str = "/v1/chat/completions";

fn chunk(rest: &str) -> String {
    format!(
        "data: {{\"id\":\"ID\",\"object\":\"chat.completion.chunk\",\"created\":0,\
         \"model\":\"tiny\",\"system_fingerprint\":\"sconce-VERSION\",{rest}}}\n\n"
    )
}

fn choice(delta: &str, finish: &str) -> String {
    format!(
        "\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}]"
    )
}

#[tokio::test]
async fn the_reference_stream_to_the_byte() {
    let (app, _) = app(Fake::answering("é!"));
    let reply = post(&app, CHAT, &chat(&json!({"stream": true}))).await;
    let expected = [
        chunk(&choice(r#"{"role":"assistant","content":""}"#, "null")),
        chunk(&choice(r#"{"content":"é"}"#, "null")),
        chunk(&choice(r#"{"content":"!"}"#, "null")),
        chunk(&choice("{}", "\"stop\"")),
        "data: [DONE]\n\n".into(),
    ];
    assert_eq!(stable(&reply.text), expected.concat());
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert_eq!(reply.headers["cache-control"], "no-cache");
    assert_eq!(reply.headers["x-accel-buffering"], "no");
    assert!(reply.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn the_reference_stream_with_usage_to_the_byte() {
    let (app, _) = app(Fake::answering("!"));
    let body = chat(&json!({"stream": true, "stream_options": {"include_usage": true}}));
    let reply = post(&app, CHAT, &body).await;
    let null = ",\"usage\":null";
    let expected = [
        chunk(&(choice(r#"{"role":"assistant","content":""}"#, "null") + null)),
        chunk(&(choice(r#"{"content":"!"}"#, "null") + null)),
        chunk(&(choice("{}", "\"stop\"") + null)),
        chunk(
            "\"choices\":[],\"usage\":{\"prompt_tokens\":21,\"completion_tokens\":2,\
             \"total_tokens\":23,\"prompt_tokens_details\":{\"cached_tokens\":16},\
             \"completion_tokens_details\":{\"reasoning_tokens\":0}}",
        ),
        "data: [DONE]\n\n".into(),
    ];
    assert_eq!(stable(&reply.text), expected.concat());
}

#[tokio::test]
async fn continuous_usage_is_on_every_chunk() {
    let (app, _) = app(Fake::answering("abc"));
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = completion(&json!({"stream": true, "stream_options": options}));
    let chunks = post(&app, "/v1/completions", &body).await.chunks();
    let counts: Vec<_> =
        chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].clone()).collect();
    assert_eq!(counts, [1, 2, 3, 4, 4]);
}

#[tokio::test]
async fn one_event_is_one_frame() {
    for (path, body) in [
        (CHAT, chat(&json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}}))),
        ("/v1/completions", completion(&json!({"stream": true, "echo": true, "logprobs": 2}))),
    ] {
        let (app, _) = app(Fake::answering("text\n\nwith € lines"));
        let mut body = open(&app, post_request(path, body.to_string())).await.into_body();
        let mut num_frames = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            let text = std::str::from_utf8(&data).unwrap();
            // The client of the article: split at line breaks, parse each line.
            let lines: Vec<_> = text.split('\n').filter(|line| !line.is_empty()).collect();
            assert_eq!(lines.len(), 1, "{text:?}");
            assert!(text.ends_with("\n\n"), "{text:?}");
            let json = lines[0].strip_prefix("data: ").unwrap();
            assert!(json == "[DONE]" || serde_json::from_str::<Value>(json).is_ok(), "{text:?}");
            num_frames += 1;
        }
        assert!(num_frames > 10, "{num_frames}");
    }
}

#[tokio::test]
async fn a_silent_stream_pings_and_goes_on() {
    let config = server::ServerConfig { heartbeat: Duration::from_millis(20), ..config() };
    let (app, fake) = app_with(Fake::holding(), config);
    let response = open(&app, post_request(CHAT, chat(&json!({"stream": true})).to_string())).await;
    let mut body = response.into_body();
    for _ in 0..2 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame, ": ping\n\n");
    }
    fake.say(0, "ok");
    fake.finish(0);
    let rest = body.collect().await.unwrap().to_bytes();
    let rest = String::from_utf8(rest.to_vec()).unwrap();
    assert!(rest.contains("\"content\":\"o\"") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
}

#[tokio::test]
async fn a_failure_midway_is_an_error_event_and_never_a_finish_reason() {
    let failure = Some(EngineError::Step("out of luck".into()));
    let (app, fake) = app(Fake { failure, ..Fake::answering("half") });
    let reply = post(&app, CHAT, &chat(&json!({"stream": true, "n": 2}))).await;
    let events: Vec<_> = reply.text.split_terminator("\n\n").collect();
    let [.., error, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(
        *error,
        "data: {\"error\":{\"message\":\"a step of the engine failed: out of luck\",\
         \"type\":\"server_error\",\"param\":null,\"code\":\"engine_error\"}}"
    );
    assert_eq!(*done, "data: [DONE]");
    assert!(!reply.text.contains("\"finish_reason\":\""), "{}", reply.text);
    assert_eq!(fake.aborted.lock().unwrap().len(), 2);

    let reply = post(&app, CHAT, &chat(&json!({}))).await;
    assert_eq!(reply.status, 500);
    assert_eq!(reply.json()["error"]["code"], "engine_error");
}

#[tokio::test]
async fn an_engine_that_vanishes_is_an_error_too() {
    let (app, fake) = app(Fake::holding());
    let response = open(&app, post_request(CHAT, chat(&json!({"stream": true})).to_string())).await;
    fake.send(0, Event::Token { id: 65, logprobs: None });
    fake.sinks.lock().unwrap().clear();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.contains("\"code\":\"engine_stopped\""), "{text}");
}

#[tokio::test]
async fn streamed_equals_whole() {
    let answers = ["plain", "naïve 日本 🙂 text", "a<stop>b", "ends in <sto", "\u{301}combining"];
    for answer in answers {
        for extra in [
            json!({}),
            json!({"stop": "<stop>"}),
            json!({"stop": ["<stop>", "日"], "include_stop_str_in_output": true}),
            json!({"max_tokens": 5}),
            json!({"max_tokens": 7, "stop": "<stop>", "min_tokens": 6}),
            json!({"seed": 5, "n": 3}),
        ] {
            let (app, _) = app(Fake::answering(answer));
            let mut streamed = extra.clone();
            streamed["stream"] = true.into();
            let whole = post(&app, CHAT, &chat(&extra)).await.json();
            let chunks = post(&app, CHAT, &chat(&streamed)).await.chunks();
            for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
                let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]);
                let deltas: Vec<_> = deltas.filter(|choice| choice["index"] == index).collect();
                let text: String = deltas
                    .iter()
                    .filter_map(|choice| choice["delta"]["content"].as_str())
                    .collect();
                assert_eq!(choice["message"]["content"], text, "{answer} {extra}");
                let last = deltas.last().unwrap();
                assert_eq!(last["finish_reason"], choice["finish_reason"], "{answer} {extra}");
                assert_eq!(last["stop_reason"], choice["stop_reason"], "{answer} {extra}");
            }
        }
    }
}
