//! What is beside the model in decoding: grammars, and tokens guessed ahead. Every comparison is of
//! two engines in one run, turn by turn. `cargo bench --workspace --bench decoding -- MODEL [--dtype
//! bfloat16] [--dummy] [--only NAME] [--tokenizer FILE]`, where MODEL is a folder with `config.json`;
//! `benches/large_tokenizer.py` makes a tokenizer of the size that the grammars should be timed with.

#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

use benches::Result;
use benches::driver::{Driver, Options};
use engine::{Constraint, SamplingParams};
use serde_json::{Value, json};
use std::time::Instant;
use text::{Grammar, GrammarCompiler, Matcher, SpecialTokens, Tokenizer};

/// Turns of each comparison; the median is told.
const TURNS: usize = 5;

fn main() -> Result<()> {
    let options = Options::parse()?;
    let bench =
        Bench { plain: Driver::start(&options, 0)?, guessing: Driver::start(&options, 16)? };
    println!("{} {:?}", options.model.display(), options.dtype);
    if options.wants("grammar") {
        let path = options.tokenizer.as_ref().ok_or("--tokenizer must name a tokenizer.json")?;
        let tokenizer = Tokenizer::from_bytes(&std::fs::read(path)?, SpecialTokens::default())?;
        let eos = tokenizer.token_id("<|im_end|>").ok_or("the tokenizer has no <|im_end|>")?;
        let compiler = GrammarCompiler::new(&tokenizer, &[eos]);
        first_use(&compiler)?;
        masks(&compiler)?;
        bench.grammar(&compiler)?;
    }
    if options.wants("lookup") {
        bench.lookup()?;
    }
    Ok(())
}

/// A nested schema like those that clients send; no two are the same.
fn schema(number: usize) -> Value {
    let address = json!({
        "type": "object", "required": ["street", "city", "position"], "additionalProperties": false,
        "properties": {
            "street": {"type": "string"}, "city": {"type": "string", "maxLength": 60},
            "position": {
                "type": "object", "required": ["lat", "lon"], "additionalProperties": false,
                "properties": {
                    "lat": {"type": "number", "minimum": -90, "maximum": 90},
                    "lon": {"type": "number", "minimum": -180, "maximum": 180},
                },
            },
        },
    });
    json!({
        "type": "object", "required": ["rows"], "additionalProperties": false,
        "properties": {
            "rows": {"type": "array", "minItems": 100 + number, "items": {
                "type": "object", "required": ["id", "name", "kind", "tags", "address"],
                "additionalProperties": false,
                "properties": {
                    "id": {"type": "integer", "minimum": 0},
                    "name": {"type": "string"},
                    "kind": {"enum": ["person", "company", "place"]},
                    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
                    "mail": {"type": "string", "pattern": "^[a-z]{1,20}@[a-z]{1,20}\\.(com|org)$"},
                    "address": address,
                },
            }},
        },
    })
}

