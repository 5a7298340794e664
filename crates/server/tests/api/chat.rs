//! `/v1/chat/completions`: what a request means to the engine, and how its answer looks.

use serde_json::{Value, json};

use crate::fake::{Fake, IM_END, MAX_MODEL_LEN, app, chat, get, post, pretty, prompt_text};

const CHAT: &str = "/v1/chat/completions";

/// The prompt that the engine gets for `messages` and further fields.
async fn rendered(messages: Value, extra: Value) -> String {
    let (app, fake) = app(Fake::answering("x"));
    let mut body = chat(&extra);
    body["messages"] = messages;
    let reply = post(&app, CHAT, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    prompt_text(&fake.last().prompt)
}

#[tokio::test]
async fn a_whole_answer() {
    let (app, _) = app(Fake::answering("Hello."));
    insta::assert_snapshot!(pretty(&post(&app, CHAT, &chat(&json!({}))).await));
}

#[tokio::test]
async fn every_kind_of_log_probability() {
    let (app, _) = app(Fake::answering("é"));
    let body = chat(&json!({
        "logprobs": true, "top_logprobs": 2, "prompt_logprobs": 1, "return_token_ids": true,
        "messages": [{"role": "user", "content": "?"}], "add_generation_prompt": false,
    }));
    insta::assert_snapshot!(pretty(&post(&app, CHAT, &body).await));
}

#[tokio::test]
async fn streamed_log_probabilities_come_with_each_token() {
    let (app, _) = app(Fake::answering("é"));
    let body = chat(&json!({"logprobs": true, "stream": true, "return_token_ids": true}));
    let chunks = post(&app, CHAT, &body).await.chunks();
    let ids: Vec<_> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array())
        .flatten()
        .collect();
    assert_eq!(ids, [0xc3, 0xa9, IM_END as usize]);
    let scored = chunks.iter().filter(|chunk| chunk["choices"][0]["logprobs"].is_object());
    assert_eq!(scored.count(), 3);
    assert_eq!(chunks[0]["prompt_token_ids"].as_array().unwrap().len(), 21);
    assert!(chunks[1].get("prompt_token_ids").is_none());
}

#[tokio::test]
async fn the_template_sees_roles_parts_and_history() {
    let text = rendered(
        json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}], "name": "ann"},
            {"role": "assistant", "content": "", "refusal": null, "tool_calls": [{"id": "c1", "type": "function",
                "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}"}}], "annotations": [], "audio": null},
            {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        ]),
        json!({"chat_template_kwargs": {"prefix": "<think>"}}),
    )
    .await;
    assert_eq!(
        text,
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n\
         <|im_start|>assistant\n[weather Rome]<|im_end|>\n<|im_start|>tool\nsunny<|im_end|>\n\
         <|im_start|>assistant\n<think>"
    );
}

/// The openai packages' parsers and LiteLLM add to an answer, and send it back with that.
#[tokio::test]
async fn the_history_may_hold_answers_as_libraries_dump_them() {
    let call = json!({"id": "c1", "type": "function", "index": 0,
        "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}", "parsed_arguments": {"city": "Rome"}}});
    let said = json!({"role": "assistant", "content": null, "refusal": null, "function_call": null,
        "tool_calls": [call], "reasoning": "hm", "reasoning_content": "hm"});
    let messages = |added: Value| {
        let mut said = said.clone();
        said.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
        json!([said, {"role": "tool", "content": "sunny", "tool_call_id": "c1"}])
    };
    let plain = rendered(messages(json!({})), json!({})).await;
    for added in [
        json!({"parsed": null}),
        json!({"parsed": {"name": "Bob", "age": 42}}),
        json!({"provider_specific_fields": {"refusal": null, "reasoning": "hm"}}),
    ] {
        assert_eq!(rendered(messages(added), json!({})).await, plain);
    }
}

