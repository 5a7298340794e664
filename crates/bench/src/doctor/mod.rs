//! `sconce doctor`: asks an OpenAI-compatible server what clients of others will ask, and says which
//! of its answers would break them.
//!
//! `subject.rs` asks, `wire.rs` reads a stream as it is on the wire; a file for each part of the API
//! judges what came; `report.rs` lists every check with the reason for it.

mod chat;
mod completions;
mod embeddings;
mod errors;
mod http;
mod models;
mod options;
mod report;
mod stream;
mod subject;
#[cfg(test)]
mod tests;
mod tools;
mod verdict;
mod wire;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::output::say;
use crate::quantity::parse_duration;
use crate::serve::block_on;
use report::Report;
use subject::Subject;

/// `sconce doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// The server, with or without /v1.
    #[arg(long, visible_alias = "base-url", default_value = "http://127.0.0.1:8000")]
    url: String,

    /// Model to ask [default: the first that the server lists]
    #[arg(long)]
    model: Option<String>,

    /// Key sent as a bearer token.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    api_key: Option<String>,

    /// Longest time for one answer.
    #[arg(long, value_parser = parse_duration, default_value = "2m")]
    timeout: Duration,

    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Examines a server and prints what was found; an error if anything was wrong.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let report = block_on(async {
        let subject = Subject::connect(args).await?;
        Ok(examine(&subject).await)
    })?;
    say(&if args.json { format!("{}\n", report.json()) } else { report.table() })?;
    match report.num_wrong() {
        0 => Ok(()),
        wrong => bail!("{wrong} of {} checks found something wrong", report.num_checks()),
    }
}

/// One part after the other: no answer is to depend on what else runs.
async fn examine(subject: &Subject) -> Report {
    let mut report = Report::new(subject);
    models::examine(subject, &mut report).await;
    let whole = chat::examine(subject, &mut report).await;
    stream::examine(subject, whole.as_ref(), &mut report).await;
    options::examine(subject, whole.as_ref(), &mut report).await;
    tools::examine(subject, &mut report).await;
    completions::examine(subject, &mut report).await;
    embeddings::examine(subject, &mut report).await;
    errors::examine(subject, &mut report).await;
    http::examine(subject, &mut report).await;
    report
}
