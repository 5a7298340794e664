//! The ids of what was tokenised before. A chat comes back with every turn, and only its end is new.
//!
//! A text comes apart where an added token is written in it (`<|im_start|>`, `<|eot_id|>`): the
//! tokenizer itself cuts there before it does anything else, and reads what is between two cuts by
//! itself. So the ids of a text are those of its parts in a row, if each part begins with its added
//! token; `tests/token_cache.rs` holds it to that for every kind of tokenizer.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aho_corasick::{AhoCorasick, MatchKind};

use crate::TextError;

/// A part has at least so many bytes: what is shorter is tokenised as fast as it is looked up.
const MIN_PART_LEN: usize = 256;

/// Most bytes that are kept, of texts and ids together.
const MAX_BYTES: usize = 32 << 20;

/// Ids of parts of texts, of one tokenizer.
#[derive(Debug)]
pub(crate) struct TokenCache {
    added: AhoCorasick,
    hasher: RandomState,
    parts: Mutex<Parts>,
}

/// What was used since the last change of generations, and before that. A generation that is full
/// becomes the old one, and what nobody asked for since the change before is gone.
#[derive(Debug, Default)]
struct Parts {
    young: HashMap<u64, Part>,
    old: HashMap<u64, Part>,
    num_young_bytes: usize,
}

#[derive(Debug)]
struct Part {
    salt: Option<Box<str>>,
    text: Box<str>,
    ids: Arc<[u32]>,
}

impl TokenCache {
    /// `None` where texts do not come apart, or not in this way.
    pub(crate) fn new(backend: &tokenizers::Tokenizer) -> Option<Self> {
        let tokens = backend.get_added_tokens_decoder();
        // The others are looked for after the cuts.
        let cutting = || tokens.values().filter(|token| !token.normalized);
        // These depend on what is in front of them.
        if cutting().any(|token| token.lstrip || token.single_word) {
            return None;
        }
        let mut contents: Vec<&str> = cutting().map(|token| token.content.as_str()).collect();
        contents.retain(|content| !content.is_empty());
        if contents.is_empty() {
            return None;
        }
        // As the tokenizer looks for them.
        let mut added = AhoCorasick::builder();
        let added = added.match_kind(MatchKind::LeftmostLongest).build(contents).ok()?;
        Some(Self { added, hasher: RandomState::new(), parts: Mutex::default() })
    }

    /// The ids of `text`; `encode` gives those of a part that is not known. Who gives another `salt` is
    /// not told by the time that it takes what is known.
    pub(crate) fn encode(
        &self,
        text: &str,
        salt: Option<&str>,
        mut encode: impl FnMut(&str) -> Result<Vec<u32>, TextError>,
    ) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        let mut start = 0;
        for found in self.added.find_iter(text) {
            if found.start() - start < MIN_PART_LEN {
                continue;
            }
            let part = &text[start..found.start()];
            start = found.start();
            let hash = self.hasher.hash_one((salt, part));
            let known = self.parts().get(hash, (salt, part));
            if let Some(known) = known {
                ids.extend_from_slice(&known);
            } else {
                let new = encode(part)?;
                ids.extend_from_slice(&new);
                let (salt, text) = (salt.map(Box::from), part.into());
                self.parts().insert(hash, Part { salt, text, ids: new.into() });
            }
        }
        // Nothing says that the text will come again and go on here.
        ids.extend(encode(&text[start..])?);
        Ok(ids)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    fn get(&mut self, hash: u64, (salt, text): (Option<&str>, &str)) -> Option<Arc<[u32]>> {
        let is_it = |part: &&Part| part.salt.as_deref() == salt && *part.text == *text;
        if let Some(part) = self.young.get(&hash).filter(is_it) {
            return Some(Arc::clone(&part.ids));
        }
        self.old.get(&hash).filter(is_it)?;
        let part = self.old.remove(&hash)?;
        let ids = Arc::clone(&part.ids);
        self.insert(hash, part);
        Some(ids)
    }

    fn insert(&mut self, hash: u64, part: Part) {
        let num_bytes = part.num_bytes();
        if num_bytes > MAX_BYTES / 2 {
            return;
        }
        if self.num_young_bytes + num_bytes > MAX_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.num_young_bytes = 0;
        }
        self.num_young_bytes += num_bytes;
        if let Some(replaced) = self.young.insert(hash, part) {
            self.num_young_bytes -= replaced.num_bytes();
        }
    }
}

