//! Parts come as soon as they are certain, and long outputs cost no more than their length.

use super::{Whole, format, join, tools};
use text::{OutputParser, OutputPart};

fn text(text: &str) -> OutputPart {
    OutputPart::Text(text.to_owned())
}

fn call(name: &str) -> OutputPart {
    OutputPart::ToolCall { index: 0, id: None, name: name.to_owned() }
}

fn arguments(json: &str) -> OutputPart {
    OutputPart::Arguments { index: 0, json: json.to_owned() }
}

/// Pushes chunks, each with what must come of it at once.
fn stream(formats: (&str, &str), chunks: &[(&str, &[OutputPart])]) {
    let mut parser = OutputParser::new(&format(formats.0, formats.1), &tools(), false);
    for (chunk, parts) in chunks {
        assert_eq!(parser.push(chunk), *parts, "{chunk:?}");
    }
    assert_eq!(parser.finish(), []);
}

#[test]
fn text_waits_only_where_a_block_may_begin() {
    stream(
        ("qwen3", "hermes"),
        &[
            ("Hel", &[text("Hel")]),
            ("lo", &[text("lo")]),
            ("\n", &[]),
            ("you <", &[text("\nyou")]),
            ("3", &[text(" <3")]),
        ],
    );
}

#[test]
fn json_arguments_stream() {
    stream(
        ("", "hermes"),
        &[
            ("<tool_call>\n{\"name\": \"get_weather", &[]),
            ("\"", &[call("get_weather")]),
            (", \"arguments\": ", &[]),
            ("{\"ci", &[arguments("{\"ci")]),
            ("ty\": \"", &[arguments("ty\": \"")]),
            ("Paris", &[arguments("Paris")]),
            ("\"}", &[arguments("\"}")]),
            ("}\n</tool_call>", &[]),
        ],
    );
}

#[test]
fn string_arguments_stream() {
    stream(
        ("", "qwen3_coder"),
        &[
            ("<tool_call>\n<function=get_weather>", &[call("get_weather")]),
            ("\n<parameter=city>\n", &[arguments("{\"city\": \"")]),
            ("Par", &[arguments("Par")]),
            ("is\n", &[arguments("is")]),
            ("</para", &[]),
            ("meter>\n</function>", &[arguments("\"}")]),
            ("\n</tool_call>", &[]),
        ],
    );
}

#[test]
fn code_arguments_stream() {
    stream(
        ("", "pythonic"),
        &[
            ("[get_weather(", &[call("get_weather"), arguments("{")]),
            ("city='Par", &[arguments("\"city\": \"Par")]),
            ("is'", &[arguments("is\"")]),
            (")]", &[arguments("}")]),
        ],
    );
}

/// Wherever the output is cut behind a marker, none of it is text; an end that the model chose hides nothing.
#[test]
fn the_beginning_of_a_call_that_is_cut_is_no_text() {
    for (name, marker, rest) in [
        ("hermes", "<tool_call>", "\n{\"name\": \"get_time\", \"arguments\": {}}\n</tool_call>"),
        ("qwen3_coder", "<tool_call>", "\n<function=get_time>\n</function>\n</tool_call>"),
        ("mistral", "[TOOL_CALLS]", "[{\"name\": \"get_time\", \"arguments\": {}}]"),
        (
            "kimi_k2",
            "<|tool_calls_section_begin|>",
            "<|tool_call_begin|>functions.get_time:0<|tool_call_argument_begin|>{}",
        ),
    ] {
        for end in 0..=rest.len() {
            let output = format!("Hi.\n{marker}{}", &rest[..end]);
            let parse = |finish: fn(&mut OutputParser) -> Vec<OutputPart>| {
                let mut parser = OutputParser::new(&format("", name), &tools(), false);
                let mut parts = parser.push(&output);
                parts.extend(finish(&mut parser));
                let text = |part: &Whole| {
                    if let Whole::Text(text) = part { Some(text.clone()) } else { None }
                };
                join(parts).iter().filter_map(text).collect::<String>()
            };
            assert_eq!(parse(OutputParser::cut), "Hi.", "{name}: {output}");
            let is_begun = parse(OutputParser::finish) != output;
            assert!(is_begun || end < rest.len(), "{name}: {output}");
        }
    }
}

/// Were any of these read again and again, the test would not end.
#[test]
fn long_outputs_cost_their_length() {
    const NUM: usize = 200_000;
    let outputs = [
        ("hermes", "<".to_owned(), "<tool_call", ""),
        ("hermes", String::new(), "\n", ""),
        ("hermes", String::new(), "<tool_call>", ""),
        ("hermes", String::new(), "<tool_call>{\"a\": [", "]}"),
        ("hermes", "<tool_call>{\"arguments\": [".to_owned(), "\"<tool_call>\", ", "0]}"),
        (
            "hermes",
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"".to_owned(),
            "ab\\\"{",
            "\"}}",
        ),
        (
            "qwen3_coder",
            "<function=write_file><parameter=text>".to_owned(),
            "</parameter",
            "</parameter>",
        ),
        (
            "qwen3_coder",
            "<function=write_file><parameter=other>".to_owned(),
            "\n</param",
            "</parameter>",
        ),
        ("glm45", "<tool_call>f<arg_key>".to_owned(), "</arg_ke", ""),
        ("pythonic", "[get_time(a=\"".to_owned(), "\\x4", "\")]"),
        ("pythonic", "[get_time(".to_owned(), "(", ""),
        ("pythonic", "[get_time(a=".to_owned(), "[", ""),
        ("gemma4", "<|tool_call>call:f{a:<|\"|>".to_owned(), "<|\"", "<|\"|>}"),
        ("mistral", String::new(), "[TOOL_CALLS]", ""),
        ("kimi_k2", String::new(), "<|tool_call_begin|>", ""),
        ("openai", "<|channel|>final<|message|>".to_owned(), "<|en", ""),
        ("openai", String::new(), "<|channel|>", ""),
    ];
    for (name, start, middle, end) in outputs {
        let output = start + &middle.repeat(NUM) + end;
        let mut parser = OutputParser::new(&format("qwen3", name), &tools(), false);
        if name == "openai" {
            parser = OutputParser::new(&format("openai_gptoss", name), &tools(), false);
        }
        let mut parts = parser.push(&output);
        parts.extend(parser.finish());
        let longest = join(parts).into_iter().map(|part| match part {
            Whole::Reasoning(text) | Whole::Text(text) => text.len(),
            Whole::Call { arguments, .. } => arguments.len(),
        });
        assert!(longest.max().is_some(), "{name} {middle}");
    }
}
