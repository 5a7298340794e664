//! An engine on its own, and requests to it.

use crate::Result;
use candle_core::{DType, Device};
use engine::SamplingParams;
use engine::architecture::Architecture;
use engine::memory::{MemoryPlan, available_bytes};
use engine::weights::Weights;
use engine::{Constraint, Engine, EngineConfig, EngineHandle, EngineOptions, Event, Request};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What the command line of a bench says: `MODEL [--dtype float32|bfloat16] [--dummy] [--only NAME]
/// [--tokenizer FILE]`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder with a `config.json`.
    pub model: PathBuf,
    /// Of weights, activations and cache.
    pub dtype: DType,
    /// Random weights.
    pub dummy: bool,
    /// A `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// The one part to run.
    pub only: Option<String>,
}

impl Options {
    /// Reads the arguments of the process.
    ///
    /// # Errors
    /// A dtype that is neither.
    pub fn parse() -> Result<Self> {
        let mut options = Self {
            model: PathBuf::new(),
            dtype: DType::F32,
            dummy: false,
            tokenizer: None,
            only: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {}
                "--dummy" => options.dummy = true,
                "--only" => options.only = args.next(),
                "--tokenizer" => options.tokenizer = args.next().map(PathBuf::from),
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

    /// Whether a part is to run.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

/// When a request's tokens came, from its submission.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The first.
    pub first: Duration,
    /// The last.
    pub last: Duration,
    /// How many.
    pub num_tokens: usize,
}

impl Times {
    /// Between two tokens, on average.
    pub fn per_token(&self) -> Duration {
        self.last.saturating_sub(self.first) / (self.num_tokens as u32 - 1)
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Driver {
    /// Access to it.
    pub handle: EngineHandle,
}

impl Driver {
    /// Loads the model and starts the engine. Guessing ahead is off unless `num_speculative_tokens`
    /// says otherwise: random weights soon go in circles, which would flatter every number.
    ///
    /// # Errors
    /// Whatever keeps an engine from starting.
    pub fn start(options: &Options, num_speculative_tokens: usize) -> Result<Self> {
        let config = std::fs::read(Path::new(&options.model).join("config.json"))?;
        let config = serde_json::from_slice(&config)?;
        let row = Architecture::find(models::registry(), &config)?;
        let spec = (row.spec)(&config)?;
        let engine = EngineOptions {
            dtype: Some(options.dtype),
            max_model_len: Some(spec.max_position_embeddings.min(8192)),
            kv_cache_memory_bytes: Some(2 << 30),
            max_num_seqs: Some(64),
            num_speculative_tokens: Some(num_speculative_tokens),
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
        let model = (row.load)(&config, &mut weights, engine.max_model_len)?;
        Ok(Self { handle: Engine::start(model, &spec, &plan, &Device::Cpu, &[])? })
    }

    /// A prompt of random tokens that no other seed shares.
    pub fn prompt(&self, seed: u64, len: usize) -> Vec<u32> {
        let vocab_size = self.handle.vocab_size() as u64;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % vocab_size) as u32
            })
            .collect()
    }

    /// Greedy, past every end.
    ///
    /// # Errors
    /// The engine's refusal.
    pub fn submit(&self, prompt: Vec<u32>, max_tokens: usize) -> Result<Receiver<Event>> {
        let params = SamplingParams { temperature: 0.0, max_tokens, ..SamplingParams::default() };
        self.submit_with(prompt, params, None)
    }

    /// As told, past every end.
    ///
    /// # Errors
    /// The engine's refusal.
    pub fn submit_with(
        &self,
        prompt: Vec<u32>,
        params: SamplingParams,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<Receiver<Event>> {
        let (sender, receiver) = channel();
        self.handle.submit(Request {
            prompt,
            params: SamplingParams { ignore_eos: true, ..params },
            priority: 0,
            share: None,
            deadline: None,
            cache_salt: None,
            constraint,
            sink: Box::new(move |event| sender.send(event).is_ok()),
        })?;
        Ok(receiver)
    }

    /// Waits for the end of a request submitted at `started`.
    ///
    /// # Errors
    /// The engine's failure.
    pub fn wait(events: &Receiver<Event>, started: Instant) -> Result<Times> {
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
                Event::Started { .. }
                | Event::Finished { .. }
                | Event::PromptScored(_)
                | Event::Pooled(_) => {}
            }
        }
        Ok(times)
    }

    /// Submits and waits.
    ///
    /// # Errors
    /// Refusal or failure.
    pub fn run(&self, prompt: Vec<u32>, max_tokens: usize) -> Result<Times> {
        let started = Instant::now();
        Self::wait(&self.submit(prompt, max_tokens)?, started)
    }
}
