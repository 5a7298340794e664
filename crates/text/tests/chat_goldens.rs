//! Chat templates rendered here equal what transformers' `apply_chat_template` made of them
//! (fixtures written by scripts/text_goldens.py).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use serde_json::{Value, json};
use text::{ChatInput, TextError, TextFiles, TextModel};

const NAMES: [&str; 12] = [
    "chatml",
    "command_r",
    "deepseek",
    "gemma",
    "generation_blocks",
    "llama2",
    "llama3",
    "mistral",
    "parts_only",
    "phi",
    "qwen2",
    "qwen3",
];

/// Where minijinja knowingly does something else.
const DIFFERENT: [&str; 5] = [
    // Joining with `~` prints floats with minijinja's own digits; printing and `string` are Python's.
    "{{ 'x' ~ 1e20 ~ [1.0, 'a'] }}",
    // No operator can be added for `%`; the filter `format` does the same.
    "{{ '%s and %d' % ('x', 2) }}",
    // Filters for prose that no chat template needs.
    "{{ 'a b' | wordcount }}",
    "{{ 'hello world' | truncate(8, true) }}",
    // Lenient: a loop over none is empty, where Python fails.
    "{% for i in none %}x{% endfor %}",
];

fn golden(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn model_with_template(template: String) -> TextModel {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    TextModel::from_files(&TextFiles {
        tokenizer: golden("tokenizers/gpt2/tokenizer.json"),
        tokenizer_config: Some(config.to_string().into_bytes()),
        chat_template: Some(template),
        ..TextFiles::default()
    })
    .unwrap()
}

fn input(case: &Value) -> ChatInput {
    let list = |name: &str| case.get(name).map(|value| value.as_array().unwrap().clone());
    let continue_final_message = case.get("continue_final_message") == Some(&json!(true));
    ChatInput {
        tools: list("tools"),
        documents: list("documents"),
        add_generation_prompt: case
            .get("add_generation_prompt")
            .map_or(!continue_final_message, |flag| flag == true),
        continue_final_message,
        kwargs: case
            .get("chat_template_kwargs")
            .map_or_else(Default::default, |kwargs| kwargs.as_object().unwrap().clone()),
        ..ChatInput::new(list("messages").unwrap())
    }
}

/// Whether our rendering agrees with the golden `case`; what it gave otherwise.
fn disagreement(model: &TextModel, input: &ChatInput, case: &Value) -> Option<String> {
    let rendered = model.render_chat(input);
    let agrees = match &rendered {
        Ok(text) => case.get("expected") == Some(&json!(text)),
        Err(TextError::TemplateRaised(message)) => case.get("raised") == Some(&json!(message)),
        Err(_) => case.get("error").is_some(),
    };
    let expected = ["expected", "raised", "error"].into_iter().find_map(|key| case.get(key));
    (!agrees).then(|| format!("  ours: {rendered:?}\n  transformers: {expected:?}"))
}

#[test]
fn every_template_renders_as_transformers_does() {
    let mut failures = Vec::new();
    let mut num_cases = 0;
    for name in NAMES {
        let template = String::from_utf8(golden(&format!("chat/{name}.jinja"))).unwrap();
        let model = model_with_template(template);
        let cases: Vec<Value> =
            serde_json::from_slice(&golden(&format!("chat/{name}.json"))).unwrap();
        for (index, case) in cases.iter().enumerate() {
            num_cases += 1;
            if let Some(failure) = disagreement(&model, &input(case), case) {
                failures.push(format!("{name}[{index}]\n{failure}"));
            }
        }
    }
    assert!(num_cases >= 100, "only {num_cases} cases");
    assert!(failures.is_empty(), "{} of {num_cases}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn expressions_evaluate_as_in_jinja2() {
    let model = model_with_template("{{ messages }}".to_owned());
    let golden: Value = serde_json::from_slice(&golden("expressions.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 200, "only {} cases", cases.len());
    let mut failures = Vec::new();
    for case in cases {
        let template = case["template"].as_str().unwrap();
        let input = ChatInput {
            chat_template: Some(golden["prelude"].as_str().unwrap().to_owned() + template),
            ..ChatInput::new(golden["messages"].as_array().unwrap().clone())
        };
        let failure = disagreement(&model, &input, case);
        if DIFFERENT.contains(&template) {
            assert!(failure.is_some(), "{template} agrees now: take it off the list");
        } else if let Some(failure) = failure {
            failures.push(format!("{template:?}\n{failure}"));
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}
