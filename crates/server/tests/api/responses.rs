//! `/v1/responses`: a stream tells what the whole is, a chain says what the conversation in full
//! would, what is kept is bounded, and every fault has its path.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use engine::EngineError;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::{App, ServerConfig, StoreLimits};

use crate::fake::{
    Fake, Reply, app, app_with, config, get, open, post, post_request, send, tool_app,
    tool_app_with,
};

const PATH: &str = "/v1/responses";
const ANSWER: &str = "<think>\nWho?\n</think>\n\nI look.\n<tool_call>\n\
    {\"name\": \"sky\", \"arguments\": {\"city\": \"Rome\"}}\n\
    </tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

fn with(mut body: Value, extra: &Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The user saying "hi", with `extra` fields.
fn asking(extra: &Value) -> Value {
    with(json!({"model": "tiny", "input": "hi"}), extra)
}

fn tools(strict: Option<bool>) -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tool =
        |name| json!({"type": "function", "name": name, "parameters": city, "strict": strict});
    json!([tool("sky"), tool("now")])
}

async fn whole(app: &App, body: &Value) -> Value {
    let reply = post(app, PATH, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// The events of a stream: named as their data says, numbered, closed by `[DONE]`.
fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let text = reply.text.strip_suffix("data: [DONE]\n\n").unwrap();
    let events = text.split_terminator("\n\n").enumerate().map(|(number, event)| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        assert_eq!(data["sequence_number"], number);
        data
    });
    events.collect()
}

async fn stream(app: &App, body: &Value) -> Vec<Value> {
    events(&post(app, PATH, &with(body.clone(), &json!({"stream": true}))).await)
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// What a client makes of the events, which it checks on the way: the output, and the response.
fn fold(events: &[Value]) -> (Vec<Value>, Value) {
    let mut items: Vec<Value> = Vec::new();
    let [created, progress, middle @ .., last] = events else { panic!("{events:?}") };
    assert_eq!(
        kinds(&[created.clone(), progress.clone()]),
        ["response.created", "response.in_progress"]
    );
    assert_eq!(created["response"]["status"], "in_progress");
    assert_eq!(created["response"], progress["response"]);
    let mut is_open = false;
    for event in middle {
        let kind = event["type"].as_str().unwrap();
        let index = event["output_index"].as_u64().unwrap() as usize;
        if kind == "response.output_item.added" {
            assert_eq!((index, is_open), (items.len(), false), "one item at a time");
            is_open = true;
            assert_eq!(event["item"]["status"], "in_progress");
            items.push(event["item"].clone());
            continue;
        }
        assert_eq!((index, is_open), (items.len() - 1, true), "{kind}");
        let item = items.last_mut().unwrap();
        if kind != "response.output_item.done" {
            assert_eq!(event["item_id"], item["id"]);
        }
        match kind {
            "response.content_part.added" => {
                assert_eq!(event["content_index"], 0);
                item["content"].as_array_mut().unwrap().push(event["part"].clone());
            }
            "response.output_text.delta" | "response.reasoning_text.delta" => {
                let part = &mut item["content"][0];
                part["text"] = format!("{}{}", text(&part["text"]), text(&event["delta"])).into();
                if let Some(scores) = event["logprobs"].as_array() {
                    part["logprobs"].as_array_mut().unwrap().extend(scores.clone());
                }
            }
            "response.function_call_arguments.delta" => {
                let all = format!("{}{}", text(&item["arguments"]), text(&event["delta"]));
                item["arguments"] = all.into();
            }
            "response.output_text.done" => {
                assert_eq!(event["text"], item["content"][0]["text"]);
                assert_eq!(event["logprobs"], item["content"][0]["logprobs"]);
            }
            "response.reasoning_text.done" => assert_eq!(event["text"], item["content"][0]["text"]),
            "response.function_call_arguments.done" => {
                assert_eq!(event["arguments"], item["arguments"]);
            }
            "response.content_part.done" => assert_eq!(event["part"], item["content"][0]),
            "response.output_item.done" => {
                item["status"] = event["item"]["status"].clone();
                assert_eq!(&event["item"], item);
                is_open = false;
            }
            kind => panic!("an unknown event: {kind}"),
        }
    }
    assert!(!is_open);
    assert_eq!(last["response"]["output"], json!(items));
    let status = last["response"]["status"].as_str().unwrap();
    assert_eq!(last["type"], format!("response.{status}"));
    (items, last["response"].clone())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The same with ids and times blanked, wherever they stand.
fn stable(value: &Value) -> Value {
    let mut value = value.clone();
    blank(&mut value);
    value
}

fn blank(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let varies =
                    ["id", "call_id", "created_at", "completed_at"].contains(&name.as_str());
                if varies && !value.is_null() {
                    *value = "*".into();
                }
                blank(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(blank),
        _ => {}
    }
}

#[tokio::test]
async fn the_whole_object() {
    let (app, fake) = app(Fake::answering("Hello."));
    let extra = json!({
        "instructions": "Be kind.", "metadata": {"a": "b"}, "max_output_tokens": 20,
        "temperature": 0.5, "top_p": 0.25, "max_tool_calls": 3, "prompt_cache_key": "k",
        "safety_identifier": "s", "user": "u", "service_tier": "auto", "truncation": "disabled",
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "client_metadata": {"x": 1},
        "reasoning": {"effort": "none", "summary": "auto"}, "background": false,
        "include": ["reasoning.encrypted_content"], "tools": [], "tool_choice": "auto",
    });
    let response = whole(&app, &asking(&extra)).await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&stable(&response)).unwrap());
    assert!(text(&response["id"]).starts_with("resp_"));
    assert!(text(&response["output"][0]["id"]).starts_with("msg_"));
    let seen = fake.last();
    assert_eq!(
        (seen.params.temperature, seen.params.top_p, seen.params.max_tokens),
        (0.5, 0.25, 20)
    );
    let prompt: String =
        seen.prompt.iter().filter_map(|&id| char::from_u32(id)).filter(char::is_ascii).collect();
    assert_eq!(prompt, "system\nBe kind.\nuser\nhi\nassistant\n");
}

