//! Prompts of an exact number of tokens without knowing the tokenizer: text is made of words that
//! were found to be one token each, behind a beginning whose length was measured.

use anyhow::{Result, bail};
use rand::Rng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use text::Tokenizer;

use crate::api::Input;
use crate::server::Server;

/// Begins every prompt, so that the words behind it all follow a word.
const ANCHOR: &str = "The";
/// Enough different words that no two prompts share a block of the prefix cache by chance.
const ENOUGH_WORDS: usize = 96;
const FEWEST_WORDS: usize = 8;
/// Words tried in one count.
const GROUP: usize = 24;

/// Common words: one token each in most vocabularies.
const CANDIDATES: &str = "the of and to in is you that it he was for on are as with his they at be \
    this have from or one had by word but not what all were we when your can said there use an \
    each which she do how their if will up other about out many then them these so some her would \
    make like him into time has look two more write go see number no way could people my than \
    first water been call who oil its now find long down day did get come made may part over new \
    sound take only little work know place year live me back give most very after thing our just \
    name good sentence man think say great where help through much before line right too mean old \
    any same tell boy follow came want show also around form three small set put end does another \
    well large must big even such because turn here why ask went men read need land different home \
    us move try kind hand picture again change off play spell air away animal house point page \
    letter mother answer found study still learn should world high every near add food between own \
    below country plant last school father keep tree never start city earth eye light thought head \
    under story saw left few while along might close something seem next hard open example begin \
    life always those both paper together got group often run";

/// Who said how many tokens a text has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TokenSource {
    /// The tokenizer.json given.
    LocalTokenizer,
    /// The server's `/tokenize`.
    ServerTokenizer,
    /// `usage.prompt_tokens` of requests for one token.
    ServerUsage,
}

/// Counts tokens of texts, one way or another.
pub(super) struct Counter<'a> {
    server: &'a Server,
    local: Option<&'a Tokenizer>,
    source: TokenSource,
}

impl<'a> Counter<'a> {
    /// Takes the best way that there is.
    pub(super) async fn new(server: &'a Server, local: Option<&'a Tokenizer>) -> Result<Self> {
        let source = if local.is_some() {
            TokenSource::LocalTokenizer
        } else if server.tokenize(ANCHOR).await.is_ok() {
            TokenSource::ServerTokenizer
        } else {
            TokenSource::ServerUsage
        };
        Ok(Self { server, local, source })
    }

    /// Tokens of a text, or of the whole prompt that it makes: only differences are comparable.
    async fn count(&self, text: &str) -> Result<usize> {
        Ok(match (self.source, self.local) {
            (TokenSource::LocalTokenizer, Some(tokenizer)) => tokenizer.encode(text, false)?.len(),
            (TokenSource::ServerTokenizer, _) => self.server.tokenize(text).await?,
            _ => self.prompt_tokens(text).await?,
        })
    }

    /// Tokens of the whole prompt that a text makes, as the server counts it.
    async fn prompt_tokens(&self, text: &str) -> Result<usize> {
        let input = Input::Text(text.to_owned());
        let Some(usage) = self.server.probe(&input, 1).await?.usage else {
            bail!(
                "the server reports no usage, so that prompts of a given length cannot be made: \
                 give the model's tokenizer.json with --tokenizer, or a --dataset"
            );
        };
        Ok(usage.prompt_tokens)
    }
}

/// Words of one token each, and what is around them.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    /// Tokens of a prompt without any word: the template and the anchor.
    base: usize,
    choice: Vec<&'static str>,
    /// Tokens of a word: 1, unless too few such words were found.
    cost: f64,
    /// Who counted.
    pub(crate) source: TokenSource,
}

impl Words {
    /// Finds words of one token by counting groups of them: where a group has as many tokens as
    /// words, each of them is one token.
    pub(super) async fn find(counter: &Counter<'_>) -> Result<Self> {
        let anchor = counter.count(ANCHOR).await?;
        let candidates: Vec<&'static str> = CANDIDATES.split_whitespace().collect();
        let mut groups: Vec<_> = candidates.chunks(GROUP).rev().collect();
        let mut words = Vec::new();
        let (mut num_counted, mut tokens) = (0, 0);
        while let Some(group) = groups.pop() {
            let count = counter.count(&joined(group)).await?.saturating_sub(anchor);
            if count == group.len() {
                words.extend_from_slice(group);
            } else if group.len() > 1 {
                let (first, second) = group.split_at(group.len() / 2);
                groups.extend([second, first]);
                continue;
            }
            num_counted += group.len();
            tokens += count;
            if words.len() >= ENOUGH_WORDS {
                break;
            }
        }
        let mut cost = 1.0;
        if words.len() < FEWEST_WORDS {
            if tokens == 0 {
                bail!("the server counts no tokens for {} words", candidates.len());
            }
            cost = tokens as f64 / num_counted as f64;
            words = candidates;
        }
        // The template's part is known to the server alone; without usage the text's must do.
        let base = counter.prompt_tokens(ANCHOR).await;
        let base =
            if counter.source == TokenSource::ServerUsage { base? } else { base.unwrap_or(anchor) };
        Ok(Self { base, choice: words, cost, source: counter.source })
    }

    /// Whether lengths are met exactly or about.
    pub(crate) fn is_exact(&self) -> bool {
        self.cost == 1.0
    }

    /// Tokens of the shortest prompt.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    /// `tokens` tokens of words, to be appended to a text that ends in a word.
    pub(crate) fn draw(&self, tokens: usize, rng: &mut impl Rng) -> String {
        let count = (tokens as f64 / self.cost).round() as usize;
        let mut text = String::with_capacity(count * 6);
        for _ in 0..count {
            text.push(' ');
            text.push_str(self.choice.choose(rng).expect("there are words"));
        }
        text
    }

    /// A text that makes a prompt of `tokens` tokens behind the `prefix`.
    pub(crate) fn prompt(&self, prefix: &str, tokens: usize, rng: &mut impl Rng) -> String {
        format!("{ANCHOR}{prefix}{}", self.draw(tokens.saturating_sub(self.base), rng))
    }
}

fn joined(group: &[&str]) -> String {
    format!("{ANCHOR} {}", group.join(" "))
}

#[cfg(test)]
impl Words {
    /// All candidates at one token each, as most tokenizers have them.
    pub(crate) fn for_test(base: usize) -> Self {
        let choice = CANDIDATES.split_whitespace().collect();
        Self { base, choice, cost: 1.0, source: TokenSource::ServerUsage }
    }
}