/// What a new schema adds to its request: compiled, and the first mask filled.
fn first_use(compiler: &GrammarCompiler) -> Result<()> {
    let mut mask = vec![0; 151_936_usize.div_ceil(32)];
    // The first grammar of all builds the vocabulary's trie, once in the life of a server.
    let started = Instant::now();
    compiler.compile(&Grammar::json_object())?;
    println!("\nfirst grammar of all: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let mut times = Vec::new();
    for number in 0..20 {
        let started = Instant::now();
        let mut matcher = compiler.compile(&Grammar::JsonSchema(schema(number)))?;
        matcher.fill_mask(&mut mask)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("new nested schema: median {:.1} ms, worst of 20 {:.1} ms", times[10], times[19]);
    Ok(())
}

/// What a constraint takes a token: a walk of random allowed tokens, as random weights write.
fn masks(compiler: &GrammarCompiler) -> Result<()> {
    let mut mask = vec![0_u32; 151_936_usize.div_ceil(32)];
    let mut times = [const { Vec::new() }; 3];
    let mut state = 1_u64;
    for _ in 0..10 {
        let mut matcher = compiler.compile(&Grammar::JsonSchema(schema(0)))?;
        for _ in 0..100 {
            let timed = |times: &mut Vec<f64>, started: Instant| {
                times.push(started.elapsed().as_secs_f64() * 1e6);
            };
            let started = Instant::now();
            matcher.forced(16);
            timed(&mut times[0], started);
            let started = Instant::now();
            matcher.fill_mask(&mut mask)?;
            timed(&mut times[1], started);
            let bits =
                (0..mask.len() as u32 * 32).filter(|i| mask[*i as usize / 32] >> (i % 32) & 1 == 1);
            let allowed: Vec<u32> = bits.collect();
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let id = allowed[(state >> 33) as usize % allowed.len()];
            let started = Instant::now();
            matcher.accept(id)?;
            timed(&mut times[2], started);
        }
    }
    println!("\n| a token, µs | median | mean | 99 % |\n|---|---|---|---|");
    for (name, mut times) in ["forced", "mask", "accept"].into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        println!(
            "| {name} | {:.1} | {mean:.1} | {:.1} |",
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
    }
    Ok(())
}

struct Bench {
    plain: Driver,
    guessing: Driver,
}

/// A grammar's matcher as the server gives it to the engine.
struct Steer(Matcher);

impl Constraint for Steer {
    fn fill_mask(&mut self, mask: &mut [u32]) -> std::result::Result<(), String> {
        self.0.fill_mask(mask).map_err(|error| error.to_string())
    }

    fn accept(&mut self, id: u32) -> std::result::Result<bool, String> {
        self.0.accept(id).map_err(|error| error.to_string())
    }

    fn rollback(&mut self, n: usize) -> std::result::Result<(), String> {
        self.0.rollback(n).map_err(|error| error.to_string())
    }

    fn forced(&mut self, max: usize) -> Vec<u32> {
        self.0.forced(max)
    }
}

/// Dictates a text, so that random weights write what a model that copies would. It does not say
/// beforehand what comes.
struct Dictation {
    text: Vec<u32>,
    at: usize,
}

impl Constraint for Dictation {
    fn fill_mask(&mut self, mask: &mut [u32]) -> std::result::Result<(), String> {
        mask.fill(0);
        let id = self.text[self.at];
        mask[id as usize / 32] = 1 << (id % 32);
        Ok(())
    }

    fn accept(&mut self, _: u32) -> std::result::Result<bool, String> {
        self.at += 1;
        Ok(self.at == self.text.len())
    }

    fn rollback(&mut self, n: usize) -> std::result::Result<(), String> {
        self.at -= n;
        Ok(())
    }

    fn forced(&mut self, _: usize) -> Vec<u32> {
        Vec::new()
    }
}

impl Bench {
    /// Milliseconds a token of several streams at temperature 1, free or held to a schema.
    fn streams(driver: &Driver, num: u64, matcher: Option<&Matcher>) -> Result<f64> {
        let started = Instant::now();
        let mut receivers = Vec::new();
        for seed in 0..num {
            let params = SamplingParams { seed, max_tokens: 64, ..SamplingParams::default() };
            let constraint = matcher.map(|matcher| Box::new(Steer(matcher.fork())) as _);
            receivers.push(driver.submit_with(driver.prompt(seed, 32), params, constraint)?);
        }
        let mut num_tokens = 0;
        for receiver in &receivers {
            num_tokens += Driver::wait(receiver, started)?.num_tokens;
        }
        Ok(started.elapsed().as_secs_f64() * 1e3 / num_tokens as f64)
    }

    fn grammar(&self, compiler: &GrammarCompiler) -> Result<()> {
        let matcher = compiler.compile(&Grammar::JsonSchema(schema(0)))?;
        println!("\n| streams | free, ms a token | constrained | ratio | with guesses | ratio |");
        println!("|---|---|---|---|---|---|");
        for num in [1, 32] {
            let mut turns = [const { Vec::new() }; 3];
            for _ in 0..TURNS {
                turns[0].push(Self::streams(&self.plain, num, None)?);
                turns[1].push(Self::streams(&self.plain, num, Some(&matcher))?);
                turns[2].push(Self::streams(&self.guessing, num, Some(&matcher))?);
            }
            let [free, constrained, guessed] = turns.map(median);
            println!(
                "| {num} | {free:.2} | {constrained:.2} | {:.3} | {guessed:.2} | {:.3} |",
                constrained / free,
                guessed / free
            );
        }
        Ok(())
    }

    /// One stream that writes a dictated text, with and without guesses from its own text.
    fn lookup(&self) -> Result<()> {
        let vocab_size = self.plain.handle.vocab_size() as u32;
        let source = self.plain.prompt(5, 512);
        // An edited text.
        let edited = (0..)
            .zip(&source)
            .map(|(at, id)| if at % 12 == 7 { (id + 1) % vocab_size } else { *id });
        // Runs of three tokens that came before, each followed by something new.
        let trap = (0..)
            .zip(source.chunks_exact(4))
            .flat_map(|(at, run)| [run[0], run[1], run[2], (run[3] + 7 * at + 1) % vocab_size]);
        let texts: [(&str, Vec<u32>); 4] = [
            ("a copy of the prompt", source[..256].to_vec()),
            ("a copy, one token of twelve changed", edited.take(256).collect()),
            ("nothing that came before", self.plain.prompt(6, 256)),
            ("runs that came before, other sequels", trap.take(256).collect()),
        ];
        println!("\n| answer of 256 tokens | tokens/s without | with | ratio | guesses | right |");
        println!("|---|---|---|---|---|---|");
        for (name, text) in texts {
            let mut turns = [const { Vec::new() }; 2];
            let before = self.guessing.handle.stats();
            for _ in 0..TURNS {
                for (driver, rates) in [&self.plain, &self.guessing].into_iter().zip(&mut turns) {
                    let dictation = Box::new(Dictation { text: text.clone(), at: 0 });
                    let params = SamplingParams {
                        temperature: 0.0,
                        max_tokens: text.len(),
                        ..SamplingParams::default()
                    };
                    let started = Instant::now();
                    let events = driver.submit_with(source.clone(), params, Some(dictation))?;
                    rates.push(1.0 / Driver::wait(&events, started)?.per_token().as_secs_f64());
                }
            }
            let after = self.guessing.handle.stats();
            let [without, with] = turns.map(median);
            println!(
                "| {name} | {without:.1} | {with:.1} | {:.2} | {} | {} |",
                with / without,
                (after.lookup_drafts - before.lookup_drafts) / TURNS as u64,
                (after.lookup_drafts_accepted - before.lookup_drafts_accepted) / TURNS as u64,
            );
        }
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
