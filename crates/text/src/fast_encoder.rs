//! The encoder of tokenizers 1.0, where it gives the ids of 0.23: of texts of many tokens up to a hundred times
//! as fast (ADR 20).
//!
//! 1.0 is a candidate for a release that reads fewer files than 0.23 does. So it reads what 0.23 has
//! understood of a file, and is used if it agrees with 0.23 about every text of a probe: characters of all
//! kinds, and pieces of the vocabulary side by side.

use tokenizers_1::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer};

/// Pieces of the vocabulary that a probe has.
const NUM_PIECES: usize = 4000;

/// What tokenizers differ about: spaces and where they stand, digits, apostrophes, accents in one
/// character or two, scripts without spaces, joined emoji, what normalises to something else.
const PROBE: [&str; 12] = [
    "Hello, world! It's 12345.678 + 9e-10; I'LL, we've, DON'T.",
    "  two spaces before,  between, and behind  ",
    "\tfn main() {\r\n\t\tlet x = \"a\\n\"; // ok\n\n\n    }\n \n",
    "naïve café, nai\u{308}ve cafe\u{301}, Å Å, ﬁ, ½, ²³, Ⅷ, ＡＢＣ, ①",
    "你好世界。日本語のテスト、カタカナ。한국어 텍스트",
    "שלום עולם مرحبا بالعالم हिन्दी ไทย ελληνικά Кириллица ١٢٣",
    "🦀 🤷🏽\u{200d}♀\u{fe0f} 👨\u{200d}👩\u{200d}👧 🇩🇪 \u{1f468}",
    "\u{a0}\u{2003}\u{200b}\u{feff}\u{ad}\u{0}\u{7f}\u{e000}\u{10ffff}",
    "https://example.com/a_b?c=d&e=%20#f snake_case camelCase SCREAMING x1y2z3 a-b--c",
    "<s></s><unk><pad> <|im_start|>user\n<|im_end|> [CLS] [MASK] <think> </think>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa      ..........",
    "",
];

/// Encodes as the tokenizer does that it was made of.
pub(crate) struct FastEncoder(PipelineTokenizer);

impl FastEncoder {
    /// Of a tokenizer as 0.23 writes it, if `encode` gives the same ids of the probe. `pieces` are all of the
    /// vocabulary. Takes a second for a large vocabulary.
    pub(crate) fn new<'a>(
        json: &str,
        pieces: impl ExactSizeIterator<Item = &'a [u8]>,
        encode: impl Fn(&str, bool) -> Option<Vec<u32>>,
    ) -> Option<Self> {
        let json = tokenizers_1::canonicalize_str(json).ok()?;
        let fast = Self(tokenizers_1::from_json(&json).ok()?);
        let vocabulary = probe_of(pieces);
        let agree = |text: &str, special| fast.ids(text, special) == encode(text, special);
        let texts = PROBE.into_iter().map(str::to_owned);
        let mut texts = texts.chain([PROBE.concat(), vocabulary.concat(), vocabulary.join(" ")]);
        texts.all(|text| agree(&text, false) && agree(&text, true)).then_some(fast)
    }

    /// The ids of `text`, with what the tokenizer puts around it if that is wanted; `None` if it fails, or if the
    /// text has characters that the two may take for unlike ones.
    pub(crate) fn encode(&self, text: &str, add_special_tokens: bool) -> Option<Vec<u32>> {
        if is_settled(text) { self.ids(text, add_special_tokens) } else { None }
    }

    fn ids(&self, text: &str, add_special_tokens: bool) -> Option<Vec<u32>> {
        let options = EncodeOptions { add_special_tokens, ..EncodeOptions::default() };
        let mut tokens = Vec::<PipelineToken>::new();
        self.0.encode_into(text, &options, &mut tokens).ok()?;
        Some(tokens.into_iter().map(u32::from).collect())
    }
}

