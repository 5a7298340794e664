//! What each key has used, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::keys::{Key, KeySet};
use super::limits::Refusal;
use crate::metrics::Page;

/// Keys with a label of their own; the others share one, so that a large file stays a small page.
const MAX_LABELS: usize = 256;
const OTHERS: &str = "_other";

const REFUSALS: [&str; 3] = ["requests", "tokens", "concurrent"];

/// Counts of a key since the start, or since its name came into the keys file.
#[derive(Debug, Default)]
pub(super) struct KeyUsage {
    requests: AtomicU64,
    refusals: [AtomicU64; REFUSALS.len()],
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) prompt: u64,
    /// Of the prompt's, those that the prefix cache had.
    pub(crate) cached: u64,
    pub(crate) completion: u64,
}

impl KeyUsage {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        let which = match refusal {
            Refusal::Requests(_) => 0,
            Refusal::Tokens(_) | Refusal::TooManyTokens => 1,
            Refusal::Concurrent => 2,
        };
        self.refusals[which].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add(&self, tokens: Tokens) {
        self.prompt_tokens.fetch_add(tokens.prompt, Ordering::Relaxed);
        self.cached_tokens.fetch_add(tokens.cached, Ordering::Relaxed);
        self.completion_tokens.fetch_add(tokens.completion, Ordering::Relaxed);
    }
}

/// What the page says of a key.
#[derive(Debug, Default)]
struct Row {
    name: String,
    requests: u64,
    refusals: [u64; REFUSALS.len()],
    tokens: Tokens,
    running: u64,
}

impl Row {
    fn new(key: &Key) -> Self {
        let usage = &key.state.usage;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            name: key.name.clone(),
            requests: count(&usage.requests),
            refusals: usage.refusals.each_ref().map(count),
            tokens: Tokens {
                prompt: count(&usage.prompt_tokens),
                cached: count(&usage.cached_tokens),
                completion: count(&usage.completion_tokens),
            },
            running: key.state.in_use.running(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        for (count, other) in self.refusals.iter_mut().zip(other.refusals) {
            *count += other;
        }
        self.tokens.prompt += other.tokens.prompt;
        self.tokens.cached += other.tokens.cached;
        self.tokens.completion += other.tokens.completion;
        self.running += other.running;
    }
}

type Value = fn(&Row) -> u64;

/// Families with one value a key: kind, name, help, value.
const FAMILIES: [(&str, &str, &str, Value); 5] = [
    ("counter", "sconce:key_requests_total", "Requests to the API, by key.", |row| row.requests),
    ("gauge", "sconce:key_requests_running", "Requests that are being answered, by key.", |row| {
        row.running
    }),
    ("counter", "sconce:key_prompt_tokens_total", "Prompt tokens, by key.", |row| {
        row.tokens.prompt
    }),
    ("counter", "sconce:key_prompt_tokens_cached_total", "Cached prompt tokens, by key.", |row| {
        row.tokens.cached
    }),
    ("counter", "sconce:key_generation_tokens_total", "Generated tokens, by key.", |row| {
        row.tokens.completion
    }),
];

/// Adds the keys to the page that Prometheus scrapes.
pub(super) fn render(keys: &KeySet, page: &mut Page) {
    let mut rows: Vec<Row> = keys.keys.iter().take(MAX_LABELS).map(|key| Row::new(key)).collect();
    if keys.keys.len() > MAX_LABELS {
        let mut others = Row { name: OTHERS.into(), ..Row::default() };
        keys.keys[MAX_LABELS..].iter().for_each(|key| others.add(&Row::new(key)));
        rows.push(others);
    }
    for (kind, name, help, value) in FAMILIES {
        page.family((kind, name, help), |samples| {
            for row in &rows {
                samples.add(format_args!("key=\"{}\"", row.name), value(row) as f64);
            }
        });
    }
    let help = "Requests past a limit, by key.";
    page.family(("counter", "sconce:key_refusals_total", help), |samples| {
        for row in &rows {
            for (limit, count) in REFUSALS.iter().zip(row.refusals) {
                let key = &row.name;
                samples.add(format_args!("key=\"{key}\",limit=\"{limit}\""), count as f64);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_nothing_is_lost() {
        let names: Vec<String> = (0..MAX_LABELS + 3).map(|i| format!("k{i}")).collect();
        let set = KeySet::plain(&names);
        for key in &set.keys {
            key.state.usage.add(Tokens { prompt: 2, cached: 1, completion: 5 });
            key.state.usage.refuse(Refusal::Concurrent);
        }
        let mut page = Page::new(0);
        render(&set, &mut page);
        let page = page.finish();
        let begin = "# HELP sconce:key_requests_total Requests to the API, by key.\n\
                     # TYPE sconce:key_requests_total counter\n\
                     sconce:key_requests_total{key=\"api-key-1\"} 0\n";
        assert!(page.starts_with(begin), "{page}");
        let lines = page.lines().filter(|line| line.starts_with("sconce:key_prompt_tokens_total"));
        assert_eq!(lines.count(), MAX_LABELS + 1);
        for line in [
            "sconce:key_prompt_tokens_total{key=\"api-key-256\"} 2",
            "sconce:key_prompt_tokens_total{key=\"_other\"} 6",
            "sconce:key_generation_tokens_total{key=\"_other\"} 15",
            "sconce:key_refusals_total{key=\"_other\",limit=\"concurrent\"} 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}");
        }
        let mut page = Page::new(0);
        render(&KeySet::default(), &mut page);
        assert_eq!(page.finish(), "", "without keys there is no family");
    }
}
