//! The engine loop over a model that costs nothing and remembers everything.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod client;
mod constraints;
mod equalities;
mod failures;
mod fairness;
mod fake;
mod lifecycle;
mod rules;
