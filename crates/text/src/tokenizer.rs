//! The tokenizer: tokenizer.json through the `tokenizers` crate, plus a table of token bytes.

use std::sync::{Arc, OnceLock};

use tokenizers::utils::parallelism::set_parallelism;
use tokenizers::{
    AddedToken, Encoding, PostProcessor, Token, TruncationDirection, TruncationParams,
    truncate_encodings,
};

use crate::TextError;
use crate::fast_encoder::FastEncoder;
use crate::special_tokens::SpecialTokens;
use crate::token_cache::TokenCache;
use crate::token_table::{DecoderRule, TokenEntry, TokenTable};

/// Longest text that is tokenized, in bytes: far above any context length, low enough that one
/// request cannot hold a thread for minutes.
const MAX_TEXT_LEN: usize = 16 << 20;

/// How a text is made to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// To so many tokens, special ones included.
    pub max_len: usize,
    /// Where tokens are lost.
    pub side: Side,
}

/// An end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its beginning.
    Left,
    /// Its end.
    Right,
}

/// A text as tokens, without special ones around it.
#[derive(Debug, Clone)]
pub struct Part(Encoding);

/// A shared, immutable tokenizer: a clone is a reference, every method may run on many threads.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    backend: tokenizers::Tokenizer,
    rule: DecoderRule,
    table: TokenTable,
    special: SpecialTokens,
    cache: Option<TokenCache>,
    fast: OnceLock<Option<FastEncoder>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds from the bytes of tokenizer.json. Truncation and padding that the file may carry are
    /// switched off; `special` are the named tokens of tokenizer_config.json.
    pub fn from_bytes(json: &[u8], special: SpecialTokens) -> Result<Self, TextError> {
        // The crate would otherwise spread each call over a second, unbounded rayon pool.
        set_parallelism(false);
        let mut backend = tokenizers::Tokenizer::from_bytes(json).map_err(|error| {
            TextError::invalid(
                "tokenizer.json",
                format!("{error}; download it again or convert it with transformers"),
            )
        })?;
        backend
            .with_truncation(None)
            .map_err(|error| TextError::invalid("tokenizer.json", error))?;
        backend.with_padding(None);
        mark_special(&mut backend, &special)
            .map_err(|error| TextError::invalid("tokenizer_config.json", error))?;
        let decoder = serde_json::to_value(backend.get_decoder())
            .map_err(|error| TextError::invalid("tokenizer.json: decoder", error))?;
        let rule = DecoderRule::from_json(&decoder)?;
        let table = token_table(&backend, &rule);
        let cache = TokenCache::new(&backend);
        let fast = OnceLock::new();
        Ok(Self(Arc::new(Inner { backend, rule, table, special, cache, fast })))
    }

    /// Makes the encoder of another implementation, which is faster, of long texts many times, and gives the same ids,
    /// and tells whether there is one. Until then, and where there is none, texts are encoded all the same.
    /// Takes up to a second of a large vocabulary.
    pub fn prepare_fast_encoder(&self) -> bool {
        let inner = &self.0;
        let make = || {
            let json = inner.backend.to_string(false).ok()?;
            let pieces = (0..inner.table.len() as u32).map(|id| self.token_bytes(id));
            let encode =
                |text: &str, special| Some(self.plain(text, special).ok()?.get_ids().to_vec());
            FastEncoder::new(&json, pieces, encode)
        };
        inner.fast.get_or_init(make).is_some()
    }

    /// Encodes `text`; special tokens written in it are recognised. `add_special_tokens` adds what
    /// the tokenizer puts around a text (BOS): true for completions, false for a rendered chat.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        check_len(text)?;
        match self.encode_fast(text, add_special_tokens) {
            Some(ids) => Ok(ids),
            None => Ok(self.plain(text, add_special_tokens)?.get_ids().to_vec()),
        }
    }

    fn encode_fast(&self, text: &str, add_special_tokens: bool) -> Option<Vec<u32>> {
        self.0.fast.get()?.as_ref()?.encode(text, add_special_tokens)
    }

    /// Encodes a rendered chat: the same as `encode(text, false)`, but turns that came before, with the
    /// same `salt`, are not tokenised again.
    pub fn encode_chat(&self, text: &str, salt: Option<&str>) -> Result<Vec<u32>, TextError> {
        check_len(text)?;
        let encode = |text: &str| self.encode(text, false);
        match &self.0.cache {
            Some(cache) => cache.encode(text, salt, encode),
            None => encode(text),
        }
    }

    /// Encodes as [`encode`](Self::encode) does, cut to fit: special tokens are put around what is left.
    /// It may still be too long if they alone are.
    pub fn encode_cut(
        &self,
        text: &str,
        add_special_tokens: bool,
        cut: Cut,
    ) -> Result<Vec<u32>, TextError> {
        check_len(text)?;
        // Without it a text that must be cut would be encoded twice.
        let whole = self.encode_fast(text, add_special_tokens);
        if let Some(whole) = whole.filter(|whole| whole.len() <= cut.max_len) {
            return Ok(whole);
        }
        let text = kept(&self.plain(text, false)?, cut.max_len, cut.side);
        Ok(self.put_together(text, None, add_special_tokens, Some(cut))?.get_ids().to_vec())
    }

    /// Encodes a text that a model reads together with another: see [`join`](Self::join).
    pub fn part(&self, text: &str) -> Result<Part, TextError> {
        self.plain(text, false).map(Part)
    }

    /// Puts two texts that a model reads together into one prompt, with the special tokens of a pair
    /// around them, cut to fit if that is wanted, the longer one first. Returns where the second text
    /// begins, too, if the tokenizer tells their tokens apart.
    pub fn join(
        &self,
        first: &Part,
        second: &Part,
        cut: Option<Cut>,
    ) -> Result<(Vec<u32>, Option<usize>), TextError> {
        let (first, mut second) = match cut {
            None => (first.0.clone(), second.0.clone()),
            // Which one is the longer decides who keeps an odd token: that it is must still show.
            Some(Cut { max_len, side }) => {
                let most =
                    |own: &Part, other: &Part| max_len + usize::from(own.0.len() > other.0.len());
                (
                    kept(&first.0, most(first, second), side),
                    kept(&second.0, most(second, first), side),
                )
            }
        };
        second.set_type_ids(vec![1; second.len()]);
        let pair = self.put_together(first, Some(second), true, cut)?;
        let begin = pair.get_type_ids().iter().position(|kind| *kind == 1);
        Ok((pair.get_ids().to_vec(), begin))
    }

    fn plain(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, TextError> {
        check_len(text)?;
        self.0.backend.encode_fast(text, add_special_tokens).map_err(refused)
    }

    /// Puts the special tokens around texts, which lose tokens before if they must, the longer one
    /// first.
    fn put_together(
        &self,
        text: Encoding,
        second: Option<Encoding>,
        add_special_tokens: bool,
        cut: Option<Cut>,
    ) -> Result<Encoding, TextError> {
        let backend = &self.0.backend;
        let (mut text, mut second) = (text, second);
        if let Some(Cut { max_len, side }) = cut {
            let processor = backend.get_post_processor().filter(|_| add_special_tokens);
            let num_added = processor.map_or(0, |added| added.added_tokens(second.is_some()));
            let params = TruncationParams {
                max_length: max_len.saturating_sub(num_added),
                direction: match side {
                    Side::Left => TruncationDirection::Left,
                    Side::Right => TruncationDirection::Right,
                },
                ..TruncationParams::default()
            };
            (text, second) = truncate_encodings(text, second, &params).map_err(refused)?;
            // What was cut off is not wanted in pieces, of which a pair would get all combinations.
            text.take_overflowing();
            if let Some(second) = &mut second {
                second.take_overflowing();
            }
        }
        backend.post_process(text, second, add_special_tokens).map_err(refused)
    }

    /// Decodes all of `ids` as transformers does; ids without a token are left out.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        let text = self.0.backend.decode(ids, skip_special_tokens);
        text.map_err(refused)
    }

    /// One more than the highest id with a token. A model's logits may have more columns.
    pub fn vocab_size(&self) -> usize {
        self.0.table.len()
    }

    /// The id of a token given as the vocabulary writes it.
    pub fn token_id(&self, piece: &str) -> Option<u32> {
        self.0.backend.token_to_id(piece)
    }

    /// The vocabulary's own writing of `id` (`Ġthe`, `▁the`, `<0x0A>`).
    pub fn piece(&self, id: u32) -> Option<String> {
        self.0.backend.id_to_token(id)
    }

    /// The exact bytes of `id` inside a text: OpenAI's `bytes`. Empty for an id without a token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.entry(id).bytes
    }

    /// The text of `id` inside a text: OpenAI's `token`. Part of a character shows as U+FFFD.
    pub fn token_string(&self, id: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }

    /// The lowest id that stands for other text in `other`, or is missing in one of the two.
    pub fn first_difference(&self, other: &Self) -> Option<u32> {
        let num_tokens = self.vocab_size().max(other.vocab_size()) as u32;
        let token = |tokenizer: &Self, id| {
            let is_there = (id as usize) < tokenizer.vocab_size();
            is_there.then(|| (tokenizer.token_bytes(id).to_vec(), tokenizer.is_special(id)))
        };
        (0..num_tokens).find(|&id| token(self, id) != token(other, id))
    }

    /// Whether `id` is a special token, left out where special tokens are skipped.
    pub fn is_special(&self, id: u32) -> bool {
        self.entry(id).special
    }

    /// The named special tokens (`bos_token`, `eos_token`, `pad_token`, ...).
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.0.special
    }

    /// The id of a named special token, for example `eos_token`.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.token_id(self.0.special.get(name)?)
    }

    pub(crate) fn entry(&self, id: u32) -> TokenEntry<'_> {
        self.0.table.get(id)
    }

    pub(crate) fn rule(&self) -> &DecoderRule {
        &self.0.rule
    }
}

