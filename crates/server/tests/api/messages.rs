//! `/v1/messages`: Anthropic's requests as chats, answers as blocks and events, every error in its
//! envelope.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use engine::EngineError;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::fake::{
    Fake, Reply, app, app_with, config, get, open, post, post_request, prompt_text, send,
    template_app, tool_app,
};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";
const ANSWER: &str = "<think>\nWho?\n</think>\n\nI look.\n<tool_call>\n\
    {\"name\": \"sky\", \"arguments\": {\"n\": 1234567890123456789012}}\n\
    </tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

/// A user saying "hi", with `extra` fields.
fn hi(extra: &Value) -> Value {
    let mut body = json!({
        "model": "tiny", "max_tokens": 150, "messages": [{"role": "user", "content": "hi"}],
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The same with two tools, and thinking shown.
fn asking(extra: &Value) -> Value {
    let tool = |name: &str| json!({"name": name, "input_schema": {"type": "object"}});
    let mut body = hi(&json!({
        "max_tokens": 10000, "tools": [tool("sky"), tool("now")], "thinking": {"type": "adaptive"},
    }));
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// With what changes from run to run blanked.
fn stable(text: &str) -> String {
    let mut text = text.to_owned();
    for prefix in ["\"msg_", "\"call_"] {
        let mut from = 0;
        while let Some(found) = text[from..].find(prefix) {
            let start = from + found + prefix.len();
            let end = start + text[start..].find('"').unwrap();
            text.replace_range(start..end, "ID");
            from = start;
        }
    }
    text
}

/// Events by the names that they are sent under.
fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let event = |text: &str| {
        let (name, data) = text.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        data
    };
    reply.text.split_terminator("\n\n").map(event).collect()
}

/// The message that a client makes of the events, with all rules of their order.
fn folded(events: &[Value]) -> Value {
    let [start, middle @ .., delta, stop] = events else { panic!("{events:?}") };
    assert_eq!((&start["type"], &stop["type"]), (&json!("message_start"), &json!("message_stop")));
    let mut message = start["message"].clone();
    let mut inputs = String::new();
    let mut open = None;
    for event in middle {
        let blocks = message["content"].as_array_mut().unwrap();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert!(open.is_none() && event["index"] == blocks.len(), "{event}");
                open = event["index"].as_u64();
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert!(open.is_some() && event["index"].as_u64() == open, "{event}");
                let (block, delta) = (blocks.last_mut().unwrap(), &event["delta"]);
                let mut append = |field: &str| {
                    let more = delta[field].as_str().unwrap();
                    block[field] = json!(block[field].as_str().unwrap().to_owned() + more);
                };
                match delta["type"].as_str().unwrap() {
                    "text_delta" => append("text"),
                    "thinking_delta" => append("thinking"),
                    "signature_delta" => append("signature"),
                    "input_json_delta" => inputs += delta["partial_json"].as_str().unwrap(),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert!(open.is_some() && event["index"].as_u64() == open.take(), "{event}");
                let block = blocks.last_mut().unwrap();
                if block["type"] == "tool_use" {
                    // Cut short, it is for the client to see what it has.
                    block["input"] = serde_json::from_str(&inputs).unwrap_or(json!("cut"));
                    inputs.clear();
                }
            }
            other => panic!("{other}"),
        }
    }
    assert!(open.is_none());
    assert_eq!(delta["type"], "message_delta");
    message["usage"] = delta["usage"].clone();
    for (field, value) in delta["delta"].as_object().unwrap() {
        message[field] = value.clone();
    }
    message
}

/// The prompt that the engine gets.
async fn rendered(body: &Value) -> String {
    let (app, fake) = app(Fake { extra_len: 10_000, ..Fake::answering("x") });
    let reply = post(&app, MESSAGES, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    prompt_text(&fake.last().prompt)
}

#[tokio::test]
async fn a_whole_answer() {
    let (app, _) = tool_app(Fake { extra_len: 300, ..Fake::answering(ANSWER) });
    let reply = post(&app, MESSAGES, &asking(&json!({}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    // As text: the input keeps the digits that the model wrote.
    insta::assert_snapshot!(stable(&reply.text).replace(",\"", ",\n\""));
}

#[tokio::test]
async fn a_stream() {
    let answer = "<think>\nHm\n</think>\n\nOk\n<tool_call>\n\
        {\"name\": \"sky\", \"arguments\": {\"n\": 1}}\n</tool_call>";
    let (app, _) = tool_app(Fake { extra_len: 300, ..Fake::answering(answer) });
    let reply = post(&app, MESSAGES, &asking(&json!({"stream": true}))).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    insta::assert_snapshot!(stable(&reply.text));
}

#[tokio::test]
async fn streamed_equals_whole() {
    for answer in
        [ANSWER, "", "plain", "naïve 日本 🙂 text", "a<stop>b", "<think>\nonly", "ends in <sto"]
    {
        for extra in [
            json!({}),
            json!({"thinking": {"type": "disabled"}}),
            json!({"thinking": {"type": "adaptive", "display": "omitted"}}),
            json!({"stop_sequences": ["<stop>", "look"]}),
            json!({"max_tokens": 5}),
            json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": true}}),
            json!({"tool_choice": {"type": "none"}}),
        ] {
            let body = |stream: bool| {
                let mut body = asking(&extra);
                body["stream"] = json!(stream);
                body
            };
            let (app, _) = tool_app(Fake { extra_len: 300, ..Fake::answering(answer) });
            let mut whole = post(&app, MESSAGES, &body(false)).await.json();
            let mut streamed = folded(&events(&post(&app, MESSAGES, &body(true)).await));
            for message in [&mut whole, &mut streamed] {
                message["id"] = Value::Null;
                for block in message["content"].as_array_mut().unwrap() {
                    if let Some(id) = block.get_mut("id") {
                        *id = Value::Null;
                    }
                }
            }
            assert_eq!(whole, streamed, "{answer:?} {extra}");
        }
    }
}

#[tokio::test]
async fn why_an_answer_ended() {
    for (answer, extra, content, reason, sequence) in [
        ("abc", json!({}), json!("abc"), "end_turn", Value::Null),
        ("abc", json!({"max_tokens": 2}), json!("ab"), "max_tokens", Value::Null),
        ("abcd", json!({"stop_sequences": ["x", "cd"]}), json!("ab"), "stop_sequence", json!("cd")),
        ("ab", json!({"stop_sequences": ["ab"]}), Value::Null, "stop_sequence", json!("ab")),
    ] {
        let (app, _) = app(Fake::answering(answer));
        let message = post(&app, MESSAGES, &hi(&extra)).await.json();
        assert_eq!(message["content"][0]["text"], content, "{extra}");
        assert_eq!(message["stop_reason"], reason, "{extra}");
        assert_eq!(message["stop_sequence"], sequence, "{extra}");
    }
    let (app, fake) = tool_app(Fake { extra_len: 300, ..Fake::answering(ANSWER) });
    let one = json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": true}});
    let message = post(&app, MESSAGES, &asking(&one)).await.json();
    assert_eq!(message["stop_reason"], "tool_use");
    assert_eq!(message["content"].as_array().unwrap().len(), 3, "{message}");
    assert_eq!(fake.aborted.lock().unwrap().len(), 1, "nothing more is generated");
}

#[tokio::test]
async fn a_call_that_is_cut_keeps_what_is_complete() {
    let answer = "<tool_call>\n{\"name\": \"sky\", \"arguments\": {\"a\": \"x\", \"b\": \"long";
    let (app, _) = tool_app(Fake { extra_len: 300, ..Fake::answering(answer) });
    let body = asking(&json!({"max_tokens": answer.len()}));
    let message = post(&app, MESSAGES, &body).await.json();
    assert_eq!(message["stop_reason"], "max_tokens");
    assert_eq!(message["content"][0]["input"], json!({"a": "x"}));
}

#[tokio::test]
async fn the_context_may_end_an_answer_before_its_length() {
    let long = "x".repeat(500);
    let (app, fake) = app(Fake::answering(&long));
    let message = post(&app, MESSAGES, &hi(&json!({"max_tokens": 32000}))).await.json();
    assert_eq!(message["stop_reason"], "model_context_window_exceeded");
    assert_eq!(message["usage"]["output_tokens"], 179);
    assert_eq!(fake.last().params.max_tokens, 179);
    // A default of the model's own is no bound for what was asked.
    let message = post(&app, MESSAGES, &hi(&json!({"max_tokens": 179}))).await.json();
    assert_eq!(message["stop_reason"], "max_tokens");
}

#[tokio::test]
async fn prompts_that_are_too_long_say_so_in_the_words_that_clients_look_for() {
    for (len, message) in [
        (181, "prompt is too long: 200 tokens > 199 maximum".to_owned()),
        (
            50_000,
            "prompt is too long: This model's maximum context length is 200 tokens. However, your \
             messages have 50050 bytes of text, more than so many tokens can hold."
                .to_owned(),
        ),
    ] {
        let (app, fake) = app(Fake::answering("x"));
        let messages = json!([{"role": "user", "content": "x".repeat(len)}]);
        let reply = post(&app, MESSAGES, &hi(&json!({"messages": messages}))).await;
        assert_eq!(reply.status, 400);
        let error = &reply.json()["error"];
        assert_eq!(error, &json!({"type": "invalid_request_error", "message": message}));
        assert!(fake.seen.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn every_kind_of_turn_is_shown_to_the_template() {
    let call =
        |id: &str| json!({"type": "tool_use", "id": id, "name": "sky", "input": {"city": id}});
    let result = |id: &str, rest: Value| {
        let mut block = json!({"type": "tool_result", "tool_use_id": id});
        block.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        block
    };
    let ephemeral = json!({"type": "ephemeral"});
    let body = hi(&json!({
        "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind.", "cache_control": ephemeral}],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b", "citations": null}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "AAAA"},
                {"type": "text", "text": "I "}, call("x"), {"type": "text", "text": "look."}, call("y"),
                call("z"),
            ]},
            {"role": "user", "content": [
                {"type": "text", "text": "There."},
                result("x", json!({"content": "blue", "is_error": false})),
                result("y", json!({"content": [{"type": "text", "text": "no"}, {"type": "text", "text": "sky"}], "is_error": true})),
                result("z", json!({"is_error": true})),
            ]},
            {"role": "assistant", "content": []},
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
        ],
    }));
    let expected = [
        "system\nBe\nkind.",
        "user\na\nb",
        "assistant\n(hm)I look.[sky x][sky y][sky z]",
        "tool\nblue",
        "tool\nError: no\nsky",
        "tool\nError",
        "user\nThere.",
        "assistant\n",
        "user\n?",
    ];
    let expected = expected.join("<|im_end|>\n<|im_start|>");
    let expected = format!("<|im_start|>{expected}<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(rendered(&body).await, expected);
}

#[tokio::test]
async fn an_answer_goes_on_with_a_last_turn_of_the_assistant() {
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "I a"}]},
        {"role": "assistant", "content": "m"},
    ]);
    let prompt = rendered(&hi(&json!({"messages": messages}))).await;
    assert_eq!(prompt, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nI am");
}

/// Shows tools, thoughts and the variables of thinking.
const SHOWING: &str = "{% for m in messages %}{{ m.role }}:{{ m.content }}\
    {% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %};{% endfor %}\
    {% for t in tools or [] %}[{{ t.function.name }} {{ t.function.description }} \
    {{ t.function.parameters.type }}]{% endfor %}\
    {{ enable_thinking }} {{ reasoning_effort }}";

async fn shown(template: &str, extra: Value) -> String {
    let (app, fake) = template_app(Fake { extra_len: 1000, ..Fake::answering("x") }, template);
    let reply = post(&app, MESSAGES, &hi(&extra)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    prompt_text(&fake.last().prompt)
}

#[tokio::test]
async fn thinking_turns_the_templates_variables() {
    for (extra, variables) in [
        (json!({}), "False none"),
        (
            json!({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}),
            "False none",
        ),
        (json!({"thinking": {"type": "adaptive"}}), "True "),
        (json!({"thinking": {"type": "adaptive", "display": "omitted"}}), "True "),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}), "True "),
        (json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}), "True low"),
        (json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}), "True max"),
    ] {
        assert_eq!(shown(SHOWING, extra.clone()).await, format!("user:hi;{variables}"), "{extra}");
    }
}

