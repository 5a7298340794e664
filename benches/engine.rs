//! The whole engine without HTTP: throughput by streams, time per token by context, prefix cache,
//! the scheduler's share. `cargo bench -p benches --bench engine -- MODEL [--dtype float32]
//! [--dummy] [--only NAME]`, where MODEL is a folder with config.json.

#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

use candle_core::{DType, Device};
use engine::architecture::Architecture;
use engine::memory::{MemoryPlan, available_bytes};
use engine::weights::Weights;
use engine::{Engine, EngineConfig, EngineHandle, EngineOptions, Event, Request, SamplingParams};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the command line says.
struct Options {
    model: PathBuf,
    dtype: DType,
    dummy: bool,
    only: Option<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options =
            Self { model: PathBuf::new(), dtype: DType::F32, dummy: false, only: None };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {}
                "--dummy" => options.dummy = true,
                "--only" => options.only = args.next(),
                "--dtype" => {
                    options.dtype = match args.next().as_deref() {
                        Some("float32") => DType::F32,
                        Some("bfloat16") => DType::BF16,
                        other => return Err(format!("--dtype {other:?}").into()),
                    }
                }
                _ => options.model = arg.into(),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let handle = start(&options)?;
    let bench = Bench { vocab_size: handle.vocab_size(), handle };
    println!("{} {:?}", options.model.display(), options.dtype);
    if options.wants("streams") {
        bench.streams()?;
    }
    if options.wants("context") {
        bench.context()?;
    }
    if options.wants("prefix") {
        bench.prefix()?;
    }
    Ok(())
}

fn start(options: &Options) -> Result<EngineHandle> {
    let config = std::fs::read(Path::new(&options.model).join("config.json"))?;
    let config = serde_json::from_slice(&config)?;
    let row = Architecture::find(models::registry(), &config)?;
    let spec = (row.spec)(&config)?;
    let engine = EngineOptions {
        dtype: Some(options.dtype),
        max_model_len: Some(spec.max_position_embeddings.min(8192)),
        kv_cache_memory_bytes: Some(2 << 30),
        max_num_seqs: Some(64),
        ..EngineOptions::default()
    };
    let engine = EngineConfig::resolve(&engine, &spec)?;
    engine.start_pool()?;
    let plan = MemoryPlan::compute(&spec, &engine, available_bytes()?);
    plan.check()?;
    let mut weights = if options.dummy {
        Weights::dummy(0, &Device::Cpu, options.dtype)?
    } else {
        Weights::open(&options.model, &Device::Cpu, options.dtype)?
    };
    let started = Instant::now();
    let model = (row.load)(&config, &mut weights, engine.max_model_len)?;
    println!("loaded in {:.2} s", started.elapsed().as_secs_f64());
    Ok(Engine::start(model, &spec, &plan, &Device::Cpu, &[])?)
}

struct Bench {
    handle: EngineHandle,
    vocab_size: usize,
}

/// When a request's tokens came, from its submission.
struct Times {
    first: Duration,
    last: Duration,
    num_tokens: usize,
}

impl Times {
    fn per_token(&self) -> Duration {
        self.last.saturating_sub(self.first) / (self.num_tokens as u32 - 1)
    }
}

impl Bench {
    /// A prompt that no other seed shares.
    fn prompt(&self, seed: u64, len: usize) -> Vec<u32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % self.vocab_size as u64) as u32
            })
            .collect()
    }

    fn submit(&self, prompt: Vec<u32>, max_tokens: usize) -> Result<Receiver<Event>> {
        let (sender, receiver) = channel();
        let params = SamplingParams {
            temperature: 0.0,
            max_tokens,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        let sink = Box::new(move |event| sender.send(event).is_ok());
        self.handle.submit(Request {
            prompt,
            params,
            priority: 0,
            cache_salt: None,
            constraint: None,
            sink,
        })?;
        Ok(receiver)
    }

    fn run(&self, prompt: Vec<u32>, max_tokens: usize) -> Result<Times> {
        let started = Instant::now();
        let events = self.submit(prompt, max_tokens)?;
        let mut times = Times { first: Duration::ZERO, last: Duration::ZERO, num_tokens: 0 };
        for event in events {
            match event {
                Event::Token { .. } => {
                    times.last = started.elapsed();
                    times.num_tokens += 1;
                    if times.num_tokens == 1 {
                        times.first = times.last;
                    }
                }
                Event::Failed(error) => return Err(error.into()),
                Event::Finished { .. } | Event::PromptScored(_) => {}
            }
        }
        Ok(times)
    }

    /// Prompts of 32 tokens, answers of 48, all submitted at once.
    fn streams(&self) -> Result<()> {
        self.run(self.prompt(1, 32), 8)?;
        println!("\n| streams | tokens/s | ratio | scheduler share of a step |\n|---|---|---|---|");
        let mut one = 0.0;
        for streams in [1, 4, 8, 16, 32] {
            let before = self.handle.stats();
            let started = Instant::now();
            let receivers: Vec<_> = (0..streams)
                .map(|i| self.submit(self.prompt(100 * streams + i, 32), 48))
                .collect::<Result<_>>()?;
            let mut tokens = 0;
            for receiver in receivers {
                tokens += receiver.iter().filter(|e| matches!(e, Event::Token { .. })).count();
            }
            let rate = tokens as f64 / started.elapsed().as_secs_f64();
            let after = self.handle.stats();
            let schedule = after.schedule_ns - before.schedule_ns;
            let share = schedule as f64 / (after.step_ns - before.step_ns) as f64;
            if streams == 1 {
                one = rate;
            }
            println!("| {streams} | {rate:.1} | {:.2} | {:.3} % |", rate / one, share * 100.0);
        }
        Ok(())
    }

    /// Time per token and to the first token of one stream, by length of its prompt.
    fn context(&self) -> Result<()> {
        println!("\n| context | ms a token | ratio | ms to first token | prompt tokens/s |");
        println!("|---|---|---|---|---|");
        let mut shortest = 0.0;
        for len in [128, 512, 1024, 2048, 4096] {
            let times = self.run(self.prompt(7 + len as u64, len), 17)?;
            let per_token = times.per_token().as_secs_f64() * 1e3;
            if shortest == 0.0 {
                shortest = per_token;
            }
            let first = times.first.as_secs_f64();
            println!(
                "| {len} | {per_token:.2} | {:.2} | {:.1} | {:.0} |",
                per_token / shortest,
                first * 1e3,
                len as f64 / first
            );
        }
        Ok(())
    }

    /// Time to the first token of a prompt of 2,048 tokens and 16 of its own, cold and repeated.
    fn prefix(&self) -> Result<()> {
        let prefix = self.prompt(11, 2048);
        let prompt = |own| [prefix.clone(), self.prompt(own, 16)].concat();
        let cold = self.run(prompt(1), 2)?.first.as_secs_f64();
        let warm = self.run(prompt(2), 2)?.first.as_secs_f64();
        println!("\n| repeated prefix of 2048 | ms to first token |\n|---|---|");
        println!("| cold | {:.1} |\n| from the cache | {:.1} |", cold * 1e3, warm * 1e3);
        println!("| ratio | {:.1} |", cold / warm);
        Ok(())
    }
}
