//! What each tenant was served, for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::escape;

/// Tenants that have a label of their own; further ones share [`OTHERS`].
const MAX_TENANTS: usize = 100;
const OTHERS: &str = "others";

/// All tenants that were served anything.
#[derive(Debug, Default)]
pub(crate) struct Tenants(Mutex<BTreeMap<Arc<str>, Arc<Served>>>);

/// Tokens of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Served {
    prompt: AtomicU64,
    generated: AtomicU64,
}

impl Served {
    /// A prompt was computed, or found in the prefix cache.
    pub(crate) fn prompt(&self, num_tokens: usize) {
        self.prompt.fetch_add(num_tokens as u64, Ordering::Relaxed);
    }

    /// A token was generated.
    pub(crate) fn token(&self) {
        self.generated.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tenants {
    pub(crate) fn of(&self, name: &Arc<str>) -> Arc<Served> {
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = tenants.contains_key(name) || tenants.len() < MAX_TENANTS;
        let name = if is_known { Arc::clone(name) } else { OTHERS.into() };
        Arc::clone(tenants.entry(name).or_default())
    }

    /// In Prometheus' text format; empty if no request named a tenant.
    pub(crate) fn render(&self, model: &str) -> String {
        type Count = fn(&Served) -> &AtomicU64;
        let counts: [(&str, &str, Count); 2] = [
            ("prompt", "Prompt tokens of sequences that ran, by tenant.", |served| &served.prompt),
            ("generation", "Generated tokens by tenant.", |served| &served.generated),
        ];
        let tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        if tenants.is_empty() {
            return out;
        }
        let mut line = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(format_args!("{text}\n")).expect("a string takes any text");
        };
        let model = escape(model);
        for (kind, help, count) in counts {
            let name = format!("sconce:tenant_{kind}_tokens_total");
            line(format_args!("# HELP {name} {help}\n# TYPE {name} counter"));
            for (tenant, served) in &*tenants {
                let (tenant, value) = (escape(tenant), count(served).load(Ordering::Relaxed));
                line(format_args!("{name}{{model_name=\"{model}\",tenant=\"{tenant}\"}} {value}"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let tenants = Tenants::default();
        assert_eq!(tenants.render("m"), "");
        for number in 0..1000 {
            tenants.of(&format!("key \"{number}\"").into()).prompt(3);
            tenants.of(&format!("key \"{number}\"").into()).token();
        }
        let text = tenants.render("m");
        assert_eq!(text.lines().count(), 2 * (2 + MAX_TENANTS + 1));
        let line = |line: &str| assert!(text.lines().any(|other| other == line), "{text}");
        line("sconce:tenant_prompt_tokens_total{model_name=\"m\",tenant=\"key \\\"7\\\"\"} 3");
        line("sconce:tenant_generation_tokens_total{model_name=\"m\",tenant=\"others\"} 900");
    }
}
