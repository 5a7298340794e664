//! Work whose instructions `scripts/instructions` counts: `instructions CASE TIMES` does it so often, and
//! two counts tell what once costs. Seconds depend on the machine and its neighbours, these do not.
//!
//! One thread computes, and the kernels take the vector instructions that valgrind has (AVX2), wherever it
//! runs.

use axum::body::Body;
use axum::http::Request;
use benches::stand_in::{self, MODEL};
use benches::{Result, running};
use candle_core::{Device, Tensor};
use http_body_util::BodyExt;
use kernels::sample::{SampleBatch, SampleRow, sample};
use serde_json::json;
use tower::ServiceExt;

/// Sequences of a step.
const NUM_RUNNING: usize = 64;
/// Of a large model.
const VOCAB_SIZE: usize = 151_936;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let case = arguments.next().ok_or("the first argument must be a case")?;
    let times = arguments.next().ok_or("the second argument must be a number")?.parse()?;
    match case.as_str() {
        "scheduler-step" => scheduler_steps(times),
        "sampler-row" => sampler_rows(times),
        "detokenizer-token" => detokenizer_tokens(times),
        "sse-chunk" => sse_chunks(times),
        _ => Err(format!("there is no case {case}").into()),
    }
}

/// 64 sequences decode, 64 wait.
fn scheduler_steps(times: usize) -> Result<()> {
    let mut scheduler = running::scheduler(NUM_RUNNING, NUM_RUNNING, 4, times)?;
    for _ in 0..times {
        running::step(&mut scheduler);
    }
    Ok(())
}

/// Temperature, top-k and top-p as most models recommend them.
fn sampler_rows(times: usize) -> Result<()> {
    kernels::pool::init(1)?;
    let spread = (0..VOCAB_SIZE as u32).map(|id| id.wrapping_mul(2_654_435_761) as f32 / 3e8);
    let logits = Tensor::from_iter(spread, &Device::Cpu)?.reshape((1, VOCAB_SIZE))?;
    for position in 0..times as u64 {
        let row =
            SampleRow { temperature: 0.7, top_k: 20, top_p: 0.8, position, ..SampleRow::default() };
        sample(&logits, &SampleBatch { rows: &[row], ..SampleBatch::default() })?;
    }
    Ok(())
}

fn detokenizer_tokens(times: usize) -> Result<()> {
    let text = stand_in::text_model()?;
    let ids = text.encode(stand_in::ANSWER, false)?;
    let mut detokenizer = text.output_detokenizer(true, &[]);
    let num_bytes: usize =
        ids.iter().cycle().take(times).map(|id| detokenizer.push(*id).len()).sum();
    if num_bytes < times { Err("the answer was not decoded".into()) } else { Ok(()) }
}

/// From the engine's event to the frame that goes to the connection.
fn sse_chunks(times: usize) -> Result<()> {
    let (app, _) = stand_in::app(true)?;
    let messages = [json!({"role": "user", "content": "hi"})];
    let body = json!({"model": MODEL, "messages": messages, "stream": true, "max_tokens": times});
    let request = Request::post("/v1/chat/completions").header("content-type", "application/json");
    let request = request.body(Body::from(body.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut body = app.router().oneshot(request).await?.into_body();
        let mut num_frames = 0;
        while let Some(frame) = body.frame().await {
            frame?;
            num_frames += 1;
        }
        if num_frames < times { Err("chunks are missing".into()) } else { Ok(()) }
    })
}
