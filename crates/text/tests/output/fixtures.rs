//! What models write, and what it is.

use super::{Whole, format, parse, parse_with};

/// One output; the part's fields are those of [`Whole`].
pub(super) struct Fixture {
    pub(super) reasoning: &'static str,
    pub(super) tools: &'static str,
    pub(super) in_reasoning: bool,
    pub(super) output: &'static str,
    parts: Vec<Whole>,
}

fn think(text: &str) -> Whole {
    Whole::Reasoning(text.to_owned())
}

fn say(text: &str) -> Whole {
    Whole::Text(text.to_owned())
}

fn call(name: &str, arguments: &str) -> Whole {
    Whole::Call { id: None, name: name.to_owned(), arguments: arguments.to_owned() }
}

fn call_id(id: &str, name: &str, arguments: &str) -> Whole {
    Whole::Call { id: Some(id.to_owned()), name: name.to_owned(), arguments: arguments.to_owned() }
}

fn fixture<const N: usize>(
    (reasoning, tools): (&'static str, &'static str),
    output: &'static str,
    parts: [Whole; N],
) -> Fixture {
    Fixture { reasoning, tools, in_reasoning: false, output, parts: parts.into() }
}

fn opened<const N: usize>(
    formats: (&'static str, &'static str),
    output: &'static str,
    parts: [Whole; N],
) -> Fixture {
    Fixture { in_reasoning: true, ..fixture(formats, output, parts) }
}

/// Every fixture of every format.
pub(super) fn all() -> Vec<Fixture> {
    let mut all = thoughts();
    all.extend(hermes());
    all.extend(hermes_arguments());
    all.extend(bare_json());
    all.extend(mistral());
    all.extend(headers());
    all.extend(arrays());
    all.extend(coder());
    all.extend(coder_values());
    all.extend(tags());
    all.extend(literals());
    all.extend(marked_literals());
    all.extend(harmony());
    all.extend(spaced());
    all.extend(spaced_brackets());
    all.extend(headed_oddly());
    all
}

fn thoughts() -> Vec<Fixture> {
    const QWEN: (&str, &str) = ("qwen3", "");
    vec![
        fixture(QWEN, "Hello.\n", [say("Hello.\n")]),
        fixture(
            QWEN,
            "<think>\nHm, a.\n\nb\n</think>\n\nYes.",
            [think("Hm, a.\n\nb"), say("Yes.")],
        ),
        fixture(QWEN, "<think>\n\n</think>\n\nYes.\n", [say("Yes.\n")]),
        fixture(QWEN, "\n<think>a</think>b", [think("a"), say("b")]),
        fixture(
            QWEN,
            "<think>a</think>b<think>c</think>d",
            [think("a"), say("b"), think("c"), say("d")],
        ),
        fixture(QWEN, "<think>never ends\n", [think("never ends\n")]),
        fixture(QWEN, "<think>a</thin", [think("a</thin")]),
        fixture(QWEN, "a < b <thinks> <think", [say("a < b <thinks> <think")]),
        fixture(QWEN, "The tag `<think>` opens it.", [say("The tag `<think>` opens it.")]),
        fixture(QWEN, "a stray </think> stays", [say("a stray </think> stays")]),
        fixture(
            QWEN,
            "<think>über ⟨x⟩ 🦀\n</think>\n    indented",
            [think("über ⟨x⟩ 🦀"), say("    indented")],
        ),
        opened(QWEN, "\nHm.\n</think>\n\nYes.", [think("Hm."), say("Yes.")]),
        opened(QWEN, "</think>Yes.", [say("Yes.")]),
        opened(QWEN, "<think>\nHm.</think>Yes.", [think("Hm."), say("Yes.")]),
        opened(QWEN, "no end", [think("no end")]),
        fixture(("deepseek_r1", ""), "Hm.\n</think>\n\nYes.", [think("Hm."), say("Yes.")]),
        fixture(("deepseek_r1", ""), "<think>\nHm.\n</think>\n\nYes.", [think("Hm."), say("Yes.")]),
        fixture(("mistral", ""), "[THINK]Hm.[/THINK]Yes [ok].", [think("Hm."), say("Yes [ok].")]),
        fixture(
            ("seed_oss", ""),
            "<seed:think>\nHm.</seed:think>Yes.",
            [think("Hm."), say("Yes.")],
        ),
        fixture(
            ("gemma4", ""),
            "<|channel>thought\nHm.<channel|>Yes.",
            [think("Hm."), say("Yes.")],
        ),
        fixture(
            ("cohere_command3", ""),
            "<|START_THINKING|>Hm.<|END_THINKING|>Yes.",
            [think("Hm."), say("Yes.")],
        ),
        fixture(
            ("granite", ""),
            "Here is my thought process:\nHm.\nHere is my response:\nYes.",
            [think("Hm."), say("Yes.")],
        ),
        fixture(("", ""), "<think>\nHm.\n</think>\n\n", [say("<think>\nHm.\n</think>\n\n")]),
    ]
}