/// Characters of the basic plane and emoji that the two take for unlike ones, first and last of each run: 0.23
/// divides words by Unicode 16, normalises by Unicode 9 and knows ideographs by their script, 1.0 does it by
/// Unicode 17 and by blocks. A test encodes all others.
const UNLIKE: [(char, char); 45] = [
    ('\u{61d}', '\u{61d}'),
    ('\u{7fd}', '\u{7fd}'),
    ('\u{88f}', '\u{89f}'),
    ('\u{8ca}', '\u{8d3}'),
    ('\u{9fd}', '\u{9fe}'),
    ('\u{a76}', '\u{a76}'),
    ('\u{c3c}', '\u{c3c}'),
    ('\u{c5c}', '\u{c5c}'),
    ('\u{c77}', '\u{c84}'),
    ('\u{cdc}', '\u{cdc}'),
    ('\u{d3b}', '\u{d3c}'),
    ('\u{eba}', '\u{eba}'),
    ('\u{166d}', '\u{166d}'),
    ('\u{1715}', '\u{1715}'),
    ('\u{1abf}', '\u{1aeb}'),
    ('\u{1b4e}', '\u{1b4f}'),
    ('\u{1b7d}', '\u{1b7f}'),
    ('\u{1df6}', '\u{1dfa}'),
    ('\u{20c1}', '\u{20c1}'),
    ('\u{2b96}', '\u{2b96}'),
    ('\u{2e43}', '\u{2e5d}'),
    ('\u{2e80}', '\u{2fd5}'),
    ('\u{3007}', '\u{3007}'),
    ('\u{3021}', '\u{3029}'),
    ('\u{3038}', '\u{3040}'),
    ('\u{3097}', '\u{3098}'),
    ('\u{32ff}', '\u{32ff}'),
    ('\u{a7ce}', '\u{a7d4}'),
    ('\u{a7f1}', '\u{a7f4}'),
    ('\u{a82c}', '\u{a82c}'),
    ('\u{ab69}', '\u{ab69}'),
    ('\u{fbc3}', '\u{fbd2}'),
    ('\u{fd90}', '\u{fd91}'),
    ('\u{fdc8}', '\u{fdce}'),
    ('\u{1f16c}', '\u{1f16c}'),
    ('\u{1f6d8}', '\u{1f6d8}'),
    ('\u{1f777}', '\u{1f77a}'),
    ('\u{1f8d0}', '\u{1f8d8}'),
    ('\u{1fa54}', '\u{1fa57}'),
    ('\u{1fa8a}', '\u{1fa8a}'),
    ('\u{1fa8e}', '\u{1fa8e}'),
    ('\u{1fac8}', '\u{1fac8}'),
    ('\u{1facd}', '\u{1facd}'),
    ('\u{1faea}', '\u{1faea}'),
    ('\u{1faef}', '\u{1faef}'),
];

/// Whether both take every character for the same. Of the planes beyond the first, whose scripts Unicode goes on
/// adding to, that are the letters of mathematics, emoji, the ideographs of plane 2 and what is private.
fn is_settled(text: &str) -> bool {
    // What is below U+0600 has no byte from 0xd8 on; ideographs and syllables between are looked up in no list.
    text.bytes().all(|byte| byte < 0xd8)
        || text.chars().all(|character| match character {
            ..'\u{600}' | '\u{3300}'..'\u{a700}' | '\u{ac00}'..'\u{fb00}' => true,
            ..'\u{10000}' | '\u{1d400}'..'\u{1d800}' | '\u{1f000}'..'\u{1fb00}' => {
                !is_unlike(character)
            }
            '\u{20000}'..'\u{2a6d7}' | '\u{f0000}'.. => true,
            _ => false,
        })
}

fn is_unlike(character: char) -> bool {
    let following = UNLIKE.partition_point(|&(first, _)| first <= character);
    following > 0 && character <= UNLIKE[following - 1].1
}

