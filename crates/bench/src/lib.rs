//! `sconce bench`: puts OpenAI-compatible servers under load and measures them. `sconce doctor`
//! (`doctor`) examines their answers, one at a time.
//!
//! `serve.rs` is the way through a benchmark. `schedule.rs` says when requests are due, `workload`
//! what they ask; `drive.rs` sends them, `request.rs` follows one, `collect.rs` makes figures of
//! them. Everything runs on one thread, so that what it costs can be stated (`cpu.rs`).

mod api;
mod client;
mod collect;
mod compare;
mod cpu;
mod drive;
mod failure;
mod fake;
mod generator;
mod histogram;
mod interrupt;
mod offline;
mod output;
mod progress;
mod quantity;
mod report;
mod request;
mod result;
mod roofline;
mod schedule;
mod serve;
mod server;
mod slo;
mod sse;
mod startup;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod workload;

pub mod cli;
pub mod doctor;

use anyhow::{Context, Result};
use cli::{BenchCommand, LatencyArgs, ReportArgs, RooflineArgs, ThroughputArgs};
use engine::EngineHandle;
pub use output::{OutputClosed, say};
pub use roofline::Measured;
use stored::Stored;

/// Runs one of the benchmarks of servers.
pub fn run(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Serve(args) => serve::run(&args),
        BenchCommand::Compare(args) => compare::run(&args),
        BenchCommand::Startup(args) => startup::run(&args),
        BenchCommand::Report(args) => write_report(&args),
        BenchCommand::Generator(args) => generator::run(&args),
    }
}

/// Puts everything on an engine at once.
pub fn throughput(engine: &EngineHandle, model: &str, args: &ThroughputArgs) -> Result<()> {
    offline::throughput(engine, model, args)
}

/// Puts one batch after the other on an engine.
pub fn latency(engine: &EngineHandle, model: &str, args: &LatencyArgs) -> Result<()> {
    offline::latency(engine, model, args)
}

/// Puts a few loads on an engine and shows what it reaches of the machine's ceilings.
pub fn roofline(engine: &EngineHandle, measured: Measured<'_>, args: &RooflineArgs) -> Result<()> {
    roofline::run(engine, measured, args)
}

fn write_report(args: &ReportArgs) -> Result<()> {
    let stored: Result<Vec<_>> = args.results.iter().map(|path| Stored::read(path)).collect();
    let show = args.output.display();
    std::fs::write(&args.output, report::html(&stored?)).with_context(|| format!("--output {show}"))
}
