//! Faults of the caller, in a table: each is told by status, field and reason, and nothing of it
//! reaches the engine.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::fake::{Fake, app, chat, completion, post, post_request, send};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Asserts a fault of status 400: its `param`, and what its message says.
async fn refused(path: &str, body: &str, param: Option<&str>, says: &str) {
    let (app, fake) = app(Fake::answering("x"));
    let reply = send(&app, post_request(path, body.to_owned())).await;
    assert_eq!(reply.status, 400, "{body}: {}", reply.text);
    let error = &reply.json()["error"];
    assert_eq!(error["type"], "invalid_request_error", "{body}");
    assert_eq!(error["param"], json!(param), "{body}: {error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(says), "{body}: {message:?} does not say {says:?}");
    assert!(fake.seen.lock().unwrap().is_empty(), "{body} reached the engine");
}

#[tokio::test]
async fn bodies_that_are_not_json() {
    for (body, says) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{\"model\": \"tiny\",\n \"messages\": [}", "expected value at line 2 column 15"),
        ("{\"model\": \"tiny\"} x", "trailing characters at line 1 column 19"),
        ("{'model': 1}", "key must be a string at line 1 column 2"),
        ("{\"temperature\": NaN}", "expected value at line 1 column 17"),
        ("{\"model\": \"\\ud800\"}", "line 1 column"),
        ("[]", "must be a JSON object"),
        ("\"hi\"", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("17", "must be a JSON object"),
    ] {
        refused(CHAT, body, None, says).await;
        refused(COMPLETIONS, body, None, says).await;
    }
    let huge = chat(&json!({"temperature": 1})).to_string().replace("1}", "1e999}");
    refused(CHAT, &huge, None, "number out of range").await;
    let deep = format!("{{\"metadata\": {}{}}}", "[".repeat(300), "]".repeat(300));
    refused(CHAT, &deep, None, "recursion limit").await;
}

#[tokio::test]
async fn text_that_is_not_utf8() {
    let (app, _) = app(Fake::answering("x"));
    let body = b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}".to_vec();
    let reply = send(&app, post_request(CHAT, body)).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text.contains("invalid unicode code point at line 1"), "{}", reply.text);
}

