//! What a streamed chunk costs.

use crate::account::Cpu;
use crate::load::{CHAT, ROUNDS, STEP_TIME, STEPS, STREAMS, Server, THREADS, chat, least, micros};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use benches::{Result, stand_in};
use http_body_util::BodyExt;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tower::ServiceExt;

/// What a streamed chunk costs.
pub(crate) fn run() -> Result<String> {
    let mut text = format!("\n{STREAMS} streams, processor time a chunk, least of {ROUNDS}:\n\n");
    text += "| where | µs | of it the kernel | chunks/s of a core |\n|---|---|---|---|\n";
    let mut row = |name: &str, cpu: Cpu, num: usize| {
        let (total, kernel) = (micros(cpu.total, num), micros(cpu.kernel, num));
        writeln!(text, "| {name} | {total:.2} | {kernel:.2} | {:.0} |", 1e6 / total)
    };
    row("from token to body frame, no socket", in_process()?, STREAMS * STEPS)?;
    row("to a socket, a step each 5 ms", paced(STEP_TIME)?, STREAMS * STEPS)?;
    row("to a socket, a step each ms", paced(STEP_TIME / 5)?, STREAMS * STEPS)?;
    Ok(text)
}

fn in_process() -> Result<Cpu> {
    let (app, stand_in) = stand_in::app(false)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let num_frames = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        for _ in 0..STREAMS {
            let body = chat("Tell me about front ends.", true, STEPS * (ROUNDS + 1));
            tokio::spawn(drain(app.router(), body, Arc::clone(&num_frames)));
        }
        while stand_in.num_running() < STREAMS {
            tokio::time::sleep(STEP_TIME).await;
        }
        // The first frames have the role.
        let mut expected = 2 * STREAMS;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let before = Cpu::of_this_thread()?;
            for _ in 0..STEPS {
                stand_in.step();
                while num_frames.load(Ordering::Relaxed) < expected {
                    tokio::task::yield_now().await;
                }
                expected += STREAMS;
            }
            rounds.push(Cpu::of_this_thread()?.since(before));
        }
        Ok(rounds.into_iter().min_by_key(|cpu| cpu.total).ok_or("no rounds")?)
    })
}

/// Reads an answer to its end.
async fn drain(router: Router, body: String, num_frames: Arc<AtomicUsize>) {
    let request = Request::post(CHAT).header("content-type", "application/json");
    let Ok(request) = request.body(Body::from(body)) else { return };
    let Ok(response) = router.oneshot(request).await;
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {
        num_frames.fetch_add(1, Ordering::Relaxed);
    }
}

fn paced(step_time: Duration) -> Result<Cpu> {
    let server = Server::start(false)?;
    least(|| {
        let client = server.open(STREAMS, STEPS)?;
        let before = Cpu::of_threads(THREADS)?;
        let mut due = Instant::now();
        while server.stand_in.step() > 0 {
            due += step_time;
            sleep(due.saturating_duration_since(Instant::now()));
        }
        let received = client.wait()?;
        let cpu = Cpu::of_threads(THREADS)?.since(before);
        check(received.num_events, STREAMS * STEPS)?;
        Ok(cpu)
    })
}

/// Each stream has a role, a finish and `[DONE]` besides its tokens.
fn check(num_events: usize, num_tokens: usize) -> Result<()> {
    if num_events == num_tokens + 3 * STREAMS {
        return Ok(());
    }
    Err(format!("{num_events} events came of {num_tokens} tokens").into())
}
