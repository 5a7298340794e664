//! Encoding, decoding and incremental decoding equal transformers' (fixtures written by
//! scripts/text_goldens.py).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use serde_json::Value;
use text::{Detokenizer, TextModel};

const NAMES: [&str; 7] =
    ["bos_by_config", "gemma", "gpt2", "llama2", "llama3", "metaspace", "qwen"];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers").join(name)
}

fn ids(case: &Value, field: &str) -> Vec<u32> {
    case[field].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn for_each_case(mut check: impl FnMut(&str, &TextModel, &Value)) {
    for name in NAMES {
        let model = TextModel::load(&folder(name)).unwrap();
        let cases = std::fs::read(folder(name).join("cases.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
        assert!(cases.len() >= 30);
        for case in &cases {
            check(name, &model, case);
        }
    }
}

fn streamed(model: &TextModel, ids: &[u32], skip_special_tokens: bool) -> String {
    let mut detokenizer = Detokenizer::new(model.tokenizer(), skip_special_tokens);
    let mut text: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

#[test]
fn encodes_as_transformers_does() {
    for_each_case(|name, model, case| {
        let text = case["text"].as_str().unwrap();
        // Prepared with the first case: each is encoded both ways.
        let slow = TextModel::load(&folder(name)).unwrap();
        assert!(model.tokenizer().prepare_fast_encoder(), "{name}");
        for model in [&slow, model] {
            assert_eq!(model.encode(text, false).unwrap(), ids(case, "ids"), "{name}: {text:?}");
            let with_special = model.encode(text, true).unwrap();
            assert_eq!(with_special, ids(case, "with_special"), "{name}: {text:?}");
        }
    });
}

#[test]
fn decodes_as_transformers_does_whole_and_streamed() {
    for_each_case(|name, model, case| {
        for (skip, field) in [(false, "decoded"), (true, "decoded_skipping")] {
            let ids = ids(case, "ids");
            assert_eq!(model.decode(&ids, skip).unwrap(), case[field], "{name}: {case}");
            assert_eq!(streamed(model, &ids, skip), case[field], "streamed, {name}: {case}");
        }
    });
}

#[test]
fn token_bytes_add_up_to_the_text() {
    for_each_case(|name, model, case| {
        let ids = ids(case, "ids");
        let bytes: Vec<u8> =
            ids.iter().flat_map(|id| model.tokenizer().token_bytes(*id).to_vec()).collect();
        let text = case["decoded"].as_str().unwrap();
        // A sentencepiece token keeps the space that decoding strips at the start of a text.
        let with_space = [b" ", text.as_bytes()].concat();
        let unknown = ids.iter().any(|id| model.tokenizer().piece(*id).as_deref() == Some("<unk>"));
        assert!(unknown || bytes == text.as_bytes() || bytes == with_space, "{name}: {case}");
    });
}