#[tokio::test]
async fn the_reference_stream() {
    let (app, _) = app(Fake::answering("é!"));
    let events =
        stream(&app, &asking(&json!({"stream_options": {"include_obfuscation": false}}))).await;
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds(&events), expected);
    let delta = with(events[4].clone(), &json!({"item_id": "*"}));
    assert_eq!(
        delta,
        json!({"type": "response.output_text.delta", "sequence_number": 4, "item_id": "*",
               "output_index": 0, "content_index": 0, "delta": "é", "logprobs": []})
    );
    assert_eq!(events[0]["response"]["output"], json!([]));
    assert_eq!(events[0]["response"]["usage"], Value::Null);
    assert_eq!(events[9]["response"]["usage"]["output_tokens"], 4);
    let (first, last) = (&events[0]["response"], &events[9]["response"]);
    assert_eq!((&first["id"], &first["created_at"]), (&last["id"], &last["created_at"]));
    assert_eq!((&first["completed_at"], last["completed_at"].is_u64()), (&Value::Null, true));
}

#[tokio::test]
async fn an_event_is_a_frame_and_the_first_comes_before_any_token() {
    let (app, fake) = app(Fake::holding());
    let body = asking(&json!({"stream": true})).to_string();
    let mut body = open(&app, post_request(PATH, body)).await.into_body();
    for kind in ["response.created", "response.in_progress"] {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let frame = std::str::from_utf8(&frame).unwrap();
        assert!(frame.starts_with(&format!("event: {kind}\ndata: {{")), "{frame}");
        assert_eq!(frame.matches("\n\n").count(), 1);
        assert!(frame.ends_with("\n\n"));
    }
    fake.say(0, "x");
    fake.finish(0);
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn streamed_equals_whole() {
    for answer in
        [ANSWER, "plain", "naïve 日本 🙂 text", "a<stop>b", "ends in <sto", "<think>\nonly", ""]
    {
        for extra in [
            json!({}),
            json!({"stop": "<stop>"}),
            json!({"max_output_tokens": 5}),
            json!({"max_output_tokens": 60}),
            json!({"max_output_tokens": 90}),
            json!({"parallel_tool_calls": false}),
            json!({"tool_choice": "none"}),
            json!({"include_reasoning": false}),
            json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2}),
            json!({"top_logprobs": 1, "stop": "look"}),
        ] {
            let (app, _) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(answer) });
            let body = with(asking(&json!({"tools": tools(Some(false))})), &extra);
            let response = whole(&app, &body).await;
            let (_, streamed) = fold(&stream(&app, &body).await);
            assert_eq!(stable(&streamed), stable(&response), "{answer} {extra}");
        }
    }
}

