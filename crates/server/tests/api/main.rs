//! The HTTP API against a scripted engine and a byte-level tokenizer: shapes, faults, lifecycle.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod access;
mod bad_input;
mod bombs;
mod chat;
mod client_faults;
mod completions;
mod connections;
mod contract;
mod embeddings;
mod fake;
mod lifecycle;
mod messages;
mod nginx;
mod openapi;
mod other_routes;
mod responses;
mod scores;
mod several;
mod terms;
mod thinking_budget;
mod tools;
mod wire;
