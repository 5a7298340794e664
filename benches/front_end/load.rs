//! What every part puts on a server, and how it measures.

use crate::account::Cpu;
use crate::client::{Client, Kind};
use benches::Result;
use benches::stand_in::{self, MODEL, StandIn};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Rounds of what is measured; the least is told.
pub(crate) const ROUNDS: usize = 5;
/// Streams at once, where it is not what is measured.
pub(crate) const STREAMS: usize = 64;
/// Chunks of each in a round.
pub(crate) const STEPS: usize = 400;
/// Of a small model.
pub(crate) const STEP_TIME: Duration = Duration::from_millis(5);
/// The server's threads.
pub(crate) const THREADS: &str = server::CONNECTION_THREADS;
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// A chat whose only message is `content`.
pub(crate) fn chat(content: &str, stream: bool, max_tokens: usize) -> String {
    let messages = [json!({"role": "user", "content": content})];
    json!({"model": MODEL, "messages": messages, "stream": stream, "max_tokens": max_tokens})
        .to_string()
}

/// A server on a port of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stand_in: Arc<StandIn>,
    _accepting: Runtime,
}

impl Server {
    pub(crate) fn start(answers_at_once: bool) -> Result<Self> {
        let (app, stand_in) = stand_in::app(answers_at_once)?;
        // Its blocking threads do what connections leave to others.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(THREADS)
            // A thread that ends takes its account along.
            .thread_keep_alive(Duration::from_hours(1))
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(server::serve(listener, app, std::future::pending()));
        Ok(Self { address, stand_in, _accepting: runtime })
    }

    /// Streams that have begun and wait for the first step.
    pub(crate) fn open(&self, num: usize, max_tokens: usize) -> Result<Client> {
        let body = chat("Tell me about front ends.", true, max_tokens);
        let mut client = Client::start(Kind::Streams, self.address, num, (CHAT, &body))?;
        client.wait_open()?;
        Ok(client)
    }
}

/// The least of some rounds by total time.
pub(crate) fn least(mut round: impl FnMut() -> Result<Cpu>) -> Result<Cpu> {
    let mut rounds = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<_>>>()?;
    rounds.sort_by_key(|cpu| cpu.total);
    Ok(rounds[0])
}

pub(crate) fn micros(time: Duration, num: usize) -> f64 {
    time.as_secs_f64() * 1e6 / num as f64
}

/// Text without much repetition.
pub(crate) fn words(seed: usize, num: usize) -> String {
    let mut text = String::new();
    for number in seed..seed + num {
        let word =
            ["value", "engine", "Server", "paged", "the", "of", "token", "cache", "is"][number % 9];
        text += word;
        text += " ";
        if number % 4 == 0 {
            text += &(number * 7919).to_string();
            text += ", ";
        }
    }
    text
}
