//! `sconce bench`: puts OpenAI-compatible servers under load and measures them.
//!
//! `serve.rs` is the way through a benchmark. `schedule.rs` says when requests are due, `workload`
//! what they ask; `drive.rs` sends them, `request.rs` follows one, `collect.rs` makes figures of
//! them. Everything runs on one thread, so that what it costs can be stated (`cpu.rs`).

mod api;
mod client;
mod collect;
mod cpu;
mod drive;
mod failure;
mod fake;
mod generator;
mod histogram;
mod interrupt;
mod progress;
mod quantity;
mod request;
mod result;
mod schedule;
mod serve;
mod server;
mod slo;
mod sse;
mod table;
#[cfg(test)]
mod tests;
mod workload;

pub mod cli;

use anyhow::Result;
use cli::{BenchArgs, BenchCommand};

/// Runs one of the benchmarks.
pub fn run(args: BenchArgs) -> Result<()> {
    match args.command {
        BenchCommand::Serve(args) => serve::run(&args),
        BenchCommand::Generator(args) => generator::run(&args),
    }
}
