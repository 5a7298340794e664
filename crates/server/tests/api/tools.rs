//! Calls and reasoning on the wire: every delta as the strictest clients want it, streamed equals whole.

use serde_json::{Value, json};

use crate::fake::{Fake, chat, format_app, post, prompt_text, template_app, tool_app};

const CHAT: &str = "/v1/chat/completions";
const ANSWER: &str = "<think>\nWho?\n</think>\n\nI look.\n<tool_call>\n\
    {\"name\": \"sky\", \"arguments\": {\"n\": 1234567890123456789012}}\n\
    </tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

fn asking(extra: &Value) -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let mut body = chat(&json!({"tools": [tool("sky"), tool("now")]}));
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn whole(answer: &str, extra: Value) -> Value {
    let (app, _) = tool_app(Fake::answering(answer));
    let reply = post(&app, CHAT, &asking(&extra)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["choices"][0].clone()
}

async fn deltas(answer: &str, mut extra: Value) -> (Vec<Value>, Value) {
    let (app, _) = tool_app(Fake::answering(answer));
    extra["stream"] = json!(true);
    let mut choices: Vec<Value> = post(&app, CHAT, &asking(&extra))
        .await
        .chunks()
        .iter()
        .map(|c| c["choices"][0].clone())
        .collect();
    let last = choices.pop().unwrap();
    assert_eq!(last["delta"], json!({}));
    (
        choices.into_iter().map(|choice| choice["delta"].clone()).collect(),
        last["finish_reason"].clone(),
    )
}

#[tokio::test]
async fn a_whole_answer_has_reasoning_text_and_calls() {
    let choice = whole(ANSWER, json!({})).await;
    assert_eq!(choice["finish_reason"], "tool_calls");
    let message = &choice["message"];
    assert_eq!(
        (&message["reasoning"], &message["reasoning_content"]),
        (&json!("Who?"), &json!("Who?"))
    );
    assert_eq!(message["content"], "I look.");
    let calls = message["tool_calls"].as_array().unwrap();
    let functions: Vec<_> = calls.iter().map(|call| &call["function"]).collect();
    assert_eq!(functions[0]["arguments"], "{\"n\": 1234567890123456789012}");
    assert_eq!(functions[1], &json!({"name": "now", "arguments": "{}"}));
    assert!(calls.iter().all(|call| call["type"] == "function"));
    assert!(
        calls[0]["id"].as_str().unwrap().starts_with("call_") && calls[0]["id"] != calls[1]["id"]
    );
    let only =
        whole("<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", json!({})).await;
    assert_eq!(only["message"]["content"], Value::Null);
    assert!(only["message"].get("reasoning").is_none());
}

#[tokio::test]
async fn a_call_says_its_id_type_and_name_once_and_then_only_arguments() {
    let (deltas, finish) = deltas(ANSWER, json!({})).await;
    assert_eq!(finish, "tool_calls");
    assert_eq!(deltas[0], json!({"role": "assistant", "content": ""}));
    let (mut reasoning, mut content, mut calls) =
        (String::new(), String::new(), Vec::<String>::new());
    for delta in &deltas[1..] {
        let fields: Vec<_> = delta.as_object().unwrap().keys().collect();
        if let Some(text) = delta["reasoning"].as_str() {
            assert_eq!(fields, ["reasoning", "reasoning_content"]);
            assert_eq!(delta["reasoning"], delta["reasoning_content"]);
            reasoning += text;
        } else if let Some(text) = delta["content"].as_str() {
            assert_eq!(fields, ["content"]);
            content += text;
        } else {
            assert_eq!(fields, ["tool_calls"]);
            assert_eq!(delta["tool_calls"].as_array().unwrap().len(), 1);
            let call = delta["tool_calls"][0].as_object().unwrap();
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                let keys: Vec<_> = call.keys().collect();
                assert_eq!(keys, ["index", "id", "type", "function"]);
                assert_eq!(call["function"]["arguments"], "");
                assert!(call["function"]["name"].is_string());
                calls.push(String::new());
            } else {
                assert_eq!(index + 1, calls.len(), "calls come one after the other");
                assert_eq!(call.keys().collect::<Vec<_>>(), ["index", "function"]);
                assert_eq!(
                    call["function"].as_object().unwrap().keys().collect::<Vec<_>>(),
                    ["arguments"]
                );
                calls[index] += call["function"]["arguments"].as_str().unwrap();
            }
        }
    }
    let message = whole(ANSWER, json!({})).await["message"].clone();
    assert_eq!(
        (json!(reasoning), json!(content)),
        (message["reasoning"].clone(), message["content"].clone())
    );
    for (index, arguments) in calls.iter().enumerate() {
        assert_eq!(message["tool_calls"][index]["function"]["arguments"], json!(arguments));
    }
}

