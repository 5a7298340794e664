//! How the text is cut into chunks does not matter, whatever the text is.

use super::fixtures::{Fixture, all};
use super::{Whole, format, parse};
use proptest::prelude::*;
use text::{OutputFormat, ReasoningFormat, ToolFormat};

/// Cuts before every character whose number is in `cuts`.
fn cut(text: &str, cuts: impl Fn(usize) -> bool) -> Vec<&str> {
    let mut chunks = Vec::new();
    let mut start = 0;
    for (number, (at, _)) in text.char_indices().enumerate().skip(1) {
        if cuts(number) {
            chunks.push(&text[start..at]);
            start = at;
        }
    }
    chunks.push(&text[start..]);
    chunks
}

#[test]
fn every_fixture_in_chunks_of_every_size() {
    for Fixture { reasoning, tools, in_reasoning, output, .. } in all() {
        let format = format(reasoning, tools);
        let whole = parse(&format, in_reasoning, [output]);
        for size in 1..=output.chars().count() {
            let chunks = cut(output, |number| number % size == 0);
            assert_eq!(parse(&format, in_reasoning, chunks), whole, "{size} {output:?}");
            let chunks = cut(output, |number| number == size);
            assert_eq!(parse(&format, in_reasoning, chunks), whole, "at {size} {output:?}");
        }
    }
}

/// Whatever a fixture's beginning is, its text is never taken back later.
#[test]
fn every_fixture_cut_short() {
    for Fixture { reasoning, tools, in_reasoning, output, .. } in all() {
        let format = format(reasoning, tools);
        for (at, _) in output.char_indices() {
            let whole = parse(&format, in_reasoning, [&output[..at]]);
            let chunks = cut(&output[..at], |number| number % 3 == 0);
            assert_eq!(parse(&format, in_reasoning, chunks), whole, "{:?}", &output[..at]);
        }
    }
}

/// The formats whose arguments we write ourselves.
const NOT_JSON: &[&str] = &[
    "deepseek_v32",
    "functiongemma",
    "gemma4",
    "glm45",
    "lfm2",
    "minimax_m2",
    "olmo3",
    "qwen3_coder",
    "seed_oss",
];

fn any_format() -> impl Strategy<Value = OutputFormat> {
    (
        proptest::option::of(proptest::sample::select(ReasoningFormat::ALL.to_vec())),
        proptest::sample::select(ToolFormat::ALL.to_vec()),
    )
        .prop_map(|(reasoning, tools)| OutputFormat { reasoning, tools: Some(tools) })
}

/// Text out of the format's markers, pieces of them, and what calls are made of.
fn any_text(format: OutputFormat) -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "\"",
        "'",
        "\\",
        ":",
        ",",
        ";",
        "=",
        " ",
        "\n",
        "<",
        ">",
        "|",
        "é",
        "🦀",
        "```",
        "\"name\": \"get_time\"",
        "\"name\": ",
        "\"arguments\": ",
        "{}",
        "get_time",
        "get_weather",
        "city",
        "days",
        "12",
        "true",
        "None",
        "\"f\"",
        "{\"name\": \"get_weather\", ",
        "</parameter>",
        "</function>",
        "<parameter=city>",
        "get_weather(",
        "city=",
        "\n\n",
    ];
    let markers: Vec<String> = format.markers().into_iter().map(str::to_owned).collect();
    let pieces: Vec<String> = PIECES.iter().map(ToString::to_string).collect();
    let marker = if markers.is_empty() { pieces.clone() } else { markers };
    let marker = proptest::sample::select(marker);
    let part = marker.clone().prop_flat_map(|marker| {
        let chars: Vec<char> = marker.chars().collect();
        (0..=chars.len()).prop_map(move |len| chars[..len].iter().collect::<String>())
    });
    let piece = prop_oneof![3 => marker, 1 => part, 6 => proptest::sample::select(pieces)];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// The characters that are neither in a call nor whitespace.
fn shown(parts: &[Whole]) -> String {
    let text = parts.iter().filter_map(|part| match part {
        Whole::Text(text) | Whole::Reasoning(text) => Some(text.as_str()),
        Whole::Call { .. } => None,
    });
    text.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_in_any_chunks(
        (format, text) in any_format().prop_flat_map(|format| (Just(format), any_text(format))),
        in_reasoning: bool,
        cuts in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let whole = parse(&format, in_reasoning, [text.as_str()]);
        let chunks = cut(&text, |number| cuts[number % cuts.len()]);
        prop_assert_eq!(&parse(&format, in_reasoning, chunks), &whole);
        let chunks = cut(&text, |_| true);
        prop_assert_eq!(&parse(&format, in_reasoning, chunks), &whole);
    }

    /// Text without a call in it comes out whole. Harmony is no text with calls in it.
    #[test]
    fn nothing_is_lost(
        (format, text) in any_format().prop_flat_map(|format| (Just(format), any_text(format))),
    ) {
        let format = OutputFormat { reasoning: None, ..format };
        if format.tools == ToolFormat::from_name("openai") {
            return Ok(());
        }
        let whole = parse(&format, false, [text.as_str()]);
        if let [Whole::Text(shown)] = whole.as_slice() {
            prop_assert_eq!(shown, &text);
        }
        let begun = whole.iter().any(|part| matches!(part, Whole::Call { .. }));
        if !begun {
            let all: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            prop_assert_eq!(shown(&whole), all);
        }
    }

    /// Arguments that we write are JSON, however broken the call is, unless the output ends in it.
    #[test]
    fn what_we_write_is_json(
        (format, text) in proptest::sample::select(NOT_JSON.to_vec())
            .prop_map(|name| format("", name))
            .prop_flat_map(|format| (Just(format), any_text(format))),
        start in proptest::sample::select(vec!["", "get_weather(", "f{"]),
    ) {
        let opens = |marker: &&str| {
            marker.ends_with("call:") || ["<|tool_call_start|>", "<function_calls>"].contains(marker)
        };
        let opener = format.markers().into_iter().find(opens);
        let text = opener.unwrap_or_default().to_owned() + start + &text;
        let whole = parse(&format, false, [text.as_str()]);
        for part in &whole[..whole.len().saturating_sub(1)] {
            if let Whole::Call { arguments, .. } = part {
                let json = serde_json::from_str::<serde_json::Value>(arguments);
                prop_assert!(json.is_ok(), "{} of {}", arguments, text);
            }
        }
    }
}