#[tokio::test]
async fn a_final_message_can_be_continued() {
    let messages =
        json!([{"role": "user", "content": "count"}, {"role": "assistant", "content": "1, 2"}]);
    let text = rendered(messages, json!({"continue_final_message": true})).await;
    assert!(text.ends_with("<|im_start|>assistant\n1, 2"), "{text}");
}

#[tokio::test]
async fn the_prompt_may_be_truncated_from_the_left() {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let text = rendered(messages, json!({"truncate_prompt_tokens": 10})).await;
    assert_eq!(text, "assistant\n");
}

#[tokio::test]
async fn fields_reach_the_engine() {
    let (app, fake) = app(Fake::answering("x"));
    let body = chat(&json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.5,
        "presence_penalty": -1, "frequency_penalty": 2, "seed": -1, "stop_token_ids": [7],
        "ignore_eos": true, "min_tokens": 2, "max_completion_tokens": 9, "priority": -3,
        "logit_bias": {"5": -100, "6": 1.5}, "allowed_token_ids": [120, 257], "cache_salt": "s",
        "user": "u", "metadata": {"a": "b"}, "store": false, "service_tier": "auto",
        "prompt_cache_key": "k", "safety_identifier": "i", "top_logprobs": null,
    }));
    assert_eq!(post(&app, CHAT, &body).await.status, 200);
    let seen = fake.last();
    let params = seen.params;
    assert_eq!((params.temperature, params.top_p, params.top_k, params.min_p), (0.5, 0.9, 0, 0.1));
    assert_eq!((params.repetition_penalty, params.presence_penalty), (1.5, -1.0));
    assert_eq!((params.frequency_penalty, params.seed), (2.0, u64::MAX));
    assert_eq!(*params.logit_bias, [(5, -100.0), (6, 1.5)]);
    assert_eq!(params.allowed_token_ids, Some([120, 257].into()));
    assert_eq!((params.stop_token_ids, params.ignore_eos), (vec![7], true));
    assert_eq!((params.min_tokens, params.max_tokens, params.logprobs), (2, 9, None));
    assert_eq!((seen.priority, seen.cache_salt.as_deref()), (-3, Some("s")));
}

#[tokio::test]
async fn without_a_limit_the_answer_may_fill_the_context() {
    let (app, fake) = app(Fake::answering("x"));
    post(&app, CHAT, &chat(&json!({}))).await;
    let seen = fake.last();
    assert_eq!(seen.params.max_tokens, MAX_MODEL_LEN - seen.prompt.len());
}

