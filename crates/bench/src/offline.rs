//! `sconce bench throughput` and `bench latency`: the engine in this process, without HTTP, text or
//! tokenizer. Prompts are random token ids; answers have the length asked.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::{EngineHandle, Event, Request, SamplingParams};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::api::Usage;
use crate::cli::{LatencyArgs, ThroughputArgs};
use crate::collect::{Collector, RunFacts};
use crate::failure::{Failure, FailureKind};
use crate::histogram::Times;
use crate::output::say;
use crate::quantity::TokenRange;
use crate::request::{Asked, Sample};
use crate::result::{About, RunResult};
use crate::serve::{now, write_json};
use crate::table;

/// Sequences given to the engine at once: more than run together, fewer than it lets wait.
const MOST_SUBMITTED: usize = 256;

/// Everything at once: how many tokens a second.
pub(crate) fn throughput(engine: &EngineHandle, model: &str, args: &ThroughputArgs) -> Result<()> {
    if args.requests == 0 {
        bail!("--requests 0: wants at least 1");
    }
    let mut load = EngineLoad::new(engine, args.input_tokens, args.output_tokens, args.prompt_seed);
    load.warm_up()?;
    let mut collector = Collector::default();
    let epoch = Instant::now();
    let facts = load.run(args.requests, MOST_SUBMITTED, epoch, |sample| {
        collector.add(&sample, Duration::ZERO);
    })?;
    let mut about = load.about(model, args.prompt_seed);
    about.num_prompts = Some(args.requests);
    let result = collector.finish(about, &facts);
    say(&table::run(&result))?;
    let tokens = result.total_input_tokens + result.total_output_tokens;
    let theirs = [
        ("elapsed_time", json!(result.duration)),
        ("num_requests", json!(result.completed)),
        ("total_num_tokens", json!(tokens)),
        ("requests_per_second", json!(result.request_throughput)),
        ("tokens_per_second", json!(result.total_token_throughput)),
    ];
    write(args.output.as_deref(), &result, theirs)
}

/// One batch after the other: how long one takes.
pub(crate) fn latency(engine: &EngineHandle, model: &str, args: &LatencyArgs) -> Result<()> {
    if args.batch_size == 0 || args.iterations == 0 {
        bail!("--batch-size and --iterations want at least 1");
    }
    let mut load = EngineLoad::new(engine, args.input_tokens, args.output_tokens, args.prompt_seed);
    for _ in 0..args.warmup_iterations {
        load.run(args.batch_size, args.batch_size, Instant::now(), drop)?;
    }
    let mut collector = Collector::default();
    let mut batches = Times::default();
    let mut latencies = Vec::new();
    let mut facts = RunFacts::default();
    let epoch = Instant::now();
    for _ in 0..args.iterations {
        let begun = Instant::now();
        facts = load.run(args.batch_size, args.batch_size, epoch, |sample| {
            collector.add(&sample, Duration::ZERO);
        })?;
        batches.record(begun.elapsed());
        latencies.push(begun.elapsed().as_secs_f64());
    }
    let mut about = load.about(model, args.prompt_seed);
    about.max_concurrency = Some(args.batch_size);
    "closed".clone_into(&mut about.loop_kind);
    let result = collector.finish(about, &facts);
    say(&table::run(&result))?;
    let batch = batches.summary();
    say(&format!(
        "a batch of {}: mean {:.2} ms, median {:.2} ms, p90 {:.2} ms, p99 {:.2} ms\n",
        args.batch_size, batch.mean, batch.median, batch.p90, batch.p99
    ))?;
    let percentiles = [10.0, 25.0, 50.0, 75.0, 90.0, 99.0];
    let percentiles = percentiles.map(|p| (p.to_string(), batches.percentile_ms(p) / 1e3));
    let theirs = [
        ("avg_latency", json!(batch.mean / 1e3)),
        ("latencies", json!(latencies)),
        ("percentiles", json!(percentiles.into_iter().collect::<HashMap<_, _>>())),
    ];
    write(args.output.as_deref(), &result, theirs)
}