#[tokio::test]
async fn fields_of_both_routes() {
    let table: &[(&str, Value, &str, &str)] = &[
        ("temperature", json!(2.5), "temperature", "2.5; it must be between 0 and 2"),
        ("temperature", json!(-0.1), "temperature", "between 0 and 2"),
        ("temperature", json!("hot"), "temperature", "string \"hot\", expected a number"),
        ("top_p", json!(0), "top_p", "above 0 and at most 1"),
        ("top_p", json!(1.1), "top_p", "above 0 and at most 1"),
        ("top_k", json!(-2), "top_k", "-2"),
        ("top_k", json!(1.5), "top_k", "floating point `1.5`, expected an integer"),
        ("min_p", json!(1.5), "min_p", "between 0 and 1"),
        ("repetition_penalty", json!(0), "repetition_penalty", "above 0"),
        ("presence_penalty", json!(3), "presence_penalty", "between -2 and 2"),
        ("frequency_penalty", json!(-3), "frequency_penalty", "between -2 and 2"),
        ("seed", json!("x"), "seed", "expected an integer"),
        ("seed", json!(1.5), "seed", "expected an integer"),
        ("n", json!(0), "n", "between 1 and 128"),
        ("n", json!(129), "n", "between 1 and 128"),
        ("n", json!([1]), "n", "sequence, expected an integer"),
        ("stop", json!(""), "stop", "0 bytes"),
        ("stop", json!(["a", ""]), "stop", "0 bytes"),
        ("stop", json!(vec!["x"; 65]), "stop", "65 strings"),
        ("stop", json!(5), "stop", "expected a string or an array of strings"),
        ("stop", json!(["a", 5]), "stop[1]", "expected a string"),
        ("stop_token_ids", json!([258]), "stop_token_ids", "258; the vocabulary has ids 0 to 257"),
        ("stop_token_ids", json!([-1]), "stop_token_ids[0]", "-1"),
        ("allowed_token_ids", json!([]), "allowed_token_ids", "must not be empty"),
        ("allowed_token_ids", json!([9999]), "allowed_token_ids", "9999"),
        ("logit_bias", json!({"a": 1}), "logit_bias.a", "not a token id"),
        ("logit_bias", json!({"258": 1}), "logit_bias.258", "ids 0 to 257"),
        ("logit_bias", json!({"5": 101}), "logit_bias.5", "between -100 and 100"),
        ("logit_bias", json!({"5": "x"}), "logit_bias.5", "expected a number"),
        ("logit_bias", json!([1]), "logit_bias", "expected an object"),
        ("prompt_logprobs", json!(-1), "prompt_logprobs", "between 0 and 20"),
        ("prompt_logprobs", json!(21), "prompt_logprobs", "between 0 and 20"),
        ("min_tokens", json!(-1), "min_tokens", "-1"),
        ("min_tokens", json!(10_000), "min_tokens", "10000"),
        ("max_tokens", json!(-1), "max_tokens", "-1"),
        ("max_tokens", json!("5"), "max_tokens", "expected an integer"),
        ("truncate_prompt_tokens", json!(0), "truncate_prompt_tokens", "at least 1"),
        ("stream", json!("yes"), "stream", "expected a boolean"),
        ("stream_options", json!({"include_usage": true}), "stream_options", "only allowed when"),
        ("model", json!(5), "model", "expected a string"),
        ("priority", json!("high"), "priority", "string \"high\""),
        ("store", json!(true), "store", "not supported"),
        ("service_tier", json!("flex"), "service_tier", "'auto' or 'default'"),
        ("user", json!(5), "user", "expected a string"),
        ("metadata", json!("x"), "metadata", "expected an object"),
        ("cache_salt", json!(5), "cache_salt", "expected a string"),
        (
            "temprature",
            json!(1),
            "temprature",
            "Unrecognized request argument supplied: temprature",
        ),
        (
            "guided_json",
            json!({"type": "object"}),
            "guided_json",
            "not supported by this server yet",
        ),
        ("guided_regex", json!("a+"), "guided_regex", "not supported by this server yet"),
        ("guided_choice", json!(["a"]), "guided_choice", "not supported by this server yet"),
        ("structured_outputs", json!({"regex": "a"}), "structured_outputs", "not supported"),
        ("response_format", json!({"type": "json_object"}), "response_format", "not supported"),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {}}),
            "response_format",
            "not supported",
        ),
        ("use_beam_search", json!(true), "use_beam_search", "not supported"),
        ("bad_words", json!(["x"]), "bad_words", "not supported"),
        ("logits_processors", json!(["x"]), "logits_processors", "not supported"),
    ];
    for (field, value, param, says) in table {
        let extra = json!({*field: value});
        refused(CHAT, &chat(&extra).to_string(), Some(param), says).await;
        refused(COMPLETIONS, &completion(&extra).to_string(), Some(param), says).await;
    }
}