#[tokio::test]
async fn fields_that_ask_for_nothing_are_accepted() {
    let (app, _) = app(Fake::answering("x"));
    let body = chat(&json!({
        "tools": [], "tool_choice": "none", "parallel_tool_calls": null, "functions": null,
        "function_call": "none", "response_format": {"type": "text"}, "modalities": ["text"],
        "audio": null, "prediction": null, "web_search_options": null, "reasoning_effort": null,
        "verbosity": null, "structured_outputs": null, "guided_json": null, "logits_processors": [],
        "use_beam_search": false, "length_penalty": 1.0, "stop": null, "n": null, "best_of": 1,
    }));
    let reply = post(&app, CHAT, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn choices_with_a_seed_equal_single_requests() {
    let (app, _) = app(Fake::answering("seed {seed}"));
    let whole = post(&app, CHAT, &chat(&json!({"n": 4, "seed": 40}))).await.json();
    for i in 0..4 {
        let single = post(&app, CHAT, &chat(&json!({"seed": 40 + i}))).await.json();
        let choice = &whole["choices"][i];
        assert_eq!(choice["message"], single["choices"][0]["message"]);
        assert_eq!(choice["index"], i);
    }
    let random = post(&app, CHAT, &chat(&json!({"n": 2}))).await.json();
    assert_ne!(random["choices"][0]["message"], random["choices"][1]["message"]);
}

#[tokio::test]
async fn stop_strings_and_tokens_end_the_text_and_say_so() {
    for (extra, text, stop_reason, num_tokens) in [
        (json!({"stop": ["X", "cd"]}), "ab", json!("cd"), 4),
        (json!({"stop": "cd", "include_stop_str_in_output": true}), "abcd", json!("cd"), 4),
        (json!({"stop_token_ids": [100]}), "abc", json!(100), 4),
        (
            json!({"stop_token_ids": [100], "include_stop_str_in_output": true}),
            "abcd",
            json!(100),
            4,
        ),
        (json!({"stop": "bc", "min_tokens": 3}), "abcdef", Value::Null, 7),
        (json!({"skip_special_tokens": false}), "abcdef", Value::Null, 7),
        (
            json!({"ignore_eos": true, "skip_special_tokens": false}),
            "abcdef<|im_end|>",
            Value::Null,
            7,
        ),
    ] {
        let (app, fake) = app(Fake::answering("abcdef"));
        let reply = post(&app, CHAT, &chat(&extra)).await.json();
        let choice = &reply["choices"][0];
        assert_eq!(choice["message"]["content"], text, "{extra}");
        assert_eq!(choice["finish_reason"], "stop", "{extra}");
        assert_eq!(choice.get("stop_reason").unwrap_or(&Value::Null), &stop_reason, "{extra}");
        assert_eq!(reply["usage"]["completion_tokens"], num_tokens, "{extra}");
        let aborts = fake.aborted.lock().unwrap().len();
        assert_eq!(aborts, usize::from(stop_reason.is_string()), "{extra}");
    }
}

#[tokio::test]
async fn the_length_is_a_finish_reason() {
    let (app, _) = app(Fake::answering("abcdef"));
    let reply = post(&app, CHAT, &chat(&json!({"max_tokens": 3}))).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "abc");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn half_a_character_at_the_end_shows_as_a_replacement() {
    let (app, _) = app(Fake::answering("aé"));
    let reply = post(&app, CHAT, &chat(&json!({"max_tokens": 2}))).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "a\u{fffd}");
}

#[tokio::test]
async fn an_alias_answers_under_the_first_name() {
    let (app, _) = app(Fake::answering("x"));
    for model in [json!("org/alias"), Value::Null] {
        let reply = post(&app, CHAT, &chat(&json!({"model": model}))).await;
        assert_eq!(reply.json()["model"], "tiny");
    }
}

#[tokio::test]
async fn tokens_and_endings_are_counted() {
    let (app, _) = app(Fake::answering("abc"));
    post(&app, CHAT, &chat(&json!({"n": 2}))).await;
    let text = get(&app, "/metrics").await.text;
    for line in [
        "vllm:generation_tokens_total{model_name=\"tiny\"} 8",
        "vllm:request_prompt_tokens_sum{model_name=\"tiny\"} 42",
        "vllm:request_generation_tokens_sum{model_name=\"tiny\"} 8",
        "vllm:request_params_n_sum{model_name=\"tiny\"} 2",
        "vllm:request_params_n_count{model_name=\"tiny\"} 1",
        "vllm:request_max_num_generation_tokens_sum{model_name=\"tiny\"} 4",
        "vllm:request_queue_time_seconds_count{model_name=\"tiny\"} 2",
        "vllm:request_prefill_time_seconds_count{model_name=\"tiny\"} 2",
        "vllm:request_decode_time_seconds_count{model_name=\"tiny\"} 2",
        "vllm:request_inference_time_seconds_count{model_name=\"tiny\"} 2",
        "vllm:request_time_per_output_token_seconds_count{model_name=\"tiny\"} 2",
        "http_requests_total{handler=\"/v1/chat/completions\",method=\"POST\",status=\"2xx\"} 1",
        "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"stop\"} 2",
        "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"} 2",
        "vllm:inter_token_latency_seconds_count{model_name=\"tiny\"} 6",
        "vllm:e2e_request_latency_seconds_bucket{model_name=\"tiny\",le=\"+Inf\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nnot in\n{text}");
    }
}
