//! What is asked: the sessions of a run, each drawn from the seed and its own number alone, so that
//! the same seed asks the same whatever the server does.

mod dataset;
mod words;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use text::{SpecialTokens, Tokenizer};

pub(crate) use dataset::user_message;
pub(crate) use words::TokenSource;

use crate::api::{Api, Input};
use crate::cli::ServeArgs;
use crate::quantity::TokenRange;
use crate::server::Server;
use dataset::Record;
use words::{Counter, Words};

/// Streams of the seed: sessions count up from 0, shared prefixes down from here.
const PREFIX_STREAMS: u64 = u64::MAX - 1;
const DEFAULT_OUTPUT: TokenRange = TokenRange { low: 128, high: 128 };
/// Roughly, for English; only where a dataset's answers set the length and no tokenizer is given.
const BYTES_PER_TOKEN: usize = 4;

/// One user's conversation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Session {
    pub(crate) turns: Vec<Turn>,
    pub(crate) think_time: Duration,
}

/// One request of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    pub(crate) input: Input,
    /// How long the prompt was made; of later turns only the server knows.
    pub(crate) prompt_tokens: Option<usize>,
    pub(crate) output_tokens: usize,
}

/// Draws sessions.
#[derive(Debug)]
pub(crate) struct Workload {
    prompts: Prompts,
    output: Option<TokenRange>,
    turns: TokenRange,
    think_time: Duration,
    seed: u64,
    tokenizer: Option<Tokenizer>,
}

#[derive(Debug)]
enum Prompts {
    Random { words: Words, input: TokenRange, prefix: Prefix },
    Dataset(Vec<Record>),
}

/// Shared beginnings.
#[derive(Debug)]
struct Prefix {
    texts: Vec<String>,
    tokens: usize,
    share: f64,
}

impl Workload {
    /// Reads the dataset, or learns how to make prompts of a given length for this server.
    pub(crate) async fn new(args: &ServeArgs, server: &Server) -> Result<Self> {
        if args.turns.high > 1 && args.api == Api::Completions {
            bail!("--turns: completions have no turns; use --api chat or responses");
        }
        let tokenizer = args.tokenizer.as_ref().map(|path| {
            let show = path.display();
            let bytes = std::fs::read(path).with_context(|| format!("--tokenizer {show}"))?;
            Tokenizer::from_bytes(&bytes, SpecialTokens::default())
                .with_context(|| format!("--tokenizer {show}"))
        });
        let tokenizer = tokenizer.transpose()?;
        let prompts = match &args.dataset {
            Some(path) => Prompts::Dataset(dataset::read(path, args.api)?),
            None => random_prompts(args, server, tokenizer.as_ref()).await?,
        };
        let default = if args.dataset.is_none() { Some(DEFAULT_OUTPUT) } else { None };
        Ok(Self {
            prompts,
            output: args.output_tokens.or(default),
            turns: args.turns,
            think_time: args.think_time,
            seed: args.seed,
            tokenizer,
        })
    }

    /// Who counted the prompts' tokens; none for a dataset.
    pub(crate) fn token_source(&self) -> Option<TokenSource> {
        match &self.prompts {
            Prompts::Random { words, .. } => Some(words.source),
            Prompts::Dataset(_) => None,
        }
    }