#[tokio::test]
async fn fields_of_chat() {
    let user = json!({"role": "user", "content": "x"});
    let table: &[(Value, &str, &str)] = &[
        (json!({"messages": []}), "messages", "at least one message"),
        (json!({"messages": null}), "messages", "at least one message"),
        (json!({"messages": "hi"}), "messages", "expected an array"),
        (json!({"messages": [user, "hi"]}), "messages[1]", "expected"),
        (
            json!({"messages": [user, {"role": "robot", "content": "x"}]}),
            "messages[1].role",
            "`robot`",
        ),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role", "Missing required field"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "must be a string"),
        (
            json!({"messages": [{"role": "user", "content": null}]}),
            "messages[0].content",
            "must be a string",
        ),
        (
            json!({"messages": [{"role": "user", "content": 5}]}),
            "messages[0].content",
            "expected a string or an array",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages[0].content[0].type",
            "`image_url`",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "messages[0].content.text",
            "Missing",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "mood": "good"}]}),
            "messages[0].mood",
            "mood",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "tool_call_id": "c"}]}),
            "messages[0].tool_call_id",
            "does not belong",
        ),
        (
            json!({"messages": [{"role": "assistant", "function_call": {"name": "f"}, "content": "x"}]}),
            "messages[0].function_call",
            "not supported",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
            "JSON object",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
            "expected a string",
        ),
        (json!({"messages": [{"role": "tool", "content": "bad"}]}), "messages", "no such tool"),
        (json!({"max_tokens": 0}), "max_tokens", "between 1"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", "between 1"),
        (
            json!({"max_tokens": 5, "max_completion_tokens": 6}),
            "max_completion_tokens",
            "one of them",
        ),
        (json!({"max_tokens": 5, "min_tokens": 6}), "min_tokens", "at most 5"),
        (json!({"logprobs": 5}), "logprobs", "expected a boolean"),
        (json!({"top_logprobs": 2}), "top_logprobs", "only allowed when 'logprobs'"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "between 0 and 20"),
        (json!({"logprobs": true, "top_logprobs": -1}), "top_logprobs", "between 0 and 20"),
        (json!({"stream": true, "prompt_logprobs": 1}), "prompt_logprobs", "'stream'"),
        (
            json!({"stream": true, "stream_options": {"include_usage": "yes"}}),
            "stream_options.include_usage",
            "boolean",
        ),
        (
            json!({"stream": true, "stream_options": {"usage": true}}),
            "stream_options.usage",
            "usage",
        ),
        (
            json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
            "stream_options.include_obfuscation",
            "not supported",
        ),
        (json!({"chat_template": "x"}), "chat_template", "--trust-request-chat-template"),
        (json!({"chat_template_kwargs": [1]}), "chat_template_kwargs", "expected"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            "both",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            "tools",
            "not supported by this server yet",
        ),
        (json!({"tool_choice": "auto"}), "tool_choice", "not supported"),
        (json!({"functions": [{"name": "f"}]}), "functions", "not supported"),
        (json!({"function_call": "auto"}), "function_call", "not supported"),
        (json!({"reasoning_effort": "low"}), "reasoning_effort", "not supported"),
        (json!({"modalities": ["text", "audio"]}), "modalities", "not supported"),
        (json!({"audio": {"voice": "x"}}), "audio", "not supported"),
        (json!({"prediction": {"type": "content"}}), "prediction", "not supported"),
        (json!({"web_search_options": {}}), "web_search_options", "not supported"),
        (json!({"verbosity": "low"}), "verbosity", "not supported"),
        (json!({"best_of": 2}), "best_of", "not supported"),
        (json!({"prompt": "x"}), "prompt", "Unrecognized"),
    ];
    for (extra, param, says) in table {
        refused(CHAT, &chat(extra).to_string(), Some(param), says).await;
    }
    refused(CHAT, r#"{"model":"tiny"}"#, Some("messages"), "at least one message").await;
}

