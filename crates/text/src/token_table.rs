//! The bytes of every token, worked out once from the tokenizer's decoder, so that turning an id
//! into text costs a slice and no allocation.

use serde_json::Value;

use crate::TextError;

/// How the tokens of one tokenizer become text, read from the `decoder` of tokenizer.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecoderRule {
    /// GPT-2's byte alphabet: each character of a token stands for one byte.
    byte_level: bool,
    /// Replacements inside a token, in order (sentencepiece's `▁` to a space).
    replace: Vec<(String, String)>,
    /// `<0xE5>` stands for a byte.
    byte_fallback: bool,
    /// What the start of the text loses.
    pub(crate) leading: Leading,
    /// Put between tokens: a tokenizer without a decoder joins with spaces.
    pub(crate) separator: &'static str,
}

/// What a decoder takes away at the start of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leading {
    /// Nothing.
    Keep,
    /// Up to `max` characters equal to `content` (Llama's `Strip`).
    Strip { content: char, max: usize },
    /// Every `replacement` in the first token (`Metaspace`).
    FirstToken { replacement: char },
}

impl DecoderRule {
    /// Reads a decoder as tokenizer.json writes it; `Null` is a tokenizer without one.
    pub(crate) fn from_json(decoder: &Value) -> Result<Self, TextError> {
        let mut rule = Self {
            byte_level: false,
            replace: Vec::new(),
            byte_fallback: false,
            leading: Leading::Keep,
            separator: "",
        };
        if decoder.is_null() {
            rule.separator = " ";
        } else {
            rule.add(decoder, &mut false)?;
        }
        Ok(rule)
    }