#[tokio::test]
async fn thoughts_that_were_not_asked_for_are_not_shown() {
    for (thinking, types) in [
        (Value::Null, vec!["text"]),
        (json!({"type": "disabled"}), vec!["text"]),
        (json!({"type": "adaptive", "display": "omitted"}), vec!["text"]),
        (json!({"type": "adaptive", "display": "summarized"}), vec!["thinking", "text"]),
        (json!({"type": "enabled", "budget_tokens": 10}), vec!["thinking", "text"]),
    ] {
        let (app, _) = tool_app(Fake::answering("<think>\nHm\n</think>\n\nOk"));
        let message = post(&app, MESSAGES, &hi(&json!({"thinking": thinking}))).await.json();
        let blocks = message["content"].as_array().unwrap();
        let found: Vec<_> = blocks.iter().map(|block| block["type"].as_str().unwrap()).collect();
        assert_eq!(found, types, "{thinking}");
    }
}

#[tokio::test]
async fn a_budget_ends_the_thoughts() {
    let thinking = json!({"thinking": {"type": "enabled", "budget_tokens": 3}});
    let (app, _) = tool_app(Fake::answering("<think>abcdef"));
    let message = post(&app, MESSAGES, &hi(&thinking)).await.json();
    assert_eq!(message["content"][0]["thinking"], "abc", "{message}");
    assert_eq!(message["content"][1]["text"], "def", "{message}");
    // A model without thoughts answers without.
    let (plain, _) = app_with(Fake::answering("abcdef"), config());
    let message = post(&plain, MESSAGES, &hi(&thinking)).await.json();
    assert_eq!(message["content"][0]["text"], "abcdef", "{message}");
}

