//! What streams cost that wait.

use crate::account::{Cpu, resident_bytes};
use crate::load::{STREAMS, Server, THREADS};
use benches::Result;
use std::thread::sleep;
use std::time::Duration;

const IDLE_STREAMS: usize = 10_000;
/// Shorter than the time between two heartbeats.
const IDLE_TIME: Duration = Duration::from_secs(8);

/// What streams cost that wait for their next token.
pub(crate) fn run() -> Result<String> {
    let server = Server::start(false)?;
    server.open(STREAMS, 2)?.kill()?;
    let before = resident_bytes()?;
    let client = server.open(IDLE_STREAMS, 2)?;
    let after = resident_bytes()?;
    let cpu = Cpu::of_threads(THREADS)?;
    sleep(IDLE_TIME);
    let used = Cpu::of_threads(THREADS)?.since(cpu).total;
    client.kill()?;
    Ok(format!(
        "{IDLE_STREAMS} streams that wait: {:.0} MB more than none, {:.1} kB each; {:.2} % of a core \
         in {} s\n",
        (after - before) as f64 / 1e6,
        (after - before) as f64 / 1e3 / IDLE_STREAMS as f64,
        used.as_secs_f64() / IDLE_TIME.as_secs_f64() * 1e2,
        IDLE_TIME.as_secs()
    ))
}
