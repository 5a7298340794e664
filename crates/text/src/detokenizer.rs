//! Ids to text, one token at a time: never half a character, never a lost or doubled space.
//!
//! The text so far plus what [`Detokenizer::finish`] gives equals decoding all ids at once, with one
//! exception that no stream can avoid: in a run of byte-fallback tokens that turns out not to be
//! UTF-8, transformers replaces the whole run, a stream only the bytes that were not yet a character.

use std::sync::Arc;

use crate::token_table::{DecoderRule, Leading, TokenEntry};
use crate::tokenizer::Tokenizer;

/// Incremental detokenizer of one sequence. At most three bytes wait for the rest of a character, so
/// the work per token is bounded by the token.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    /// Special tokens that are shown all the same.
    shown: Arc<[u32]>,
    /// Bytes of a character whose end is still to come.
    pending: Vec<u8>,
    /// No token has been shown yet.
    at_start: bool,
    /// How many leading characters may still be stripped.
    strip_left: usize,
}

impl Detokenizer {
    /// Text that stands alone, as decoding the generated ids by themselves gives it.
    pub fn new(tokenizer: &Tokenizer, skip_special_tokens: bool) -> Self {
        let strip_left = match tokenizer.rule().leading {
            Leading::Strip { max, .. } => max,
            _ => 0,
        };
        Self {
            tokenizer: tokenizer.clone(),
            skip_special_tokens,
            shown: Arc::default(),
            pending: Vec::new(),
            at_start: true,
            strip_left,
        }
    }

    /// Text that continues `prompt`: a sentencepiece model's leading space stays, because the start
    /// of the text is in the prompt. This is what a completion wants.
    pub fn after(tokenizer: &Tokenizer, skip_special_tokens: bool, prompt: &[u32]) -> Self {
        let mut detokenizer = Self::new(tokenizer, skip_special_tokens);
        let shown = |id: &&u32| detokenizer.shows(**id, tokenizer.entry(**id));
        // A character has at most four bytes, so four shown tokens decide what is pending.
        let mut tail: Vec<u32> = prompt.iter().rev().filter(shown).take(4).copied().collect();
        tail.reverse();
        if !tail.is_empty() {
            detokenizer.at_start = false;
            detokenizer.strip_left = 0;
            for id in tail {
                detokenizer.push(id);
            }
        }
        detokenizer
    }

    /// Shows `ids` although special tokens are skipped.
    #[must_use]
    pub(crate) fn showing(self, ids: Arc<[u32]>) -> Self {
        Self { shown: ids, ..self }
    }

    /// The text that `id` adds; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        let entry = self.tokenizer.entry(id);
        if !self.shows(id, entry) {
            return String::new();
        }
        let rule = self.tokenizer.rule();
        let mut text = String::new();
        if rule.replaces_each_byte() && !entry.fallback {
            flush(&mut self.pending, rule, &mut text);
        }
        if !self.at_start {
            text.push_str(rule.separator);
        }
        match rule.leading {
            Leading::FirstToken { replacement } if self.at_start && !entry.fallback => {
                let piece = self.tokenizer.piece(id).unwrap_or_default();
                self.pending.extend(piece.replace(replacement, "").bytes());
            }
            _ => self.pending.extend_from_slice(entry.bytes),
        }
        self.at_start = false;
        take_characters(&mut self.pending, rule, &mut text);
        self.strip_leading(text)
    }

    /// Whether a character has begun and waits for its end.
    pub fn is_within_character(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is left at the end: an unfinished character as U+FFFD, otherwise nothing.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        flush(&mut self.pending, self.tokenizer.rule(), &mut text);
        self.strip_leading(text)
    }

    fn shows(&self, id: u32, entry: TokenEntry<'_>) -> bool {
        let is_skipped = self.skip_special_tokens && entry.special && !self.shown.contains(&id);
        entry.known && !is_skipped
    }

    fn strip_leading(&mut self, text: String) -> String {
        let Leading::Strip { content, .. } = self.tokenizer.rule().leading else { return text };
        let mut rest = text.as_str();
        while self.strip_left > 0 && !rest.is_empty() {
            if let Some(stripped) = rest.strip_prefix(content) {
                rest = stripped;
                self.strip_left -= 1;
            } else {
                self.strip_left = 0;
            }
        }
        if rest.len() == text.len() { text } else { rest.to_owned() }
    }
}

/// Moves the whole characters of `pending` to `text`, and broken bytes as U+FFFD; what could still
/// become a character stays.
fn take_characters(pending: &mut Vec<u8>, rule: &DecoderRule, text: &mut String) {
    let mut taken = 0;
    while let Err(error) = std::str::from_utf8(&pending[taken..]) {
        let (valid, rest) = pending[taken..].split_at(error.valid_up_to());
        text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
        taken += valid.len();
        let Some(broken) = error.error_len() else {
            debug_assert!(rest.len() < 4, "an unfinished character has at most three bytes");
            pending.drain(..taken);
            return;
        };
        mark_broken(broken, rule, text);
        taken += broken;
    }
    text.push_str(std::str::from_utf8(&pending[taken..]).expect("the loop ends when valid"));
    pending.clear();
}

/// Gives up on an unfinished character.
fn flush(pending: &mut Vec<u8>, rule: &DecoderRule, text: &mut String) {
    if !pending.is_empty() {
        mark_broken(pending.len(), rule, text);
        pending.clear();
    }
}

fn mark_broken(num_bytes: usize, rule: &DecoderRule, text: &mut String) {
    let marks = if rule.replaces_each_byte() { num_bytes } else { 1 };
    text.extend(std::iter::repeat_n('\u{fffd}', marks));
}