#[tokio::test]
async fn without_parallel_calls_the_answer_ends_with_the_first() {
    let choice = whole(ANSWER, json!({"parallel_tool_calls": false})).await;
    assert_eq!(choice["message"]["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(choice["finish_reason"], "tool_calls");
    let (app, fake) = tool_app(Fake::answering(ANSWER));
    post(&app, CHAT, &asking(&json!({"parallel_tool_calls": false}))).await;
    assert_eq!(fake.aborted.lock().unwrap().len(), 1, "nothing more is generated");
}

/// A template as Llama 3's and Mistral's are: it has room for one call, whose id has nine letters.
const PICKY: &str = "{% for m in messages %}{% set calls = m.tool_calls or [] %}\
    {% if calls | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}\
    {% for c in calls %}{% if c.id | length != 9 %}{{ raise_exception('odd id') }}{% endif %}\
    {{ c.id }}{{ c.function | tojson }}{% endfor %}{{ m.tool_call_id }}{{ m.content }}{% endfor %}";

/// What is given as a call is taken as a call that was made.
#[tokio::test]
async fn a_call_has_an_id_that_the_template_takes_back() {
    for template in ["{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}", PICKY]
    {
        let (app, fake) = template_app(Fake::answering(ANSWER), template);
        let message =
            post(&app, CHAT, &asking(&json!({}))).await.json()["choices"][0]["message"].take();
        let id = message["tool_calls"][0]["id"].as_str().unwrap();
        assert_eq!(id.starts_with("call_"), template != PICKY, "{id}");
        // Another server's calls have other ids.
        for id in [id, "call_abcdefghijklmnopqrstuvwx", "0"] {
            let mut message = message.clone();
            message["tool_calls"] = json!([message["tool_calls"][0]]);
            message["tool_calls"][0]["id"] = json!(id);
            let result = json!({"role": "tool", "tool_call_id": id, "content": "blue"});
            let user = json!({"role": "user", "content": "x"});
            let reply =
                post(&app, CHAT, &asking(&json!({"messages": [user, message, result]}))).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            let prompt: Vec<u8> = fake.last().prompt.iter().map(|&id| id as u8).collect();
            let prompt = String::from_utf8(prompt).unwrap();
            if template == PICKY {
                // Behind the user's x.
                assert_eq!(prompt.matches(&prompt[1..10]).count(), 2, "call and result: {prompt}");
            }
        }
    }
}

/// Where the format has ids of its own, one that is forced goes on with those of the conversation.
#[tokio::test]
async fn an_id_that_counts_goes_on_counting() {
    let call = |number: usize| {
        format!(
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:{number}\
             <|tool_call_argument_begin|>{{}}<|tool_call_end|><|tool_calls_section_end|>"
        )
    };
    let mut messages = vec![json!({"role": "user", "content": "x"})];
    for number in 0..3 {
        let fake = Fake::answering(&call(number));
        let (app, _) = format_app(fake, "<|tool_call_argument_begin|>");
        let body = asking(&json!({"messages": messages, "tool_choice": "required"}));
        let message = post(&app, CHAT, &body).await.json()["choices"][0]["message"].take();
        let id = message["tool_calls"][0]["id"].clone();
        assert_eq!(id, format!("functions.now:{number}"), "{message}");
        messages.push(message);
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": "1"}));
    }
}

#[tokio::test]
async fn a_template_with_room_for_one_call_gets_no_more() {
    for (template, extra, count) in [
        (PICKY, json!({}), 1),
        (PICKY, json!({"parallel_tool_calls": true}), 2),
        (PICKY, json!({"tool_choice": "required"}), 1),
        ("{{ messages[0].content }}", json!({}), 2),
    ] {
        let calls = &ANSWER[ANSWER.find("<tool_call>").unwrap()..];
        let (app, _) = template_app(Fake::answering(calls), template);
        let choice = post(&app, CHAT, &asking(&extra)).await.json()["choices"][0].take();
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(
            (calls.len(), &choice["finish_reason"]),
            (count, &json!("tool_calls")),
            "{extra}"
        );
    }
}

#[tokio::test]
async fn only_allowed_tools_are_seen_and_called() {
    let calling = |name: &str| {
        format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{}}}}\n</tool_call>")
    };
    for (mode, is_forced) in [("auto", false), ("required", true)] {
        let now = json!({"type": "function", "function": {"name": "now"}});
        let allowed = json!({"mode": mode, "tools": [now]});
        let extra = json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}});
        let template = "{% for t in tools %}({{ t.function.name }}){% endfor %}";
        let (app, fake) = template_app(Fake::answering(&calling("now")), template);
        let choice = post(&app, CHAT, &asking(&extra)).await.json()["choices"][0].take();
        assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "now");
        assert_eq!(fake.last().prompt, "(now)".bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(fake.last().constrained, is_forced, "{mode}");
        let (app, _) = template_app(Fake::answering(&calling("sky")), template);
        let choice = post(&app, CHAT, &asking(&extra)).await.json()["choices"][0].take();
        let called = &choice["message"]["tool_calls"][0]["function"]["name"];
        assert_eq!(called == "now", is_forced, "{mode}: {choice}");
    }
}

