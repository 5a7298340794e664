//! The server: OpenAI's API over axum, in front of an engine.
//!
//! One request: a route in `routes/` parses, templates and tokenises on the text pool, submits
//! through the [`Generator`] seam; `generation/` turns the engine's events into deltas of text;
//! `sse.rs` shows them one by one, or a response folds them. Everything on the wire is in `openai/`;
//! `anthropic/` translates to and from it; `access/` is keys, limits and the access log around it.
//!
//! The binary makes an [`App`], calls [`serve()`], loads the models meanwhile and hands them over with
//! [`App::set_model`].

mod access;
mod anthropic;
mod app;
mod body;
mod config;
mod constraint;
mod error;
mod generation;
mod generator;
mod listen;
mod metrics;
mod openai;
mod openapi;
mod pooling;
mod prompt;
mod random;
mod registry;
mod request_log;
mod request_trace;
mod responses;
mod routes;
mod seldom;
mod served_model;
mod sse;
mod state;
mod terms;
mod text_pool;
mod trace_context;

pub use access::{AccessLogConfig, KeySpec, Scope, new_key};
pub use config::{ServerConfig, StoreLimits};
pub use generator::{Generator, Load};
pub use listen::{CONNECTION_THREADS, ClientCerts, Listener, Tls, TlsError, TlsFiles, serve};
pub use pooling::{HeadRules, Matryoshka, PoolingRules};
pub use served_model::ServedModel;
pub use state::App;
