//! The HTTP API against a scripted engine and a byte-level tokenizer: shapes, faults, lifecycle.

mod bad_input;
mod chat;
mod completions;
mod fake;
mod lifecycle;
mod other_routes;
mod wire;
