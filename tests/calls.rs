//! Calls, reasoning and constraints on the embedded model: every way of writing calls that a flag
//! may choose, and what log-probabilities say of an answer that is held to something.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::fmt::Write as _;
use tests::{Folder, Server, root};

const CHAT: &str = "/v1/chat/completions";

/// Formats with a piece of what their calls look like.
const FORMATS: [(&str, &str); 9] = [
    ("hermes", "<tool_call>\n{\"name\": \""),
    ("qwen3_coder", "<parameter=days>\n"),
    ("glm45", "<arg_key>days</arg_key>"),
    ("minimax_m2", "<parameter name=\"days\">"),
    ("llama3_json", "\"parameters\": {"),
    ("llama4_pythonic", "(unit="),
    ("gemma4", "call:get_weather{"),
    ("kimi_k2", "functions.get_weather:0"),
    ("openai", "to=functions.get_weather"),
];

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "get_weather", "description": "weather", "parameters": {
        "type": "object", "required": ["unit", "days"], "additionalProperties": false,
        "properties": {
            "unit": {"enum": ["celsius", "kelvin \"K\""]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
    }}})
}

/// A request whose answer nobody could foresee.
fn wild(model: &str, seed: u64) -> Value {
    json!({
        "model": model, "messages": [{"role": "user", "content": "tell me something"}],
        "temperature": 1.5, "seed": seed, "max_tokens": 200,
    })
}

