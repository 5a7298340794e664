//! Ids to text, one token at a time: never half a character, never a lost or doubled space.
//!
//! The text so far plus what [`Detokenizer::finish`] gives equals decoding all ids at once, with one
//! exception that no stream can avoid: in a run of byte-fallback tokens that turns out not to be
//! UTF-8, transformers replaces the whole run, a stream only the bytes that were not yet a character.

use crate::token_table::{Leading, TokenEntry};
use crate::tokenizer::Tokenizer;

/// Incremental detokenizer of one sequence. At most three bytes wait for the rest of a character, so
/// the work per token is bounded by the token.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
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
            pending: Vec::new(),
            at_start: true,
            strip_left,
        }
    }

    /// Text that continues `prompt`: a sentencepiece model's leading space stays, because the start
    /// of the text is in the prompt. This is what a completion wants.
    pub fn after(tokenizer: &Tokenizer, skip_special_tokens: bool, prompt: &[u32]) -> Self {
        let mut detokenizer = Self::new(tokenizer, skip_special_tokens);
        let shown = |id: &&u32| detokenizer.shows(tokenizer.entry(**id));
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

    /// The text that `id` adds; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        let tokenizer = self.tokenizer.clone();
        let entry = tokenizer.entry(id);
        if !self.shows(entry) {
            return String::new();
        }
        let mut text = String::new();
        let rule = tokenizer.rule();
        if rule.replaces_each_byte() && !entry.fallback {
            self.flush_pending(&mut text);
        }
        if !self.at_start {
            text.push_str(rule.separator);
        }
        match rule.leading {
            Leading::FirstToken { replacement } if self.at_start && !entry.fallback => {
                let piece = tokenizer.piece(id).unwrap_or_default();
                self.pending.extend(piece.replace(replacement, "").bytes());
            }
            _ => self.pending.extend_from_slice(entry.bytes),
        }
        self.at_start = false;
        self.take_whole_characters(&mut text);
        self.strip_leading(text)
    }

    /// What is left at the end: an unfinished character as U+FFFD, otherwise nothing.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.flush_pending(&mut text);
        self.strip_leading(text)
    }

    fn shows(&self, entry: TokenEntry<'_>) -> bool {
        entry.known && !(self.skip_special_tokens && entry.special)
    }

    fn take_whole_characters(&mut self, text: &mut String) {
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return;
                }
                Err(error) => {
                    let (valid, rest) = self.pending.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("checked just above"));
                    let Some(broken) = error.error_len() else {
                        self.pending = rest.to_vec();
                        return;
                    };
                    let marks = if self.tokenizer.rule().replaces_each_byte() { broken } else { 1 };
                    text.extend(std::iter::repeat_n('\u{fffd}', marks));
                    self.pending = rest[broken..].to_vec();
                }
            }
        }
    }

    fn flush_pending(&mut self, text: &mut String) {
        if self.pending.is_empty() {
            return;
        }
        let marks = if self.tokenizer.rule().replaces_each_byte() { self.pending.len() } else { 1 };
        text.extend(std::iter::repeat_n('\u{fffd}', marks));
        self.pending.clear();
    }

    fn strip_leading(&mut self, text: String) -> String {
        let Leading::Strip { content, .. } = self.tokenizer.rule().leading else {
            return text;
        };
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
