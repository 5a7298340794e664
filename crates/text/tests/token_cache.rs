//! What is known of a text changes nothing: its ids are those of the whole text read anew.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use text::TextModel;

/// A tokenizer of every kind: byte-level, metaspace, normalised beforehand, with words of their own.
const NAMES: [&str; 7] =
    ["bos_by_config", "gemma", "gpt2", "llama2", "llama3", "metaspace", "qwen"];

/// Each with its added tokens.
static MODELS: LazyLock<Vec<(TextModel, Vec<String>)>> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers");
    let load = |name: &&str| {
        let file = std::fs::read(folder.join(name).join("tokenizer.json")).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let added = file["added_tokens"].as_array().unwrap().iter();
        let added = added.map(|token| token["content"].as_str().unwrap().to_owned()).collect();
        (TextModel::load(&folder.join(name)).unwrap(), added)
    };
    NAMES.iter().map(load).collect()
});

/// A piece of text: an added token by its number, or characters, so often.
#[derive(Debug, Clone)]
enum Piece {
    Added(usize),
    Text(String, usize),
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        any::<usize>().prop_map(Piece::Added),
        (" {0,3}[a-zA-Z0-9'.,!\n<>|_/é€字🦀▁\u{301}]{0,12} {0,3}", 1..60_usize)
            .prop_map(|(text, times)| Piece::Text(text, times)),
        // Almost an added token, or one behind a space.
        prop::sample::select(vec!["<|im_", " <s>", "</s", "<|end", "> ", "\n\n\n", "  "])
            .prop_map(|text| Piece::Text(text.to_owned(), 1)),
    ]
}

fn written(pieces: &[Piece], added: &[String]) -> String {
    let write = |piece: &Piece| match piece {
        Piece::Added(number) => added.get(number % added.len().max(1)).cloned().unwrap_or_default(),
        Piece::Text(text, times) => text.repeat(*times),
    };
    pieces.iter().map(write).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A chat as it grows, over one cache for all cases.
    #[test]
    fn ids_are_those_of_the_text_read_anew(turns in prop::collection::vec(prop::collection::vec(piece(), 1..8), 1..6)) {
        for (name, (model, added)) in NAMES.iter().zip(&*MODELS) {
            let mut text = String::new();
            for turn in &turns {
                text += &written(turn, added);
                let anew = model.encode(&text, false).unwrap();
                for _ in 0..2 {
                    prop_assert_eq!(&model.encode_chat(&text, None).unwrap(), &anew, "{}: {:?}", name, &text);
                }
            }
        }
    }
}
