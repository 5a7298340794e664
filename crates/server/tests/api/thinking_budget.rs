//! `thinking_token_budget`: reasoning is closed in time, and nothing else changes.

use engine::Constraint;
use serde_json::{Value, json};

use crate::fake::{Fake, IM_END, allowed, app, chat, completion, format_app, post, tool_app};

const CHAT: &str = "/v1/chat/completions";

/// The answer of a model that wants to say `wanted`, streamed as whole.
async fn answer(wanted: &str, extra: &Value) -> Value {
    let (app, _) = tool_app(Fake::answering(wanted));
    let mut body = chat(extra);
    let reply = post(&app, CHAT, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let whole = reply.json();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let chunks = post(&app, CHAT, &body).await.chunks();
    assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
    for field in ["reasoning", "content"] {
        let deltas = chunks.iter().filter_map(|c| c["choices"][0]["delta"][field].as_str());
        let streamed: String = deltas.collect();
        let message = &whole["choices"][0]["message"];
        assert_eq!(streamed, message[field].as_str().unwrap_or_default(), "{field}");
    }
    whole
}

/// Reasoning and content.
async fn said(wanted: &str, extra: Value) -> (String, String) {
    let answer = answer(wanted, &extra).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{wanted} {extra}");
    let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
    (text("reasoning"), text("content"))
}

#[tokio::test]
async fn reasoning_ends_where_the_budget_does() {
    let open = json!({"prefix": "<think>\n"});
    let kwargs = |kwargs: &Value, budget: u32| json!({"thinking_token_budget": budget, "chat_template_kwargs": kwargs});
    for (wanted, budget, opened, reasoning, content) in [
        ("<think>abcdef", 3, false, "abc", "def"),
        ("<think>abcdef", 0, false, "", "abcdef"),
        ("abcdef", 2, true, "ab", "cdef"),
        ("abcdef", 0, true, "", "abcdef"),
        // The model closes the block itself, before the budget ends or while it does.
        ("<think>abc</think>def", 50, false, "abc", "def"),
        ("<think>abc</think>def", 11, false, "abc", "def"),
        ("<think>abc</think>def", 5, false, "abc", "def"),
        ("<think>abc</thxyz", 6, false, "abc", "hxyz"),
        // It does not think, or what it says is about the tags.
        ("def", 0, false, "", "def"),
        ("`<think>` opens", 0, false, "", "`<think>` opens"),
        // All blocks together.
        ("<think>ab</think>c <think>def", 4, false, "ab", "cdef"),
        ("<think>é€x", 2, false, "é", "€x"),
        ("<think>é€x", 1, false, "é", "€x"),
        ("<think>é€x", 3, false, "é€", "x"),
    ] {
        let none = json!({});
        let extra = kwargs(if opened { &open } else { &none }, budget);
        let said = said(wanted, extra).await;
        assert_eq!(said, (reasoning.to_owned(), content.to_owned()), "{wanted} within {budget}");
    }
}

#[tokio::test]
async fn without_a_budget_or_with_one_that_is_large_nothing_changes() {
    let wanted = "<think>abc</think>def";
    let plain = answer(wanted, &json!({})).await;
    for budget in [json!(null), json!(30), json!(i64::MAX)] {
        let bounded = answer(wanted, &json!({"thinking_token_budget": budget})).await;
        assert_eq!(bounded["choices"], plain["choices"]);
        assert_eq!(bounded["usage"], plain["usage"]);
    }
    let usage = answer("<think>abcdef", &json!({"thinking_token_budget": 3})).await;
    let usage = &usage["usage"];
    // The tags have 7 and 8 bytes.
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 18);
    assert_eq!(usage["completion_tokens"], 22);
}

#[tokio::test]
async fn an_answer_that_must_look_like_something_comes_behind_it() {
    let choice = json!({"choice": ["cat", "dog"]});
    let extra = |budget| json!({"structured_outputs": choice, "thinking_token_budget": budget});
    assert_eq!(said("<think>abcat", extra(2)).await, ("ab".into(), "cat".into()));
    assert_eq!(said("<think>dog", extra(0)).await, (String::new(), "dog".into()));
    assert_eq!(said("dog", extra(0)).await, (String::new(), "dog".into()));
    let mut open = extra(1);
    open["chat_template_kwargs"] = json!({"prefix": "<think>"});
    assert_eq!(said("xdog", open).await, ("x".into(), "dog".into()));
    let object = json!({"response_format": {"type": "json_object"}, "thinking_token_budget": 0});
    let wanted = "{\"a\": \"<think> b\"}";
    assert_eq!(said(wanted, object).await, (String::new(), wanted.into()));
}

#[tokio::test]
async fn a_call_that_must_come_comes_behind_it() {
    let tools = json!([{"type": "function", "function": {"name": "now"}}]);
    let wanted = "<think>ab<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    for extra in [
        json!({"tools": tools, "tool_choice": "required", "thinking_token_budget": 2}),
        json!({"tools": tools, "thinking_token_budget": 2}),
    ] {
        let answer = answer(wanted, &extra).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        assert_eq!(choice["message"]["reasoning"], "ab");
        assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "now");
    }
}