/// Pieces from all over the vocabulary; parts of characters become U+FFFD.
fn probe_of<'a>(pieces: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<String> {
    let step = pieces.len().div_ceil(NUM_PIECES).max(1);
    pieces.step_by(step).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const JSON: &str = include_str!("../tests/goldens/tokenizers/gpt2/tokenizer.json");

    fn made_with(wrong: impl Fn(&str) -> bool) -> bool {
        let backend = tokenizers::Tokenizer::from_bytes(JSON).expect("a golden");
        let vocabulary: Vec<_> = (0..backend.get_vocab_size(true) as u32)
            .filter_map(|id| backend.id_to_token(id))
            .collect();
        let encode = |text: &str, special| {
            let mut ids = backend.encode_fast(text, special).ok()?.get_ids().to_vec();
            if wrong(text) {
                ids.push(0);
            }
            Some(ids)
        };
        let pieces = vocabulary.iter().map(String::as_bytes);
        FastEncoder::new(JSON, pieces, encode).is_some()
    }

    #[test]
    fn one_text_of_other_ids_is_enough_to_do_without() {
        assert!(made_with(|_| false));
        for probe in PROBE {
            assert!(!made_with(|text| text == probe), "{probe:?}");
        }
        let of_vocabulary = |text: &str| !PROBE.concat().contains(text) && text != PROBE.concat();
        assert!(!made_with(of_vocabulary), "the vocabulary is in the probe");
    }

    /// Tokens of one byte, and of two where one character ends and another begins: ids show what stands in one word.
    fn bytes_and_their_seams() -> Value {
        // GPT-2's characters for bytes: printable ones are themselves.
        let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let mut others = (256..).filter_map(char::from_u32);
        let names: Vec<char> = (0..=255)
            .map(|byte| {
                if printable(byte) { char::from(byte) } else { others.next().expect("one of many") }
            })
            .collect();
        let mut vocabulary: Vec<String> = names.iter().map(char::to_string).collect();
        let mut merges = Vec::new();
        let (ends, begins) = (0x80..0xc0, 0xc2..0xf5);
        let beside = |byte: usize| b"aA'1! \n".map(|ascii| (byte, usize::from(ascii)));
        let seams = ends
            .clone()
            .flat_map(beside)
            .chain(begins.clone().flat_map(beside).map(|(a, b)| (b, a)));
        for (left, right) in
            seams.chain(ends.flat_map(|end| begins.clone().map(move |begin| (end, begin))))
        {
            let [left, right] = [left, right].map(|byte| names[byte].to_string());
            vocabulary.push(format!("{left}{right}"));
            merges.push([left, right]);
        }
        let ids: serde_json::Map<_, _> =
            vocabulary.into_iter().zip((0..).map(Value::from)).collect();
        json!({ "type": "BPE", "vocab": ids, "merges": merges })
    }

    /// Both encoders of a tokenizer that does this to a text.
    fn both(form: &str, split: Vec<Value>) -> (tokenizers::Tokenizer, FastEncoder) {
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let steps: Vec<_> = split.into_iter().chain([bytes]).collect();
        let json = json!({
            "version": "1.0", "added_tokens": [], "normalizer": { "type": form },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps }, "model": bytes_and_their_seams(),
        });
        let slow = tokenizers::Tokenizer::from_bytes(json.to_string()).expect("a tokenizer");
        let ids =
            |text: &str, special| Some(slow.encode_fast(text, special).ok()?.get_ids().to_vec());
        let written = slow.to_string(false).expect("what was read");
        let fast =
            FastEncoder::new(&written, std::iter::empty(), ids).expect("equal ids of the probe");
        (slow, fast)
    }

    fn regex(pattern: &str) -> Value {
        json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
    }

    /// Each way to divide words and to normalise that looks at what a character is.
    #[test]
    fn settled_characters_are_alike_to_both_in_all_that_looks_at_them() {
        use bitcannon::regexes::{CL100K, DEEPSEEK, KIMI_K2, O200K};
        let [digits, ideographs, words] = DEEPSEEK else { panic!("{DEEPSEEK:?}") };
        let deepseek = [regex(digits), regex(ideographs), regex(&words.replace(r"\r\n", "\r\n"))];
        let punctuation = json!({ "type": "Punctuation", "behavior": "Isolated" });
        let tokenizers = [
            both("NFC", vec![regex(CL100K)]),
            both("NFD", vec![regex(O200K)]),
            both("NFKC", vec![regex(KIMI_K2)]),
            both("NFKD", deepseek.into()),
            both("Lowercase", vec![json!({ "type": "Whitespace" }), punctuation]),
        ];
        // Ideographs and syllables are as one another.
        let alike = |unit: &u32| matches!(unit, 0x4e20..0x9fa0 | 0xac20..0xd7a0 | 0xe010..0xf8f0 | 0x2_0010..0x2_a6d0);
        let characters = (1..0x2_b000).filter(|unit| !alike(unit)).filter_map(char::from_u32);
        let mut num_settled = 0;
        for c in characters.filter(|c| is_settled(&c.to_string())) {
            num_settled += 1;
            let text = format!(
                "{c}'s a{c}a 1{c}1 {c}A!{c}!{c}{c} {c}\n{c} e\u{301}{c}\u{323} \u{1100}{c}\u{11a8} {c}\u{323}\u{345} {c}\u{3099}"
            );
            for (slow, fast) in &tokenizers {
                let ids = slow.encode_fast(text.as_str(), false).expect("ids").get_ids().to_vec();
                assert_eq!(fast.encode(&text, false), Some(ids), "U+{:x}", u32::from(c));
            }
        }
        assert!((20_000..40_000).contains(&num_settled), "{num_settled}");
    }
}
