//! Grammars that an answer must follow, compiled to masks over the vocabulary by llguidance.
//!
//! A grammar is checked and compiled once; a [`Matcher`] then says before each token which ones may
//! come, and is told which one came. All sizes and times are bounded by llguidance's limits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::{fmt, thread};

use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use serde_json::{Value, json};

use crate::Tokenizer;
use crate::exit::endless;
use crate::lark::{one_of, regex};
use crate::schema::prepared;
use crate::token_table::Leading;

/// Compiled grammars that are kept, the least recently used go first.
const CACHED_GRAMMARS: usize = 64;

/// llguidance compiles by recursion, without a bound of its own: a grammar of one long chain would
/// overflow any stack. So it gets a deep one, and chains are cut at what fits there many times over.
const STACK_BYTES: usize = 64 << 20;
const MAX_REFERENCES: usize = 1000;
pub(crate) const MAX_LINES: usize = 2000;
const MAX_DEPTH: usize = 100;
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// The whole answer matches a regular expression (syntax of the `regex` crate, no look-around).
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A context-free grammar in llguidance's dialect of Lark.
    Lark(String),
    /// Lark rules that define `answer`.
    Rules(String),
}

/// Why a grammar cannot be used: in llguidance's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

impl GrammarError {
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}

/// Compiles grammars for one tokenizer. What it needs of the vocabulary is built at the first use: a
/// few tenths of a second for 200,000 tokens.
pub struct GrammarCompiler {
    tokenizer: Tokenizer,
    eos_token_ids: Vec<u32>,
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
    /// Most recently used last.
    cache: Mutex<VecDeque<(Grammar, Matcher)>>,
}

/// Where an answer stands in its grammar.
pub struct Matcher(llguidance::Matcher);

impl Grammar {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::JsonSchema(json!({"type": "object"}))
    }

    fn to_llguidance(&self) -> Result<TopLevelGrammar, GrammarError> {
        Ok(match self {
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(prepared(schema)?),
            Self::Regex(pattern) => {
                TopLevelGrammar::from_lark(format!("start: {}", regex(pattern)?))
            }
            Self::Choice(texts) => TopLevelGrammar::from_lark(format!("start: {}", one_of(texts))),
            Self::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
            Self::Rules(rules) => TopLevelGrammar::from_lark(format!("start: answer\n{rules}")),
        })
    }

    /// Refuses what could take a long time or a deep stack to compile.
    fn check_size(&self) -> Result<(), GrammarError> {
        let text = match self {
            Self::JsonSchema(schema) => &schema.to_string(),
            Self::Regex(text) | Self::Lark(text) | Self::Rules(text) => text,
            Self::Choice(texts) => &texts.concat(),
        };
        let is_json = matches!(self, Self::JsonSchema(_));
        let counts = [
            ("bytes", text.len(), MAX_BYTES),
            ("$ref", text.matches("\"$ref\"").count(), MAX_REFERENCES),
            ("lines", text.lines().count(), if is_json { usize::MAX } else { MAX_LINES }),
            ("nested brackets", depth(text), MAX_DEPTH),
        ];
        match counts.iter().find(|(_, count, most)| count > most) {
            Some((what, count, most)) => {
                Err(GrammarError(format!("it has {count} {what}, more than {most}")))
            }
            None => Ok(()),
        }
    }

    /// The same as rules that define `answer`; a Lark grammar has its own start.
    pub(crate) fn rules(&self) -> Result<Option<String>, GrammarError> {
        Ok(Some(match self {
            Self::JsonSchema(schema) => format!("answer: {}\n", lark_json(schema)?),
            Self::Regex(pattern) => format!("answer: {}\n", regex(pattern)?),
            Self::Choice(texts) => {
                format!("answer: {}\n", one_of(texts))
            }
            Self::Lark(_) => return Ok(None),
            Self::Rules(rules) => rules.clone(),
        }))
    }
}

/// JSON of a schema, inside a Lark rule.
pub(crate) fn lark_json(schema: &Value) -> Result<String, GrammarError> {
    Ok(format!("%json {}", prepared(schema)?))
}

/// How deep brackets nest, wherever they stand.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

impl GrammarCompiler {
    /// For answers that one of `eos_token_ids` ends.
    pub fn new(tokenizer: &Tokenizer, eos_token_ids: &[u32]) -> Self {
        Self {
            tokenizer: tokenizer.clone(),
            eos_token_ids: eos_token_ids.to_vec(),
            factory: OnceLock::new(),
            cache: Mutex::default(),
        }
    }

    /// Builds what all grammars share now, so that the first request with one does not wait for it: a
    /// trie of the vocabulary, a few tenths of a second for 150,000 tokens.
    pub fn prepare(&self) {
        self.factory.get_or_init(|| self.factory());
    }

