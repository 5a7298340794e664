//! The whole engine without HTTP: throughput by streams, time per token by context, prefix cache,
//! the scheduler's share, the time from a panic to the next token. `cargo bench -p benches --bench engine -- MODEL [--dtype float32]
//! [--dummy] [--only NAME]`, where MODEL is a folder with config.json.

#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

use benches::Result;
use benches::driver::{Driver, Options};
use engine::{Constraint, Event, SamplingParams};
use std::time::Instant;

fn main() -> Result<()> {
    let options = Options::parse()?;
    let bench = Bench(Driver::start(&options, 0)?);
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
    if options.wants("recovery") {
        bench.recovery()?;
    }
    Ok(())
}

struct Bench(Driver);

/// Allows everything, and panics when the tokens have come.
struct Panics {
    tokens_left: usize,
}

impl Constraint for Panics {
    fn fill_mask(&mut self, mask: &mut [u32]) -> std::result::Result<(), String> {
        assert!(self.tokens_left > 0, "as the benchmark wants it");
        mask.fill(u32::MAX);
        Ok(())
    }

    fn accept(&mut self, _: u32) -> std::result::Result<bool, String> {
        self.tokens_left -= 1;
        Ok(false)
    }

    fn rollback(&mut self, n: usize) -> std::result::Result<(), String> {
        self.tokens_left += n;
        Ok(())
    }

    fn forced(&mut self, _: usize) -> Vec<u32> {
        Vec::new()
    }
}

impl Bench {
    /// Prompts of 32 tokens, answers of 48, all submitted at once.
    fn streams(&self) -> Result<()> {
        self.0.run(self.0.prompt(1, 32), 8)?;
        println!("\n| streams | tokens/s | ratio | scheduler share of a step |\n|---|---|---|---|");
        let mut one = 0.0;
        for streams in [1, 4, 8, 16, 32] {
            let before = self.0.handle.stats();
            let started = Instant::now();
            let receivers: Vec<_> = (0..streams)
                .map(|i| self.0.submit(self.0.prompt(100 * streams + i, 32), 48))
                .collect::<Result<_>>()?;
            let mut tokens = 0;
            for receiver in receivers {
                tokens += receiver.iter().filter(|e| matches!(e, Event::Token { .. })).count();
            }
            let rate = tokens as f64 / started.elapsed().as_secs_f64();
            let after = self.0.handle.stats();
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
            let times = self.0.run(self.0.prompt(7 + len as u64, len), 17)?;
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
        let prefix = self.0.prompt(11, 2048);
        let prompt = |own| [prefix.clone(), self.0.prompt(own, 16)].concat();
        let cold = self.0.run(prompt(1), 2)?.first.as_secs_f64();
        let warm = self.0.run(prompt(2), 2)?.first.as_secs_f64();
        println!("\n| repeated prefix of 2048 | ms to first token |\n|---|---|");
        println!("| cold | {:.1} |\n| from the cache | {:.1} |", cold * 1e3, warm * 1e3);
        println!("| ratio | {:.1} |", cold / warm);
        Ok(())
    }

    /// As many streams as may run, one of which panics, and one that waits: the time from the error of
    /// those that ran to the first token of the one that waited.
    fn recovery(&self) -> Result<()> {
        let most = self.0.handle.config().max_num_seqs as u64;
        let streams: Vec<_> =
            (1..most).map(|i| self.0.submit(self.0.prompt(i, 32), 4096)).collect::<Result<_>>()?;
        let panics = Box::new(Panics { tokens_left: 3 });
        let params = SamplingParams { max_tokens: 4096, ..SamplingParams::default() };
        let bad = self.0.submit_with(self.0.prompt(most, 32), params, Some(panics))?;
        let waiting = self.0.submit(self.0.prompt(most + 1, 32), 2)?;
        let has_failed = bad.iter().any(|event| matches!(event, Event::Failed(_)));
        assert!(has_failed, "the engine failed");
        let failed = Instant::now();
        let first = waiting.iter().any(|event| matches!(event, Event::Token { .. }));
        assert!(first, "the one that waited is answered");
        let seconds = failed.elapsed().as_secs_f64();
        assert_eq!(self.0.handle.stats().restarts, 1);
        drop(streams);
        println!("\n| after a panic with {most} streams | ms |\n|---|---|");
        println!("| first token of a request that waited | {:.1} |", seconds * 1e3);
        Ok(())
    }
}
