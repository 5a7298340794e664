//! The whole engine without HTTP: throughput by streams, time per token by context, prefix cache,
//! the scheduler's share. `cargo bench -p benches --bench engine -- MODEL [--dtype float32]
//! [--dummy] [--only NAME]`, where MODEL is a folder with config.json.

#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

use benches::driver::{Driver, Options, Result};
use engine::Event;
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
    Ok(())
}

struct Bench(Driver);

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
}
