//! Calls that are forced, in every format: whatever the grammar lets through, the parser of the same
//! format reads as calls whose arguments follow their schemas.

use serde_json::{Value, json};
use text::{
    Calls, Grammar, GrammarCompiler, OutputFormat, OutputParser, OutputPart, ReasoningFormat,
    SpecialTokens, Tokenizer, ToolFormat,
};

use crate::schema::check;
use crate::walk::{self, Walk, accepts_with, compiler, eos};

fn tools() -> Vec<Value> {
    let first = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "city": {"type": "string", "description": "where"},
            "code": {"type": "string", "pattern": "^[a-z]{2,4}$"},
            "unit": {"enum": ["c", "f"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "ratio": {"type": "number", "minimum": 0, "maximum": 1},
            "exact": {"type": "boolean"},
            "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 14}, "maxItems": 2},
            "place": {"type": "object", "additionalProperties": false, "required": ["x"],
                      "properties": {"x": {"type": "integer", "maximum": 99},
                                     "name": {"type": "string", "maxLength": 20}}},
            "color": {"$ref": "#/$defs/color"},
        },
        "required": ["city", "days"], "$defs": {"color": {"enum": ["red", "blue"]}},
    });
    let second = json!({
        "type": "object", "additionalProperties": false,
        "properties": {
            "either": {"type": ["string", "integer"]},
            "maybe": {"type": ["number", "null"], "maximum": 9, "minimum": 0},
            "short": {"type": ["string", "null"], "minLength": 1, "maxLength": 3},
            "yes": {"const": true},
            "level": {"enum": ["low", "5", "null", "true"]},
            "day": {"type": "string", "format": "date"},
            "digit": {"type": "string", "pattern": "[0-9]"},
            "node": {"$ref": "#/$defs/node"},
        },
        "$defs": {"node": {"type": "object", "required": ["n"], "additionalProperties": false, "properties": {
            "n": {"type": "integer", "minimum": 0, "maximum": 9}, "next": {"$ref": "#/$defs/node"}}}},
    });
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    vec![tool("first", first), tool("second", second), tool("third.go", Value::Null)]
}

