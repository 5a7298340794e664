//! The sconce binary: reads the command line and runs one verb.

mod chat;
mod cli;
mod config;
mod flag_values;
mod hub;
mod keys;
mod listen;
mod load;
mod logging;
#[cfg(test)]
mod manual;
mod measure;
mod model_choice;
mod model_files;
mod notify;
mod plan;
mod pooling;
mod reload;
mod restart;
mod serve;
mod signals;
mod telemetry;

use bench::OutputClosed;
use clap::Parser;
use cli::{Cli, Command};
use config::Config;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => Config::resolve(cli.serve).and_then(serve::run),
        Some(Command::Serve(args)) => Config::resolve(*args).and_then(serve::run),
        Some(Command::Chat(args)) => chat::run(&args),
        Some(Command::Plan(args)) => Config::resolve(*args).and_then(|config| plan::run(&config)),
        Some(Command::Keys { command }) => keys::run(&command),
        Some(Command::Bench { command }) => measure::run(command),
        Some(Command::Doctor(args)) => bench::doctor::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            // One line: the chain of causes, each naming the flag or file at fault.
            eprintln!("sconce: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