fn hermes() -> Vec<Fixture> {
    const HERMES: (&str, &str) = ("qwen3", "hermes");
    vec![
        fixture(HERMES, "Just text, {\"name\": 1}.", [say("Just text, {\"name\": 1}.")]),
        fixture(
            HERMES,
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>",
            [call("get_weather", "{\"city\": \"Paris\"}")],
        ),
        fixture(
            HERMES,
            "<think>\nTwo calls, <tool_call> twice.\n</think>\n\nSure.\n<tool_call>\n{\"name\": \"get_weather\", \
             \"arguments\": {\"city\": \"São Paulo 🌧\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_time\", \
             \"arguments\": {}}\n</tool_call>\nDone. ",
            [
                think("Two calls, <tool_call> twice."),
                say("Sure."),
                call("get_weather", "{\"city\": \"São Paulo 🌧\"}"),
                call("get_time", "{}"),
                say("Done. "),
            ],
        ),
        // Reasoning without an end, or with one behind the call; a call that is only talked about.
        fixture(
            HERMES,
            "<think>\nHm.\n<tool_call>{\"name\": \"get_time\"}</tool_call>\n</think>\n\nok </think>",
            [think("Hm."), call("get_time", "{}"), say("ok </think>")],
        ),
        fixture(
            HERMES,
            "<think>a <tool_call>{\"name\": \"x\"}</tool_call>\n</think>b",
            [think("a <tool_call>{\"name\": \"x\"}</tool_call>"), say("b")],
        ),
        // No calls.
        fixture(HERMES, "The <tool_call> tag \n", [say("The <tool_call> tag \n")]),
        fixture(HERMES, "<tool_call>\n\n", [say("<tool_call>\n\n")]),
        fixture(
            HERMES,
            "a<tool_call><tool_call>{\"name\": \"f\"}</tool_call>",
            [say("a<tool_call>"), call("f", "{}")],
        ),
        fixture(
            HERMES,
            "<tool_call>{\"nom\": \"f\", \"x\": [}",
            [say("<tool_call>{\"nom\": \"f\", \"x\": [}")],
        ),
        fixture(
            HERMES,
            "<tool_call>{\"nom\": \"f\"} </tool_call>",
            [say("<tool_call>{\"nom\": \"f\"} </tool_call>")],
        ),
        fixture(HERMES, "<tool_call>{name: 1}", [say("<tool_call>{name: 1}")]),
        fixture(HERMES, "x\n<tool_cal", [say("x\n<tool_cal")]),
        // Cut short, broken.
        fixture(
            HERMES,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b",
            [call("f", "{\"a\": \"b")],
        ),
        fixture(
            HERMES,
            "<tool_call>{\"name\": \"get_wea",
            [say("<tool_call>{\"name\": \"get_wea")],
        ),
        fixture(HERMES, "<tool_call>{\"name\": \"f\", oops", [call("f", "{}"), say("oops")]),
    ]
}