#[tokio::test]
async fn thoughts_text_and_calls_are_items_in_their_order() {
    let (app, _) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(ANSWER) });
    let response = whole(&app, &asking(&json!({"tools": tools(Some(false))}))).await;
    let call = |name: &str, arguments: &str| {
        json!({"type": "function_call", "id": "*", "call_id": "*", "name": name,
               "arguments": arguments, "status": "completed"})
    };
    let part = json!({"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []});
    let expected = json!([
        {"type": "reasoning", "id": "*", "summary": [], "encrypted_content": null,
         "content": [{"type": "reasoning_text", "text": "Who?"}], "status": "completed"},
        {"type": "message", "id": "*", "role": "assistant", "content": [part], "status": "completed"},
        call("sky", "{\"city\": \"Rome\"}"),
        call("now", "{}"),
    ]);
    assert_eq!(stable(&response["output"]), expected);
    assert_eq!(response["status"], "completed");
}

#[tokio::test]
async fn usage_is_that_of_the_same_chat() {
    let (app, _) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(ANSWER) });
    let response = whole(&app, &asking(&json!({}))).await;
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let chat = post(&app, "/v1/chat/completions", &chat).await.json()["usage"].clone();
    let usage = &response["usage"];
    for (ours, its) in [
        ("/input_tokens", "/prompt_tokens"),
        ("/input_tokens_details/cached_tokens", "/prompt_tokens_details/cached_tokens"),
        ("/output_tokens", "/completion_tokens"),
        ("/total_tokens", "/total_tokens"),
    ] {
        assert!(usage.pointer(ours).is_some());
        assert_eq!(usage.pointer(ours), chat.pointer(its), "{ours}");
    }
    let thoughts = chat.pointer("/completion_tokens_details/reasoning_tokens").cloned();
    assert_eq!(usage["output_tokens_details"]["reasoning_tokens"], thoughts.unwrap_or(json!(0)));
}

#[tokio::test]
async fn the_tokens_of_a_request_are_counted_as_they_are_used() {
    let (app, fake) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(ANSWER) });
    let first = whole(&app, &asking(&json!({}))).await;
    for extra in [
        json!({}),
        json!({"instructions": "Be brief.", "tools": tools(None), "tool_choice": "required"}),
        json!({"previous_response_id": first["id"]}),
    ] {
        let asked = fake.seen.lock().unwrap().len();
        let count = post(&app, "/v1/responses/input_tokens", &asking(&extra)).await;
        assert_eq!(fake.seen.lock().unwrap().len(), asked, "nothing is generated");
        let tokens = whole(&app, &asking(&extra)).await["usage"]["input_tokens"].clone();
        assert_eq!(
            count.json(),
            json!({"object": "response.input_tokens", "input_tokens": tokens})
        );
    }
    let long = post(&app, "/v1/responses/input_tokens", &json!({"input": 7})).await;
    assert_eq!((long.status.as_u16(), &long.json()["error"]["param"]), (400, &json!("input")));
}

#[tokio::test]
async fn what_is_cut_is_incomplete() {
    let (app, _) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(ANSWER) });
    let body = asking(&json!({"tools": tools(Some(false)), "max_output_tokens": 90}));
    let response = whole(&app, &body).await;
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(response["completed_at"], Value::Null);
    let output = response["output"].as_array().unwrap();
    let statuses: Vec<_> = output.iter().map(|item| text(&item["status"])).collect();
    assert_eq!(statuses, ["completed", "completed", "incomplete"]);
    assert_eq!(output[2]["name"], "sky");
    // The half call is shown to the model as it was written, and may be answered.
    let next =
        json!([{"type": "function_call_output", "call_id": output[2]["call_id"], "output": "cut"}]);
    whole(&app, &asking(&json!({"previous_response_id": response["id"], "input": next}))).await;
}