/// Harmony's thoughts are messages, each with its end; the budget is one for all of them.
#[tokio::test]
async fn thoughts_that_are_messages_end_as_such() {
    let thought = |text: &str| format!("<|channel|>analysis<|message|>{text}");
    let next = "<|start|>assistant";
    let reply = format!("{next}<|channel|>final<|message|>Yes.");
    let call =
        format!("{next}<|channel|>commentary to=functions.now <|constrain|>json<|message|>{{}}");
    let tools = json!([{"type": "function", "function": {"name": "now"}}]);
    let json = json!({"response_format": {"type": "json_object"}});
    let object = format!("{next}<|channel|>final<|message|>{{}}");
    for (wanted, budget, extra, reasoning, content, num_calls) in [
        (thought("abc") + &reply, 3, json!({}), "abc", "Yes.", 0),
        (thought("") + &reply, 0, json!({}), "", "Yes.", 0),
        (thought("ab<|end|>") + next + &thought("c") + &reply, 9, json!({}), "abc", "Yes.", 0),
        (thought("ab<|end|>") + &reply, 9, json!({}), "ab", "Yes.", 0),
        (thought("ab<|end|>") + &reply, 5, json!({}), "ab", "Yes.", 0),
        (thought("abc") + &call, 3, json!({"tools": tools}), "abc", "", 1),
        (
            thought("abc") + &call,
            3,
            json!({"tools": tools, "tool_choice": "required"}),
            "abc",
            "",
            1,
        ),
        (thought("abc") + &object, 3, json, "abc", "{}", 0),
    ] {
        let mut extra = extra;
        extra["thinking_token_budget"] = json!(budget);
        let (app, _) = format_app(Fake::answering(&wanted), "<|channel|> <|message|>");
        let reply = post(&app, CHAT, &chat(&extra)).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let message = reply.json()["choices"][0]["message"].take();
        let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (text("reasoning").as_str(), text("content").as_str()),
            (reasoning, content),
            "{wanted}"
        );
        let calls = message["tool_calls"].as_array().map_or(0, Vec::len);
        assert_eq!(calls, num_calls, "{wanted} {message}");
    }
}

#[tokio::test]
async fn it_is_refused_where_it_means_nothing() {
    let refused = async |app: &server::App, path: &str, body: Value, says: &str| {
        let reply = post(app, path, &body).await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        let error = reply.json()["error"].clone();
        assert_eq!(error["param"], "thinking_token_budget");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    };
    let body = |budget: Value| chat(&json!({"thinking_token_budget": budget}));
    let (plain, _) = app(Fake::answering("x"));
    refused(&plain, CHAT, body(json!(5)), "not told from its answers").await;
    let (thinks, _) = tool_app(Fake::answering("x"));
    refused(&thinks, CHAT, body(json!(-1)), "must be").await;
    refused(&thinks, CHAT, body(json!("5")), "expected an integer").await;
    let completion = completion(&json!({"thinking_token_budget": 5}));
    refused(&thinks, "/v1/completions", completion, "not supported").await;
}

/// A stream of numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Up to `n` tokens that may come, mostly those of something that matters.
fn walk(constraint: &mut dyn Constraint, random: &mut Random, n: usize) -> Vec<u32> {
    const PIECES: [&str; 7] = ["<think>", "</think>", "</th", "cat", "é", "\n", "{\"a\": 1}"];
    let (mut ids, mut wanted) = (Vec::new(), Vec::new());
    while ids.len() < n {
        if wanted.is_empty() {
            wanted = PIECES[random.below(PIECES.len())].bytes().rev().map(u32::from).collect();
        }
        let (allowed, _) = allowed(constraint);
        let id = wanted.pop().filter(|id| allowed.contains(id));
        let id = id.unwrap_or_else(|| allowed[random.below(allowed.len())]);
        if id == IM_END {
            break;
        }
        ids.push(id);
        if constraint.accept(id).unwrap() {
            break;
        }
    }
    ids
}

#[tokio::test]
async fn what_is_rolled_back_leaves_no_trace() {
    let grammars = [
        json!({}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"structured_outputs": {"choice": ["cat", "cats and dogs"]}}),
    ];
    for (seed, grammar) in (0..60).flat_map(|seed| grammars.iter().map(move |g| (seed, g))) {
        let mut random = Random(seed);
        let mut extra = grammar.clone();
        extra["n"] = json!(2);
        extra["thinking_token_budget"] = json!(random.below(12));
        if random.below(2) == 0 {
            extra["chat_template_kwargs"] = json!({"prefix": "<think>"});
        }
        let (app, fake) = tool_app(Fake::holding());
        let body = chat(&extra);
        let client = tokio::spawn(async move { post(&app, CHAT, &body).await });
        while fake.sinks.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        let mut constraints = std::mem::take(&mut *fake.constraints.lock().unwrap());
        client.abort();
        let [tried, straight] = &mut constraints[..] else { panic!("two choices") };
        for _ in 0..12 {
            let before = allowed(&mut **tried);
            assert_eq!(before, allowed(&mut **straight), "seed {seed}, {extra}");
            let longest = [3, 20, 100][random.below(3)];
            let n = random.below(longest);
            let ids = walk(&mut **tried, &mut random, n);
            let kept = random.below(ids.len() + 1);
            tried.rollback(ids.len() - kept).unwrap();
            for id in &ids[..kept] {
                straight.accept(*id).unwrap();
            }
        }
        assert_eq!(allowed(&mut **tried), allowed(&mut **straight), "seed {seed}, {extra}");
    }
}