fn hermes_arguments() -> Vec<Fixture> {
    const HERMES: (&str, &str) = ("qwen3", "hermes");
    vec![
        // What a parser that reads and writes JSON anew breaks.
        fixture(
            HERMES,
            "<tool_call>{\"name\":\"f\",\"arguments\":{\"n\":12345678901234567890123, \"n\" : 1e400,\"s\":\"\\u00e9\\/\"}}</tool_call>",
            [call("f", "{\"n\":12345678901234567890123, \"n\" : 1e400,\"s\":\"\\u00e9\\/\"}")],
        ),
        fixture(
            HERMES,
            r#"<tool_call>{"name": "write_file", "arguments": {"text": "a \"}\" \\", "deep": {"x": [[{}], "]"]}}}</tool_call>!"#,
            [call("write_file", r#"{"text": "a \"}\" \\", "deep": {"x": [[{}], "]"]}}"#), say("!")],
        ),
        fixture(
            HERMES,
            r#"<tool_call>{"name": "f", "arguments": {"s": "</tool_call><think>a</think><tool_call>{"}}</tool_call>"#,
            [call("f", r#"{"s": "</tool_call><think>a</think><tool_call>{"}"#)],
        ),
        // Keys in another order, other keys, no arguments.
        fixture(
            HERMES,
            r#"<tool_call>{"arguments": {"a": [1, "}"]}, "more": {"name": "no"}, "name": "f"}</tool_call>"#,
            [call("f", r#"{"a": [1, "}"]}"#)],
        ),
        fixture(
            HERMES,
            r#"<tool_call>{"type": "function", "id": "c1", "name": "f", "parameters": {}}</tool_call>"#,
            [call_id("c1", "f", "{}")],
        ),
        fixture(
            HERMES,
            "<tool_call>{\"name\": \"get_time\"}</tool_call>",
            [call("get_time", "{}")],
        ),
        fixture(
            HERMES,
            "<tool_call>{\"name\": \"f\", \"arguments\": 17}</tool_call>",
            [call("f", "17")],
        ),
        // JSON in a string.
        fixture(
            HERMES,
            r#"<tool_call>{"name": "f", "arguments": "{\"a\": \"\\n\u00e9\"}"}</tool_call>"#,
            [call("f", r#"{"a": "\né"}"#)],
        ),
        fixture(
            HERMES,
            r#"<tool_call>{"arguments": "x", "name": "f"}</tool_call>"#,
            [call("f", "\"x\"")],
        ),
        fixture(HERMES, r#"<tool_call>{"name": "f", "arguments": "{\"a"#, [call("f", "\"{\\\"a")]),
        // No end marker, several objects, an array.
        fixture(
            HERMES,
            "<tool_call>{\"name\": \"f\"}<tool_call>{\"name\": \"g\"} and text",
            [call("f", "{}"), call("g", "{}"), say("and text")],
        ),
        fixture(
            HERMES,
            "<tool_call>[{\"name\": \"f\"},\n{\"name\": \"g\"}]</tool_call>x",
            [call("f", "{}"), call("g", "{}"), say("x")],
        ),
        // Thinking between calls.
        fixture(
            HERMES,
            "<tool_call>{\"name\": \"f\"}</tool_call>\n<think>\nHm.</think>\n<tool_call>{\"name\": \"g\"}</tool_call>",
            [call("f", "{}"), think("Hm."), call("g", "{}")],
        ),
    ]
}

fn bare_json() -> Vec<Fixture> {
    const LLAMA: (&str, &str) = ("", "llama3_json");
    vec![
        fixture(LLAMA, "Hi {\"name\": \"get_time\"}", [say("Hi {\"name\": \"get_time\"}")]),
        fixture(
            LLAMA,
            "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}",
            [call("get_weather", "{\"city\": \"Paris\"}")],
        ),
        fixture(
            LLAMA,
            "\n{\"type\": \"function\", \"function\": \"get_time\", \"parameters\": {}}",
            [call("get_time", "{}")],
        ),
        fixture(
            LLAMA,
            "<|python_tag|>{\"name\": \"get_time\", \"parameters\": {}}; {\"name\": \"get_weather\", \"parameters\": {}}",
            [call("get_time", "{}"), call("get_weather", "{}")],
        ),
        fixture(
            LLAMA,
            "{\"name\": \"get_time\"}; and text",
            [call("get_time", "{}"), say("; and text")],
        ),
        // JSON that is an answer.
        fixture(
            LLAMA,
            "{\"name\": \"Bob\", \"parameters\": {}}\n",
            [say("{\"name\": \"Bob\", \"parameters\": {}}\n")],
        ),
        fixture(
            LLAMA,
            "{\"a\": {\"name\": \"get_time\"}} ",
            [say("{\"a\": {\"name\": \"get_time\"}} ")],
        ),
        fixture(LLAMA, "{", [say("{")]),
        fixture(
            ("", "xlam"),
            "[{\"name\": \"get_time\", \"arguments\": {}}, {\"name\": \"get_weather\"}]",
            [call("get_time", "{}"), call("get_weather", "{}")],
        ),
        fixture(("", "xlam"), "[1, 2]", [say("[1, 2]")]),
    ]
}

fn mistral() -> Vec<Fixture> {
    const MISTRAL: (&str, &str) = ("mistral", "mistral");
    vec![
        fixture(MISTRAL, "A list [1] of [TOOL].", [say("A list [1] of [TOOL].")]),
        fixture(
            MISTRAL,
            "[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}, \"id\": \"abcdefghi\"}, \
             {\"name\": \"get_time\", \"arguments\": {}}]",
            [call("get_weather", "{\"city\": \"Paris\"}"), call("get_time", "{}")],
        ),
        fixture(
            MISTRAL,
            "[THINK]Hm [TOOL_CALLS].[/THINK]Sure.[TOOL_CALLS]get_weather[ARGS]{\"city\": \"[ARGS]{\"}[TOOL_CALLS]get_time[CALL_ID]abc123DEF[ARGS]{}",
            [
                think("Hm [TOOL_CALLS]."),
                say("Sure."),
                call("get_weather", "{\"city\": \"[ARGS]{\"}"),
                call_id("abc123DEF", "get_time", "{}"),
            ],
        ),
        fixture(MISTRAL, "[TOOL_CALLS]get_time{}", [call("get_time", "{}")]),
        fixture(MISTRAL, "[TOOL_CALLS]get_time[ARGS]{\"a\": ", [call("get_time", "{\"a\": ")]),
        fixture(
            MISTRAL,
            "[TOOL_CALLS]a [TOOL_CALLS]get_time{}",
            [say("[TOOL_CALLS]a"), call("get_time", "{}")],
        ),
        fixture(MISTRAL, "[TOOL_CALLS]no call {", [say("[TOOL_CALLS]no call {")]),
        fixture(MISTRAL, "[TOOL_CALLS]get_ti", [say("[TOOL_CALLS]get_ti")]),
    ]
}

fn headers() -> Vec<Fixture> {
    vec![
        fixture(
            ("kimi_k2", "kimi_k2"),
            "<think>Hm.</think>Sure.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0\
             <|tool_call_argument_begin|>{\"city\": \"Paris\"}<|tool_call_end|><|tool_call_begin|>functions.get_time:1\
             <|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
            [
                think("Hm."),
                say("Sure."),
                call_id("functions.get_weather:0", "get_weather", "{\"city\": \"Paris\"}"),
                call_id("functions.get_time:1", "get_time", "{}"),
            ],
        ),
        // It forgets to end its reasoning.
        opened(
            ("kimi_k2", "kimi_k2"),
            "Hm.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_time:0<|tool_call_argument_begin|>{}\
             <|tool_call_end|><|tool_calls_section_end|>ok",
            [think("Hm."), call_id("functions.get_time:0", "get_time", "{}"), say("ok")],
        ),
        opened(
            ("kimi_k2", "kimi_k2"),
            "A <|tool_calls_section_begin|> b</think>c",
            [think("A <|tool_calls_section_begin|> b"), say("c")],
        ),
        fixture(
            ("", "deepseek_v3"),
            "Sure.\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Paris\"}\n```\
             <｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            [say("Sure."), call("get_weather", "{\"city\": \"Paris\"}"), call("get_time", "{}")],
        ),
        fixture(
            ("", "deepseek_v31"),
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜>\
             <｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            [call("get_weather", "{\"city\": \"Paris\"}"), call("get_time", "{}")],
        ),
        fixture(
            ("", "deepseek_v31"),
            "<｜tool▁calls▁begin｜> no",
            [say("<｜tool▁calls▁begin｜> no")],
        ),
    ]
}

fn arrays() -> Vec<Fixture> {
    vec![
        fixture(
            ("granite", "granite"),
            "<|tool_call|>[{\"name\": \"get_time\", \"arguments\": {}}]",
            [call("get_time", "{}")],
        ),
        fixture(
            ("", "granite"),
            "[{\"name\": \"get_time\", \"arguments\": {}}]",
            [call("get_time", "{}")],
        ),
        fixture(
            ("", "phi4_mini_json"),
            "functools[{\"name\": \"get_time\", \"arguments\": {}}]",
            [call("get_time", "{}")],
        ),
        fixture(
            ("", "phi4_mini_json"),
            "Use functools.wraps here.",
            [say("Use functools.wraps here.")],
        ),
        fixture(
            ("cohere_command3", "cohere_command3"),
            "<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"get_time\", \
             \"parameters\": {}}\n]<|END_ACTION|>",
            [think("Hm."), call_id("0", "get_time", "{}")],
        ),
        fixture(
            ("", "nemotron_json"),
            "<TOOLCALL>[{\"name\": \"get_time\", \"arguments\": {}}]</TOOLCALL>",
            [call("get_time", "{}")],
        ),
        fixture(
            ("", "jamba"),
            "<tool_calls>[\n{\"name\": \"get_time\", \"arguments\": {}}\n]</tool_calls>ok",
            [call("get_time", "{}"), say("ok")],
        ),
        fixture(
            ("", "longcat"),
            "<longcat_tool_call>\n{\"name\": \"get_time\", \"arguments\": {}}\n</longcat_tool_call>",
            [call("get_time", "{}")],
        ),
        fixture(
            ("", "granite-20b-fc"),
            "<function_call> {\"name\": \"get_time\", \"arguments\": {}}",
            [call("get_time", "{}")],
        ),
        fixture(
            ("", "internlm"),
            "Ok.<|action_start|><|plugin|>{\"name\": \"get_time\", \"parameters\": {}}<|action_end|>",
            [say("Ok."), call("get_time", "{}")],
        ),
    ]
}

fn coder() -> Vec<Fixture> {
    const CODER: (&str, &str) = ("qwen3", "qwen3_coder");
    vec![
        fixture(CODER, "if a < b { <function> }", [say("if a < b { <function> }")]),
        fixture(
            CODER,
            "Sure.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
             <parameter=exact>\nTrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n</function>\n</tool_call>\nok",
            [
                say("Sure."),
                call("get_weather", "{\"city\": \"Paris\", \"days\": 3, \"exact\": true}"),
                call("get_time", "{}"),
                say("ok"),
            ],
        ),
        fixture(
            CODER,
            "<function=write_file>\n<parameter=text>\n\n  \"a\\\" </param> 🦀\t\u{1}\n</tool_call><think>\n\n</parameter>\n<parameter=path>x</parameter></function>",
            [call(
                "write_file",
                r#"{"text": "\n  \"a\\\" </param> 🦀\t\u0001\n</tool_call><think>\n", "path": "x"}"#,
            )],
        ),
        // Strings that look like something else, and something else that is none.
        fixture(
            CODER,
            "<tool_call><function=get_weather><parameter=city>\n12\n</parameter><parameter=days>\nmany\n</parameter>\
             <parameter=place>{\"a\": [1,  2e9]}</parameter><parameter=hours>[1, x]</parameter>\
             <parameter=unit>None</parameter><parameter=more>12345678901234567890123</parameter>\
             <parameter=exact>false</parameter><parameter=what>a b</parameter></function></tool_call>",
            [call(
                "get_weather",
                r#"{"city": "12", "days": "many", "place": {"a": [1,  2e9]}, "hours": "[1, x]", "unit": null, "more": 12345678901234567890123, "exact": false, "what": "a b"}"#,
            )],
        ),
        fixture(
            CODER,
            "<tool_call>\n<function=unknown_one>\n<parameter=a>\n\"q\"\n</parameter>\n</function>\n</tool_call>",
            [call("unknown_one", "{\"a\": \"q\"}")],
        ),
        fixture(
            CODER,
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar",
            [call("get_weather", "{\"city\": \"Par")],
        ),
        fixture(
            CODER,
            "<tool_call>\n<function=get_weather>\n<parameter=days>\n1",
            [call("get_weather", "{\"days\": 1")],
        ),
        fixture(CODER, "<tool_call>\n<function=get_time>\n<par", [call("get_time", "")]),
        fixture(
            CODER,
            "<tool_call>\n<function=get_time>\n<parrot>",
            [call("get_time", "{}"), say("<parrot>")],
        ),
        fixture(CODER, "<tool_call>\n<function=a (b)>", [say("<tool_call>\n<function=a (b)>")]),
        fixture(
            CODER,
            "<tool_call>\n<fun<tool_call>\n<function=get_time></function>",
            [say("<tool_call>\n<fun"), call("get_time", "{}")],
        ),
    ]
}

fn coder_values() -> Vec<Fixture> {
    const CODER: (&str, &str) = ("qwen3", "qwen3_coder");
    vec![
        // Objects and lists as Python prints them, where the schema asks for one; no others.
        fixture(
            CODER,
            "<tool_call><function=get_weather><parameter=place>{'a': \"it's\", 'b': ['\\x41\\n\\'', True, None, -1.5e3]}</parameter>\
             <parameter=hours>['a', b]</parameter><parameter=city>{'a': 1}</parameter><parameter=more>{'a': 1}</parameter>\
             </function></tool_call>",
            [call(
                "get_weather",
                r#"{"place": {"a": "it's", "b": ["A\n'", true, null, -1.5e3]}, "hours": "['a', b]", "city": "{'a': 1}", "more": "{'a': 1}"}"#,
            )],
        ),
    ]
}

fn tags() -> Vec<Fixture> {
    const GLM: (&str, &str) = ("glm45", "glm45");
    vec![
        fixture(
            GLM,
            "<think>Hm.</think>Sure.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>São \"Paulo\"</arg_value>\n\
             <arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>get_time</tool_call>",
            [
                think("Hm."),
                say("Sure."),
                call("get_weather", r#"{"city": "São \"Paulo\"", "days": 3}"#),
                call("get_time", "{}"),
            ],
        ),
        fixture(GLM, "<tool_call>get_time\nis a call", [say("<tool_call>get_time\nis a call")]),
        fixture(
            GLM,
            "<tool_call>get_time\n<tool_call>get_time\n</tool_call>",
            [say("<tool_call>get_time"), call("get_time", "{}")],
        ),
        fixture(GLM, "A <tool_call> in prose", [say("A <tool_call> in prose")]),
        fixture(
            GLM,
            "<tool_call>get_weather<arg_key>city</arg_key>Paris",
            [call("get_weather", "{}"), say("Paris")],
        ),
        fixture(
            ("minimax_m2", "minimax_m2"),
            "Hm.\n</think>\n\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Paris</parameter>\n\
             <parameter name=\"hours\">[1, 2]</parameter>\n</invoke>\n<invoke name='get_time'>\n</invoke>\n</minimax:tool_call>",
            [
                think("Hm."),
                call("get_weather", "{\"city\": \"Paris\", \"hours\": [1, 2]}"),
                call("get_time", "{}"),
            ],
        ),
        fixture(
            ("seed_oss", "seed_oss"),
            "<seed:think>Hm.</seed:think><seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n</function>\n</seed:tool_call>",
            [think("Hm."), call("get_weather", "{\"city\": \"Paris\"}")],
        ),
        fixture(
            ("deepseek_v3", "deepseek_v32"),
            "Ok.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">12</｜DSML｜parameter>\n\
             <｜DSML｜parameter name=\"x\" string=\"false\">12</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
            [say("Ok."), call("get_weather", "{\"city\": \"12\", \"x\": 12}")],
        ),
        fixture(
            ("deepseek_v4", "deepseek_v4"),
            "Hm.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_time\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
            [say("Hm.</think>"), call("get_time", "{}")],
        ),
    ]
}

fn literals() -> Vec<Fixture> {
    const PYTHON: (&str, &str) = ("", "pythonic");
    vec![
        fixture(PYTHON, "A list: [1, 2]", [say("A list: [1, 2]")]),
        fixture(PYTHON, "[1, 2]\n", [say("[1, 2]\n")]),
        fixture(PYTHON, "[other(a=1)]", [say("[other(a=1)]")]),
        fixture(
            PYTHON,
            r#"[get_weather(city="São 'Paulo'", days=3, exact=True, unit=None), get_time()]"#,
            [
                call(
                    "get_weather",
                    r#"{"city": "São 'Paulo'", "days": 3, "exact": true, "unit": null}"#,
                ),
                call("get_time", "{}"),
            ],
        ),
        fixture(
            PYTHON,
            r#"[get_weather(city='a "b" \'c\' \n\x41\u00e9\q', place={'a': [1, {"b": (2.5, -1e3)}], 7: ")]"}, hours=[ ])]ok"#,
            [
                call(
                    "get_weather",
                    r#"{"city": "a \"b\" 'c' \nAé\\q", "place": {"a": [1, {"b": [2.5, -1e3]}], "7": ")]"}, "hours": []}"#,
                ),
                say("ok"),
            ],
        ),
        fixture(
            PYTHON,
            "<|python_start|>[f(a=[1, 2,], )]<|python_end|>",
            [call("f", "{\"a\": [1, 2]}")],
        ),
        fixture(PYTHON, "[get_weather(city=\"Par", [call("get_weather", "{\"city\": \"Par")]),
        fixture(PYTHON, "[get_weather(days=1", [call("get_weather", "{\"days\": 1")]),
        fixture(
            PYTHON,
            "[get_weather(\"Paris\")]",
            [call("get_weather", "{}"), say("\"Paris\")]")],
        ),
        fixture(
            PYTHON,
            "[get_weather(place={'a': [1, {'b':",
            [call("get_weather", "{\"place\": {\"a\": [1, {\"b\": ")],
        ),
        fixture(
            PYTHON,
            "[get_weather(place={'a': [1, {'b':)",
            [call("get_weather", "{\"place\": {\"a\": [1, {\"b\": null}]}}"), say(")")],
        ),
        fixture(PYTHON, "[get_time(), 2]", [call("get_time", "{}"), say(", 2]")]),
        fixture(PYTHON, "[get_time(), ]ok", [call("get_time", "{}"), say("ok")]),
        fixture(
            PYTHON,
            r#"[get_weather(city="\é\x4\u00e")]"#,
            [call("get_weather", r#"{"city": "\\é\\x4\\u00e"}"#)],
        ),
        // Llama 4 may write JSON.
        fixture(PYTHON, "{\"name\": \"get_time\"}", [call("get_time", "{}")]),
        fixture(PYTHON, "{\"name\": \"Bob\"}", [say("{\"name\": \"Bob\"}")]),
    ]
}

fn marked_literals() -> Vec<Fixture> {
    const GEMMA: (&str, &str) = ("gemma4", "gemma4");
    vec![
        fixture(
            ("", "olmo3"),
            "<function_calls>\nget_weather(city=\"Paris\")\nget_time()\n</function_calls>\nok",
            [call("get_weather", "{\"city\": \"Paris\"}"), call("get_time", "{}"), say("ok")],
        ),
        fixture(
            ("", "lfm2"),
            "Ok.<|tool_call_start|>[get_weather(city=\"Paris\")]<|tool_call_end|>Hm",
            [say("Ok."), call("get_weather", "{\"city\": \"Paris\"}"), say("Hm")],
        ),
        fixture(
            GEMMA,
            "<|channel>thought\nHm.<channel|>Ok.<|tool_call>call:get_weather{city:<|\"|>a \"b\", {c}<|\"|>,days:3,place:{x:[<|\"|>y<|\"|>,true]}}<tool_call|>\
             <|tool_call>call:get_time{}<tool_call|>",
            [
                think("Hm."),
                say("Ok."),
                call(
                    "get_weather",
                    r#"{"city": "a \"b\", {c}", "days": 3, "place": {"x": ["y", true]}}"#,
                ),
                call("get_time", "{}"),
            ],
        ),
        fixture(GEMMA, "<|tool_call>call me", [say("<|tool_call>call me")]),
        fixture(
            ("", "functiongemma"),
            "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
            [call("get_weather", "{\"city\": \"Paris\"}")],
        ),
    ]
}

fn harmony() -> Vec<Fixture> {
    const GPT: (&str, &str) = ("openai_gptoss", "openai");
    vec![
        fixture(
            GPT,
            "<|channel|>analysis<|message|>Hm <|x|>.<|end|><|start|>assistant<|channel|>final<|message|>Yes.\n<|return|>",
            [think("Hm <|x|>."), say("Yes.\n")],
        ),
        fixture(
            GPT,
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>\
             <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"<|end|>\"}<|call|>",
            [think("Hm."), say("I look."), call("get_weather", "{\"city\": \"<|end|>\"}")],
        ),
        // The recipient among the roles, no constraint, several calls.
        fixture(
            GPT,
            " to=functions.get_weather<|channel|>commentary json<|message|>{\"days\": 2}<|call|><|start|>assistant to=functions.get_time\
             <|channel|>commentary<|message|><|call|>",
            [call("get_weather", "{\"days\": 2}"), call("get_time", "{}")],
        ),
        fixture(
            GPT,
            "<|channel|>analysis to=browser.search code<|message|>{\"q\": 1}<|call|><|start|>assistant<|channel|>final<|message|>Ok",
            [think("{\"q\": 1}"), say("Ok")],
        ),
        // Ends forgotten, headers cut, no headers.
        fixture(
            GPT,
            "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Ok",
            [think("Hm."), say("Ok")],
        ),
        fixture(GPT, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assi", [think("Hm.")]),
        fixture(GPT, "<|channel|>analysis<|message|>Hm.<|en", [think("Hm.<|en")]),
        fixture(
            GPT,
            "<|channel|>commentary to=functions.get_time<|message|>{\"a\": [",
            [call("get_time", "{\"a\": [")],
        ),
        fixture(GPT, "Plain <text>.", [say("Plain <text>.")]),
        fixture(GPT, "assistant", [say("assistant")]),
        opened(
            GPT,
            "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Ok",
            [think("Hm."), say("Ok")],
        ),
    ]
}

/// White space where no template has it: what models write all the same.
fn spaced() -> Vec<Fixture> {
    vec![
        fixture(
            ("", "glm45"),
            "Sure. <tool_call>get_weather\n    <arg_key>city</arg_key>\n    <arg_value>Dallas</arg_value>\n    \
             <arg_key>days</arg_key>\n    <arg_value>3</arg_value>\n    </tool_call>\n    <tool_call>get_time\n</tool_call>",
            [
                say("Sure."),
                call("get_weather", "{\"city\": \"Dallas\", \"days\": 3}"),
                call("get_time", "{}"),
            ],
        ),
        fixture(
            ("", "kimi_k2"),
            "A. <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0 <|tool_call_argument_begin|>\
             {\n  \"city\": \"<div>\"\n} <|tool_call_end|> <|tool_call_begin|>functions.get_time:1\n<|tool_call_argument_begin|>{}\
             <|tool_call_end|><|tool_calls_section_end|>",
            [
                say("A."),
                call_id("functions.get_weather:0", "get_weather", "{\n  \"city\": \"<div>\"\n}"),
                call_id("functions.get_time:1", "get_time", "{}"),
            ],
        ),
        fixture(
            ("", "mistral"),
            "hi{hi[TOOL_CALLS]  [ {\"name\":\"f\" , \"arguments\" : {\"a\": 3} } ]\nand more",
            [say("hi{hi"), call("f", "{\"a\": 3}"), say("and more")],
        ),
        fixture(
            ("", "mistral"),
            "[TOOL_CALLS] [{\"arguments\":{\"name\": \"Ann\"}, \"name\": \"get_age\"}]",
            [call("get_age", "{\"name\": \"Ann\"}")],
        ),
    ]
}

/// The same around objects and what else stands in brackets.
fn spaced_brackets() -> Vec<Fixture> {
    vec![
        fixture(
            ("", "llama3_json"),
            "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"{a} [b]\"}}\n{\"name\": \"get_time\", \"parameters\": {}} ; \
             {\"name\": \"get_time\", \"parameters\": {}} I used {get_time}.",
            [
                call("get_weather", "{\"city\": \"{a} [b]\"}"),
                call("get_time", "{}"),
                call("get_time", "{}"),
                say("I used {get_time}."),
            ],
        ),
        fixture(
            ("", "phi4_mini_json"),
            "Let me see.\nfunctools[\n  {\"name\": \"get_weather\", \"arguments\": {\"city\": \"C:\\\\U\"}},\n  \
             {\"name\": \"get_time\", \"arguments\": {}}\n]\nMore?",
            [
                say("Let me see."),
                call("get_weather", "{\"city\": \"C:\\\\U\"}"),
                call("get_time", "{}"),
                say("More?"),
            ],
        ),
        fixture(
            ("", "granite"),
            "<|tool_call|> [{\"arguments\": {\"city\": \"Rome\"}, \"name\": \"get_weather\"}, {\"name\": \"get_time\", \"arguments\": {}}] Ok",
            [call("get_weather", "{\"city\": \"Rome\"}"), call("get_time", "{}"), say("Ok")],
        ),
        fixture(
            ("", "minimax_m2"),
            "Ok. <minimax:tool_call><invoke name=\"get_weather\"><parameter name=\"city\">Seattle</parameter></invoke>\
             <invoke name=\"get_time\"></invoke></minimax:tool_call>",
            [say("Ok."), call("get_weather", "{\"city\": \"Seattle\"}"), call("get_time", "{}")],
        ),
        fixture(
            ("", "pythonic"),
            " [ get_weather( city = \"Rome\" , days = 2 ) , get_time( ) ] ",
            [call("get_weather", "{\"city\": \"Rome\", \"days\": 2}"), call("get_time", "{}")],
        ),
        fixture(
            ("", "gemma4"),
            "<|tool_call>call:get-weather{ place: {<|\"|>3<|\"|>: <|\"|>new text<|\"|>}, hours:[1, 2.5] , unit:null }<tool_call|>",
            [call(
                "get-weather",
                "{\"place\": {\"3\": \"new text\"}, \"hours\": [1, 2.5], \"unit\": null}",
            )],
        ),
    ]
}

/// Headers that are cut or odd.
fn headed_oddly() -> Vec<Fixture> {
    const GPT: (&str, &str) = ("openai_gptoss", "openai");
    vec![
        fixture(
            ("", "kimi_k2"),
            "<|tool_calls_section_begin|><|tool_call_begin|>get_weather:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
            [call_id("get_weather:0", "get_weather", "{}")],
        ),
        // A call that nobody closes, and one behind it.
        fixture(
            ("", "mistral"),
            "[TOOL_CALLS]f[ARGS]{\"a\": \"r'{}'\"}[TOOL_CALLS]get_time[ARGS]{}",
            [call("f", "{\"a\": \"r'{}'\"}"), call("get_time", "{}")],
        ),
        fixture(
            GPT,
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final <|constrain|>JSON<|message|>{}<|return|>",
            [think("Hm."), say("{}")],
        ),
        fixture(
            GPT,
            "<|channel|>analysis<|message|>Hm.<|end|><|channel|>final<|message|>Yes.",
            [think("Hm."), say("Yes.")],
        ),
        fixture(
            GPT,
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>foo<|call|><|start|>assistant<|channel|>commentary \
             to=functions.get_time<|message|><|call|><|start|>assistant<|channel|>final<|message|>Done",
            [call("f", "foo"), call("get_time", "{}"), say("Done")],
        ),
    ]
}

#[test]
fn outputs_come_apart() {
    for Fixture { reasoning, tools, in_reasoning, output, parts } in all() {
        let found = parse(&format(reasoning, tools), in_reasoning, [output]);
        assert_eq!(found, parts, "{reasoning} {tools} {output:?}");
    }
}

/// Without tools, what looks like a call is text.
#[test]
fn no_tools_no_calls() {
    for Fixture { tools, output, .. } in all() {
        let found = parse_with(&format("", tools), &[], false, [output]);
        assert_eq!(found, [say(output)], "{tools}");
    }
}
