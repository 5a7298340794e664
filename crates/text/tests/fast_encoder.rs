//! The fast encoder gives the ids of the other one, or is not used.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use text::{Cut, Side, TextModel};

const NAMES: [&str; 7] =
    ["bos_by_config", "gemma", "gpt2", "llama2", "llama3", "metaspace", "qwen"];

/// Each without the fast encoder, then with it.
static MODELS: LazyLock<Vec<[TextModel; 2]>> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers");
    let load = |name: &&str| {
        let models = [(); 2].map(|()| TextModel::load(&folder.join(name)).unwrap());
        assert!(models[1].tokenizer().prepare_fast_encoder(), "{name}");
        models
    };
    NAMES.iter().map(load).collect()
});

fn piece() -> impl Strategy<Value = String> {
    let often = prop::sample::select(vec![
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'LL",
        "the",
        " and",
        "123",
        "\u{301}",
        "é",
        "字",
        "🤷🏽\u{200d}♀",
        "<|im_start|>",
        "<|end",
        "<s>",
        "</s> ",
        "▁",
        "\u{a0}",
        "\u{feff}",
        "İ",
        "ﬃ",
        "한",
        "क्ष",
    ]);
    prop_oneof![
        4 => (often, 1..5_usize).prop_map(|(text, times)| text.repeat(times)),
        3 => "[ a-zA-Z0-9.,!?'-]{0,24}",
        1 => "\\PC{0,12}",
        1 => prop::collection::vec(any::<char>(), 0..6).prop_map(String::from_iter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn both_encoders_give_the_same_ids(pieces in prop::collection::vec(piece(), 0..24)) {
        let text = pieces.concat();
        for (name, [slow, fast]) in NAMES.iter().zip(&*MODELS) {
            for special in [false, true] {
                let ids = [slow, fast].map(|model| model.encode(&text, special).unwrap());
                prop_assert_eq!(&ids[0], &ids[1], "{}: {:?}", name, &text);
                for max_len in [8, ids[0].len()] {
                    let cut = Cut { max_len, side: Side::Right };
                    let encode = |model: &TextModel| model.tokenizer().encode_cut(&text, special, cut);
                    prop_assert_eq!(encode(slow).unwrap(), encode(fast).unwrap(), "{}: {:?}", name, &text);
                }
            }
        }
    }
}

/// U+18D09 is a letter since Unicode 17, which one of both knows. Found by the test above.
#[test]
fn a_letter_of_another_unicode_divides_words_alike() {
    for text in ["\u{18d09}'s", "a lamp \u{18d09}\u{18d09} 12", "🦀 𝐀's 𠀀's"] {
        for (name, [slow, fast]) in NAMES.iter().zip(&*MODELS) {
            let ids = [slow, fast].map(|model| model.encode(text, true).unwrap());
            assert_eq!(ids[0], ids[1], "{name}: {text:?}");
        }
    }
}

/// Its words are divided by a pattern that 1.0 does not know.
#[test]
fn where_there_is_none_texts_are_encoded_all_the_same() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/spark");
    let model = TextModel::load(&folder).unwrap();
    let before = model.encode("A lamp burns, and 12 moths come.", true).unwrap();
    assert!(!model.tokenizer().prepare_fast_encoder());
    assert_eq!(model.encode("A lamp burns, and 12 moths come.", true).unwrap(), before);
}
