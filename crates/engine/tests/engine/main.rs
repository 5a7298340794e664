//! The engine loop over a model that costs nothing and remembers everything.

mod client;
mod equalities;
mod failures;
mod fake;
mod lifecycle;
mod rules;
