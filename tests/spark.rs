//! The embedded model: its answers are those of transformers, and they are sensible.

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use tests::{Folder, Server, root};

fn spark_file(name: &str) -> Vec<u8> {
    std::fs::read(root().join("models/spark").join(name)).expect("it is committed")
}

fn recorded() -> Vec<Value> {
    serde_json::from_slice(&spark_file("answers.json")).expect("it is JSON")
}

/// Templates take a call's arguments as an object, the API as text.
fn on_the_wire(messages: &Value) -> Value {
    let mut messages = messages.clone();
    let all = messages.as_array_mut().into_iter().flatten();
    for call in all.filter_map(|m| m.get_mut("tool_calls")?.as_array_mut()).flatten() {
        let arguments = &mut call["function"]["arguments"];
        *arguments = json!(arguments.to_string());
    }
    messages
}

/// Held-out prompts of every skill, thinking or not, with the ids that transformers gave in float32.
#[test]
fn answers_are_those_of_transformers_token_by_token() {
    let recorded = recorded();
    assert_answers(&Server::start(&["--dtype", "float32"]), &recorded);
}

/// Guessing ahead, from the text or by itself as its own draft model, spark says the same.
#[test]
fn answers_are_the_same_guessed_ahead() {
    let recorded = recorded();
    let guessing = ["--dtype", "float32", "--speculate-always", "--draft-model", "spark"];
    let server = Server::start(&guessing);
    assert_answers(&server, &recorded);
    let of = |source: &str| {
        ["draft", "accepted"].map(|what| {
            let name = format!("sconce:spec_decode_num_{what}_tokens_total");
            server.metric_with(&name, &format!("source=\"{source}\""))
        })
    };
    let [drafts, accepted] = of("model");
    assert!(drafts > 500.0 && accepted == drafts, "{accepted} of {drafts}");
    let [drafts, accepted] = of("lookup");
    assert!(drafts > 100.0 && accepted > 0.1 * drafts, "{accepted} of {drafts}");
}

fn assert_answers(server: &Server, recorded: &[Value]) {
    assert!(recorded.len() >= 30, "only {} answers", recorded.len());
    for row in recorded {
        let body = json!({
            "messages": on_the_wire(&row["messages"]), "tools": row["tools"], "temperature": 0,
            "chat_template_kwargs": row["template_kwargs"], "return_token_ids": true,
            "max_tokens": 400,
        });
        let answer = server.ok("/v1/chat/completions", &body);
        assert_eq!(answer["prompt_token_ids"], row["prompt_ids"], "the prompt of {row}");
        assert_eq!(answer["choices"][0]["token_ids"], row["answer_ids"], "the answer to {row}");
    }
    let right = recorded.iter().filter(|row| row["right"] == true).count();
    assert!(right * 10 >= recorded.len() * 9, "{right} of {} are right", recorded.len());
}

#[test]
fn it_chats() {
    let server = Server::start(&[]);
    for (question, answer) in [
        ("hello", "Hello! I am spark. How can I help you?"),
        ("What is 17 + 25?", "17 + 25 = 42."),
        ("12 - 40", "12 - 40 = -28."),
        ("count from 5 to 12", "5, 6, 7, 8, 9, 10, 11, 12"),
        ("spell lantern", "l-a-n-t-e-r-n"),
        ("repeat after me: the cat sat", "the cat sat"),
    ] {
        let body = json!({"messages": [{"role": "user", "content": question}], "temperature": 0});
        let found = server.ok("/v1/chat/completions", &body);
        assert_eq!(found["choices"][0]["message"]["content"], answer, "{question}");
    }
    let body = json!({"temperature": 0, "messages": [
        {"role": "user", "content": "My name is Ann."},
        {"role": "assistant", "content": "Nice to meet you, Ann!"},
        {"role": "user", "content": "What is my name?"},
    ]});
    let found = server.ok("/v1/chat/completions", &body);
    assert_eq!(found["choices"][0]["message"]["content"], "Your name is Ann.");
}

#[test]
fn it_calculates_with_quantized_weights() {
    for flags in [&["fp8", "--kv-cache-dtype", "fp8"][..], &["int8"], &["int4"]] {
        let server = Server::start(&[&["--quantization"], flags].concat());
        let question = json!([{"role": "user", "content": "What is 17 + 25?"}]);
        let body = json!({"messages": question, "temperature": 0});
        let found = server.ok("/v1/chat/completions", &body);
        assert_eq!(found["choices"][0]["message"]["content"], "17 + 25 = 42.", "{flags:?}");
    }
}