#[tokio::test]
async fn tools_are_shown_as_a_chats() {
    let tools = json!([
        {"type": "custom", "name": "sky", "description": "Look.", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
        {"name": "now", "input_schema": {"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema"}, "defer_loading": false, "input_examples": [], "allowed_callers": ["direct"]},
    ]);
    let all = "user:hi;[sky Look. object][now  object]False none";
    assert_eq!(shown(SHOWING, json!({"tools": tools})).await, all);
    for (choice, prompt) in [
        (json!({"type": "auto"}), all),
        (json!({"type": "any"}), all),
        (json!({"type": "tool", "name": "now"}), "user:hi;[now  object]False none"),
        (json!({"type": "none"}), "user:hi;False none"),
    ] {
        let extra = json!({"tools": tools, "tool_choice": choice});
        assert_eq!(shown(SHOWING, extra).await, prompt, "{choice}");
    }
}

#[tokio::test]
async fn thoughts_are_cleared_as_asked() {
    let thought = |text: &str| json!({"role": "assistant", "content": [{"type": "thinking", "thinking": text, "signature": ""}, {"type": "text", "text": "."}]});
    let user = json!({"role": "user", "content": "u"});
    let messages =
        json!([user, thought("one"), user, thought("two"), user, thought("three"), user]);
    for (edit, kept) in [
        (json!({"keep": "all"}), ["(one)", "(two)", "(three)"]),
        (json!({"keep": {"type": "all"}}), ["(one)", "(two)", "(three)"]),
        (json!({}), ["", "", "(three)"]),
        (json!({"keep": {"type": "thinking_turns", "value": 2}}), ["", "(two)", "(three)"]),
        (json!({"keep": {"type": "thinking_turns", "value": 9}}), ["(one)", "(two)", "(three)"]),
    ] {
        let mut edit = edit;
        edit["type"] = json!("clear_thinking_20251015");
        let context = json!({"edits": [edit]});
        let prompt =
            shown(SHOWING, json!({"messages": messages, "context_management": context})).await;
        let [one, two, three] = kept;
        let expected = format!(
            "user:u;assistant:.{one};user:u;assistant:.{two};user:u;assistant:.{three};user:u;"
        );
        assert_eq!(prompt, expected + "False none", "{edit}");
    }
}

#[tokio::test]
async fn what_the_system_says_between_turns_is_lost_on_no_template() {
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "Agents: one."},
        {"role": "user", "content": "go"},
    ]);
    let extra = json!({"system": "Be kind.", "messages": messages});
    let turns = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
    let refuses = format!(
        "{{% for m in messages[1:] %}}{{% if m.role == 'system' %}}\
         {{{{ raise_exception('System message must be at the beginning.') }}}}{{% endif %}}{{% endfor %}}{turns}"
    );
    let drops = "{% if messages[0].role == 'system' %}system:{{ messages[0].content }};{% endif %}\
        {% for m in messages %}{% if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endif %}{% endfor %}";
    for (template, prompt) in [
        (turns, "system:Be kind.;user:hi;system:Agents: one.;user:go;"),
        (&refuses, "system:Be kind.;user:hi\nAgents: one.\ngo;"),
        (drops, "system:Be kind.;user:hi\nAgents: one.\ngo;"),
    ] {
        assert_eq!(shown(template, extra.clone()).await, prompt, "{template}");
    }
    // In front it is the system's on any template.
    let messages =
        json!([{"role": "system", "content": "Now."}, {"role": "user", "content": "hi"}]);
    let extra = json!({"system": "Be kind.", "messages": messages});
    assert_eq!(shown(&refuses, extra).await, "system:Be kind.\nNow.;user:hi;");
}

