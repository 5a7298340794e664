//! Random walks through a grammar: what a model of random weights would write.

use text::{Grammar, GrammarCompiler, SpecialTokens, Tokenizer};

const MAX_TOKENS: usize = 400;

pub(crate) fn tokenizer() -> Tokenizer {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen/tokenizer.json");
    Tokenizer::from_bytes(&std::fs::read(path).unwrap(), SpecialTokens::default()).unwrap()
}

pub(crate) fn compiler(tokenizer: &Tokenizer) -> GrammarCompiler {
    GrammarCompiler::new(tokenizer, &[eos(tokenizer)])
}

pub(crate) fn eos(tokenizer: &Tokenizer) -> u32 {
    tokenizer.token_id("<|im_end|>").expect("the golden has it")
}

/// A walk of random allowed tokens: what a model of random weights would write. `None` if it was
/// not done in time.
pub(crate) fn walk(compiler: &GrammarCompiler, grammar: &Grammar, seed: u64) -> Option<String> {
    let tokenizer = tokenizer();
    let mut matcher = compiler.compile(grammar).unwrap();
    let mut mask = vec![u32::MAX; tokenizer.vocab_size().div_ceil(32) + 3];
    let (mut ids, mut state) = (Vec::new(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    while ids.len() < MAX_TOKENS {
        matcher.fill_mask(&mut mask).unwrap();
        let allowed: Vec<u32> = (0..mask.len() as u32 * 32)
            .filter(|i| mask[*i as usize / 32] >> (i % 32) & 1 == 1)
            .collect();
        assert!(allowed.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let id = allowed[state as usize % allowed.len()];
        let is_complete = matcher.accept(id).unwrap();
        if id != eos(&tokenizer) {
            ids.push(id);
        }
        if is_complete {
            return Some(tokenizer.decode(&ids, false).unwrap());
        }
    }
    None
}

pub(crate) fn walks(grammar: &Grammar) -> Vec<String> {
    let compiler = compiler(&tokenizer());
    let found: Vec<_> = (1..40).filter_map(|seed| walk(&compiler, grammar, seed)).collect();
    assert!(found.len() > 10, "only {} of 39 walks came to an end", found.len());
    found
}

/// Whether `text`, tokenised as a model might, is a whole answer.
pub(crate) fn accepts(compiler: &GrammarCompiler, grammar: &Grammar, text: &str) -> bool {
    let tokenizer = tokenizer();
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
    stopped || matcher.accept(eos(&tokenizer)).is_ok()
}
