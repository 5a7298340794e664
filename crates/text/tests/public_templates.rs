//! The chat templates that models are published with, rendered here, equal what transformers'
//! `apply_chat_template` made of them (fixtures written by scripts/template_goldens.py).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::path::PathBuf;
use text::{ChatInput, TextError, TextFiles, TextModel};

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn golden(name: &str) -> Value {
    let path = goldens().join("public").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// The names of the templates.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(goldens().join("public")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        files.filter_map(|file| file.strip_suffix(".jinja").map(str::to_owned)).collect();
    names.sort();
    names
}

fn model(name: &str) -> TextModel {
    let template = goldens().join("public").join(format!("{name}.jinja"));
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    TextModel::from_files(&TextFiles {
        tokenizer: std::fs::read(goldens().join("tokenizers/gpt2/tokenizer.json")).unwrap(),
        tokenizer_config: Some(config.to_string().into_bytes()),
        chat_template: Some(std::fs::read_to_string(template).unwrap()),
        ..TextFiles::default()
    })
    .unwrap()
}

/// `case` as the request, with the ids of calls that the family has.
fn input(shared: &Value, case: &Value, ids: &Value) -> ChatInput {
    let mut case = case.to_string();
    for (plain, own) in ids.as_object().unwrap() {
        case = case.replace(plain, own.as_str().unwrap());
    }
    let case: Value = serde_json::from_str(&case).unwrap();
    let tools = case.get("tools").map(|_| shared["tools"].as_array().unwrap().clone());
    let kwargs = case.get("chat_template_kwargs").and_then(Value::as_object);
    ChatInput {
        tools,
        add_generation_prompt: case.get("add_generation_prompt") != Some(&json!(false)),
        kwargs: kwargs.cloned().unwrap_or_default(),
        now: Some(shared["now"].as_str().unwrap().parse().unwrap()),
        ..ChatInput::new(case["messages"].as_array().unwrap().clone())
    }
}

/// The first line that differs, of ours and of theirs.
fn difference<'a>(ours: &'a str, theirs: &'a str) -> (&'a str, &'a str) {
    let mut lines = ours.split_inclusive('\n').zip(theirs.split_inclusive('\n'));
    lines.find(|(ours, theirs)| ours != theirs).unwrap_or((ours, theirs))
}

#[test]
fn every_public_template_renders_as_transformers_does() {
    let shared = golden("cases.json");
    let mut failures = Vec::new();
    let mut num_cases = 0;
    for name in names() {
        let model = model(&name);
        let made = golden(&format!("{name}.json"));
        for (case, expected) in made["cases"].as_object().unwrap() {
            num_cases += 1;
            let same = expected["same_as"].as_str();
            let expected = same.map_or(expected, |same| &made["cases"][same]);
            let rendered = model.render_chat(&input(&shared, &shared["cases"][case], &made["ids"]));
            let failure = match (&rendered, expected["expected"].as_str()) {
                (Ok(ours), Some(theirs)) if ours == theirs => continue,
                (Ok(ours), Some(theirs)) => format!("{:?}", difference(ours, theirs)),
                (Err(TextError::TemplateRaised(ours)), _) if expected["raised"] == *ours => {
                    continue;
                }
                (Err(TextError::TemplateFailed { .. }), _) if expected.get("error").is_some() => {
                    continue;
                }
                _ => format!("ours: {rendered:?}, theirs: {expected}"),
            };
            failures.push(format!("{name} {case}: {failure}"));
        }
    }
    assert!(num_cases >= 1_000, "only {num_cases} cases");
    assert!(failures.is_empty(), "{} of {num_cases}:\n{}", failures.len(), failures.join("\n"));
}

/// Templates that show one call a message, or refuse another.
const SINGLE: [&str; 3] = ["gpt_oss", "vllm_llama3_1_json", "vllm_llama3_2_json"];
/// Those that refuse an id of another length than nine, or a shorter one.
const SHORT_IDS: [&str; 6] = [
    "mistral_nemo",
    "mistral_small_3_2",
    "mistral_v0_3",
    "vllm_mistral",
    "vllm_mistral3",
    "vllm_mistral_parallel",
];

#[test]
fn templates_tell_what_they_want_of_calls() {
    for name in names() {
        let rules = model(&name).templates().call_rules();
        assert_eq!(rules.single, SINGLE.contains(&name.as_str()), "{name}");
        assert_eq!(rules.short_ids, SHORT_IDS.contains(&name.as_str()), "{name}");
    }
}

/// Clients send back the ids that they were given, here or by another server.
#[test]
fn calls_of_any_id_are_rendered() {
    let shared = golden("cases.json");
    let others = [("a1b2c3d4e", "call_00112233445566778899aabbccddeeff"), ("f5g6h7i8j", "toolu_1")];
    let ids = json!(others.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    let mut num_cases = 0;
    for name in names() {
        let (model, made) = (model(&name), golden(&format!("{name}.json")));
        for case in ["after_one", "after_both"] {
            let Some(theirs) = made["cases"][case]["expected"].as_str() else { continue };
            num_cases += 1;
            let rendered = model.render_chat(&input(&shared, &shared["cases"][case], &ids));
            let rendered = rendered.unwrap_or_else(|error| panic!("{name} {case}: {error}"));
            let mut expected = theirs.to_owned();
            for (plain, other) in others {
                let known = made["ids"][plain].as_str().unwrap_or(plain);
                let Some(at) = expected.find(known) else { continue };
                let is_short = SHORT_IDS.contains(&name.as_str());
                let shown = if is_short { &rendered[at..at + 9] } else { other };
                assert!(shown == other || shown.bytes().all(|b| b.is_ascii_alphanumeric()));
                expected = expected.replace(known, shown);
            }
            // One of Kimi's writes ids of its own for those that name no function.
            assert!(rendered == expected || name == "kimi_k2", "{name} {case}: {rendered}");
        }
    }
    assert!(num_cases > 80, "only {num_cases}");
}

/// As OpenAI's clients may send them, with less than templates ask for.
#[test]
fn tools_without_descriptions_are_rendered() {
    let shared = golden("cases.json");
    let mut failures = Vec::new();
    for name in names() {
        let (model, made) = (model(&name), golden(&format!("{name}.json")));
        let Some((case, _)) = made["cases"].as_object().unwrap().iter().find(|(case, made)| {
            shared["cases"][case.as_str()].get("tools").is_some() && made["expected"].is_string()
        }) else {
            continue;
        };
        let with = |change: fn(&mut serde_json::Map<String, Value>)| {
            let mut input = input(&shared, &shared["cases"][case], &made["ids"]);
            for tool in input.tools.iter_mut().flatten() {
                change(tool["function"].as_object_mut().unwrap());
            }
            model.render_chat(&input)
        };
        let without = with(|function| drop(function.remove("description")));
        if let Err(error) = without {
            failures.push(format!("{name}: {error}"));
        } else if name == "gpt_oss" {
            let empty = with(|function| function["description"] = json!(""));
            assert_eq!(without.unwrap(), empty.unwrap());
        }
        let none: fn(&mut serde_json::Map<String, Value>) =
            |function| drop(function.remove("parameters"));
        for change in [none, |function| function["parameters"] = json!({"type": "object"})] {
            if let Err(error) = with(change) {
                failures.push(format!("{name} without parameters: {error}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