fn with(mut body: Value, extra: &Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The message that the deltas of a stream add up to.
fn folded(events: &[Value]) -> Value {
    let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
    for delta in events.iter().filter_map(|event| event["choices"][0].get("delta")) {
        content += delta["content"].as_str().unwrap_or_default();
        reasoning += delta["reasoning"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            if call["index"] == calls.len() {
                calls.push((call["function"]["name"].clone(), String::new()));
            }
            let (_, arguments) = &mut calls[call["index"].as_u64().unwrap() as usize];
            *arguments += call["function"]["arguments"].as_str().unwrap();
        }
    }
    json!({"content": content, "reasoning": reasoning, "calls": calls})
}

/// The same of a whole message.
fn whole(message: &Value) -> Value {
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let calls = calls.map(|call| (&call["function"]["name"], &call["function"]["arguments"]));
    let text = |field: &str| message[field].as_str().unwrap_or_default();
    json!({"content": text("content"), "reasoning": text("reasoning"),
           "calls": calls.collect::<Vec<_>>()})
}

/// A server with this configuration.
fn serve(name: &str, config: &str) -> Server {
    let folder = Folder::new(name);
    Server::start(&["--config", &folder.file("sconce.toml", config)])
}

/// Public chat templates, one a family, and whether the family thinks.
const FAMILIES: [(&str, bool); 16] = [
    ("deepseek_r1_distill_llama", true),
    ("deepseek_v3_1", true),
    ("gemma_4", true),
    ("glm_4_6", true),
    ("gpt_oss", true),
    ("granite_3_3", true),
    ("kimi_k2", false),
    ("minimax_m2", true),
    ("mistral_nemo", false),
    ("mistral_small_3_2", false),
    ("qwen2_5", false),
    ("qwen3", true),
    ("qwen3_coder", false),
    ("vllm_llama3_1_json", false),
    ("vllm_llama4_pythonic", false),
    ("vllm_phi4_mini", false),
];

/// What a model of each family calls goes back as it came, with the result, and is read.
#[test]
fn a_loop_of_tools_goes_on_in_every_family() {
    let mut config = String::new();
    for (family, _) in FAMILIES {
        let template = root().join(format!("crates/text/tests/goldens/public/{family}.jinja"));
        let template = template.display();
        write!(
            config,
            "[[models]]\nmodel = \"spark\"\nserved-model-name = \"{family}\"\n\
             chat-template = \"{template}\"\nkv-cache-memory-bytes = \"8MiB\"\n"
        )
        .unwrap();
    }
    let server = serve("families", &config);
    for (family, thinks) in FAMILIES {
        let mut messages = vec![json!({"role": "user", "content": "tell me something"})];
        let mut ids = Vec::new();
        for step in 0..3 {
            // At this temperature neither thoughts nor a row of calls come to an end by themselves.
            let mut asked = json!({"messages": messages, "tools": [tool()], "tool_choice": "required",
                                   "parallel_tool_calls": false, "return_token_ids": true});
            if thinks {
                asked["thinking_token_budget"] = json!(4);
            }
            let answer = server.ok(CHAT, &with(wild(family, step), &asked));
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls", "{family}: {choice}");
            let shown = json!({"model": family, "tokens": answer["prompt_token_ids"]});
            let prompt = server.ok("/detokenize", &shown)["prompt"].clone();
            let prompt = prompt.as_str().unwrap();
            for earlier in 0..step {
                assert!(prompt.contains(&format!("result {earlier}")), "{family}: {prompt}");
            }
            let call = &choice["message"]["tool_calls"][0];
            assert!(!ids.contains(&call["id"]), "{family}: {call} after {ids:?}");
            ids.push(call["id"].clone());
            let result = format!("result {step}");
            messages.push(choice["message"].clone());
            messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": result}));
        }
    }
}

/// One server with a model for each format: at this temperature only the grammar makes a call of
/// what they say.
#[test]
fn the_format_that_a_flag_names_is_written_and_read() {
    let mut config = String::new();
    for (format, _) in FORMATS {
        let reasoning = if format == "openai" { "openai_gptoss" } else { "qwen3" };
        write!(
            config,
            "[[models]]\nmodel = \"spark\"\nserved-model-name = \"{format}\"\n\
             max-model-len = 512\nkv-cache-memory-bytes = \"4MiB\"\n\
             tool-call-parser = \"{format}\"\nreasoning-parser = \"{reasoning}\"\n"
        )
        .unwrap();
    }
    let server = serve("formats", &config);
    for (format, looks) in FORMATS {
        for (seed, choice) in [
            (1, json!("required")),
            (2, json!("required")),
            (3, json!({"type": "function", "function": {"name": "get_weather"}})),
        ] {
            // Harmony may think first, which at this temperature does not end.
            let asked = json!({"tools": [tool()], "tool_choice": choice, "return_token_ids": true,
                               "parallel_tool_calls": false, "thinking_token_budget": 9});
            let body = with(wild(format, seed), &asked);
            let answer = server.ok(CHAT, &body);
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls", "{format}: {answer}");
            let message = whole(&choice["message"]);
            let [call] = message["calls"].as_array().unwrap().as_slice() else {
                panic!("{format}: {message}")
            };
            let arguments: Value = serde_json::from_str(call[1].as_str().unwrap()).unwrap();
            let days = arguments["days"].as_i64().unwrap();
            assert!((1..=14).contains(&days), "{format}: {arguments}");
            assert!(["celsius", "kelvin \"K\""].contains(&arguments["unit"].as_str().unwrap()));
            let ids = json!({"model": format, "tokens": choice["token_ids"]});
            let written = server.ok("/detokenize", &ids)["prompt"].clone();
            assert!(written.as_str().unwrap().contains(looks), "{format}: {written}");
            let streamed = folded(&server.stream(CHAT, &body));
            assert_eq!(streamed, message, "{format}");
        }
    }
}

#[test]
fn without_a_parser_tags_are_text_and_calls_cannot_be_asked_for() {
    let server = Server::start(&["--tool-call-parser", "none", "--reasoning-parser", "none"]);
    let question = json!({"messages": [{"role": "user", "content": "What is 17 + 25?"}],
                          "temperature": 0, "reasoning_effort": "low"});
    let message = server.ok(CHAT, &question)["choices"][0]["message"].take();
    let content = message["content"].as_str().unwrap();
    assert!(content.starts_with("<think>") && content.contains("</think>"), "{content}");
    assert!(message.get("reasoning").is_none(), "{message}");
    let body = with(wild("spark", 1), &json!({"tools": [tool()], "tool_choice": "required"}));
    let (status, error) = server.post(CHAT, &body);
    assert_eq!((status, &error["error"]["param"]), (400, &json!("tool_choice")), "{error}");
}

/// How likely the tokens were, each with its text and how likely all that is listed is.
fn scored(choice: &Value) -> Vec<(f64, String, f64)> {
    let tokens = choice["logprobs"]["content"].as_array().into_iter().flatten();
    let number = |value: &Value| value["logprob"].as_f64().unwrap();
    tokens
        .map(|token| {
            let top = token["top_logprobs"].as_array().unwrap();
            let total = top.iter().map(|token| number(token).exp()).sum();
            (number(token), token["token"].as_str().unwrap().to_owned(), total)
        })
        .collect()
}

/// What the grammar rules out has no probability, and what it forces has all of it.
#[test]
fn log_probabilities_are_of_what_may_come() {
    let server = Server::start(&[]);
    let listed = json!({"logprobs": true, "top_logprobs": 20});
    let ask = |extra: &Value| {
        let body = with(with(wild("spark", 5), &listed), extra);
        let answer = server.ok(CHAT, &body)["choices"][0].take();
        let scores = scored(&answer);
        let streamed: Vec<_> = server
            .stream(CHAT, &body)
            .iter()
            .flat_map(|event| scored(&event["choices"][0]))
            .collect();
        assert_eq!(streamed, scores, "{extra}");
        (answer, scores)
    };
    let text = |scores: &[(f64, String, f64)]| -> String {
        scores.iter().map(|(_, text, _)| text.as_str()).collect()
    };
    let (free, scores) = ask(&json!({"max_tokens": 12, "top_logprobs": 1}));
    assert_eq!(text(&scores), free["message"]["content"].as_str().unwrap());
    assert!(scores.iter().all(|(_, _, total)| *total < 1.0 + 1e-4), "{scores:?}");
    assert!(scores.iter().any(|(_, _, total)| *total < 0.8), "no other was likely: {scores:?}");

    let (held, scores) = ask(&json!({"structured_outputs": {"choice": ["cat", "dog"]}}));
    let content = held["message"]["content"].as_str().unwrap();
    assert!(["cat", "dog"].contains(&content) && text(&scores).starts_with(content), "{scores:?}");
    assert!(scores.iter().all(|(_, _, total)| (total - 1.0).abs() < 1e-4), "{scores:?}");

    // A call's tokens are listed like any others, also those that were forced and guessed ahead.
    let (call, scores) = ask(&json!({"tools": [tool()], "tool_choice": "required"}));
    assert_eq!(call["message"]["content"], Value::Null);
    assert!(text(&scores).contains("\"name\": \"get_weather\""), "{scores:?}");
    let forced = scores.iter().filter(|(logprob, ..)| *logprob == 0.0).count();
    assert!(forced > 10, "{forced} of {scores:?}");

    // What was never likely may not be listed, and each says how likely it was nevertheless.
    let bias =
        json!({"max_tokens": 12, "logit_bias": {"300": 5, "301": -5}, "presence_penalty": 1});
    let (_, scores) = ask(&bias);
    assert!(scores.iter().all(|(logprob, _, total)| *logprob <= 0.0 && *total < 1.0 + 1e-4));
}