#[tokio::test]
async fn a_request_of_claude_code() {
    let body: Value = serde_json::from_str(include_str!("claude_code.json")).unwrap();
    assert_eq!(
        rendered(&body).await,
        "<|im_start|>system\nYou are an agent.\n\nBe brief.<|im_end|>\n\
         <|im_start|>user\n<system-reminder>\nContext.\n</system-reminder>\n\nrun echo hello<|im_end|>\n\
         <|im_start|>system\nAgents: one.<|im_end|>\n\
         <|im_start|>assistant\n(Look.)I look.[Bash echo hello]<|im_end|>\n\
         <|im_start|>tool\nhello<|im_end|>\n<|im_start|>assistant\n"
    );
    let answer = "<think>\nSo.\n</think>\n\nDone.";
    let (app, _) = tool_app(Fake { extra_len: 1000, ..Fake::answering(answer) });
    // It looks for somebody first.
    let head = Request::builder().method(Method::HEAD).uri("/").body(Body::empty()).unwrap();
    assert_eq!(send(&app, head).await.status, 200);
    let mut request = post_request("/v1/messages?beta=true", body.to_string());
    for (name, value) in [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14"),
        ("anthropic-dangerous-direct-browser-access", "true"),
        ("authorization", "Bearer dummy"),
        ("x-app", "cli"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let reply = send(&app, request).await;
    assert_eq!(reply.headers["request-id"], reply.headers["x-request-id"]);
    let message = folded(&events(&reply));
    assert_eq!(message["stop_reason"], "end_turn");
    assert_eq!(
        message["content"][0],
        json!({"type": "thinking", "thinking": "So.", "signature": "unsigned"})
    );
    assert_eq!(message["content"][1], json!({"type": "text", "text": "Done."}));
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_used() {
    let claude_code: Value = serde_json::from_str(include_str!("claude_code.json")).unwrap();
    for body in [hi(&json!({})), asking(&json!({"system": "x"})), claude_code] {
        let (app, fake) = tool_app(Fake { extra_len: 1000, ..Fake::answering("x") });
        let mut counted = body.clone();
        let fields = counted.as_object_mut().unwrap();
        fields.remove("max_tokens");
        fields.remove("stream");
        let count = post(&app, COUNT, &counted).await;
        assert_eq!(count.status, 200, "{}", count.text);
        assert!(fake.seen.lock().unwrap().is_empty());
        let mut whole = body.clone();
        whole["stream"] = json!(false);
        let usage = post(&app, MESSAGES, &whole).await.json()["usage"].clone();
        let sum = usage["input_tokens"].as_u64().unwrap()
            + usage["cache_read_input_tokens"].as_u64().unwrap();
        assert_eq!(count.json(), json!({"input_tokens": sum}));
        assert_eq!(usage["cache_read_input_tokens"], 16);
        assert_eq!(usage["cache_creation_input_tokens"], 0);
    }
    let (app, _) = app(Fake::default());
    let long = json!([{"role": "user", "content": "x".repeat(300)}]);
    let count = post(&app, COUNT, &json!({"model": "tiny", "messages": long})).await;
    assert_eq!(count.json(), json!({"input_tokens": 319}), "more than the context is counted, too");
}

#[tokio::test]
async fn sampling_is_a_chats() {
    let (app, fake) = app(Fake::answering("x"));
    let body = hi(&json!({
        "temperature": 0.5, "top_p": 0.25, "top_k": 7, "service_tier": "standard_only",
        "speed": "standard", "metadata": {"user_id": "u"}, "diagnostics": {"previous_message_id": null},
        "cache_control": {"type": "ephemeral"}, "mcp_servers": [], "container": null,
    }));
    let reply = post(&app, MESSAGES, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let params = fake.last().params;
    assert_eq!((params.temperature, params.top_p, params.top_k), (0.5, 0.25, 7));
}

#[tokio::test]
async fn an_answer_is_held_to_a_schema() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let format = json!({"type": "json_schema", "schema": schema});
    for extra in [json!({"output_config": {"format": format}}), json!({"output_format": format})] {
        let (app, _) = tool_app(Fake::answering("{\"a\": \"<think> b </think>\"}"));
        let message = post(&app, MESSAGES, &hi(&extra)).await.json();
        // Held to a form, the answer is plain: tags in it are text.
        assert_eq!(message["content"][0]["text"], "{\"a\": \"<think> b </think>\"}", "{extra}");
    }
}

/// Rows of `bad_messages.json`: the fields, and what the message says, which names the field.
#[tokio::test]
async fn every_fault_is_told_with_its_path() {
    let rows: Vec<(Value, String)> =
        serde_json::from_str(include_str!("bad_messages.json")).unwrap();
    for (extra, says) in rows {
        for path in [MESSAGES, COUNT] {
            let (app, fake) = tool_app(Fake::answering("x"));
            let reply = post(&app, path, &hi(&extra)).await;
            if path == COUNT && reply.status == 200 {
                continue; // What only an answer needs.
            }
            assert_eq!(reply.status, 400, "{extra}: {}", reply.text);
            let body = reply.json();
            assert_eq!(body["type"], "error");
            assert_eq!(body["error"]["type"], "invalid_request_error", "{extra}");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains(&says), "{extra}: {message:?} does not say {says:?}");
            assert!(fake.seen.lock().unwrap().is_empty(), "{extra} reached the engine");
        }
    }
    for (field, path) in [("model", COUNT), ("messages", COUNT), ("max_tokens", MESSAGES)] {
        let (app, _) = app(Fake::default());
        let mut body = hi(&json!({}));
        body.as_object_mut().unwrap().remove(field);
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 400);
        let says = format!("Missing required field '{field}'.");
        assert_eq!(reply.json()["error"]["message"], says);
    }
}

fn error_of(reply: &Reply) -> (u16, String, String) {
    let body = reply.json();
    assert_eq!(body["type"], "error", "{body}");
    assert_eq!(body["request_id"], reply.headers["x-request-id"].to_str().unwrap(), "{body}");
    assert_eq!(reply.headers["request-id"], reply.headers["x-request-id"]);
    assert_eq!(reply.headers["content-type"], "application/json");
    let fields: Vec<_> = body["error"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["type", "message"], "{body}");
    let text = |field: &str| body["error"][field].as_str().unwrap().to_owned();
    (reply.status.as_u16(), text("type"), text("message"))
}

#[tokio::test]
async fn errors_have_anthropics_envelope_statuses_and_names() {
    let (app, _) = app(Fake::answering("x"));
    let unknown = post(&app, MESSAGES, &hi(&json!({"model": "claude-x"}))).await;
    let form = Request::builder().method(Method::POST).uri(MESSAGES).body(Body::from("a=b"));
    for (reply, status, kind, says) in [
        (unknown, 404, "not_found_error", "The model 'claude-x' does not exist."),
        (get(&app, MESSAGES).await, 405, "invalid_request_error", "does not take GET"),
        (get(&app, "/v1/messages/batches").await, 404, "not_found_error", "There is no route"),
        (send(&app, form.unwrap()).await, 415, "invalid_request_error", "Content-Type"),
        (
            send(&app, post_request(MESSAGES, "{")).await,
            400,
            "invalid_request_error",
            "not valid JSON",
        ),
        (
            send(&app, post_request(COUNT, " ".repeat(100_001))).await,
            413,
            "request_too_large",
            "100000 bytes",
        ),
    ] {
        let (found, found_kind, message) = error_of(&reply);
        assert_eq!((found, found_kind.as_str()), (status, kind), "{message}");
        assert!(message.contains(says), "{message}");
    }
    // Next door nothing has changed.
    assert_eq!(get(&app, "/v1/messagesx").await.json()["error"]["code"], "unknown_url");
}

/// The SDKs' tool runners ask for a thread, and go on without one if the error says this.
#[tokio::test]
async fn a_thread_is_refused_in_the_words_that_clients_go_on_from() {
    let (app, _) = app(Fake::answering("x"));
    let reply = post(&app, MESSAGES, &hi(&json!({"thread": {"type": "create"}}))).await;
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.json()["error"]["details"],
        json!({"error_code": "thread_unsupported_request", "unsupported": ["thread"]})
    );
}