    fn add(&mut self, decoder: &Value, fused: &mut bool) -> Result<(), TextError> {
        let kind = decoder.get("type").and_then(Value::as_str).unwrap_or("missing type");
        let string = |name: &str| decoder.get(name).and_then(Value::as_str).unwrap_or_default();
        let count = |name: &str| decoder.get(name).and_then(Value::as_u64).unwrap_or(0) as usize;
        match kind {
            "Sequence" => {
                for step in decoder.get("decoders").and_then(Value::as_array).into_iter().flatten()
                {
                    self.add(step, fused)?;
                }
            }
            "ByteLevel" => self.byte_level = true,
            "ByteFallback" => self.byte_fallback = true,
            "Fuse" => *fused = true,
            "Metaspace" => {
                let replacement = string("replacement").chars().next().unwrap_or('▁');
                self.replace.push((replacement.to_string(), " ".to_owned()));
                if string("prepend_scheme") != "never" {
                    self.leading = Leading::FirstToken { replacement };
                }
            }
            "Replace" if decoder.pointer("/pattern/String").is_some() => {
                let pattern = decoder["pattern"]["String"].as_str().unwrap_or_default();
                self.replace.push((pattern.to_owned(), string("content").to_owned()));
            }
            "Strip" if *fused && count("stop") == 0 => {
                let content = string("content").chars().next().unwrap_or(' ');
                self.leading = Leading::Strip { content, max: count("start") };
            }
            _ => {
                return Err(TextError::invalid(
                    "tokenizer.json: decoder",
                    format!(
                        "{kind} is not supported here: known are ByteLevel, Metaspace, and sequences of \
                         Replace, ByteFallback, Fuse, Strip"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The bytes that `piece` stands for, and whether it is a byte-fallback token.
    fn bytes_of(&self, piece: &str) -> (Vec<u8>, bool) {
        if self.byte_level {
            let bytes: Option<Vec<u8>> = piece.chars().map(byte_of_char).collect();
            return (bytes.unwrap_or_else(|| piece.as_bytes().to_vec()), false);
        }
        if self.byte_fallback
            && let Some(byte) = fallback_byte(piece)
        {
            return (vec![byte], true);
        }
        let mut text = piece.to_owned();
        for (from, to) in &self.replace {
            text = text.replace(from, to);
        }
        (text.into_bytes(), false)
    }

    /// Whether invalid bytes each become a replacement character of their own (byte fallback), or
    /// each maximal broken sequence becomes one (byte-level, as `from_utf8_lossy`).
    pub(crate) fn replaces_each_byte(&self) -> bool {
        !self.byte_level
    }
}

fn fallback_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The inverse of GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself, the other bytes
/// are numbered from U+0100 in order.
fn byte_of_char(c: char) -> Option<u8> {
    let code = c as u32;
    let printable = |b: u32| {
        (0x21..=0x7e).contains(&b) || (0xa1..=0xac).contains(&b) || (0xae..=0xff).contains(&b)
    };
    match code {
        0x00..=0xff if printable(code) => Some(code as u8),
        0x100..=0x143 => {
            (0u32..=0xff).filter(|b| !printable(*b)).nth((code - 0x100) as usize).map(|b| b as u8)
        }
        _ => None,
    }
}

/// One token as the detokenizer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenEntry<'a> {
    /// The exact bytes; empty for an id without a token.
    pub(crate) bytes: &'a [u8],
    /// A special token, left out when special tokens are skipped.
    pub(crate) special: bool,
    /// A byte-fallback token: part of a character, perhaps.
    pub(crate) fallback: bool,
    /// Whether the id has a token at all.
    pub(crate) known: bool,
}

const SPECIAL: u8 = 1;
const FALLBACK: u8 = 2;
const KNOWN: u8 = 4;

/// All token bytes in one buffer, indexed by id.
#[derive(Debug, Default)]
pub(crate) struct TokenTable {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    flags: Vec<u8>,
}

impl TokenTable {
    /// `pieces` yields for each id from 0 on its vocabulary string and whether it is special.
    pub(crate) fn new(
        rule: &DecoderRule,
        pieces: impl Iterator<Item = (Option<String>, bool)>,
    ) -> Self {
        let mut table = Self::default();
        for (piece, special) in pieces {
            let mut flags = if special { SPECIAL } else { 0 };
            if let Some(piece) = piece {
                let (bytes, fallback) = rule.bytes_of(&piece);
                table.bytes.extend_from_slice(&bytes);
                flags |= KNOWN | if fallback { FALLBACK } else { 0 };
            }
            table.ends.push(table.bytes.len() as u32);
            table.flags.push(flags);
        }
        table
    }

    /// The number of ids, from 0 to the highest one.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The entry of `id`; an unknown id has no bytes.
    pub(crate) fn get(&self, id: u32) -> TokenEntry<'_> {
        let index = id as usize;
        let Some(&end) = self.ends.get(index) else {
            return TokenEntry { bytes: &[], special: false, fallback: false, known: false };
        };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let flags = self.flags[index];
        TokenEntry {
            bytes: &self.bytes[start as usize..end as usize],
            special: flags & SPECIAL != 0,
            fallback: flags & FALLBACK != 0,
            known: flags & KNOWN != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn byte_alphabet_covers_every_byte_once() {
        let mut bytes: Vec<u8> = ('\0'..='\u{200}').filter_map(byte_of_char).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of_char('Ġ'), Some(b' '));
        assert_eq!(byte_of_char('Ċ'), Some(b'\n'));
    }

    #[test]
    fn an_unknown_decoder_is_refused_by_name() {
        let error = DecoderRule::from_json(&json!({"type": "WordPiece"})).unwrap_err();
        assert!(error.to_string().contains("WordPiece is not supported"), "{error}");
    }

    #[test]
    fn fallback_tokens_are_bytes_and_others_text() {
        let rule = DecoderRule::from_json(&json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]}))
        .unwrap();
        assert_eq!(rule.leading, Leading::Strip { content: ' ', max: 1 });
        let pieces = ["<0xE5>", "▁a▁b", "<0xE5F>"].map(|piece| (Some(piece.to_owned()), false));
        let table = TokenTable::new(&rule, pieces.into_iter().chain([(None, false)]));
        assert_eq!(table.len(), 4);
        assert_eq!((table.get(0).bytes, table.get(0).fallback), (&[0xe5][..], true));
        assert_eq!(table.get(1).bytes, b" a b");
        assert_eq!((table.get(2).bytes, table.get(2).fallback), (&b"<0xE5F>"[..], false));
        assert!(!table.get(3).known && !table.get(9).known);
    }
}
