//! What a request costs.

use crate::account::Cpu;
use crate::client::{Client, Kind};
use crate::load::{CHAT, ROUNDS, Server, THREADS, chat, least, micros};
use benches::Result;
use benches::stand_in::MODEL;
use serde_json::json;
use std::fmt::Write;

const REQUESTS: usize = 2000;

/// What a request costs that is answered with one token.
pub(crate) fn run() -> Result<String> {
    let server = Server::start(true)?;
    let mut text = format!(
        "Processor time a request with an answer of one token, of {REQUESTS} on one connection, \
         least of {ROUNDS}:\n\n| request | µs | of it the kernel |\n|---|---|---|\n"
    );
    let ids: Vec<u32> = (300..364).collect();
    let completion = json!({"model": MODEL, "prompt": ids, "max_tokens": 1}).to_string();
    for (name, path, body) in [
        ("completion of 64 ids: nothing is tokenised", "/v1/completions", completion),
        (
            "chat: template and tokenising of 10 words",
            CHAT,
            chat("one two three four five six seven eight nine ten", false, 1),
        ),
    ] {
        let cpu = least(|| {
            let client = Client::start(Kind::Requests, server.address, REQUESTS, (path, &body))?;
            let before = Cpu::of_threads(THREADS)?;
            client.wait()?;
            Ok(Cpu::of_threads(THREADS)?.since(before))
        })?;
        let (total, kernel) = (micros(cpu.total, REQUESTS), micros(cpu.kernel, REQUESTS));
        writeln!(text, "| {name} | {total:.1} | {kernel:.1} |")?;
    }
    Ok(text)
}