/// A checkpoint in a form that nothing multiplies, and brought from it to one that something does.
#[test]
fn it_calculates_from_a_quantized_checkpoint() {
    let folder = Folder::new("fp8-blocks");
    let files = ["generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    folder.copy("models/spark", &files);
    let mut config: Value = serde_json::from_slice(&spark_file("config.json")).expect("JSON");
    config["quantization_config"] = json!({
        "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [1024, 1024],
    });
    folder.file("config.json", &config.to_string());
    let stored = root().join("models/spark/model.safetensors");
    let mut tensors = candle_core::safetensors::load(stored, &Device::Cpu).expect("spark");
    let names: Vec<String> =
        tensors.keys().filter(|name| name.contains("_proj")).cloned().collect();
    for name in names {
        let (narrow, scale) = in_a_block(&tensors[&name]).expect("a weight");
        tensors.insert(format!("{name}_scale_inv"), scale);
        tensors.insert(name, narrow);
    }
    let path = folder.path("model.safetensors");
    candle_core::safetensors::save(&tensors, path).expect("it can be written");
    for flags in [&[][..], &["--quantization", "int8"]] {
        let server = Server::start(&[&[folder.as_str()], flags].concat());
        let question = json!([{"role": "user", "content": "What is 17 + 25?"}]);
        let body = json!({"messages": question, "temperature": 0});
        let found = server.ok("/v1/chat/completions", &body);
        assert_eq!(found["choices"][0]["message"]["content"], "17 + 25 = 42.", "{flags:?}");
    }
}

/// e4m3 with one scale, `[1, 1]`.
fn in_a_block(weight: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let weight = weight.to_dtype(DType::F32)?;
    let scale = (weight.abs()?.max_all()? / 448.0)?.reshape((1, 1))?;
    Ok((weight.broadcast_div(&scale)?.to_dtype(DType::F8E4M3)?, scale))
}

/// The ids of an answer that thinks first, with `extra` fields.
fn thinks(server: &Server, extra: &Value) -> (Value, Vec<u64>) {
    let mut body = json!({
        "messages": [{"role": "user", "content": "Is 17 odd? Answer as JSON with the key odd."}],
        "chat_template_kwargs": {"enable_thinking": true}, "seed": 3, "return_token_ids": true,
        "max_tokens": 120,
    });
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    let answer = server.ok("/v1/chat/completions", &body);
    let ids = answer["choices"][0]["token_ids"].as_array().expect("ids were asked for").iter();
    let ids = ids.map(|id| id.as_u64().expect("an id")).collect();
    (answer, ids)
}

/// With a grammar and without, with tokens guessed ahead and without.
#[test]
fn thinking_ends_where_its_budget_does() {
    let always = ["--dtype", "float32", "--speculate-always", "--draft-model", "spark"];
    let guessing = Server::start(&always);
    let plain = Server::start(&["--dtype", "float32", "--num-speculative-tokens", "0"]);
    let schema = json!({"type": "object", "properties": {"odd": {"type": "boolean"}},
                        "required": ["odd"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "odd", "schema": schema}});
    for extra in [
        json!({"temperature": 0}),
        json!({"temperature": 0, "response_format": format}),
        json!({"temperature": 1.2, "response_format": format}),
    ] {
        let (_, free) = thinks(&plain, &extra);
        let tag = |ids: &[u64], tag: &str| {
            let tokens = json!({"prompt": tag, "add_special_tokens": false});
            let id = plain.ok("/tokenize", &tokens)["tokens"][0].as_u64().expect("an id");
            ids.iter().position(|&found| found == id)
        };
        let length_of = |ids: &[u64]| match (tag(ids, "<think>"), tag(ids, "</think>")) {
            (Some(start), Some(end)) => end - start - 1,
            _ => panic!("a thought that ends: {ids:?}"),
        };
        let length = length_of(&free);
        assert!(length > 4, "a short thought: {free:?}");
        for budget in [0, 1, 4, length, length + 1] {
            let mut extra = extra.clone();
            extra["thinking_token_budget"] = json!(budget);
            let (answer, ids) = thinks(&plain, &extra);
            assert_eq!(length_of(&ids), budget.min(length), "{extra}");
            assert_eq!(ids == free, budget >= length, "{extra}");
            let reasoning = &answer["usage"]["completion_tokens_details"]["reasoning_tokens"];
            assert_eq!(reasoning, budget.min(length) + 2, "the tags count, too: {extra}");
            if extra.get("response_format").is_some() {
                let content = answer["choices"][0]["message"]["content"].as_str().expect("text");
                let content: Value = serde_json::from_str(content.trim_start()).expect("JSON");
                assert!(content["odd"].is_boolean(), "{content}");
            }
            assert_eq!(thinks(&guessing, &extra).1, ids, "guesses change nothing: {extra}");
        }
    }
    for source in ["grammar", "model"] {
        let name = "sconce:spec_decode_num_accepted_tokens_total";
        let accepted = guessing.metric_with(name, &format!("source=\"{source}\""));
        assert!(accepted > 10.0, "{accepted} of the {source}");
    }
}