#[tokio::test]
async fn faults_of_the_server_have_anthropics_names() {
    let full = EngineError::QueueFull { waiting: 4, limit: 4 };
    let step = EngineError::Step("out of luck".into());
    for (fake, status, kind, retry) in [
        (Fake { refusal: Some(full), ..Fake::default() }, 529, "overloaded_error", true),
        (Fake { failure: Some(step), ..Fake::default() }, 500, "api_error", false),
        (Fake { panics: true, ..Fake::default() }, 500, "api_error", false),
        (Fake { dead: true.into(), ..Fake::default() }, 503, "overloaded_error", true),
    ] {
        let (app, _) = app(fake);
        let reply = post(&app, MESSAGES, &hi(&json!({}))).await;
        let (found, found_kind, message) = error_of(&reply);
        assert_eq!((found, found_kind.as_str()), (status, kind), "{message}");
        assert_eq!(reply.headers.contains_key("retry-after"), retry, "{message}");
    }
    let loading = server::App::new(config());
    let reply = post(&loading, MESSAGES, &hi(&json!({}))).await;
    assert_eq!(error_of(&reply).0, 503);
}

#[tokio::test]
async fn keys_come_in_either_header() {
    let config = server::ServerConfig { api_keys: vec!["secret".into()], ..config() };
    let (app, _) = app_with(Fake::answering("x"), config);
    for (header, value, status) in [
        ("x-api-key", "secret", 200),
        ("authorization", "Bearer secret", 200),
        ("x-api-key", "wrong", 401),
        ("x-api-key", "", 401),
        ("authorization", "Bearer wrong", 401),
        ("x-other", "secret", 401),
    ] {
        for path in [MESSAGES, COUNT] {
            let mut request = post_request(path, hi(&json!({})).to_string());
            request.headers_mut().insert(header, value.parse().unwrap());
            let reply = send(&app, request).await;
            assert_eq!(reply.status, status, "{header}: {value}");
            if status == 401 {
                assert_eq!(error_of(&reply).1, "authentication_error");
            }
        }
    }
    // With both, one that is known is enough: Claude Code sends what it finds in its environment.
    let mut request = post_request(MESSAGES, hi(&json!({})).to_string());
    request.headers_mut().insert("x-api-key", "wrong".parse().unwrap());
    request.headers_mut().insert("authorization", "Bearer secret".parse().unwrap());
    assert_eq!(send(&app, request).await.status, 200);
}

