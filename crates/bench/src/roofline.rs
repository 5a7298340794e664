//! `sconce bench roofline`: what the engine reaches of what the machine can do, at each of a few loads,
//! and where the time of a step goes.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::ceilings::{Ceilings, Costs, Work};
use engine::memory::{MemoryPlan, Size};
use engine::model::ModelSpec;
use engine::{EngineHandle, EngineStats};
use serde::Serialize;
use serde_json::json;

use crate::cli::RooflineArgs;
use crate::offline::EngineLoad;
use crate::output::say;
use crate::quantity::TokenRange;
use crate::request::Sample;
use crate::serve::write_json;

/// What is measured, and where.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// As it was asked for.
    pub name: &'a str,
    /// What its configuration says.
    pub spec: &'a ModelSpec,
    /// Its memory, and how it runs.
    pub plan: &'a MemoryPlan,
    /// Of the device.
    pub ceilings: Ceilings,
}

/// One load.
#[derive(Debug, Serialize)]
struct Row {
    /// `decode` or `prefill`.
    phase: &'static str,
    /// Sequences at once, or tokens of a prompt.
    size: usize,
    tokens_per_second: f64,
    /// At the ceiling.
    tokens_per_second_at_most: f64,
    /// Of 1.
    reached: f64,
    bound_by: &'static str,
    /// Shares of the engine's time, of 1.
    shares: Shares,
}

/// Where the engine's thread spends its time. On a GPU, which works on behind it, this is the time it
/// takes to ask for things, and to wait for them.
#[derive(Debug, Clone, Copy, Serialize)]
struct Shares {
    model: f64,
    sampler: f64,
    scheduler: f64,
    rest: f64,
}

impl Shares {
    fn between(before: &EngineStats, after: &EngineStats) -> Self {
        let time = |of: fn(&EngineStats) -> u64| (of(after) - of(before)) as f64;
        let (model, sampler) = (time(|stats| stats.forward_ns), time(|stats| stats.sample_ns));
        let scheduler = time(|stats| stats.schedule_ns);
        let parts = model + sampler + scheduler;
        // The last step is counted once it has told its tokens: it may be in its parts alone.
        let whole = time(|stats| stats.step_ns).max(parts).max(1.0);
        let [model, sampler, scheduler, rest] =
            [model, sampler, scheduler, whole - parts].map(|time| time / whole);
        Self { model, sampler, scheduler, rest }
    }
}

pub(crate) fn run(
    engine: &EngineHandle,
    measured: Measured<'_>,
    args: &RooflineArgs,
) -> Result<()> {
    let Measured { name, spec, plan, ceilings } = measured;
    let config = &plan.config;
    let costs = Costs::of(spec, plan);
    let step_bytes = costs.of_step([(1, 1)]).bytes as usize;
    say(&format!(
        "memory {:.1} GB/s, {} products {:.1} GFLOP/s; {name} reads {} for a step of one token\n",
        ceilings.bytes_per_second / 1e9,
        config
            .quantization_of(spec)
            .map_or(config.dtype.as_str(), |quantization| quantization.name()),
        ceilings.flops_per_second / 1e9,
        Size(step_bytes),
    ))?;
    if step_bytes < CACHES_BYTES {
        say(
            "so little may stay in the processor's caches, which are faster than memory: what memory\n\
             bounds can then be more than 100 %\n",
        )?;
    }
    say(&format!("\n{HEAD}"))?;
    let bench = Bench { engine, costs, ceilings };
    let mut rows = Vec::new();
    for streams in args.streams.iter().filter(|streams| **streams <= config.max_num_seqs) {
        rows.push(bench.decode(*streams, args)?);
        say(&rows[rows.len() - 1].line())?;
    }
    for prompt in args.prompts.iter().filter(|prompt| **prompt < config.max_model_len) {
        rows.push(bench.prefill(*prompt)?);
        say(&rows[rows.len() - 1].line())?;
    }
    let Some(path) = &args.output else { return Ok(()) };
    let (bandwidth, flops) = (ceilings.bytes_per_second, ceilings.flops_per_second);
    let result = json!({
        "model_id": name, "dtype": format!("{:?}", config.dtype).to_lowercase(),
        "num_threads": config.num_threads, "bytes_per_second": bandwidth,
        "flops_per_second": flops, "rows": rows,
    });
    write_json(path, &result)
}

/// As much as the caches of a large processor hold.
const CACHES_BYTES: usize = 256 << 20;

const HEAD: &str = "load                 tokens/s   at most  reached  bound by    model  sampler  scheduler    rest\n";

