//! One file an endpoint.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod messages;
pub(crate) mod metrics;
pub(crate) mod models;
mod path_id;
pub(crate) mod rerank;
pub(crate) mod responses;
pub(crate) mod score;
pub(crate) mod status;
pub(crate) mod tokenize;
