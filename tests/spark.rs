//! The embedded model: its answers are those of transformers, and they are sensible.

use serde_json::{Value, json};
use tests::{Server, root};

fn recorded() -> Vec<Value> {
    let path = root().join("models/spark/answers.json");
    serde_json::from_slice(&std::fs::read(path).expect("it is committed")).expect("it is JSON")
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