#[tokio::test]
async fn log_probabilities_are_those_of_the_text() {
    let (app, _) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(ANSWER) });
    let logprobs = json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2});
    let body = with(asking(&json!({"tools": tools(Some(false))})), &logprobs);
    let response = whole(&app, &body).await;
    let part = &response["output"][1]["content"][0];
    let scores = part["logprobs"].as_array().unwrap();
    let tokens: String = scores.iter().map(|score| text(&score["token"])).collect();
    assert_eq!((tokens.as_str(), &part["text"]), ("I look.", &json!("I look.")));
    let first = json!({
        "token": "I", "logprob": -0.5, "bytes": [73], "top_logprobs": [
            {"token": "I", "logprob": -0.5, "bytes": [73]},
            {"token": "J", "logprob": -1.5, "bytes": [74]},
        ],
    });
    assert_eq!(scores[0], first);
}

/// Answers, and the prompt that the engine saw.
async fn prompt_of(app: &App, fake: &Arc<Fake>, body: &Value) -> (Value, Vec<u32>) {
    let response = whole(app, body).await;
    (response, fake.last().prompt)
}

#[tokio::test]
async fn a_chain_is_the_conversation_in_full() {
    let (app, fake) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(ANSWER) });
    let fields = json!({"tools": tools(Some(false)), "instructions": "Be kind."});
    let mut history = json!([{"role": "user", "content": "hi"}]);
    let (mut last, mut by_id) = prompt_of(&app, &fake, &asking(&fields)).await;
    for round in 0..3 {
        let calls =
            last["output"].as_array().unwrap().iter().filter(|item| item["call_id"].is_string());
        let mut next: Vec<_> = calls
            .map(|call| json!({"type": "function_call_output", "call_id": call["call_id"], "output": "sun"}))
            .collect();
        next.push(json!({"role": "user", "content": [{"type": "input_text", "text": format!("and {round}?")}]}));
        let all = history.as_array_mut().unwrap();
        all.extend(last["output"].as_array().unwrap().clone());
        all.extend(next.clone());
        let chained =
            with(fields.clone(), &json!({"input": next, "previous_response_id": last["id"]}));
        let in_full = with(fields.clone(), &json!({"input": history, "store": false}));
        (last, by_id) = prompt_of(&app, &fake, &chained).await;
        assert_eq!(last["previous_response_id"], chained["previous_response_id"]);
        let (_, full) = prompt_of(&app, &fake, &in_full).await;
        assert_eq!(by_id, full, "{round}");
    }
    let text: String =
        by_id.iter().filter_map(|&id| char::from_u32(id).filter(char::is_ascii)).collect();
    let turn = "assistant\n(Who?)I look.[sky Rome][now ]\ntool\nsun\ntool\nsun\nuser\nand 0?\n";
    assert!(text.starts_with(&format!("system\nBe kind.\nuser\nhi\n{turn}")), "{text}");
    // Instructions are those of each request.
    let alone = json!({"input": "so?", "previous_response_id": last["id"]});
    let (_, prompt) = prompt_of(&app, &fake, &alone).await;
    let text: String =
        prompt.iter().filter_map(|&id| char::from_u32(id).filter(char::is_ascii)).collect();
    assert!(text.starts_with("user\nhi\n") && text.ends_with("user\nso?\nassistant\n"), "{text}");
}

#[tokio::test]
async fn a_chain_goes_on_from_a_stream_too_and_branches() {
    let (app, fake) = app(Fake { extra_len: 100_000, ..Fake::answering("yes") });
    let (_, first) = fold(&stream(&app, &asking(&json!({}))).await);
    let follow = |input: &str| json!({"input": input, "previous_response_id": first["id"]});
    let (_, one) = prompt_of(&app, &fake, &follow("one")).await;
    let (_, two) = prompt_of(&app, &fake, &follow("two")).await;
    assert_eq!(one.len(), two.len());
    assert_ne!(one, two);
}

#[tokio::test]
async fn items_may_be_named_by_id() {
    let (app, fake) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(ANSWER) });
    let first = whole(&app, &asking(&json!({"tools": tools(Some(false))}))).await;
    let output = first["output"].as_array().unwrap();
    let mut in_full = vec![json!({"role": "user", "content": "hi"})];
    in_full.extend(output.clone());
    let mut by_id = vec![in_full[0].clone()];
    by_id.extend(output.iter().map(|item| json!({"type": "item_reference", "id": item["id"]})));
    by_id[1].as_object_mut().unwrap().remove("type"); // As the SDK allows.
    let (_, full) = prompt_of(&app, &fake, &json!({"input": in_full})).await;
    let (_, named) = prompt_of(&app, &fake, &json!({"input": by_id})).await;
    assert_eq!(named, full);
}

