//! `/v1/completions`: kinds of prompts, echo, log-probabilities.

use serde_json::{Value, json};

use crate::fake::{Fake, app, completion, post, pretty, stable};

const PATH: &str = "/v1/completions";

#[tokio::test]
async fn a_whole_answer() {
    let (app, _) = app(Fake::answering("cd"));
    insta::assert_snapshot!(pretty(&post(&app, PATH, &completion(&json!({}))).await));
}

#[tokio::test]
async fn a_stream() {
    let (app, _) = app(Fake::answering("cd"));
    let body = completion(&json!({"stream": true, "stream_options": {"include_usage": true}}));
    insta::assert_snapshot!(stable(&post(&app, PATH, &body).await.text));
}

#[tokio::test]
async fn echo_with_log_probabilities_as_evaluation_harnesses_read_it() {
    let (app, fake) = app(Fake::answering("é"));
    let body = completion(
        &json!({"echo": true, "logprobs": 1, "max_tokens": 1, "prompt": [97, 195, 169]}),
    );
    let reply = post(&app, PATH, &body).await;
    assert_eq!(fake.last().params.prompt_logprobs, Some(1));
    insta::assert_snapshot!(pretty(&reply));
}

#[tokio::test]
async fn scoring_alone_generates_nothing() {
    let (app, fake) = app(Fake::answering("x"));
    let body = completion(&json!({"echo": true, "logprobs": 0, "max_tokens": 0}));
    let reply = post(&app, PATH, &body).await.json();
    let choice = &reply["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("ab"), &json!("length")));
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -0.5]));
    assert_eq!(choice["logprobs"]["top_logprobs"], json!([null, {"b": -0.5}]));
    assert_eq!(fake.last().params.max_tokens, 0);
}

#[tokio::test]
async fn prompt_log_probabilities_and_token_ids() {
    let (app, _) = app(Fake::answering("c"));
    let body = completion(&json!({"prompt_logprobs": 2, "return_token_ids": true}));
    insta::assert_snapshot!(pretty(&post(&app, PATH, &body).await));
}

#[tokio::test]
async fn tokens_may_be_named_by_their_ids() {
    let (app, _) = app(Fake::answering("c"));
    let body = completion(&json!({"logprobs": 1, "return_tokens_as_token_ids": true}));
    let reply = post(&app, PATH, &body).await.json();
    assert_eq!(reply["choices"][0]["logprobs"]["tokens"], json!(["token_id:99", "token_id:257"]));
}

#[tokio::test]
async fn every_kind_of_prompt_and_the_order_of_choices() {
    for (prompt, echoed) in [
        (json!("ab"), vec!["ab"]),
        (json!(["ab", "c"]), vec!["ab", "c"]),
        (json!([97, 98]), vec!["ab"]),
        (json!([[97, 98], [99]]), vec!["ab", "c"]),
    ] {
        for n in [1, 2] {
            let (app, _) = app(Fake::answering(":{seed}"));
            let fields = json!({"prompt": prompt, "echo": true, "n": n, "seed": 7, "max_tokens": 9, "best_of": n});
            let reply = post(&app, PATH, &completion(&fields)).await.json();
            let texts: Vec<_> =
                reply["choices"].as_array().unwrap().iter().map(|c| c["text"].clone()).collect();
            let expected =
                echoed.iter().flat_map(|text| (0..n).map(move |i| format!("{text}:{}", 7 + i)));
            assert_eq!(texts, expected.collect::<Vec<_>>(), "{prompt} {n}");
            let prompt_tokens: usize = echoed.iter().map(|text| text.len()).sum();
            assert_eq!(reply["usage"]["prompt_tokens"], prompt_tokens);
        }
    }
}

#[tokio::test]
async fn a_streamed_echo_equals_a_whole_one() {
    for extra in [
        json!({"echo": true, "seed": 1}),
        json!({"echo": true, "seed": 1, "logprobs": 2}),
        json!({"echo": true, "seed": 1, "logprobs": 0, "return_token_ids": true, "n": 2}),
    ] {
        let (app, _) = app(Fake::answering("né{seed}"));
        let whole = post(&app, PATH, &completion(&extra)).await.json();
        let mut streamed = extra.clone();
        streamed["stream"] = true.into();
        let chunks = post(&app, PATH, &completion(&streamed)).await.chunks();
        for choice in whole["choices"].as_array().unwrap() {
            let mine = chunks.iter().map(|chunk| &chunk["choices"][0]);
            let mine: Vec<_> = mine.filter(|other| other["index"] == choice["index"]).collect();
            let text: String = mine.iter().map(|chunk| chunk["text"].as_str().unwrap()).collect();
            assert_eq!(choice["text"], text);
            for path in [
                "/logprobs/tokens",
                "/logprobs/text_offset",
                "/logprobs/token_logprobs",
                "/logprobs/top_logprobs",
                "/token_ids",
                "/prompt_token_ids",
            ] {
                let lists = mine.iter().filter_map(|chunk| chunk.pointer(path)?.as_array());
                let joined: Vec<_> = lists.flatten().cloned().collect();
                let expected = choice.pointer(path).and_then(Value::as_array).cloned();
                assert_eq!(joined, expected.unwrap_or_default(), "{path} {extra}");
            }
        }
    }
}

#[tokio::test]
async fn a_truncated_prompt_is_echoed_as_it_was_read() {
    let (app, _) = app(Fake::answering("z"));
    let fields = json!({"prompt": "abcd", "echo": true, "truncate_prompt_tokens": 2});
    let reply = post(&app, PATH, &completion(&fields)).await.json();
    assert_eq!(reply["choices"][0]["text"], "cdz");
}

#[tokio::test]
async fn sixteen_tokens_by_default_and_never_past_the_context() {
    let (app, fake) = app(Fake::answering("x"));
    post(&app, PATH, &completion(&json!({}))).await;
    assert_eq!(fake.last().params.max_tokens, 16);
    post(&app, PATH, &completion(&json!({"prompt": vec![1; 195]}))).await;
    assert_eq!(fake.last().params.max_tokens, 5);
}
