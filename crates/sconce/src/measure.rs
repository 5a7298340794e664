//! `sconce bench`: hands servers to the load generator, and starts the engine for what goes
//! without one.

use crate::cli::{BenchCommand, ServeArgs};
use crate::config::Config;
use crate::load;
use anyhow::Result;
use engine::EngineHandle;

/// Runs one of the benchmarks.
pub(crate) fn run(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Server(command) => bench::run(command),
        BenchCommand::Throughput(args) => {
            with_engine(args.serve, |engine, model| bench::throughput(engine, model, &args.bench))
        }
        BenchCommand::Latency(args) => {
            with_engine(args.serve, |engine, model| bench::latency(engine, model, &args.bench))
        }
    }
}

/// Loads the model as a server would, and ends its engine afterwards.
fn with_engine(
    serve: ServeArgs,
    measure: impl FnOnce(&EngineHandle, &str) -> Result<()>,
) -> Result<()> {
    let config = Config::resolve(serve)?;
    let loaded = load::load_only(&config)?;
    let done = measure(&loaded.engine, &config.models[0].name);
    loaded.engine.shutdown();
    loaded.engine.join();
    done
}