/// Every value that OpenAI's package knows.
#[tokio::test]
async fn the_effort_reaches_the_template() {
    let template = "{{ reasoning_effort }} {{ enable_thinking }}";
    for effort in ["none", "minimal", "low", "medium", "high", "xhigh", "max"] {
        let (app, fake) = template_app(Fake::answering("x"), template);
        let reply = post(&app, CHAT, &asking(&json!({"reasoning_effort": effort}))).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let thinks = if effort == "none" { "False" } else { "True" };
        let expected = format!("{effort} {thinks}");
        assert_eq!(fake.last().prompt, expected.bytes().map(u32::from).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_is_not_asked_for_is_not_looked_for() {
    let hidden = whole(ANSWER, json!({"include_reasoning": false})).await;
    assert!(hidden["message"].get("reasoning").is_none());
    assert_eq!(hidden["message"]["content"], "I look.");
    let none = whole(ANSWER, json!({"tool_choice": "none"})).await;
    assert!(none["message"].get("tool_calls").is_none());
    assert!(none["message"]["content"].as_str().unwrap().contains("<tool_call>"));
    assert_eq!(none["finish_reason"], "stop");
}

#[tokio::test]
async fn a_cut_call_says_length_and_keeps_what_it_has() {
    let choice = whole(ANSWER, json!({"max_tokens": 90})).await;
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "sky");
}

#[tokio::test]
async fn a_call_that_is_cut_is_neither_text_nor_to_be_run() {
    let call =
        "<tool_call>\n{\"name\": \"sky\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>";
    let choice = whole(call, json!({"max_tokens": 20})).await;
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(""), &json!("length"))
    );
    let choice = whole(call, json!({"stop": ["Paris"]})).await;
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"city\": \"");
    let choice = whole(&(call.to_owned() + "\nBye"), json!({"stop": ["Bye"]})).await;
    assert_eq!(choice["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_call_that_was_cut_may_stand_in_the_history() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "sky", "arguments": "{\"city\": \"Pa"}});
    let messages = json!([
        {"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "broken"},
    ]);
    let template = "{% for m in messages %}{{ m.tool_calls }}{% endfor %}";
    let (app, fake) = template_app(Fake::answering("x"), template);
    let reply = post(&app, CHAT, &json!({"messages": messages})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let prompt = prompt_text(&fake.last().prompt);
    assert!(prompt.contains("invalid_json"), "{prompt}");
}

#[tokio::test]
async fn with_tools_an_answer_is_calls_or_what_the_format_says() {
    let format = json!({"type": "json_object"});
    for extra in [
        json!({"response_format": format}),
        json!({"response_format": format, "tool_choice": "auto", "parallel_tool_calls": false}),
        json!({"structured_outputs": {"json": {"type": "object"}}}),
        json!({"structured_outputs": {"regex": "\\{[^z]*"}}),
    ] {
        let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
        let choice = whole(call, extra.clone()).await;
        assert_eq!(choice["finish_reason"], "tool_calls", "{extra}");
        assert_eq!(choice["message"]["content"], Value::Null);
        // What looks like a call in the strings of such an answer is none.
        let reply = format!("{{\"b\": \"{}\"}}", call.escape_default());
        let choice = whole(&reply, extra.clone()).await;
        assert_eq!(choice["message"]["content"], json!(reply), "{extra}");
        assert!(choice["message"].get("tool_calls").is_none(), "{extra}");
        let (deltas, finish) = deltas(&reply, extra).await;
        let content: String = deltas.iter().filter_map(|d| d["content"].as_str()).collect();
        assert_eq!((content, finish), (reply, json!("stop")));
    }
}

#[tokio::test]
async fn where_a_call_must_come_the_format_has_nothing_to_hold() {
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let forced = json!({"tool_choice": "required", "response_format": {"type": "json_object"}});
    let choice = whole(call, forced).await;
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "now");
}