impl Row {
    fn new(
        (phase, size): (&'static str, usize),
        (rate, at_most): (f64, f64),
        is_memory_bound: bool,
        shares: Shares,
    ) -> Self {
        Self {
            phase,
            size,
            tokens_per_second: rate,
            tokens_per_second_at_most: at_most,
            reached: rate / at_most,
            bound_by: if is_memory_bound { "memory" } else { "arithmetic" },
            shares,
        }
    }

    fn line(&self) -> String {
        let mut line = String::new();
        let load = match self.phase {
            "decode" => format!("decode, {} at once", self.size),
            phase => format!("{phase}, {} tokens", self.size),
        };
        let Shares { model, sampler, scheduler, rest } = self.shares;
        let _ = writeln!(
            line,
            "{load:<19}{:>10.1}{:>10.1}{:>8.0}%  {:<10}{:>6.1}%{:>8.1}%{:>10.2}%{:>7.1}%",
            self.tokens_per_second,
            self.tokens_per_second_at_most,
            100.0 * self.reached,
            self.bound_by,
            100.0 * model,
            100.0 * sampler,
            100.0 * scheduler,
            100.0 * rest,
        );
        line
    }
}

/// An engine under its loads.
struct Bench<'a> {
    engine: &'a EngineHandle,
    costs: Costs,
    ceilings: Ceilings,
}

impl Bench<'_> {
    /// Sequences that begin together and generate together; the time of a token is that of a step.
    fn decode(&self, streams: usize, args: &RooflineArgs) -> Result<Row> {
        let (prompt, output) = (args.input_tokens, args.output_tokens);
        let mut load = self.load(prompt, output, streams as u64);
        let mut samples = Vec::new();
        load.run(streams, streams, Instant::now(), drop)?;
        let before = self.engine.stats();
        load.run(streams, streams, Instant::now(), |sample| samples.push(sample))?;
        let shares = Shares::between(&before, &self.engine.stats());
        // All have begun when the last one's first token comes, and none has ended before the first
        // one's last.
        let begun = samples.iter().filter_map(|sample| sample.chunks.first()).max();
        let ended = samples.iter().filter_map(|sample| sample.chunks.last()).min();
        let (Some(&begun), Some(&ended)) = (begun, ended) else { bail!("no token came") };
        let within = |at: &&Duration| (begun..ended).contains(*at);
        let tokens = samples.iter().flat_map(|sample| &sample.chunks).filter(within).count();
        if tokens == 0 {
            bail!("--output-tokens {output}: too few to see {streams} sequences at once");
        }
        let rate = tokens as f64 / ended.saturating_sub(begun).as_secs_f64();
        let each = (1, prompt + output / 2);
        let work = self.costs.of_step(std::iter::repeat_n(each, streams));
        let at_most = streams as f64 / self.ceilings.seconds(work);
        Ok(Row::new(
            ("decode", streams),
            (rate, at_most),
            self.ceilings.is_memory_bound(work),
            shares,
        ))
    }

    /// A prompt at a time, as many steps as it takes; the best of three.
    fn prefill(&self, prompt: usize) -> Result<Row> {
        let mut load = self.load(prompt, 1, 1_000 + prompt as u64);
        let before = self.engine.stats();
        let mut seconds = f64::INFINITY;
        for _ in 0..3 {
            let mut first = None;
            let begun = Instant::now();
            load.run(1, 1, begun, |sample: Sample| first = sample.chunks.first().copied())?;
            seconds = seconds.min(first.context("no token came")?.as_secs_f64());
        }
        let shares = Shares::between(&before, &self.engine.stats());
        let most = self.engine.config().max_num_batched_tokens;
        let mut at_most = 0.0;
        let mut work = Work::default();
        for start in (0..prompt).step_by(most) {
            let tokens = most.min(prompt - start);
            let step = self.costs.of_step([(tokens, start + tokens)]);
            at_most += self.ceilings.seconds(step);
            work = work + step;
        }
        let rates = (prompt as f64 / seconds, prompt as f64 / at_most);
        Ok(Row::new(("prefill", prompt), rates, self.ceilings.is_memory_bound(work), shares))
    }

    fn load(&self, input: usize, output: usize, seed: u64) -> EngineLoad<'_> {
        let (input, output) = (TokenRange::exactly(input), TokenRange::exactly(output));
        EngineLoad::new(self.engine, input, output, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_between() {
        let before = EngineStats { step_ns: 100, forward_ns: 50, ..EngineStats::default() };
        let after = EngineStats {
            step_ns: 1_100,
            forward_ns: 850,
            sample_ns: 100,
            schedule_ns: 50,
            ..EngineStats::default()
        };
        let Shares { model, sampler, scheduler, rest } = Shares::between(&before, &after);
        let shares = [model, sampler, scheduler, rest].map(|share| (share * 1e6).round());
        assert_eq!(shares, [800_000.0, 100_000.0, 50_000.0, 50_000.0]);
    }

    #[test]
    fn a_line_stands_under_its_head() {
        let shares = Shares { model: 0.9, sampler: 0.05, scheduler: 0.0001, rest: 0.0499 };
        let row = Row::new(("decode", 32), (176.84, 420.0), true, shares);
        let expected = "decode, 32 at once      176.8     420.0      42%  memory      90.0%     5.0%      0.01%    5.0%\n";
        assert_eq!(row.line(), expected);
        assert_eq!(row.line().len(), HEAD.len());
    }
}