#[tokio::test]
async fn fields_of_completions() {
    let table: &[(Value, &str, &str)] = &[
        (json!({"prompt": null}), "prompt", "a string, an array of strings"),
        (json!({"prompt": ""}), "prompt", "at least one token"),
        (json!({"prompt": []}), "prompt", "none of them empty"),
        (json!({"prompt": [[]]}), "prompt", "at least one token"),
        (json!({"prompt": {"text": "x"}}), "prompt", "expected a string, an array"),
        (json!({"prompt": ["a", 5]}), "prompt[1]", "expected a string"),
        (json!({"prompt": [5, "a"]}), "prompt[1]", "string \"a\""),
        (json!({"prompt": [258]}), "prompt", "258; the vocabulary has ids 0 to 257"),
        (json!({"prompt": [-1]}), "prompt[0]", "-1"),
        (json!({"prompt": [[1, 2.5]]}), "prompt[0][1]", "2.5"),
        (json!({"prompt": vec!["x"; 2049]}), "prompt", "2048"),
        (json!({"prompt": vec!["x"; 100], "n": 100}), "n", "4096"),
        (json!({"logprobs": true}), "logprobs", "expected an integer"),
        (json!({"logprobs": 21}), "logprobs", "between 0 and 20"),
        (json!({"best_of": 2}), "best_of", "only the value of 'n', 1"),
        (json!({"suffix": "x"}), "suffix", "not supported"),
        (json!({"echo": "yes"}), "echo", "expected a boolean"),
        (json!({"messages": []}), "messages", "Unrecognized"),
        (json!({"top_logprobs": 3}), "top_logprobs", "Unrecognized"),
    ];
    for (extra, param, says) in table {
        refused(COMPLETIONS, &completion(extra).to_string(), Some(param), says).await;
    }
    refused(COMPLETIONS, r#"{"model":"tiny"}"#, Some("prompt"), "Missing required field").await;
}

#[tokio::test]
async fn prompts_that_are_too_long_say_so_in_the_known_words() {
    let (app, _) = app(Fake::answering("x"));
    let content = "x".repeat(190);
    let cases = [
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": content}], "max_tokens": 5}),
            "messages",
            "However, you requested 214 tokens (209 in the messages, 5 in the completion).",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": content}]}),
            "messages",
            "However, you requested 210 tokens (209 in the messages, at least 1 in the completion).",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 180}),
            "messages",
            "However, you requested 201 tokens (21 in the messages, 180 in the completion).",
        ),
        (
            COMPLETIONS,
            json!({"prompt": vec![1; 150], "max_tokens": 51}),
            "prompt",
            "However, you requested 201 tokens (150 in the prompt, 51 in the completion).",
        ),
        (COMPLETIONS, json!({"prompt": "x".repeat(50_000)}), "prompt", "have 50000 bytes of text"),
    ];
    for (path, body, param, says) in cases {
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["param"], param);
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("This model's maximum context length is 200 tokens. However, "),
            "{message}"
        );
        assert!(message.contains(says), "{message}");
    }
}

#[tokio::test]
async fn an_unknown_model_is_404() {
    let (app, _) = app(Fake::answering("x"));
    for (path, body) in
        [(CHAT, chat(&json!({"model": "gpt-x"}))), (COMPLETIONS, completion(&json!({"model": ""})))]
    {
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 404);
        let error = &reply.json()["error"];
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
        assert!(error["message"].as_str().unwrap().contains("'tiny', 'org/alias'"), "{error}");
    }
}

#[tokio::test]
async fn content_types_and_sizes() {
    let (app, _) = app(Fake::answering("x"));
    for (content_type, status) in [
        (None, 415),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("application/json; charset=utf-8"), 200),
        (Some("Application/JSON"), 200),
        (Some("application/problem+json"), 200),
    ] {
        let mut request = Request::builder().method(Method::POST).uri(CHAT);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let body = Body::from(chat(&json!({})).to_string());
        let reply = send(&app, request.body(body).unwrap()).await;
        assert_eq!(reply.status, status, "{content_type:?}");
        if status == 415 {
            assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
        }
    }
    // Announced and streamed.
    let long = vec![b' '; 100_001];
    let announced = send(&app, post_request(CHAT, long.clone())).await;
    let stream = futures_util::stream::iter(
        long.chunks(5000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>(),
    );
    let streamed = send(&app, post_request(CHAT, Body::from_stream(stream))).await;
    for reply in [announced, streamed] {
        assert_eq!(reply.status, 413);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "request_too_large");
        assert!(error["message"].as_str().unwrap().contains("100000 bytes"), "{error}");
    }
}