#[tokio::test]
async fn what_cannot_be_combined_or_forced_is_refused() {
    let schema = json!({"type": "json_schema", "json_schema": {"schema": {"type": "colour"}}});
    for (extra, param) in [
        (json!({"structured_outputs": {"grammar": "start: \"a\""}}), "structured_outputs.grammar"),
        (json!({"response_format": schema}), "response_format.json_schema.schema"),
        (
            json!({"response_format": schema, "tool_choice": "required"}),
            "response_format.json_schema.schema",
        ),
    ] {
        let (app, _) = tool_app(Fake::answering("x"));
        let reply = post(&app, CHAT, &asking(&extra)).await;
        let param = json!(param);
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &param));
    }
    let (app, _) = crate::fake::app(Fake::answering("x"));
    let reply = post(&app, CHAT, &asking(&json!({"tool_choice": "required"}))).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["param"]),
        (400, &json!("tool_choice"))
    );
    // A model that calls no tools says messages only, which the format holds for.
    let reply =
        post(&app, CHAT, &asking(&json!({"response_format": {"type": "json_object"}}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn a_tool_that_cannot_be_followed_is_named_by_its_place() {
    let tool = |name: &str, parameters: Value| {
        let function = json!({"name": name, "parameters": parameters, "strict": true});
        json!({"type": "function", "function": function})
    };
    let tools = json!([
        tool("a", json!({"type": "object"})),
        tool("b", json!({"type": "object", "properties": {"x": {"type": "colour"}}})),
        tool("c", json!({"type": "string"})),
    ]);
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    for (choice, place) in
        [(json!("required"), 1), (json!("auto"), 1), (named("b"), 1), (named("c"), 2)]
    {
        let (app, _) = tool_app(Fake::answering("x"));
        let body = chat(&json!({"tools": tools, "tool_choice": choice}));
        let reply = post(&app, CHAT, &body).await;
        assert_eq!(reply.status, 400, "{choice}");
        let path = format!("tools[{place}].function.parameters");
        assert_eq!(reply.json()["error"]["param"], json!(path), "{choice}");
    }
    let (app, _) = tool_app(Fake::answering("x"));
    let reply = post(&app, CHAT, &chat(&json!({"tools": tools, "tool_choice": named("a")}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn tags_inside_a_constrained_answer_are_text() {
    let answer = "<think>\nHm.\n</think>\n\n{\"a\": \"<think> b </think>\"}";
    let extra = json!({"tools": [], "response_format": {"type": "json_object"}});
    let message = whole(answer, extra.clone()).await["message"].clone();
    assert_eq!(message["reasoning"], "Hm.");
    assert_eq!(message["content"], "{\"a\": \"<think> b </think>\"}");
    let (deltas, _) = deltas(answer, extra).await;
    let content: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(json!(content), message["content"]);
}

/// Every byte is a token; the end of the sequence is one more.
#[tokio::test]
async fn reasoning_tokens_are_counted_with_their_tags() {
    for (answer, extra, reasoning, completion) in [
        ("<think>\nWho?\n</think>\n\nI.", json!({}), 21, 26),
        ("<think>é</think>x", json!({}), 17, 19),
        ("<think>é", json!({}), 10, 10),
        ("<think>é</think>", json!({"max_tokens": 8}), 8, 8),
        ("I <think", json!({}), 0, 9),
        ("<think>a</think>b", json!({"include_reasoning": false}), 16, 18),
        ("<think>a</think>b", json!({"n": 3}), 48, 54),
        ("<think>ab. c</think>d", json!({"stop": [". "]}), 11, 11),
        ("<think>a</think>b", json!({"stop": ["<\n"]}), 16, 18),
        (
            "<think>a</think>{}",
            json!({"tools": [], "response_format": {"type": "json_object"}}),
            16,
            18,
        ),
        (
            "<think>so<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
            json!({}),
            9,
            67,
        ),
        (ANSWER, json!({"parallel_tool_calls": false}), 21, 142),
    ] {
        let (app, _) = tool_app(Fake::answering(answer));
        let usage = post(&app, CHAT, &asking(&extra)).await.json()["usage"].clone();
        let found = &usage["completion_tokens_details"];
        assert_eq!(found, &json!({"reasoning_tokens": reasoning}), "{answer} {extra}");
        assert_eq!(usage["completion_tokens"], completion, "{answer} {extra}");
        let mut extra = extra;
        extra["stream"] = json!(true);
        extra["stream_options"] = json!({"include_usage": true, "continuous_usage_stats": true});
        let chunks = post(&app, CHAT, &asking(&extra)).await.chunks();
        assert_eq!(chunks.last().unwrap()["usage"], usage, "streamed equals whole: {answer}");
        let counts = chunks.iter().map(|chunk| {
            chunk["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap()
        });
        assert!(counts.is_sorted(), "{answer}");
    }
    let (app, _) = tool_app(Fake::answering("<think>a"));
    let usage = post(&app, "/v1/completions", &crate::fake::completion(&json!({}))).await.json();
    assert!(usage["usage"].get("completion_tokens_details").is_none(), "no chat, no reasoning");
}

#[tokio::test]
async fn structural_tags_are_taken_in_both_spellings() {
    let tag = json!({"begin": "<f>", "content": {"type": "json_schema", "json_schema": {}}, "end": "</f>"});
    let tree = json!({"type": "structural_tag",
                      "format": {"type": "triggered_tags", "triggers": ["<f"], "tags": [tag]}});
    let structures = json!([{"begin": "<f>", "schema": {}, "end": "</f>"}]);
    let list = json!({"type": "structural_tag", "structures": structures, "triggers": ["<f"]});
    for tag in [tree, list] {
        for extra in [
            json!({"response_format": tag}),
            json!({"structured_outputs": {"structural_tag": tag}}),
            json!({"structured_outputs": {"structural_tag": tag.to_string()}}),
        ] {
            let (app, fake) = tool_app(Fake::answering("See <f>{}</f>."));
            let reply = post(&app, CHAT, &chat(&extra)).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            let content = &reply.json()["choices"][0]["message"]["content"];
            assert_eq!(content, "See <f>{}</f>.", "{extra}");
            assert!(fake.last().constrained, "{extra}");
        }
    }
}
