//! Random walks through a grammar: what a model of random weights would write.

use text::{Grammar, GrammarCompiler, SpecialTokens, Tokenizer};

const MAX_TOKENS: usize = 400;

/// A small vocabulary of tokenizer.json's kind.
pub(crate) fn golden() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen/tokenizer.json");
    std::fs::read(path).unwrap()
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(&golden(), SpecialTokens::default()).unwrap()
}

pub(crate) fn compiler(tokenizer: &Tokenizer) -> GrammarCompiler {
    GrammarCompiler::new(tokenizer, &[eos(tokenizer)])
}

pub(crate) fn eos(tokenizer: &Tokenizer) -> u32 {
    tokenizer.token_id("<|im_end|>").expect("the golden has it")
}

/// What a walk goes through.
pub(crate) struct Walk<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) compiler: &'a GrammarCompiler,
    /// Texts that are tried now and then, as far as they are allowed: random tokens alone end no tag.
    pub(crate) hints: Vec<String>,
}

impl Walk<'_> {
    /// A walk of random allowed tokens. `None` if it was not done in time.
    pub(crate) fn walk(&self, grammar: &Grammar, seed: u64) -> Option<String> {
        let Self { tokenizer, compiler, hints } = self;
        let mut matcher = compiler.compile(grammar).unwrap();
        let mut mask = vec![u32::MAX; tokenizer.vocab_size().div_ceil(32) + 3];
        let (mut ids, mut state) = (Vec::new(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % below
        };
        let mut tried: Vec<u32> = Vec::new();
        while ids.len() < MAX_TOKENS {
            matcher.fill_mask(&mut mask).unwrap();
            let allowed: Vec<u32> = (0..mask.len() as u32 * 32)
                .filter(|i| mask[*i as usize / 32] >> (i % 32) & 1 == 1)
                .collect();
            assert!(allowed.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            if tried.is_empty() && !hints.is_empty() && random(4) == 0 {
                tried = tokenizer.encode(&hints[random(hints.len())], false).unwrap();
                tried.reverse();
            }
            let hinted = tried.pop().filter(|id| allowed.contains(id));
            if hinted.is_none() {
                tried.clear();
            }
            let id = hinted.unwrap_or_else(|| allowed[random(allowed.len())]);
            let is_complete = matcher.accept(id).unwrap();
            if id != eos(tokenizer) {
                ids.push(id);
            }
            if is_complete {
                return Some(tokenizer.decode(&ids, false).unwrap());
            }
        }
        None
    }
}

pub(crate) fn walks(grammar: &Grammar) -> Vec<String> {
    let (tokenizer, hints) = (tokenizer(), Vec::new());
    let walk = Walk { tokenizer: &tokenizer, compiler: &compiler(&tokenizer), hints };
    let found: Vec<_> = (1..40).filter_map(|seed| walk.walk(grammar, seed)).collect();
    assert!(found.len() > 10, "only {} of 39 walks came to an end", found.len());
    found
}

/// Whether `text`, tokenised as a model might, is a whole answer.
pub(crate) fn accepts(compiler: &GrammarCompiler, grammar: &Grammar, text: &str) -> bool {
    accepts_with(&tokenizer(), compiler, grammar, text)
}

pub(crate) fn accepts_with(
    tokenizer: &Tokenizer,
    compiler: &GrammarCompiler,
    grammar: &Grammar,
    text: &str,
) -> bool {
    let mut matcher =
        compiler.compile(grammar).unwrap_or_else(|error| panic!("{error}: {grammar:?}"));
    let ids = tokenizer.encode(text, false).unwrap();
    let mut stopped = false;
    for id in ids {
        match matcher.accept(id) {
            Ok(complete) => stopped = complete,
            Err(_) => return false,
        }
    }
    stopped || matcher.accept(eos(tokenizer)).is_ok()
}