impl Part {
    fn num_bytes(&self) -> usize {
        let num_text_bytes = self.text.len() + self.salt.as_deref().map_or(0, str::len);
        size_of::<(u64, Self)>() + num_text_bytes + size_of_val(&*self.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> TokenCache {
        let added = AhoCorasick::new(["<end>"]).unwrap();
        TokenCache { added, hasher: RandomState::new(), parts: Mutex::default() }
    }

    /// A byte is an id.
    fn encoded(cache: &TokenCache, text: &str) -> usize {
        encoded_with(cache, text, None)
    }

    fn encoded_with(cache: &TokenCache, text: &str, salt: Option<&str>) -> usize {
        let mut num_new = 0;
        let ids = cache.encode(text, salt, |part| {
            num_new += part.len();
            Ok(part.bytes().map(u32::from).collect())
        });
        assert_eq!(ids.unwrap(), text.bytes().map(u32::from).collect::<Vec<_>>());
        num_new
    }

    #[test]
    fn of_a_growing_chat_only_the_new_turn_is_tokenised() {
        let (cache, mut text) = (cache(), String::new());
        for turn in 0..20 {
            let new = format!("{}<end>", turn.to_string().repeat(500));
            text += &new;
            let num_new = encoded(&cache, &text);
            assert!(num_new <= new.len() + "<end>".len(), "turn {turn}: {num_new}");
        }
        assert_eq!(encoded(&cache, &text), "<end>".len());
    }

    #[test]
    fn short_turns_are_taken_together() {
        let cache = cache();
        let text = (0..1000).map(|turn| format!("{turn}<end>")).collect::<Vec<_>>().concat();
        assert_eq!(encoded(&cache, &text), text.len());
        assert!(encoded(&cache, &text) <= MIN_PART_LEN + "999<end><end>".len());
        assert!(cache.parts().young.len() <= text.len() / MIN_PART_LEN);
    }

    #[test]
    fn the_cache_has_a_bound_and_keeps_what_is_used() {
        let cache = cache();
        let used = format!("{}<end>", "u".repeat(10_000));
        for number in 0..4000 {
            encoded(&cache, &format!("{}<end>", number.to_string().repeat(1000)));
            let num_new = encoded(&cache, &used);
            assert!(number == 0 || num_new == "<end>".len(), "{number}: {num_new}");
        }
        let parts = cache.parts();
        let num_bytes = |parts: &HashMap<u64, Part>| parts.values().map(Part::num_bytes).sum();
        let (young, old): (usize, usize) = (num_bytes(&parts.young), num_bytes(&parts.old));
        assert_eq!(young, parts.num_young_bytes);
        assert!(young + old <= MAX_BYTES, "{young} + {old}");
        assert!(young + old > MAX_BYTES / 4, "{young} + {old}");
    }

    #[test]
    fn a_text_of_the_same_hash_is_not_the_same_text() {
        let mut parts = Parts::default();
        let part = |text: &str, id: u32| Part { salt: None, text: text.into(), ids: [id].into() };
        parts.insert(7, part("one", 1));
        assert_eq!(parts.get(7, (None, "two")), None);
        parts.insert(7, part("two", 2));
        assert_eq!(parts.get(7, (None, "two")).as_deref(), Some(&[2][..]));
        assert_eq!(parts.get(7, (None, "one")), None);
        assert_eq!(parts.get(7, (Some("salt"), "two")), None);
    }

    #[test]
    fn a_salt_keeps_texts_apart() {
        let cache = cache();
        let text = format!("{}<end>", "secret".repeat(100));
        for salt in [None, Some("a"), Some("b")] {
            assert_eq!(encoded_with(&cache, &text, salt), text.len(), "{salt:?}");
            assert_eq!(encoded_with(&cache, &text, salt), "<end>".len(), "{salt:?}");
        }
    }

    #[test]
    fn an_enormous_part_is_not_kept() {
        let cache = cache();
        let text = format!("{}<end>", "x".repeat(MAX_BYTES / 8));
        assert_eq!(encoded(&cache, &text), text.len());
        assert_eq!(encoded(&cache, &text), text.len());
    }
}