#[tokio::test]
async fn a_failure_midway_is_an_error_event_and_the_last() {
    let failure = Some(EngineError::Step("out of luck".into()));
    let (app, _) = app(Fake { failure, ..Fake::answering("half") });
    let events = events(&post(&app, MESSAGES, &hi(&json!({"stream": true}))).await);
    assert_eq!(
        events.last().unwrap(),
        &json!({"type": "error", "error": {
            "type": "api_error", "message": "a step of the engine failed: out of luck",
        }})
    );
    assert!(events.iter().all(|event| event["type"] != "message_delta"), "{events:?}");
}

#[tokio::test]
async fn a_stream_starts_at_once_and_pings_while_it_waits() {
    let config = server::ServerConfig { heartbeat: Duration::from_millis(20), ..config() };
    let (app, fake) = app_with(Fake::holding(), config);
    let body = hi(&json!({"stream": true})).to_string();
    let mut body = open(&app, post_request(MESSAGES, body)).await.into_body();
    let mut frame = async || {
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        String::from_utf8(data.to_vec()).unwrap()
    };
    let start = frame().await;
    assert!(start.starts_with("event: message_start\n") && start.contains("\"input_tokens\":21"));
    assert_eq!(frame().await, "event: ping\ndata: {\"type\":\"ping\"}\n\n");
    fake.say(0, "ok");
    fake.finish(0);
    let rest = body.collect().await.unwrap().to_bytes();
    let rest = String::from_utf8(rest.to_vec()).unwrap();
    assert!(rest.contains("\"text\":\"o\"") && rest.contains("event: message_stop\n"), "{rest}");
}

