//! Properties of the incremental detokenizer, over every golden tokenizer and random ids.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use text::{Detokenizer, TextModel};

const BYTE_LEVEL: [&str; 3] = ["gpt2", "qwen", "llama3"];
const BYTE_FALLBACK: [&str; 3] = ["llama2", "metaspace", "gemma"];
const TEXTS: [&str; 6] = [
    "Hello world, how   are you?\n\n  Fine.",
    " leading and trailing ",
    "日本語 e\u{301} Größe 👨\u{200d}👩\u{200d}👧 \u{1f600}!",
    "tabs\tand\r\nlines\n",
    "x",
    "한국어 Привет ▁ \u{fffd} end",
];

fn load(name: &str) -> TextModel {
    let goldens = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizers");
    TextModel::load(&goldens.join(name)).unwrap()
}

/// SplitMix64: random enough, and the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

fn deltas(mut detokenizer: Detokenizer, ids: &[u32]) -> Vec<String> {
    let mut deltas: Vec<String> = ids.iter().map(|id| detokenizer.push(*id)).collect();
    deltas.push(detokenizer.finish());
    deltas
}

#[test]
fn random_byte_level_ids_stream_to_their_decoding() {
    let mut random = Random(1);
    for name in BYTE_LEVEL {
        let model = load(name);
        for _ in 0..500 {
            let len = random.below(40);
            // Some ids beyond the vocabulary, as a padded logits row may give.
            let ids: Vec<u32> =
                (0..len).map(|_| random.below(model.tokenizer().vocab_size() + 3) as u32).collect();
            for skip in [false, true] {
                let streamed = deltas(Detokenizer::new(model.tokenizer(), skip), &ids).concat();
                assert_eq!(streamed, model.decode(&ids, skip).unwrap(), "{name} {ids:?}");
            }
        }
    }
}

#[test]
fn random_byte_fallback_ids_stream_to_their_decoding() {
    let mut random = Random(2);
    for name in BYTE_FALLBACK {
        let model = load(name);
        let byte = |byte: u8| model.tokenizer().token_id(&format!("<0x{byte:02X}>")).unwrap();
        for _ in 0..500 {
            let mut ids = Vec::new();
            for _ in 0..random.below(20) {
                if random.below(3) == 0 {
                    // A character in bytes. Broken runs have a test of their own.
                    let c = char::from_u32(random.below(0x11_0000) as u32).unwrap_or('é');
                    ids.extend(c.to_string().bytes().map(byte));
                } else {
                    ids.push((259 + random.below(model.tokenizer().vocab_size() - 259)) as u32);
                }
            }
            for skip in [false, true] {
                let streamed = deltas(Detokenizer::new(model.tokenizer(), skip), &ids).concat();
                assert_eq!(streamed, model.decode(&ids, skip).unwrap(), "{name} {ids:?}");
            }
        }
    }
}

#[test]
fn no_delta_holds_half_a_character() {
    for name in BYTE_LEVEL.into_iter().chain(BYTE_FALLBACK) {
        let model = load(name);
        for text in TEXTS {
            let ids = model.encode(text, false).unwrap();
            let decoded = model.decode(&ids, false).unwrap();
            let deltas = deltas(Detokenizer::new(model.tokenizer(), false), &ids);
            assert_eq!(deltas.concat(), decoded, "{name}");
            let broken = deltas.concat().matches('\u{fffd}').count();
            assert_eq!(broken, text.matches('\u{fffd}').count(), "{name} {deltas:?}");
        }
    }
}

#[test]
fn a_continuation_keeps_its_leading_space() {
    for name in BYTE_LEVEL.into_iter().chain(BYTE_FALLBACK) {
        let model = load(name);
        for text in TEXTS {
            let ids = model.encode(text, true).unwrap();
            let whole = model.decode(&ids, true).unwrap();
            for cut in 0..=ids.len() {
                let (prompt, rest) = ids.split_at(cut);
                let detokenizer = Detokenizer::after(model.tokenizer(), true, prompt);
                let mut before = Detokenizer::new(model.tokenizer(), true);
                let mut text: String = prompt.iter().map(|id| before.push(*id)).collect();
                text.push_str(&deltas(detokenizer, rest).concat());
                assert_eq!(text, whole, "{name} cut at {cut} of {ids:?}");
            }
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_shown_at_once_and_at_the_end() {
    for name in ["llama2", "metaspace"] {
        let model = load(name);
        let byte = |byte: u8| model.tokenizer().token_id(&format!("<0x{byte:02X}>")).unwrap();
        let mut detokenizer = Detokenizer::new(model.tokenizer(), false);
        for _ in 0..10_000 {
            assert_eq!(detokenizer.push(byte(0xff)), "\u{fffd}");
        }
        assert_eq!(detokenizer.push(byte(0xe6)), "");
        assert_eq!(detokenizer.push(byte(0x97)), "");
        assert_eq!(detokenizer.push(byte(0xa5)), "日");
        assert_eq!(detokenizer.push(byte(0xe6)), "");
        assert_eq!(detokenizer.finish(), "\u{fffd}");
        assert_eq!(detokenizer.finish(), "");
        let broken = [0xe6, 0x97, 0x41].map(byte);
        let streamed = deltas(Detokenizer::new(model.tokenizer(), false), &broken[..2]).concat();
        assert_eq!(streamed, model.decode(&broken[..2], false).unwrap());
    }
}

#[test]
fn tokens_have_their_exact_bytes() {
    let qwen = load("qwen");
    let tokenizer = qwen.tokenizer();
    let space = tokenizer.token_id("Ġ").unwrap();
    assert_eq!(
        (tokenizer.token_bytes(space), tokenizer.token_string(space)),
        (&b" "[..], " ".to_owned())
    );
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert_eq!(tokenizer.token_bytes(end), b"<|im_end|>");
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(space));
    assert_eq!(tokenizer.special_id("eos_token"), Some(end));
    let half = tokenizer.token_id("ã").unwrap();
    assert_eq!(
        (tokenizer.token_bytes(half), tokenizer.token_string(half)),
        (&[0xe3][..], "\u{fffd}".to_owned())
    );
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    let llama2 = load("llama2");
    let newline = llama2.tokenizer().token_id("<0x0A>").unwrap();
    assert_eq!(llama2.tokenizer().token_bytes(newline), b"\n");
    assert_eq!(llama2.tokenizer().token_string(llama2.tokenizer().token_id("▁").unwrap()), " ");
}