#[tokio::test]
async fn instructions_and_first_system_messages_are_one() {
    let (app, fake) = app(Fake { extra_len: 100_000, ..Fake::answering("x") });
    let input = json!([
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Two."}]},
        {"role": "system", "content": "Three."},
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": "Four."},
    ]);
    let (_, prompt) =
        prompt_of(&app, &fake, &json!({"instructions": "One.", "input": input})).await;
    let text: String =
        prompt.iter().filter_map(|&id| char::from_u32(id).filter(char::is_ascii)).collect();
    assert_eq!(text, "system\nOne.\n\nTwo.\n\nThree.\nuser\nhi\nsystem\nFour.\nassistant\n");
}

async fn delete(app: &App, id: &Value) -> Reply {
    let request = Request::builder().method(Method::DELETE).uri(format!("{PATH}/{}", text(id)));
    send(app, request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_response_is_kept_shown_listed_and_forgotten() {
    let (app, _) = app(Fake { extra_len: 100_000, ..Fake::answering("yes") });
    let input = json!([
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
        {"type": "message", "id": "msg_mine", "role": "user", "content": "three"},
    ]);
    let response = whole(&app, &asking(&json!({"input": input}))).await;
    let path = format!("{PATH}/{}", text(&response["id"]));
    for query in ["", "?stream=false", "?include[]=message.output_text.logprobs"] {
        assert_eq!(get(&app, &format!("{path}{query}")).await.json(), response);
    }
    let list = |query: &str| {
        let path = format!("{path}/input_items{query}");
        let app = app.clone();
        async move { get(&app, &path).await.json() }
    };
    let texts = |page: &Value| -> Vec<String> {
        let items = page["data"].as_array().unwrap().iter();
        items.map(|item| text(&item["content"][0]["text"]).to_owned()).collect()
    };
    let page = list("").await;
    assert_eq!(texts(&page), ["three", "two", "one"]);
    assert_eq!((&page["object"], &page["has_more"]), (&json!("list"), &json!(false)));
    assert_eq!(page["first_id"], "msg_mine");
    let item = with(page["data"][2].clone(), &json!({"id": "*"}));
    assert_eq!(
        item,
        json!({"type": "message", "id": "*", "role": "user", "status": "completed",
                            "content": [{"type": "input_text", "text": "one"}]})
    );
    let page = list("?order=asc&limit=2").await;
    assert_eq!((texts(&page), &page["has_more"]), (vec!["one".into(), "two".into()], &json!(true)));
    let rest = list(&format!("?order=asc&after={}", text(&page["last_id"]))).await;
    assert_eq!((texts(&rest), &rest["has_more"]), (vec!["three".into()], &json!(false)));
    assert_eq!(list("?after=msg_mine&order=asc").await["data"], json!([]));

    let deleted = delete(&app, &response["id"]).await;
    assert_eq!(
        deleted.json(),
        json!({"id": response["id"], "object": "response", "deleted": true})
    );
    assert_gone(&app, &response["id"]).await;
}

async fn assert_gone(app: &App, id: &Value) {
    let path = format!("{PATH}/{}", text(id));
    for reply in [
        get(app, &path).await,
        get(app, &format!("{path}/input_items")).await,
        post(app, &format!("{path}/cancel"), &json!({})).await,
        delete(app, id).await,
    ] {
        assert_eq!(reply.status, 404, "{}", reply.text);
        assert_eq!(reply.json()["error"]["code"], "response_not_found");
    }
    let reply = post(app, PATH, &asking(&json!({"previous_response_id": id}))).await;
    let error = &reply.json()["error"];
    assert_eq!(
        (reply.status.as_u16(), &error["code"]),
        (400, &json!("previous_response_not_found"))
    );
    assert_eq!(error["param"], "previous_response_id");
    assert_eq!(error["message"], format!("Previous response with id '{}' not found.", text(id)));
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_not() {
    let (app, _) = app(Fake { extra_len: 100_000, ..Fake::answering("yes") });
    let response = whole(&app, &asking(&json!({"store": false}))).await;
    assert_eq!(response["store"], false);
    assert_gone(&app, &response["id"]).await;
    let reference = json!([{"type": "item_reference", "id": response["output"][0]["id"]}]);
    let reply = post(&app, PATH, &asking(&json!({"input": reference}))).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["code"]),
        (400, &json!("item_not_found"))
    );
}

fn storing(limits: StoreLimits) -> ServerConfig {
    ServerConfig { response_store: limits, ..config() }
}

#[tokio::test]
async fn the_store_is_bounded_in_number_bytes_and_time() {
    let limits = StoreLimits { max_entries: 2, ..StoreLimits::default() };
    let (app, _) = app_with(Fake::answering("yes"), storing(limits));
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(whole(&app, &asking(&json!({}))).await["id"].clone());
    }
    assert_gone(&app, &ids[0]).await;
    for id in &ids[1..] {
        assert_eq!(get(&app, &format!("{PATH}/{}", text(id))).await.status, 200);
    }
    for limits in [
        StoreLimits { max_bytes: 100, ..StoreLimits::default() },
        StoreLimits { max_age: Duration::ZERO, ..StoreLimits::default() },
    ] {
        let (app, _) = app_with(Fake::answering("yes"), storing(limits));
        let response = whole(&app, &asking(&json!({}))).await;
        assert_gone(&app, &response["id"]).await;
    }
}