#[tokio::test]
async fn one_event_is_one_frame() {
    let (app, _) = tool_app(Fake { extra_len: 300, ..Fake::answering(ANSWER) });
    let body = asking(&json!({"stream": true})).to_string();
    let mut body = open(&app, post_request(MESSAGES, body)).await.into_body();
    let mut num_frames = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        let text = std::str::from_utf8(&data).unwrap();
        assert_eq!(text.matches("\n\n").count(), 1, "{text:?}");
        assert!(text.starts_with("event: ") && text.ends_with("\n\n"), "{text:?}");
        num_frames += 1;
    }
    assert!(num_frames > 20, "{num_frames}");
}

#[tokio::test]
async fn models_are_shown_to_anthropics_clients_as_they_know_them() {
    let (app, _) = app(Fake::default());
    let request = |path: &str| {
        let request = Request::builder().uri(path).header("anthropic-version", "2023-06-01");
        request.body(Body::empty()).unwrap()
    };
    let page = send(&app, request("/v1/models?limit=1000")).await.json();
    assert_eq!(page["has_more"], false);
    assert_eq!((&page["first_id"], &page["last_id"]), (&json!("tiny"), &json!("org/alias")));
    let model = send(&app, request("/v1/models/org/alias")).await.json();
    assert_eq!(page["data"][1], model);
    assert_eq!((&model["type"], &model["display_name"]), (&json!("model"), &json!("org/alias")));
    let created = model["created_at"].as_str().unwrap();
    assert!(
        created.len() == 20 && created.starts_with("20") && created.ends_with('Z'),
        "{created}"
    );
    assert_eq!(error_of(&send(&app, request("/v1/models/x")).await).1, "not_found_error");
    assert_eq!(get(&app, "/v1/models").await.json()["object"], "list");
}
