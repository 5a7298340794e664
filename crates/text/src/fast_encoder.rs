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

/// Whether no character is of a script beyond the basic plane, which Unicode goes on adding to: the two know
/// other versions of it, and divide words by what is a letter. Emoji are none in either, and the letters of
/// mathematics and the ideographs of plane 2 were there before both.
fn is_settled(text: &str) -> bool {
    // Those beyond the basic plane have four bytes.
    text.bytes().all(|byte| byte < 0xf0)
        || text.chars().all(|character| {
            matches!(u32::from(character),
                ..0x1_0000 | 0x1_d400..0x1_d800 | 0x1_f000..0x1_fb00 | 0x2_0000..0x2_a6d7 | 0xf_0000..)
        })
}

/// Pieces from all over the vocabulary; parts of characters become U+FFFD.
fn probe_of<'a>(pieces: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<String> {
    let step = pieces.len().div_ceil(NUM_PIECES).max(1);
    pieces.step_by(step).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
}

#[cfg(test)]
mod tests {
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
}
