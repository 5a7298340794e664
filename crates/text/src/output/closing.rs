//! The tag that ends a block of reasoning, as tokens: for a model that is made to write it.

use super::ReasoningFormat;
use crate::{TextError, Tokenizer};

/// A closing tag's tokens, whole and from where it has begun. Harmony's is the end of the message
/// that the reasoning is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosingTag {
    tag: &'static str,
    whole: Vec<u32>,
    /// What is left behind the beginnings of the tag, and its tokens.
    rests: Vec<(&'static str, Vec<u32>)>,
}

impl ClosingTag {
    /// `None` if the tokenizer does not bring the tag back as it is.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn new(format: ReasoningFormat, tokenizer: &Tokenizer) -> Result<Option<Self>, TextError> {
        let tag = format.0.ends[0];
        if let Some(id) = tokenizer.token_id(tag) {
            return Ok(Some(Self { tag, whole: vec![id], rests: Vec::new() }));
        }
        let whole = tokenizer.encode(tag, false)?;
        if tokenizer.decode(&whole, false)?.trim_start() != tag {
            return Ok(None);
        }
        let mut rests = Vec::new();
        for (at, _) in tag.char_indices().skip(1) {
            let rest = &tag[at..];
            let ids = tokenizer.encode(rest, false)?;
            // Some tokenizers put a space before whatever they encode.
            let bytes: Vec<u8> =
                ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
            if bytes == rest.as_bytes() {
                rests.push((rest, ids));
            }
        }
        Ok(Some(Self { tag, whole, rests }))
    }

    /// The tokens that close a block whose text ends with `held`, which may be the tag's beginning.
    pub fn after(&self, held: &str) -> &[u32] {
        let rest = self.tag.strip_prefix(held);
        let known = self.rests.iter().find(|(known, _)| Some(*known) == rest);
        known.map_or(&self.whole, |(_, ids)| ids)
    }
}