    /// What the reader of the figures should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        match &self.prompts {
            Prompts::Random { words, .. } if !words.is_exact() => {
                vec![
                    "too few words are one token each: prompts are only about as long as asked"
                        .to_owned(),
                ]
            }
            Prompts::Dataset(_) if self.output.is_none() && self.tokenizer.is_none() => {
                vec![
                    "answers are as long as the dataset's, estimated at 4 bytes a token; \
                      --tokenizer or --output-tokens would make that exact"
                        .to_owned(),
                ]
            }
            _ => Vec::new(),
        }
    }

    /// The session of a number.
    pub(crate) fn session(&self, index: u64) -> Session {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(index);
        let num_turns = self.turns.draw(&mut rng);
        let turns = match &self.prompts {
            Prompts::Random { words, input, prefix } => (0..num_turns)
                .map(|turn| {
                    let tokens = input.draw(&mut rng);
                    let output_tokens = self.output.unwrap_or(DEFAULT_OUTPUT).draw(&mut rng);
                    if turn > 0 {
                        let text = words.prompt("", tokens, &mut rng);
                        return Turn {
                            input: Input::Text(text),
                            prompt_tokens: None,
                            output_tokens,
                        };
                    }
                    let beginning = prefix.draw(words, &mut rng);
                    let text = words.prompt(&beginning, tokens, &mut rng);
                    let prompt_tokens = Some(tokens.max(words.base()) + prefix.tokens);
                    Turn { input: Input::Text(text), prompt_tokens, output_tokens }
                })
                .collect(),
            Prompts::Dataset(records) => {
                let record = &records[shuffled(index, records.len(), self.seed)];
                let inputs = record.turns.iter().take(num_turns);
                inputs
                    .map(|input| Turn {
                        input: input.clone(),
                        prompt_tokens: None,
                        output_tokens: self.output_of(record, &mut rng),
                    })
                    .collect()
            }
        };
        Session { turns, think_time: self.think_time }
    }

    fn output_of(&self, record: &Record, rng: &mut impl Rng) -> usize {
        if let Some(range) = self.output {
            return range.draw(rng);
        }
        let of_answer = || {
            let answer = record.answer.as_ref()?;
            let encoded = self.tokenizer.as_ref().map(|t| t.encode(answer, false));
            let exact = encoded.and_then(|ids| Some(ids.ok()?.len()));
            Some(exact.unwrap_or(answer.len().div_ceil(BYTES_PER_TOKEN)).max(1))
        };
        record.output_tokens.or_else(of_answer).unwrap_or(DEFAULT_OUTPUT.low)
    }
}

async fn random_prompts(
    args: &ServeArgs,
    server: &Server,
    tokenizer: Option<&Tokenizer>,
) -> Result<Prompts> {
    let words = Words::find(&Counter::new(server, tokenizer).await?).await?;
    if args.input_tokens.low < words.base() {
        bail!(
            "--input-tokens {}: the shortest prompt has {} tokens, the chat template included",
            args.input_tokens,
            words.base()
        );
    }
    let prefix = Prefix::new(args, &words)?;
    Ok(Prompts::Random { words, input: args.input_tokens, prefix })
}

impl Prefix {
    fn new(args: &ServeArgs, words: &Words) -> Result<Self> {
        if args.prefixes == 0 || !(0.0..=1.0).contains(&args.prefix_share) {
            bail!("--prefixes wants at least 1, --prefix-share 0 to 1");
        }
        let text = |index: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
            rng.set_stream(PREFIX_STREAMS - index as u64);
            words.draw(args.prefix_tokens, &mut rng)
        };
        Ok(Self {
            texts: (0..args.prefixes).map(text).collect(),
            tokens: args.prefix_tokens,
            share: args.prefix_share,
        })
    }

    fn draw(&self, words: &Words, rng: &mut impl Rng) -> String {
        if self.tokens == 0 || rng.random::<f64>() >= self.share {
            return words.draw(self.tokens, rng);
        }
        self.texts[rng.random_range(0..self.texts.len())].clone()
    }
}