/// The result with the names that vLLM's command of the same name has.
fn write<const N: usize>(
    path: Option<&std::path::Path>,
    result: &RunResult,
    theirs: [(&str, Value); N],
) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut json = result.to_json();
    for (name, value) in theirs {
        json[name] = value;
    }
    write_json(path, &json)
}

/// What is put on the engine.
pub(crate) struct EngineLoad<'a> {
    engine: &'a EngineHandle,
    input: TokenRange,
    output: TokenRange,
    rng: ChaCha8Rng,
}

/// An event of a sequence, and when the engine gave it.
type Given = (usize, Event, Instant);

impl<'a> EngineLoad<'a> {
    pub(crate) fn new(
        engine: &'a EngineHandle,
        input: TokenRange,
        output: TokenRange,
        seed: u64,
    ) -> Self {
        Self { engine, input, output, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    fn warm_up(&mut self) -> Result<()> {
        self.run(1, 1, Instant::now(), drop).map(drop)
    }

    /// Runs sequences, `most` of them at once, all due at the beginning.
    pub(crate) fn run(
        &mut self,
        requests: usize,
        most: usize,
        epoch: Instant,
        mut done: impl FnMut(Sample),
    ) -> Result<RunFacts> {
        let (sender, events): (Sender<Given>, Receiver<Given>) = channel();
        let mut running: HashMap<usize, Sample> = HashMap::new();
        let due = epoch.elapsed();
        let (mut next, mut max_running) = (0, 0);
        loop {
            while next < requests && running.len() < most {
                running.insert(next, self.submit(next, due, epoch, &sender)?);
                next += 1;
                max_running = max_running.max(running.len());
            }
            if running.is_empty() {
                return Ok(RunFacts { max_running, ..RunFacts::default() });
            }
            let (number, event, at) = events.recv().context("the engine ended")?;
            let at = at.saturating_duration_since(epoch);
            let Some(sample) = running.get_mut(&number) else { continue };
            match event {
                Event::Started { .. } | Event::PromptScored(_) | Event::Pooled(_) => continue,
                Event::Token { .. } => {
                    sample.chunks.push(at);
                    continue;
                }
                Event::Finished { cached_tokens, .. } => {
                    let prompt_tokens = sample.asked.prompt_tokens.unwrap_or(0);
                    let usage = Usage::new(prompt_tokens, sample.chunks.len(), cached_tokens);
                    sample.usage = Some(usage);
                }
                Event::Failed(error) => {
                    sample.failure = Some(Failure::new(FailureKind::ServerError, error));
                }
            }
            sample.end = at;
            done(running.remove(&number).context("it was there")?);
        }
    }

    fn submit(
        &mut self,
        number: usize,
        due: Duration,
        epoch: Instant,
        sender: &Sender<Given>,
    ) -> Result<Sample> {
        let prompt_tokens = self.input.draw(&mut self.rng);
        let output_tokens = self.output.draw(&mut self.rng);
        let vocab_size = self.engine.vocab_size() as u32;
        let prompt = (0..prompt_tokens).map(|_| self.rng.random_range(0..vocab_size)).collect();
        let params = SamplingParams {
            temperature: 0.0,
            max_tokens: output_tokens,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        let sender = sender.clone();
        self.engine.submit(Request {
            prompt,
            params,
            priority: 0,
            share: None,
            deadline: None,
            cache_salt: None,
            constraint: None,
            sink: Box::new(move |event| sender.send((number, event, Instant::now())).is_ok()),
        })?;
        let asked = Asked { prompt_tokens: Some(prompt_tokens), output_tokens, keep_text: false };
        Ok(Sample::new(asked, due, epoch.elapsed()))
    }

    fn about(&self, model: &str, seed: u64) -> About {
        About {
            date: now(),
            endpoint_type: "engine".to_owned(),
            model_id: model.to_owned(),
            url: "this process".to_owned(),
            generator: concat!("sconce ", env!("CARGO_PKG_VERSION")).to_owned(),
            request_rate: json!("inf"),
            burstiness: 1.0,
            loop_kind: "open".to_owned(),
            input_tokens: Some(self.input.to_string()),
            output_tokens: Some(self.output.to_string()),
            turns: "1".to_owned(),
            ignore_eos: true,
            seed,
            ..About::default()
        }
    }
}
