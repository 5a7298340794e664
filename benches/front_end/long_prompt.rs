//! Whether a long prompt holds others up.

use crate::account::Cpu;
use crate::client::{Client, Kind, now};
use crate::load::{CHAT, STEP_TIME, STEPS, STREAMS, Server, chat, micros, words};
use benches::{Result, stand_in};
use std::fmt::Write;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

const PROMPT_LEN: usize = 44_000;
const ROUNDS: usize = 15;

/// How late chunks of others come while a long prompt is read, and right after.
pub(crate) fn run() -> Result<String> {
    let model = stand_in::text_model()?;
    let mut content = words(0, PROMPT_LEN / 3);
    let num_tokens = |content: &str| Ok::<_, text::TextError>(model.encode(content, false)?.len());
    content.truncate(content.len() * PROMPT_LEN / num_tokens(&content)?);
    let before = Cpu::of_this_thread()?;
    let num_tokens = num_tokens(&content)?;
    let alone = Cpu::of_this_thread()?.since(before).total;
    let rounds = (0..ROUNDS).map(|_| latest_chunks(&content)).collect::<Result<Vec<_>>>()?;
    let mut text = format!(
        "{STREAMS} streams, a step each 5 ms; meanwhile a prompt of {num_tokens} tokens comes, whose \
         tokenising takes {:.0} ms of a core. From a step to its last chunk at the latest, in \
         {ROUNDS} rounds:\n\n| steps | best round | median | worst |\n|---|---|---|---|\n",
        micros(alone, 1000)
    );
    for (at, name) in
        ["from the prompt's sending to its answer", "as long after that"].iter().enumerate()
    {
        let mut latest: Vec<_> = rounds.iter().map(|round| round[at]).collect();
        latest.sort_unstable();
        let [best, median, worst] =
            [0, ROUNDS / 2, ROUNDS - 1].map(|round| micros(latest[round], 1000));
        writeln!(text, "| {name} | {best:.2} ms | {median:.2} ms | {worst:.2} ms |")?;
    }
    Ok(text)
}

/// The longest time from a step to its last chunk while a prompt is read, and in as long a time after.
fn latest_chunks(content: &str) -> Result<[Duration; 2]> {
    let server = Server::start(false)?;
    let client = server.open(STREAMS, STEPS)?;
    let body = chat(content, false, 1);
    let mut other = Client::prepare(Kind::Requests, server.address, 1, CHAT)?;
    let mut asking = None;
    let ask = move || {
        let begun = now();
        let done = other.send(&body).and_then(|()| other.wait());
        done.map(|_| (begun, now())).map_err(|error| error.to_string())
    };
    let mut ask = Some(ask);
    let (mut due, mut sent) = (Instant::now(), Vec::new());
    while server.stand_in.num_running() > 0
        || asking.as_ref().is_some_and(|asking: &JoinHandle<_>| !asking.is_finished())
    {
        if sent.len() == STEPS / 4 {
            asking = ask.take().map(std::thread::spawn);
        }
        sent.push(now());
        server.stand_in.step();
        due += STEP_TIME;
        sleep(due.saturating_duration_since(Instant::now()));
    }
    let received = client.wait()?;
    let asked = asking.ok_or("the streams were too short")?.join();
    let (begun, ended) = asked.map_err(|_| "the client panicked")??;
    // The role comes before the first token.
    let steps = sent.into_iter().zip(received.arrivals.into_iter().skip(1));
    let latest = |from: Duration, to: Duration| {
        let steps = steps.clone().filter(|(sent, _)| (from..to).contains(sent));
        steps.map(|(sent, arrived)| arrived.saturating_sub(sent)).max().unwrap_or_default()
    };
    let after = ended + ended.saturating_sub(begun);
    Ok([latest(begun, ended), latest(ended, after)])
}