#[tokio::test]
async fn a_response_is_its_keys_own() {
    let keys = vec!["one".to_owned(), "two".to_owned()];
    let (app, _) = app_with(Fake::answering("yes"), ServerConfig { api_keys: keys, ..config() });
    let ask = |key: &str, method: Method, path: String, body: Option<Value>| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", format!("Bearer {key}"));
        let request = request.header("content-type", "application/json");
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let app = app.clone();
        async move { send(&app, request.body(body).unwrap()).await }
    };
    let response = ask("one", Method::POST, PATH.into(), Some(asking(&json!({})))).await.json();
    let path = format!("{PATH}/{}", text(&response["id"]));
    let follow = asking(&json!({"previous_response_id": response["id"]}));
    for (key, status) in [("two", [404, 404, 404, 404, 400]), ("one", [200, 200, 200, 200, 400])] {
        let replies = [
            ask(key, Method::GET, path.clone(), None).await,
            ask(key, Method::GET, format!("{path}/input_items"), None).await,
            ask(key, Method::POST, format!("{path}/cancel"), None).await,
            ask(key, Method::DELETE, path.clone(), None).await,
            ask(key, Method::POST, PATH.into(), Some(follow.clone())).await,
        ];
        assert_eq!(replies.map(|reply| reply.status.as_u16()), status, "{key}");
    }
    assert_eq!(get(&app, &path).await.status, 401);
}

#[tokio::test]
async fn cancelling_stops_a_stream_and_keeps_what_there_is() {
    for store in [true, false] {
        let (app, fake) = app(Fake::holding());
        let body = asking(&json!({"stream": true, "store": store})).to_string();
        let mut body = open(&app, post_request(PATH, body)).await.into_body();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let data = std::str::from_utf8(&frame).unwrap().split_once("data: ").unwrap().1;
        let created: Value = serde_json::from_str(data).unwrap();
        let path = format!("{PATH}/{}", text(&created["response"]["id"]));
        fake.say(0, "ab");
        for _ in 0..5 {
            body.frame().await.unwrap().unwrap(); // Up to the second delta.
        }
        let running = get(&app, &path).await;
        assert_eq!(running.status, if store { 200 } else { 404 });
        if store {
            let running = running.json();
            assert_eq!(running["status"], "in_progress");
            assert_eq!(running["output"][0]["content"][0]["text"], "ab");
        }
        let refused = delete(&app, &created["response"]["id"]).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]["param"]),
            (400, &json!("response_id"))
        );

        let cancelled = post(&app, &format!("{path}/cancel"), &json!({})).await.json();
        assert_eq!(cancelled["status"], "cancelled");
        assert_eq!(cancelled["output"][0]["status"], "incomplete");
        assert_eq!(cancelled["output"][0]["content"][0]["text"], "ab");
        assert_eq!(cancelled["usage"]["output_tokens"], 2);
        assert!(!fake.aborted.lock().unwrap().is_empty(), "at once, read or not");
        let rest = body.collect().await.unwrap().to_bytes();
        let rest = std::str::from_utf8(&rest).unwrap();
        assert!(rest.contains("event: response.incomplete\n"), "{rest}");
        assert!(
            rest.contains("\"status\":\"cancelled\"") && rest.ends_with("data: [DONE]\n\n"),
            "{rest}"
        );
        app.idle().await;
        let metrics = get(&app, "/metrics").await.text;
        assert!(metrics.contains("finished_reason=\"abort\"} 1\n"), "{metrics}");
        if store {
            assert_eq!(get(&app, &path).await.json(), cancelled);
            let again = post(&app, &format!("{path}/cancel"), &json!({})).await;
            assert_eq!(again.json(), cancelled, "twice is as good as once");
        } else {
            assert_gone(&app, &created["response"]["id"]).await;
        }
    }
}