/// The vocabulary, and with `special` the format's markers as special tokens in it.
fn tokenizer(format: &OutputFormat, special: bool) -> Tokenizer {
    let mut json: Value = serde_json::from_slice(&walk::golden()).unwrap();
    let tokens = json["added_tokens"].as_array_mut().unwrap();
    tokens.retain(|token| !format.markers().contains(&token["content"].as_str().unwrap()));
    let is_token = |marker: &&str| {
        special
            && marker.len() > 3
            && marker.ends_with(['>', ']'])
            && !marker.contains("> <")
            && !marker.contains("><")
    };
    for (index, marker) in format.markers().into_iter().filter(is_token).enumerate() {
        tokens.push(json!({"id": 425 + index, "content": marker, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
    }
    Tokenizer::from_bytes(json.to_string().as_bytes(), SpecialTokens::default()).unwrap()
}

struct Read {
    calls: Vec<(Option<String>, String, String)>,
    text: String,
    reasoning: String,
}

fn read(format: &OutputFormat, text: &str) -> Read {
    let mut parser = OutputParser::new(format, &tools(), false);
    let mut parts = parser.push(text);
    parts.extend(parser.finish());
    let mut read = Read { calls: Vec::new(), text: String::new(), reasoning: String::new() };
    for part in parts {
        match part {
            OutputPart::ToolCall { name, id, .. } => read.calls.push((id, name, String::new())),
            OutputPart::Arguments { index, json } => read.calls[index].2 += &json,
            OutputPart::Text(text) => read.text += &text,
            OutputPart::Reasoning(text) => read.reasoning += &text,
        }
    }
    read
}

fn assert_valid(read: &Read, format: &OutputFormat, text: &str) {
    let mut ids: Vec<_> = read.calls.iter().filter_map(|(id, ..)| id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert!(ids.is_empty() || ids.len() == read.calls.len(), "{format:?}: {ids:?} in {text}");
    for (_, name, arguments) in &read.calls {
        let value: Value = match serde_json::from_str(arguments) {
            Ok(value) => value,
            // 1e999 is JSON.
            Err(error) if error.to_string().contains("out of range") => continue,
            Err(error) => panic!("{format:?}: {error}: {arguments} of {text}"),
        };
        let tools = tools();
        let tool = tools.iter().find(|tool| tool["function"]["name"] == json!(name));
        let tool = tool.unwrap_or_else(|| panic!("{format:?}: {name} of {text}"));
        let schema = match &tool["function"]["parameters"] {
            Value::Null => &json!({"type": "object"}),
            schema => schema,
        };
        check(schema, schema, &value).unwrap_or_else(|e| panic!("{format:?}: {e}: {text}"));
    }
}

/// What models might put where it does not belong, and what ends a raw text.
fn hints(format: &OutputFormat) -> Vec<String> {
    let mut hints: Vec<String> = format.markers().into_iter().map(str::to_owned).collect();
    let ends =
        ["</parameter>", "\n</parameter>\n", "</parameter>\n", "</arg_value>\n", "\"", "\")"];
    let values = ["null", "True", " 5", "{", "[1", "\n", "\\", "<"];
    hints.extend(ends.iter().chain(ends.iter()).chain(&values).map(|hint| (*hint).to_owned()));
    hints
}

#[test]
fn every_format_is_read_back() {
    for tool_format in ToolFormat::ALL {
        let format = OutputFormat { reasoning: None, tools: Some(*tool_format) };
        for special in [false, true] {
            let tokenizer = tokenizer(&format, special);
            let compiler = GrammarCompiler::new(&tokenizer, &[eos(&tokenizer)]);
            let mut finished = 0;
            for calls in [Calls::One, Calls::Some] {
                let grammar = tool_format.grammar(&tokenizer, &tools(), (calls, 0));
                let grammar = grammar.unwrap_or_else(|error| panic!("{format:?}: {error}"));
                let walk =
                    Walk { tokenizer: &tokenizer, compiler: &compiler, hints: hints(&format) };
                for text in (1..16).filter_map(|seed| walk.walk(&grammar, seed)) {
                    finished += 1;
                    let read = read(&format, &text);
                    assert!(!read.calls.is_empty(), "{format:?}: no call in {text}");
                    assert!(read.text.is_empty(), "{format:?}: {:?} around {text}", read.text);
                    assert!(calls == Calls::Some || read.calls.len() == 1, "{format:?}: {text}");
                    assert_valid(&read, &format, &text);
                }
            }
            assert!(finished > 10, "{format:?}: only {finished} of 30 walks came to an end");
        }
    }
}

/// Kimi's ids count the calls of a conversation.
#[test]
fn ids_go_on_counting() {
    let kimi = ToolFormat::from_name("kimi_k2").unwrap();
    let (tokenizer, compiler) = (walk::tokenizer(), compiler(&walk::tokenizer()));
    let call = |number: usize| {
        format!(
            "<|tool_call_begin|>functions.second:{number}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
        )
    };
    let [begin, end] = ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"];
    for calls in [Calls::Some, Calls::AmongText] {
        let grammar = kimi.grammar(&tokenizer, &tools(), (calls, 3)).unwrap();
        for (numbers, good) in
            [(vec![3], true), (vec![3, 4, 5], true), (vec![0], false), (vec![3, 3], false)]
        {
            let text: String = numbers.iter().copied().map(call).collect();
            let text = format!("{begin}{text}{end}");
            assert_eq!(accepts_with(&tokenizer, &compiler, &grammar, &text), good, "{text}");
        }
    }
}

/// Mistral's tokenizers have a token for it since they write calls so.
#[test]
fn mistral_writes_calls_as_its_tokenizer_does() {
    let format = OutputFormat { reasoning: None, tools: ToolFormat::from_name("mistral") };
    let array = "[TOOL_CALLS][{\"name\": \"second\", \"arguments\": {}}]";
    let headed = "[TOOL_CALLS]second[ARGS]{}";
    for (special, text, other) in [(false, array, headed), (true, headed, array)] {
        let tokenizer = tokenizer(&format, special);
        let compiler = GrammarCompiler::new(&tokenizer, &[eos(&tokenizer)]);
        let several = text.to_owned() + text;
        for calls in [Calls::One, Calls::Some, Calls::AmongText] {
            let grammar = format.tools.unwrap().grammar(&tokenizer, &tools(), (calls, 0)).unwrap();
            let accepts = |text: &str| accepts_with(&tokenizer, &compiler, &grammar, text);
            assert!(accepts(text) && !accepts(other), "{calls:?} {text}");
            assert_eq!(
                accepts(&several),
                special && calls != Calls::One || calls == Calls::AmongText
            );
        }
    }
}

/// Whether calls are told from text wherever they stand.
fn has_trigger(format: ToolFormat) -> bool {
    !["openai", "llama3_json", "llama4_pythonic", "xlam"].contains(&format.name())
}

#[test]
fn calls_among_text_are_those_that_are_forced() {
    for tool_format in ToolFormat::ALL {
        let format = OutputFormat { reasoning: None, tools: Some(*tool_format) };
        for special in [false, true] {
            let tokenizer = tokenizer(&format, special);
            let compiler = GrammarCompiler::new(&tokenizer, &[eos(&tokenizer)]);
            let grammar = |calls| tool_format.grammar(&tokenizer, &tools(), (calls, 0)).unwrap();
            let (forced, among) = (grammar(Calls::One), grammar(Calls::AmongText));
            let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
            let reply = Grammar::JsonSchema(schema);
            let either = tool_format.grammar_or(&tokenizer, &tools(), (Calls::One, 0), &reply);
            let accepts =
                |grammar: &Grammar, text: &str| accepts_with(&tokenizer, &compiler, grammar, text);
            let walk = Walk { tokenizer: &tokenizer, compiler: &compiler, hints: hints(&format) };
            let mut found = 0;
            for call in (1..16).filter_map(|seed| walk.walk(&forced, seed)).take(4) {
                found += 1;
                assert!(accepts(&among, &call), "{format:?}: {call}");
                if has_trigger(*tool_format) {
                    let text = format!("Hi.\n{call}\nBye.");
                    assert!(accepts(&among, &text), "{format:?}: {text}");
                    let read = read(&format, &text);
                    assert_eq!((read.text.as_str(), read.calls.len()), ("Hi.Bye.", 1), "{text}");
                }
                if let Ok(either) = &either {
                    assert!(accepts(either, &call), "{format:?}: {call}");
                }
            }
            assert!(found > 0, "{format:?}");
            let begin = if tool_format.name() == "openai" { FINAL } else { "" };
            assert!(accepts(&among, &format!("{begin}Hi [5].")), "{format:?}");
            match &either {
                Ok(either) => {
                    assert!(accepts(either, &format!("{begin}{{}}")), "{format:?}");
                    assert!(!accepts(either, &format!("{begin}Hi")), "{format:?}");
                }
                Err(error) => {
                    assert!(error.to_string().contains("cannot be told"), "{error}");
                    assert!(!has_trigger(*tool_format), "{format:?}: {error}");
                }
            }
        }
    }
}

const FINAL: &str = "<|channel|>final<|message|>";

#[test]
fn harmony_thinks_in_a_message_of_its_own() {
    let format = OutputFormat {
        reasoning: ReasoningFormat::from_name("openai_gptoss"),
        tools: ToolFormat::from_name("openai"),
    };
    let thought = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant";
    let call = "<|channel|>commentary to=functions.second <|constrain|>json<|message|>{}";
    for special in [false, true] {
        let tokenizer = tokenizer(&format, special);
        let compiler = GrammarCompiler::new(&tokenizer, &[eos(&tokenizer)]);
        let prompt = "<|start|>user<|message|>hi<|end|><|start|>assistant";
        let forced = format.tools.unwrap().grammar(&tokenizer, &tools(), (Calls::Some, 0)).unwrap();
        let forced = format.after_reasoning(&tokenizer, prompt, forced).unwrap();
        let message = Grammar::Choice(vec!["yes".to_owned(), "no".to_owned()]);
        let message = format.message(&tokenizer, message).unwrap();
        let message = format.after_reasoning(&tokenizer, prompt, message).unwrap();
        for (grammar, text, good) in [
            (&forced, call.to_owned(), true),
            (&forced, format!("{thought}{call}"), true),
            (&forced, format!("{FINAL}yes"), false),
            (&forced, thought.to_owned(), false),
            (&message, format!("{FINAL}yes"), true),
            (&message, format!("{thought}{FINAL}no"), true),
            (&message, format!("{thought}yes"), false),
            (&message, "yes".to_owned(), false),
        ] {
            assert_eq!(accepts_with(&tokenizer, &compiler, grammar, &text), good, "{text}");
            if good {
                let read = read(&format, &text);
                assert_eq!(read.calls.len(), usize::from(text.contains("functions")), "{text}");
                assert_eq!(read.reasoning == "hm", text.contains("analysis"), "{text}");
            }
        }
    }
}

/// Why no call of a function with these parameters can be forced.
fn refusal(format: &str, parameters: &Value) -> String {
    let format = ToolFormat::from_name(format).unwrap();
    let tool = json!({"function": {"name": "f", "parameters": parameters}});
    let grammar = format.grammar(&walk::tokenizer(), &[tool], (Calls::One, 0));
    match grammar.and_then(|grammar| compiler(&walk::tokenizer()).compile(&grammar).map(drop)) {
        Ok(()) => panic!("{format:?} takes {:.200}", parameters.to_string()),
        Err(error) => error.to_string(),
    }
}

/// They were others where arguments are written without quotes.
#[test]
fn times_look_alike_in_every_format() {
    let tokenizer = walk::tokenizer();
    let compiler = compiler(&tokenizer);
    let formats = [
        (
            "hermes",
            r#"<tool_call>
{"name": "f", "arguments": {"p": "TEXT"}}
</tool_call>"#,
        ),
        (
            "qwen3_coder",
            "<tool_call>
<function=f>
<parameter=p>
TEXT
</parameter>
</function>
</tool_call>",
        ),
    ];
    for (format, text, is_valid) in [
        ("date", "2024-02-29", true),
        ("date", "2023-02-29", false),
        ("date-time", "2000-02-29t23:59:59.25z", true),
        ("date-time", "2024-12-31T23:59:59+14:00", true),
        ("time", "12:00:00", false),
        ("uuid", "123E4567-e89b-12d3-a456-426614174000", true),
    ] {
        let string = json!({"type": "string", "format": format});
        let parameters = json!({"type": "object", "properties": {"p": string}, "required": ["p"]});
        let tool = json!({"function": {"name": "f", "parameters": parameters}});
        for (name, call) in formats {
            let tool_format = ToolFormat::from_name(name).unwrap();
            let grammar = tool_format
                .grammar(&tokenizer, std::slice::from_ref(&tool), (Calls::One, 0))
                .unwrap();
            let accepted =
                accepts_with(&tokenizer, &compiler, &grammar, &call.replace("TEXT", text));
            assert_eq!(accepted, is_valid, "{name}: {text}");
        }
    }
}

#[test]
fn what_a_format_cannot_write_is_refused_by_name() {
    let of = |schema: Value| json!({"type": "object", "properties": {"p": schema}});
    for (format, parameters, says) in [
        ("qwen3_coder", json!({"type": "string"}), "'object'"),
        ("qwen3_coder", json!({"anyOf": []}), "'anyOf'"),
        ("qwen3_coder", json!({"properties": {"a b\n": {}}}), "a b"),
        ("qwen3_coder", json!({"required": ["x"]}), "required 'x'"),
        ("qwen3_coder", of(json!({"enum": ["</parameter>"]})), "the parameter 'p': the value"),
        ("qwen3_coder", of(json!({"type": "string", "format": "email"})), "format 'email'"),
        ("qwen3_coder", of(json!({"type": "string", "pattern": "^a|b$"})), "the pattern"),
        ("qwen3_coder", of(json!({"type": "string", "pattern": "("})), "unclosed group"),
        ("qwen3_coder", of(json!({"type": "string", "not": {}})), "'not'"),
        ("qwen3_coder", of(json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        ("qwen3_coder", of(json!({"allOf": [{}, {}]})), "'allOf'"),
        ("qwen3_coder", of(json!({"type": "string", "maxLength": -1})), "whole number"),
        ("minimax_m2", of(json!({"const": "\n"})), "the value"),
        ("gemma4", of(json!({"type": "array", "uniqueItems": true})), "'uniqueItems'"),
        ("gemma4", of(json!({"enum": ["<|\"|>"]})), "the value"),
        ("gemma4", json!({"properties": {"a b": {}}}), "the name"),
        ("pythonic", of(json!({"type": "object", "patternProperties": {}})), "'patternProperties'"),
        ("pythonic", of(json!({"type": "array", "minItems": 5, "maxItems": 1})), "more items"),
        ("pythonic", of(json!({"type": "colour"})), "'colour'"),
    ] {
        let error = refusal(format, &parameters);
        assert!(error.contains(says), "{format}: {error:?} does not say {says:?}");
    }
    // Of the rules around it nothing is told.
    for format in ["hermes", "qwen3_coder"] {
        let unknown = of(json!({"type": "array", "items": {"type": "colour"}}));
        assert_eq!(refusal(format, &unknown), "Invalid type: colour", "{format}");
    }
}

/// Schemas that refer to themselves, many times over: none takes long, none overflows a stack.
#[test]
fn schemas_that_explode_are_cut_off() {
    let many = |reference: Value| vec![reference; 20];
    let direct = json!({"anyOf": many(json!({"$ref": "#/$defs/a"}))});
    let wrapped = json!({"anyOf": many(json!({"allOf": [{"$ref": "#/$defs/a"}]}))});
    let nested = json!({"type": "array", "items": {"allOf": [{"$ref": "#/$defs/a"}]}});
    let wide: serde_json::Map<String, Value> = (0..3000)
        .map(|i| (format!("p{i}"), json!({"$ref": "#/$defs/a", "title": i.to_string()})))
        .collect();
    let wide_text = json!({"type": "object", "properties": wide.clone(), "$defs": {"a":
        {"type": "object", "description": "x".repeat(10_000)}}});
    for format in ["qwen3_coder", "glm45", "deepseek_v32", "gemma4", "pythonic"] {
        for bomb in [&direct, &wrapped, &nested] {
            let parameters = json!({"type": "object", "required": ["p"], "properties": {"p": {"$ref": "#/$defs/a"}},
                                    "$defs": {"a": bomb}});
            if bomb == &nested && !["gemma4", "pythonic"].contains(&format) {
                continue; // JSON, which llguidance follows.
            }
            refusal(format, &parameters);
        }
        let error = refusal(format, &wide_text);
        assert!(error.contains("more than"), "{format}: {error}");
    }
}
