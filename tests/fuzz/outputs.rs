//! What a model writes, as broken as it may be: the parser of reasoning and calls gives the same parts
//! however the text is cut, and reads every character once.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use text::{OutputFormat, OutputParser, OutputPart, ReasoningFormat, ToolFormat};

use super::change::{changed, changes};
use super::seeds;

/// A seed's first line names the formats of reasoning and calls; `-` is none.
fn corpus() -> Vec<(OutputFormat, String)> {
    let seed = |text: String| {
        let (names, output) = text.split_once('\n').expect("names and an output");
        let (reasoning, tools) = names.split_once(' ').expect("two names");
        let reasoning =
            (reasoning != "-").then(|| ReasoningFormat::from_name(reasoning).expect(reasoning));
        let tools = (tools != "-").then(|| ToolFormat::from_name(tools).expect(tools));
        (OutputFormat { reasoning, tools }, output.to_owned())
    };
    seeds("tests/fuzz/corpus/outputs", "txt").into_iter().map(seed).collect()
}

fn tools() -> Vec<Value> {
    let properties = json!({"city": {"type": "string"}, "days": {"type": "integer"}, "place": {"type": "object"}});
    let parameters = json!({"type": "object", "properties": properties});
    let function = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    vec![function("get_weather"), function("get_time")]
}

/// The parts of an output that comes in chunks, what belongs together joined.
fn parts<'a>(
    format: &OutputFormat,
    chunks: impl Iterator<Item = &'a str>,
) -> Result<Vec<OutputPart>, String> {
    let mut parser = OutputParser::new(format, &tools(), false);
    let (mut parts, mut num_chars, mut num_read): (Vec<OutputPart>, usize, usize) =
        (Vec::new(), 0, 0);
    let mut add = |part: OutputPart| match (parts.last_mut(), part) {
        (Some(OutputPart::Text(text)), OutputPart::Text(more))
        | (Some(OutputPart::Reasoning(text)), OutputPart::Reasoning(more)) => text.push_str(&more),
        (
            Some(OutputPart::Arguments { index, json }),
            OutputPart::Arguments { index: next, json: more },
        ) if *index == next => {
            json.push_str(&more);
        }
        (_, part) => parts.push(part),
    };
    for chunk in chunks {
        num_chars += chunk.chars().count();
        parser.push(chunk).into_iter().for_each(&mut add);
        num_read += parser.take_read().iter().map(|stretch| stretch.num_chars).sum::<usize>();
    }
    parser.finish().into_iter().for_each(&mut add);
    num_read += parser.take_read().iter().map(|stretch| stretch.num_chars).sum::<usize>();
    if num_read == num_chars {
        Ok(parts)
    } else {
        Err(format!("{num_read} of {num_chars} characters were read"))
    }
}

#[test]
fn outputs() {
    let corpus = corpus();
    let markers: Vec<_> = corpus.iter().flat_map(|(format, _)| format.markers()).collect();
    let words: Vec<&str> = markers
        .into_iter()
        .chain(["{", "}", "\"", "\\", "\n", "🌍", "null", "<", ">", "get_time", ": "])
        .collect();
    let number = || 0..corpus.len();
    let input =
        (number(), number(), number(), changes(6), proptest::collection::vec(1..9_usize, 1..40));
    let mut runner = TestRunner::new(config!("outputs"));
    let outcome = runner.run(&input, |(seed, format, other, letters, sizes)| {
        let output = changed(&corpus[seed].1, &letters, &words, &corpus[other].1);
        // Its own format mostly, and at times another's.
        for format in [&corpus[seed].0, &corpus[format].0] {
            let whole = parts(format, [output.as_str()].into_iter());
            prop_assert!(whole.is_ok(), "{:?} for {}", whole, output);
            let mut rest = output.as_str();
            let mut number = 0;
            let chunks = std::iter::from_fn(|| {
                number += 1;
                let end = rest
                    .char_indices()
                    .nth(sizes[number % sizes.len()])
                    .map_or(rest.len(), |(at, _)| at);
                let chunk;
                (chunk, rest) = rest.split_at(end);
                (!chunk.is_empty()).then_some(chunk)
            });
            prop_assert_eq!(parts(format, chunks), whole, "cut otherwise: {}", output);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
