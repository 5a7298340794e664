//! Time of a step's scheduling, by how many sequences run and wait and of how many tenants: `cargo bench
//! --workspace --bench scheduler`.

use benches::{Result, running};
use std::io::Write;
use std::time::{Duration, Instant};

const STEPS: usize = 2000;

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Every sequence decodes; median of {STEPS} steps, plan and commit")?;
    writeln!(
        out,
        "\n| running | waiting | tenants | µs a step | ns a running sequence |\n|---|---|---|---|---|"
    )?;
    for running in [1, 64, 256] {
        for (waiting, tenants) in [(10, 1), (10_000, 1), (10_000, 64), (10_000, 1000)] {
            let step = median_step(running, waiting, tenants)?;
            let (micros, each) = (step.as_secs_f64() * 1e6, step.as_nanos() / running as u128);
            writeln!(out, "| {running} | {waiting} | {tenants} | {micros:.1} | {each} |")?;
        }
    }
    Ok(())
}

fn median_step(running: usize, waiting: usize, tenants: u64) -> Result<Duration> {
    let mut scheduler = running::scheduler(running, waiting, tenants, STEPS)?;
    let mut times: Vec<_> = (0..STEPS)
        .map(|_| {
            let begun = Instant::now();
            running::step(&mut scheduler);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    Ok(times[STEPS / 2])
}