#[tokio::test]
async fn what_has_ended_is_not_cancelled_any_more() {
    let (app, fake) = app(Fake::answering("yes"));
    let response = whole(&app, &asking(&json!({}))).await;
    let path = format!("{PATH}/{}/cancel", text(&response["id"]));
    assert_eq!(post(&app, &path, &json!({})).await.json(), response);
    assert!(fake.aborted.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_keeps_nothing() {
    let (app, fake) = app(Fake::holding());
    let body = asking(&json!({"stream": true})).to_string();
    let mut body = open(&app, post_request(PATH, body)).await.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let data = std::str::from_utf8(&frame).unwrap().split_once("data: ").unwrap().1;
    let created: Value = serde_json::from_str(data).unwrap();
    drop(body);
    assert_eq!(fake.aborted.lock().unwrap().len(), 1);
    app.idle().await;
    assert_gone(&app, &created["response"]["id"]).await;
}

#[tokio::test]
async fn a_failure_midway_is_an_error_and_a_failed_response() {
    for (failure, code, its) in [
        (EngineError::Step("out of luck".into()), "engine_error", "server_error"),
        (EngineError::Constraint("no token left".into()), "constraint_failed", "invalid_prompt"),
    ] {
        let (app, _) = app(Fake { failure: Some(failure), ..Fake::answering("half") });
        let events = stream(&app, &asking(&json!({}))).await;
        let [.., closed, error, last] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(error["type"], "error");
        assert_eq!((&error["code"], &error["error"]["code"]), (&json!(code), &json!(code)));
        assert_eq!(error["message"], error["error"]["message"]);
        assert_eq!(closed["type"], "response.output_item.done");
        assert_eq!(last["type"], "response.failed");
        let response = &last["response"];
        assert_eq!(
            (&response["status"], &response["error"]["code"]),
            (&json!("failed"), &json!(its))
        );
        assert_eq!(response["output"][0]["status"], "incomplete");
        assert_gone(&app, &response["id"]).await;
        let reply = post(&app, PATH, &asking(&json!({}))).await;
        assert_eq!(reply.json()["error"]["code"], code);
        assert!(!reply.status.is_success());
    }
}

#[tokio::test]
async fn refusals_come_before_the_stream() {
    let full = EngineError::QueueFull { waiting: 9, limit: 8 };
    let (app, _) = app(Fake { refusal: Some(full), ..Fake::default() });
    let reply = post(&app, PATH, &asking(&json!({"stream": true}))).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["code"]),
        (429, &json!("queue_full"))
    );
    assert!(reply.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn requests_of_codex_are_answered() {
    let requests: Vec<Value> = serde_json::from_str(include_str!("codex_requests.json")).unwrap();
    let answer = "<tool_call>\n{\"name\": \"multi_agent_v1__close_agent\", \"arguments\": {\"target\": \"x\"}}\n</tool_call>";
    let (app, fake) = tool_app(Fake { extra_len: 100_000, ..Fake::answering(answer) });
    for request in requests {
        let (items, response) =
            fold(&events(&post(&app, PATH, &with(request, &json!({"model": "tiny"}))).await));
        assert_eq!(response["status"], "completed");
        assert_eq!(items[0]["namespace"], "multi_agent_v1");
        assert_eq!(items[0]["name"], "close_agent");
        let tools = response["tools"].as_array().unwrap();
        assert_eq!(tools.len(), 8, "all but web_search");
        assert!(tools.iter().all(|tool| tool["type"] != "web_search"));
        assert_eq!(tools[4]["tools"][0]["name"], "close_agent");
    }
    let text: String = fake
        .last()
        .prompt
        .iter()
        .filter_map(|&id| char::from_u32(id))
        .filter(char::is_ascii)
        .collect();
    assert_eq!(text.matches("system\n").count(), 1, "{text}");
    assert!(text.contains("assistant\n(thinking)I look."), "{text}");
    assert!(text.contains("[multi_agent_v1__close_agent ]"), "{text}");
}

#[tokio::test]
async fn functions_are_strict_unless_they_say_no_or_their_schema_cannot_be_kept() {
    let (app, fake) = tool_app(Fake { extra_len: 100_000, ..Fake::answering("x") });
    let odd = json!([{"type": "function", "name": "f", "parameters": {"type": "object", "not": {"required": ["a"]}}}]);
    for (given, strict) in [
        (tools(None), true),
        (tools(Some(true)), true),
        (tools(Some(false)), false),
        (odd.clone(), false),
    ] {
        let response = whole(&app, &asking(&json!({"tools": given}))).await;
        assert_eq!(response["tools"][0]["strict"], strict, "{given}");
    }
    let mut strict = odd;
    strict[0]["strict"] = json!(true);
    let before = fake.seen.lock().unwrap().len();
    let reply = post(&app, PATH, &asking(&json!({"tools": strict}))).await;
    assert_eq!(reply.status, 400);
    assert!(text(&reply.json()["error"]["param"]).starts_with("tools"), "{}", reply.text);
    assert_eq!(fake.seen.lock().unwrap().len(), before);
}

#[tokio::test]
async fn what_must_be_called_and_what_the_text_must_be() {
    let (app, _) = tool_app(Fake { extra_len: 100_000, ..Fake::answering("x") });
    let one = json!({"type": "function", "name": "now"});
    for choice in [
        json!("none"),
        json!("auto"),
        json!("required"),
        one.clone(),
        json!({"type": "allowed_tools", "mode": "auto", "tools": [one]}),
    ] {
        let response =
            whole(&app, &asking(&json!({"tools": tools(None), "tool_choice": choice}))).await;
        assert_eq!(response["tool_choice"], choice);
    }
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    for format in [
        json!({"type": "json_object"}),
        json!({"type": "json_schema", "name": "n", "schema": schema, "strict": true}),
    ] {
        let response = whole(&app, &asking(&json!({"text": {"format": format}}))).await;
        assert_eq!(response["text"]["format"], format);
    }
}

#[tokio::test]
async fn every_fault_has_its_path() {
    let rows: Vec<(Value, String, String)> =
        serde_json::from_str(include_str!("bad_responses.json")).unwrap();
    for (extra, param, says) in rows {
        let config = ServerConfig { trust_request_chat_template: true, ..config() };
        let (app, fake) = tool_app_with(Fake::answering("x"), config);
        let reply = post(&app, PATH, &asking(&extra)).await;
        assert_eq!(reply.status, 400, "{extra}: {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["type"], "invalid_request_error", "{extra}");
        assert_eq!(error["param"], param, "{extra}: {error}");
        let message = text(&error["message"]);
        assert!(message.contains(&says), "{extra}: {message:?} does not say {says:?}");
        assert!(fake.seen.lock().unwrap().is_empty(), "{extra} reached the engine");
    }
    let (app, _) = app(Fake::default());
    let reply = post(&app, PATH, &json!({"model": "tiny"})).await;
    assert_eq!(reply.json()["error"]["code"], "missing_required_parameter");
    let reply = post(&app, PATH, &asking(&json!({"model": "gpt-9"}))).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    let long = post(&app, PATH, &asking(&json!({"input": "x".repeat(190)}))).await;
    assert_eq!(long.json()["error"]["code"], "context_length_exceeded");
    assert_eq!(long.json()["error"]["param"], "input");
}

#[tokio::test]
async fn queries_that_are_not_honoured_are_refused_by_name() {
    let (app, _) = app(Fake::answering("x"));
    let response = whole(&app, &asking(&json!({}))).await;
    let path = format!("{PATH}/{}", text(&response["id"]));
    for (query, param) in [
        ("?stream=true", "stream"),
        ("?starting_after=3", "starting_after"),
        ("?include_obfuscation=true", "include_obfuscation"),
        ("/input_items?limit=0", "limit"),
        ("/input_items?limit=101", "limit"),
        ("/input_items?limit=x", "limit"),
        ("/input_items?order=up", "order"),
        ("/input_items?after=nobody", "after"),
        ("/input_items?before=x", "before"),
    ] {
        let reply = get(&app, &format!("{path}{query}")).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["param"]),
            (400, &json!(param)),
            "{query}"
        );
    }
}