    /// A matcher at the start of `grammar`.
    ///
    /// # Errors
    /// A grammar that does not parse, or uses what llguidance does not support, or is too large.
    pub fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        if let Some(matcher) = self.cached(grammar) {
            return Ok(matcher);
        }
        grammar.check_size()?;
        let matcher = thread::scope(|scope| {
            let thread = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, || self.compile_new(grammar));
            let thread = thread.map_err(|error| GrammarError(format!("no thread: {error}")))?;
            thread.join().unwrap_or_else(|_| Err(GrammarError("the compiler failed".to_owned())))
        })?;
        self.keep(grammar.clone(), matcher.fork());
        Ok(matcher)
    }

    fn compile_new(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let compiled = grammar.to_llguidance()?;
        let factory = self.factory.get_or_init(|| self.factory());
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let parser = factory.create_parser(compiled);
        if let Ok(parser) = &parser
            && let Some(name) = endless(parser.parser.grammar())
        {
            return Err(GrammarError(format!("what is in it never ends: no end of '{name}'")));
        }
        let matcher = llguidance::Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            let is_client_text = matches!(grammar, Grammar::Lark(_));
            return Err(GrammarError(if is_client_text {
                one_line(&error)
            } else {
                reason(&error)
            }));
        }
        // A grammar may parse and still have no beginning.
        let first = matcher.deep_clone().compute_mask_or_eos();
        first.map_err(|error| GrammarError(one_line(&error.to_string())))?;
        Ok(Matcher(matcher))
    }

    fn cached(&self, grammar: &Grammar) -> Option<Matcher> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cache.iter().position(|(kept, _)| kept == grammar)?;
        let entry = cache.remove(found)?;
        let matcher = entry.1.fork();
        cache.push_back(entry);
        Some(matcher)
    }

    fn keep(&self, grammar: Grammar, matcher: Matcher) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() == CACHED_GRAMMARS {
            cache.pop_front();
        }
        cache.push_back((grammar, matcher));
    }

    fn factory(&self) -> Result<ParserFactory, GrammarError> {
        let env: TokEnv = Arc::new(Env::new(&self.tokenizer, &self.eos_token_ids));
        let mut factory = ParserFactory::new_simple(&env)
            .map_err(|error| GrammarError(one_line(&error.to_string())))?;
        factory.limits_mut().verbose_errors = false;
        factory.quiet();
        Ok(factory)
    }
}

impl Matcher {
    /// A copy that goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(self.0.deep_clone())
    }

    /// Sets the bits of the tokens that may come next, and no others; token `i` is bit `i % 32` of
    /// word `i / 32`.
    ///
    /// # Errors
    /// The grammar has become too large on the way.
    pub fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), GrammarError> {
        let allowed =
            self.0.compute_mask_or_eos().map_err(|e| GrammarError(one_line(&e.to_string())))?;
        let words = allowed.as_slice();
        let len = words.len().min(mask.len());
        mask[..len].copy_from_slice(&words[..len]);
        mask[len..].fill(0);
        Ok(())
    }

    /// Moves on by the token that came. Returns whether the answer is complete: nothing may follow.
    ///
    /// # Errors
    /// A token that the mask did not allow.
    pub fn accept(&mut self, id: u32) -> Result<bool, GrammarError> {
        self.0.consume_token(id).map_err(|e| GrammarError(one_line(&e.to_string())))?;
        Ok(self.0.is_stopped())
    }

    /// Moves back by the last `n` tokens.
    ///
    /// # Errors
    /// More tokens than came, or a matcher that has failed.
    pub fn rollback(&mut self, n: usize) -> Result<(), GrammarError> {
        self.0.rollback(n).map_err(|e| GrammarError(one_line(&e.to_string())))
    }

    /// The next tokens, at most `max`, if the grammar leaves no choice; [`fill_mask`](Self::fill_mask)
    /// allows no others. Empty for tokenizers that split the same text differently after another.
    pub fn forced(&mut self, max: usize) -> Vec<u32> {
        let mut ids = self.0.compute_ff_tokens();
        ids.truncate(max);
        ids
    }
}

/// What an error says, without the place in rules that nobody but us has seen.
fn reason(text: &str) -> String {
    let is_shown = |line: &str| {
        let (number, bar) = line.trim_start().split_once(' ').unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && bar.starts_with('|')
    };
    let said: Vec<&str> = text.lines().take_while(|line| !is_shown(line)).collect();
    let said = one_line(&said.join("\n"));
    let placed = said.split_once("): ").filter(|(place, _)| place.starts_with("at "));
    let said = placed.map_or(said.as_str(), |(_, said)| said);
    said.trim_start_matches("failed to compile JSON schema: ").to_owned()
}

/// llguidance's errors draw pictures and append its state.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    if text.contains("symbols.len()") {
        return "it has more symbols than can be compiled".to_owned();
    }
    let text = text.replace("<non-verbose/>", "");
    let text = text.replace("NoExtensionBias", "no token can follow");
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler")
            .field("tokenizer", &self.tokenizer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Matcher")
    }
}

/// The tokenizer as llguidance sees it.
struct Env {
    tokenizer: Tokenizer,
    trie: TokTrie,
}

impl Env {
    fn new(tokenizer: &Tokenizer, eos_token_ids: &[u32]) -> Self {
        let num_tokens = tokenizer.vocab_size() as u32;
        let words: Vec<Vec<u8>> = (0..num_tokens)
            .map(|id| {
                let mut word = tokenizer.token_bytes(id).to_vec();
                if tokenizer.is_special(id) {
                    word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
                }
                word
            })
            .collect();
        let ends: Vec<u32> = eos_token_ids.iter().copied().filter(|&id| id < num_tokens).collect();
        let info = TokRxInfo::new(num_tokens, ends.first().copied().unwrap_or(0));
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        Self { tokenizer: tokenizer.clone(), trie }
    }
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let ids = self.tokenizer.encode(text, false);
            ids.unwrap_or_else(|_| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    /// Sentencepiece puts a space before every text, so that what follows another text would come
    /// out otherwise than the model writes it.
    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.rule().leading == Leading::Keep
    }
}