/// Where in a list of `len` the session looks: every round of `len` sessions sees each record once,
/// in an order of its own.
fn shuffled(index: u64, len: usize, seed: u64) -> usize {
    let (round, place) = (index / len as u64, (index % len as u64) as usize);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // An affine map with a multiplier that shares no factor with the length visits each place.
    let mut step = rng.random_range(0..len) | 1;
    while gcd(step, len) != 1 {
        step += 2;
    }
    let offset = rng.random_range(0..len);
    ((place as u128 * step as u128 + offset as u128) % len as u128) as usize
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random(input: TokenRange, prefix: Prefix, turns: TokenRange) -> Workload {
        let prompts = Prompts::Random { words: Words::for_test(9), input, prefix };
        Workload {
            prompts,
            output: Some(TokenRange { low: 5, high: 9 }),
            turns,
            think_time: Duration::ZERO,
            seed: 11,
            tokenizer: None,
        }
    }

    fn text(turn: &Turn) -> &str {
        let Input::Text(text) = &turn.input else { panic!("{turn:?}") };
        text
    }

    const ONE: TokenRange = TokenRange { low: 1, high: 1 };

    #[test]
    fn lengths_are_met_and_a_seed_gives_the_same() {
        let none = || Prefix { texts: vec![String::new()], tokens: 0, share: 1.0 };
        let range = TokenRange { low: 20, high: 60 };
        let (workload, again) = (random(range, none(), ONE), random(range, none(), ONE));
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..300 {
            let session = workload.session(index);
            assert_eq!(session, again.session(index));
            let turn = &session.turns[0];
            let tokens = turn.prompt_tokens.unwrap();
            // The anchor is within the base of 9.
            assert_eq!(text(turn).split(' ').count() - 1 + 9, tokens);
            assert!((20..=60).contains(&tokens) && (5..=9).contains(&turn.output_tokens));
            seen.insert(tokens);
        }
        assert_eq!(seen.len(), 41, "every length of the range comes up");
        let beginning = |index: u64| text(&workload.session(index).turns[0])[..50].to_owned();
        assert_ne!(beginning(0), beginning(1));
    }

    #[test]
    fn prefixes_are_shared_by_the_share_asked() {
        let prefix = || Prefix {
            texts: vec![" red".repeat(10), " blue".repeat(10)],
            tokens: 10,
            share: 0.5,
        };
        let workload = random(TokenRange { low: 12, high: 12 }, prefix(), ONE);
        let sessions: Vec<_> = (0..1000).map(|index| workload.session(index)).collect();
        let having = |word: &str| {
            sessions.iter().filter(|s| text(&s.turns[0]).contains(word)).count() as f64 / 1000.0
        };
        assert!((having(" red red") - 0.25).abs() < 0.06, "{}", having(" red red"));
        assert!((having(" blue blue") - 0.25).abs() < 0.06);
        // Those without a shared beginning are as long.
        for session in &sessions {
            assert_eq!(session.turns[0].prompt_tokens, Some(22));
            assert_eq!(text(&session.turns[0]).split(' ').count(), 1 + 3 + 10);
        }
    }

    #[test]
    fn conversations_have_turns_in_range() {
        let none = Prefix { texts: vec![String::new()], tokens: 0, share: 1.0 };
        let turns = TokenRange { low: 2, high: 4 };
        let workload = random(TokenRange { low: 12, high: 12 }, none, turns);
        let counts: std::collections::BTreeSet<_> =
            (0..50).map(|index| workload.session(index).turns.len()).collect();
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(workload.session(0).turns[1].prompt_tokens, None);
    }

    #[test]
    fn a_dataset_gives_answers_their_length() {
        let record = |output_tokens, answer: Option<&str>| Record {
            turns: vec![Input::Text("q".to_owned())],
            output_tokens,
            answer: answer.map(str::to_owned),
        };
        let mut workload = Workload {
            prompts: Prompts::Dataset(vec![record(None, None)]),
            output: None,
            turns: ONE,
            think_time: Duration::ZERO,
            seed: 0,
            tokenizer: None,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut length = |record: &Record| workload.output_of(record, &mut rng);
        assert_eq!(length(&record(Some(7), Some("abcdefgh"))), 7);
        assert_eq!(length(&record(None, Some("abcdefghi"))), 3);
        assert_eq!(length(&record(None, None)), 128);
        workload.output = Some(ONE);
        assert_eq!(workload.output_of(&record(Some(7), None), &mut rng), 1);
    }

    proptest! {
        #[test]
        fn every_record_once_a_round(len in 1usize..200, seed in any::<u64>(), round in 0u64..5) {
            let base = round * len as u64;
            let mut seen: Vec<_> =
                (base..base + len as u64).map(|index| shuffled(index, len, seed)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        }
    }
}
