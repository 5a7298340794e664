//! What it costs to tokenise a chat that grows.

use crate::account::Cpu;
use crate::load::{ROUNDS, micros, words};
use benches::{Result, stand_in};
use serde_json::json;
use std::fmt::Write;
use text::{ChatInput, SpecialTokens, Tokenizer};

/// What it costs to tokenise a chat at each of its turns: as a whole, and as a server does that has
/// read its earlier turns before.
pub(crate) fn run() -> Result<String> {
    let mut text = format!(
        "Processor time from the rendered text to ids as a chat grows, least of {ROUNDS}:\n\n\
         | turn | tokens | anew, µs | as served, µs |\n|---|---|---|---|\n"
    );
    let mut rows: Vec<[f64; 4]> = Vec::new();
    for _ in 0..ROUNDS {
        let model = stand_in::text_model()?;
        let mut messages = Vec::new();
        for turn in 1..=20_usize {
            messages.push(json!({"role": "user", "content": words(turn * 2000, 200)}));
            let rendered = model.render_chat(&ChatInput::new(messages.clone()))?;
            let begun = Cpu::of_this_thread()?;
            let anew = model.encode(&rendered, false)?;
            let between = Cpu::of_this_thread()?;
            let served = model.encode_chat(&rendered, None)?;
            let ended = Cpu::of_this_thread()?;
            assert_eq!(anew, served, "the same text");
            let times =
                [between.since(begun), ended.since(between)].map(|cpu| micros(cpu.total, 1));
            rows.push([turn as f64, anew.len() as f64, times[0], times[1]]);
            messages.push(json!({"role": "assistant", "content": words(turn * 2000 + 1000, 200)}));
        }
    }
    for turn in [1.0, 2.0, 10.0, 20.0] {
        let of_turn = || rows.iter().filter(|row| row[0] == turn);
        let least = |column: usize| of_turn().map(|row| row[column]).fold(f64::MAX, f64::min);
        writeln!(text, "| {turn} | {} | {:.0} | {:.0} |", least(1), least(2), least(3))?;
    }
    Ok(text)
}

/// What both encoders cost of the tokenizer.json that `--tokenizer` names.
pub(crate) fn run_encoders() -> Result<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--tokenizer");
    let Some(path) = arguments.nth(1) else {
        return Ok("--tokenizer FILE compares the two encoders of a tokenizer.json".to_owned());
    };
    let file = std::fs::read(&path)?;
    let load = || Tokenizer::from_bytes(&file, SpecialTokens::default());
    let [slow, fast] = [load()?, load()?];
    let begun = Cpu::of_this_thread()?;
    let is_prepared = fast.prepare_fast_encoder();
    let prepared = micros(Cpu::of_this_thread()?.since(begun).total, 1) / 1e3;
    let mut text = format!(
        "Processor time of a text to ids, least of {ROUNDS}; the fast encoder was made in \
         {prepared:.0} ms: {is_prepared}\n\n| bytes | tokens | 0.23, µs | 1.0, µs |\n|---|---|---|---|\n"
    );
    for num_words in [20, 200, 2000, 20_000] {
        let mut least = [f64::MAX; 2];
        let mut num_tokens = 0;
        for round in 0..ROUNDS {
            let input = words(round * num_words, num_words);
            let mut ids = Vec::new();
            for (tokenizer, least) in [&slow, &fast].into_iter().zip(&mut least) {
                let begun = Cpu::of_this_thread()?;
                ids.push(tokenizer.encode(&input, false)?);
                *least = least.min(micros(Cpu::of_this_thread()?.since(begun).total, 1));
            }
            assert_eq!(ids[0], ids[1], "the same text");
            num_tokens = ids[0].len();
        }
        let num_bytes = words(0, num_words).len();
        writeln!(text, "| {num_bytes} | {num_tokens} | {:.0} | {:.1} |", least[0], least[1])?;
    }
    Ok(text)
}