/// At most `max_len` tokens of a text that will be cut to no more. Cutting keeps what is cut off, in
/// pieces of the length of what is left: of a long text to a short one that takes far more memory than
/// the text.
fn kept(text: &Encoding, max_len: usize, side: Side) -> Encoding {
    let len = text.len();
    let count = len.min(max_len);
    let range = match side {
        Side::Left => len - count..len,
        Side::Right => 0..count,
    };
    let tokens = text.get_ids()[range.clone()].iter().zip(&text.get_tokens()[range]);
    let token = |(id, value): (&u32, &String)| Token::new(*id, value.clone(), (0, 0));
    Encoding::from_tokens(tokens.map(token).collect(), 0)
}

fn check_len(text: &str) -> Result<(), TextError> {
    if text.len() > MAX_TEXT_LEN {
        return Err(TextError::TextTooLong { len: text.len(), limit: MAX_TEXT_LEN });
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn refused(error: tokenizers::Error) -> TextError {
    TextError::Tokenize(error.to_string())
}

fn token_table(backend: &tokenizers::Tokenizer, rule: &DecoderRule) -> TokenTable {
    let added = backend.get_added_vocabulary();
    let highest = backend.get_vocab(true).into_values().max();
    let num_ids = highest.map_or(0, |id| id + 1);
    TokenTable::new(
        rule,
        (0..num_ids).map(|id| {
            let piece = backend.id_to_token(id);
            let special = piece.as_deref().is_some_and(|piece| added.is_special_token(piece));
            (piece, special)
        }),
    )
}

/// As transformers: the named special tokens are special even where tokenizer.json has them as
/// plain vocabulary. Those that it does not have at all are left out: the model has no row for them.
fn mark_special(
    backend: &mut tokenizers::Tokenizer,
    special: &SpecialTokens,
) -> tokenizers::Result<()> {
    for (_, token) in special.iter() {
        let known = backend.token_to_id(token).is_some();
        if known && !backend.get_added_vocabulary().is_special_token(token) {
            backend.add_special_tokens([AddedToken::from(token, true)])?;
        }
    }
    Ok(())
}
