//! `sconce bench`: hands servers to the load generator, and starts the engine for what goes
//! without one.

use crate::cli::{BenchCommand, EngineBench, ServeArgs};
use crate::config::Config;
use crate::hub::Files;
use crate::load;
use anyhow::{Context, Result, bail};
use bench::Measured;
use bench::cli::RooflineArgs;
use engine::EngineHandle;
use engine::ceilings::Ceilings;

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
        BenchCommand::Roofline(args) => roofline(*args),
    }
}

fn roofline(mut args: EngineBench<RooflineArgs>) -> Result<()> {
    // A token that was guessed costs no step: unless it is asked for, none is.
    args.serve.num_speculative_tokens.get_or_insert(0);
    let planned = load::plan(&Config::resolve(args.serve.clone())?, Files::Metadata)?;
    let planned = planned.first().context("no model is configured")?;
    let (name, spec, plan) = (planned.name(), planned.spec(), &planned.memory);
    if planned.pooling().is_some() {
        bail!("{name} makes vectors: this measures models that generate");
    }
    plan.config.start_pool()?;
    let quantization = plan.config.quantization_of(spec);
    let ceilings = Ceilings::measure(&planned.devices[0], plan.config.dtype, quantization);
    let ceilings = ceilings.context("the machine's ceilings")?;
    let measured = Measured { name, spec, plan, ceilings };
    with_engine(args.serve, |engine, _| bench::roofline(engine, measured, &args.bench))
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
