//! Grammars: whatever a model prefers, the answer follows; what cannot be a grammar is refused.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod calls;
mod schema;
mod structural_tag;
mod walk;

use serde_json::{Value, json};
use text::{
    Calls, ClosingTag, Grammar, OutputFormat, OutputParser, OutputPart, ReasoningFormat,
    SpecialTokens, Tokenizer, ToolFormat,
};
use walk::{accepts, compiler, eos, tokenizer, walks};

#[test]
fn json_follows_its_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["c", "f"]},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        },
        "required": ["city", "days", "unit"],
        "additionalProperties": false,
    });
    for text in walks(&Grammar::JsonSchema(schema)) {
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let object = value.as_object().unwrap();
        assert!(object["city"].as_str().unwrap().chars().count() <= 8, "{text}");
        assert!((1..=14).contains(&object["days"].as_i64().unwrap()), "{text}");
        assert!(["c", "f"].contains(&object["unit"].as_str().unwrap()), "{text}");
        let tags = object.get("tags").map(|tags| tags.as_array().unwrap().clone());
        assert!(tags.unwrap_or_default().iter().all(Value::is_boolean), "{text}");
        assert!(object.len() <= 4, "{text}");
    }
}

#[test]
fn any_object_is_json_with_little_white_space() {
    for text in walks(&Grammar::json_object()) {
        match serde_json::from_str::<Value>(&text) {
            Ok(value) => assert!(value.is_object(), "{text}"),
            // 1e999 is JSON.
            Err(error) => assert!(error.to_string().contains("out of range"), "{error}: {text}"),
        }
    }
}

/// The next of a row of numbers (xorshift, Marsaglia 2003).
fn draw(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}

fn allowed(mask: &[u32]) -> Vec<u32> {
    (0..mask.len() as u32 * 32).filter(|i| mask[*i as usize / 32] >> (i % 32) & 1 == 1).collect()
}

/// Guessed tokens are accepted, asked about and taken back: nothing of it may leave a trace. What is
/// forced is what the masks allow one by one.
#[test]
fn tokens_can_be_taken_back() {
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "open": {"type": "boolean"}},
        "required": ["city", "open"], "additionalProperties": false,
    });
    let tokenizer = tokenizer();
    let compiler = compiler(&tokenizer);
    let mut num_forced = 0;
    for seed in 1..30_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut matcher = compiler.compile(&Grammar::JsonSchema(schema.clone())).unwrap();
        let mut masks = [(); 4].map(|()| vec![0; tokenizer.vocab_size().div_ceil(32)]);
        for _ in 0..60 {
            let forced = matcher.forced(8);
            num_forced += forced.len();
            matcher.fill_mask(&mut masks[0]).unwrap();
            let (mut guesses, mut is_over) = (Vec::new(), false);
            for at in 1..4 {
                let choices = allowed(&masks[at - 1]);
                if let Some(id) = forced.get(at - 1) {
                    assert_eq!(choices, [*id], "a forced token has no rival");
                }
                guesses.push(choices[draw(&mut state) % choices.len()]);
                is_over = matcher.accept(guesses[at - 1]).unwrap();
                if is_over {
                    break;
                }
                matcher.fill_mask(&mut masks[at]).unwrap();
            }
            matcher.rollback(guesses.len()).unwrap();
            assert_eq!(matcher.forced(8), forced);
            let mut again = vec![0; masks[0].len()];
            for (mask, id) in masks.iter().zip(&guesses) {
                matcher.fill_mask(&mut again).unwrap();
                assert_eq!(allowed(&again), allowed(mask));
                assert!(!matcher.accept(*id).unwrap() || is_over);
            }
            if is_over {
                break;
            }
        }
    }
    assert!(num_forced > 100, "{num_forced}");
}

#[test]
fn a_regex_matches_the_whole_answer() {
    for text in walks(&Grammar::Regex("[a-f]{3}-[0-9]{2}".to_owned())) {
        let (letters, digits) = text.split_once('-').unwrap();
        assert!(
            letters.len() == 3 && letters.bytes().all(|b| (b'a'..=b'f').contains(&b)),
            "{text}"
        );
        assert!(digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()), "{text}");
    }
}

#[test]
fn a_choice_is_one_of_its_texts() {
    let texts = ["yes", "no \"quoted\"\n", "né"].map(str::to_owned).to_vec();
    let mut seen = walks(&Grammar::Choice(texts.clone()));
    seen.sort();
    seen.dedup();
    assert!(seen.iter().all(|text| texts.contains(text)), "{seen:?}");
    assert!(seen.len() > 1, "{seen:?}");
}

/// Alternatives of rules are 2,000 at most; texts need not be few.
#[test]
fn a_choice_may_be_among_thousands() {
    let tokenizer = tokenizer();
    let texts: Vec<_> = (0..5000).map(|n| format!("option {n}.")).collect();
    let (compiler, grammar) = (compiler(&tokenizer), Grammar::Choice(texts));
    assert!(
        accepts(&compiler, &grammar, "option 0.") && accepts(&compiler, &grammar, "option 4999.")
    );
    assert!(
        !accepts(&compiler, &grammar, "option 5000.") && !accepts(&compiler, &grammar, "option 12")
    );
}

#[test]
fn a_context_free_grammar_balances() {
    let grammar = "start: pair\npair: \"(\" pair \")\" | /[0-9]/";
    for text in walks(&Grammar::Lark(grammar.to_owned())) {
        let depth = |c| text.matches(c).count();
        assert_eq!(depth('('), depth(')'), "{text}");
    }
}

fn tools() -> Vec<Value> {
    let parameters = json!({
        "type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string", "maxLength": 9}},
        "required": ["n"], "additionalProperties": false,
    });
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    vec![tool("first"), tool("second")]
}

/// Names and arguments of the calls in `text`, and the text around them.
fn parsed(
    format: &OutputFormat,
    in_reasoning: bool,
    text: &str,
) -> (Vec<(String, String)>, String) {
    let mut parser = OutputParser::new(format, &tools(), in_reasoning);
    let mut parts = parser.push(text);
    parts.extend(parser.finish());
    let (mut calls, mut around) = (Vec::<(String, String)>::new(), String::new());
    for part in parts {
        match part {
            OutputPart::ToolCall { name, .. } => calls.push((name, String::new())),
            OutputPart::Arguments { index, json } => calls[index].1 += &json,
            OutputPart::Text(text) => around += &text,
            OutputPart::Reasoning(_) => {}
        }
    }
    (calls, around)
}

fn assert_valid(calls: &[(String, String)], text: &str) {
    for (name, arguments) in calls {
        assert!(["first", "second"].contains(&name.as_str()), "{text}");
        let arguments: Value =
            serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(arguments["n"].is_number(), "{text}");
    }
}

/// Whatever a grammar of calls lets through, the parser of the same format reads as calls.
#[test]
fn forced_calls_are_read_back_as_calls() {
    for name in ["hermes", "mistral", "granite", "phi4_mini_json", "jamba", "xlam", "llama3_json"] {
        let tool_format = ToolFormat::from_name(name).unwrap();
        let format = OutputFormat { reasoning: None, tools: Some(tool_format) };
        for calls in [Calls::One, Calls::Some] {
            for text in walks(&tool_format.grammar(&tokenizer(), &tools(), (calls, 0)).unwrap()) {
                let (found, around) = parsed(&format, false, &text);
                assert!(!found.is_empty() && around.is_empty(), "{name}: {text} leaves {around:?}");
                assert!(calls == Calls::Some || found.len() == 1, "{name}: {text}");
                assert_valid(&found, &text);
            }
        }
    }
}

#[test]
fn calls_among_text_follow_their_schemas() {
    let hermes = ToolFormat::from_name("hermes").unwrap();
    let format = OutputFormat { reasoning: None, tools: Some(hermes) };
    let compiler = compiler(&tokenizer());
    let grammar = hermes.grammar(&tokenizer(), &tools(), (Calls::AmongText, 0)).unwrap();
    for start in ["", "Let me see. ", "<tool_call>\n", "a <tool_call>\n{\"name\": \"second\", "] {
        let mut matcher = compiler.compile(&grammar).unwrap();
        for id in tokenizer().encode(start, false).unwrap() {
            assert!(!matcher.accept(id).unwrap(), "{start}");
        }
        let mut mask = vec![0; tokenizer().vocab_size().div_ceil(32)];
        matcher.fill_mask(&mut mask).unwrap();
        let may_end = mask[eos(&tokenizer()) as usize / 32] >> (eos(&tokenizer()) % 32) & 1 == 1;
        assert_eq!(may_end, !start.contains("<tool_call>"), "{start}");
    }
    let wrong = "<tool_call>\n{\"name\": \"third\"";
    let mut matcher = compiler.compile(&grammar).unwrap();
    let ids = tokenizer().encode(wrong, false).unwrap();
    assert!(ids.into_iter().any(|id| matcher.accept(id).is_err()), "an unknown function");
    let whole =
        "Yes.<tool_call>\n{\"name\": \"first\", \"arguments\": {\"n\": 1}}\n</tool_call> Done.";
    let mut matcher = compiler.compile(&grammar).unwrap();
    for id in tokenizer().encode(whole, false).unwrap() {
        matcher.accept(id).unwrap();
    }
    assert_valid(&parsed(&format, false, whole).0, whole);
}

#[test]
fn an_answer_is_calls_or_follows_the_reply() {
    let format = OutputFormat { reasoning: None, tools: ToolFormat::from_name("hermes") };
    let hermes = format.tools.unwrap();
    let compiler = compiler(&tokenizer());
    let call = "<tool_call>\n{\"name\": \"first\", \"arguments\": {\"n\": 1}}\n</tool_call>";
    let two = format!("{call}\n{call}");
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}},
                        "required": ["a"], "additionalProperties": false});
    let json = Grammar::JsonSchema(schema);
    let regex = Grammar::Regex("[<a-z_>]*(.|\n)*".to_owned());
    for (reply, good, bad) in [
        (&json, "{\"a\": true}", "{\"b\": 1}"),
        (&regex, "<tool_call and more", "<tool_call>x"),
        (&Grammar::Choice(vec!["yes".to_owned(), "no".to_owned()]), "yes", "maybe"),
    ] {
        for calls in [Calls::One, Calls::Some] {
            let grammar = hermes.grammar_or(&tokenizer(), &tools(), (calls, 0), reply).unwrap();
            for (text, accepted) in [
                (call, true),
                (&two, calls == Calls::Some),
                (good, true),
                (bad, false),
                (&format!("{good}{call}"), reply == &regex),
                (&format!("\n{}", call.replace('1', "2.5")), false),
                (&call.replace("first", "third"), false),
                (&call.replace("1}", "true}"), false),
            ] {
                assert_eq!(accepts(&compiler, &grammar, text), accepted, "{reply:?} {text:?}");
            }
        }
    }
    let lark = Grammar::Lark("start: \"a\"".to_owned());
    assert!(hermes.grammar_or(&tokenizer(), &tools(), (Calls::One, 0), &lark).is_err());
    let bare = ToolFormat::from_name("llama3_json").unwrap();
    assert!(bare.grammar_or(&tokenizer(), &tools(), (Calls::One, 0), &json).is_err());
    // Walks end in one of both, and behind thoughts as well.
    let thinking = OutputFormat { reasoning: ReasoningFormat::from_name("qwen3"), ..format };
    let grammar = hermes.grammar_or(&tokenizer(), &tools(), (Calls::One, 0), &json).unwrap();
    for text in walks(&grammar) {
        let (found, around) = parsed(&format, false, &text);
        assert_valid(&found, &text);
        assert!(found.is_empty() != around.is_empty(), "{text}");
        assert!(found.len() == 1 || serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    }
    let grammar = thinking.after_reasoning(&tokenizer(), "", grammar).unwrap();
    assert!(accepts(&compiler, &grammar, &format!("<think>\nhm\n</think>\n\n{call}")));
    assert!(accepts(&compiler, &grammar, "{\"a\": false}"));
}

#[test]
fn text_of_a_bare_format_begins_with_no_bracket() {
    for name in ["llama3_json", "xlam"] {
        let format = ToolFormat::from_name(name).unwrap();
        let grammar = format.grammar(&tokenizer(), &tools(), (Calls::AmongText, 0)).unwrap();
        let compiler = compiler(&tokenizer());
        for (text, good) in [
            ("", true),
            (" See [1].", true),
            ("[1]", false),
            ("\n{}", false),
            ("{\"name\": \"first\", \"parameters\": {\"n\": 1}}", name == "llama3_json"),
            ("[{\"name\": \"first\", \"arguments\": {\"n\": 1}}]", name == "xlam"),
        ] {
            assert_eq!(accepts(&compiler, &grammar, text), good, "{name} {text:?}");
        }
    }
}

/// Arguments are objects, whether the schema says so or not.
#[test]
fn arguments_are_objects() {
    let hermes = ToolFormat::from_name("hermes").unwrap();
    let tool =
        |parameters: Value| vec![json!({"function": {"name": "f", "parameters": parameters}})];
    let compiler = compiler(&tokenizer());
    for parameters in [json!({}), json!({"properties": {}}), json!({"type": ["null", "object"]})] {
        let grammar = hermes.grammar(&tokenizer(), &tool(parameters), (Calls::One, 0)).unwrap();
        for (arguments, good) in [("{}", true), ("3", false), ("null", false)] {
            let text = format!(
                "<tool_call>\n{{\"name\": \"f\", \"arguments\": {arguments}}}\n</tool_call>"
            );
            assert_eq!(accepts(&compiler, &grammar, &text), good, "{text}");
        }
    }
    let string = tool(json!({"type": "string"}));
    assert!(hermes.grammar(&tokenizer(), &string, (Calls::One, 0)).is_err());
}

#[test]
fn an_answer_may_come_behind_thoughts() {
    let format = OutputFormat { reasoning: ReasoningFormat::from_name("qwen3"), tools: None };
    let choice = || Grammar::Choice(vec!["yes".to_owned(), "no".to_owned()]);
    let tokenizer = tokenizer();
    let compiler = compiler(&tokenizer);
    let accepts = |grammar: &Grammar, text: &str| accepts(&compiler, grammar, text);
    let free = format.after_reasoning(&tokenizer, "<|im_start|>assistant\n", choice()).unwrap();
    assert!(accepts(&free, "yes") && accepts(&free, "<think>\nmaybe {\"\n</think>\n\nno"));
    assert!(!accepts(&free, "<think>\nmaybe\n</think>\n\nmaybe") && !accepts(&free, "maybe"));
    let open = format.after_reasoning(&tokenizer, "assistant\n<think>\n", choice()).unwrap();
    assert!(accepts(&open, "so\n</think>\n\nyes"));
    let closed = "<|im_start|>assistant\n<think>\n\n</think>\n\n";
    assert_eq!(format.after_reasoning(&tokenizer, closed, choice()).unwrap(), choice());
}

#[test]
fn a_compiled_grammar_is_kept_at_its_start() {
    let (tokenizer, grammar) =
        (tokenizer(), Grammar::Choice(vec!["ab".to_owned(), "cd".to_owned()]));
    let compiler = compiler(&tokenizer);
    let mask_of = |matcher: &mut text::Matcher| {
        let mut mask = vec![0; tokenizer.vocab_size().div_ceil(32)];
        matcher.fill_mask(&mut mask).unwrap();
        mask
    };
    let mut first = compiler.compile(&grammar).unwrap();
    let start = mask_of(&mut first);
    let id = tokenizer.encode("a", false).unwrap()[0];
    first.accept(id).unwrap();
    assert_ne!(mask_of(&mut first), start);
    assert_eq!(mask_of(&mut compiler.compile(&grammar).unwrap()), start);
    let other = tokenizer.encode("x", false).unwrap()[0];
    assert!(first.accept(other).is_err(), "a token that the mask forbids");
}

/// Definitions that each refer to the next.
fn chain(len: usize) -> Grammar {
    let link = |i: usize| json!({"items": {"$ref": format!("#/$defs/d{}", i + 1)}});
    let mut links: serde_json::Map<String, Value> =
        (0..len).map(|i| (format!("d{i}"), link(i))).collect();
    links.insert(format!("d{len}"), json!({"type": "null"}));
    Grammar::JsonSchema(json!({"$ref": "#/$defs/d0", "$defs": links}))
}

#[test]
fn a_long_chain_of_references_has_the_stack_it_needs() {
    let small_stack = std::thread::Builder::new().stack_size(1 << 20);
    let compile = || compiler(&tokenizer()).compile(&chain(900)).map(drop);
    small_stack.spawn(compile).unwrap().join().unwrap().unwrap();
}

/// No automaton is built ahead, so that a regular expression that would explode costs little until
/// it is followed; that has bounds of its own, at which a sequence fails and no other does.
#[test]
fn a_regex_that_explodes_is_followed_as_far_as_it_goes() {
    let (tokenizer, compiler) = (tokenizer(), compiler(&tokenizer()));
    for pattern in [
        "((((a{1,500}b?){1,500}c?){1,500}d?){1,500}e?){1,500}",
        "(a|b)*a(a|b){400}",
        "(.*a.*b?){40}",
        "([a-z]{1,50}[a-m]{1,50}){1,50}[0-9]{1000}",
    ] {
        let mut matcher = compiler.compile(&Grammar::Regex(pattern.to_owned())).unwrap();
        let mut mask = vec![0; tokenizer.vocab_size().div_ceil(32)];
        for id in tokenizer.encode(&"ab".repeat(60), false).unwrap() {
            if let Err(error) = matcher.fill_mask(&mut mask) {
                assert!(error.to_string().len() < 1000, "{error}");
                break;
            }
            if mask[id as usize / 32] >> (id % 32) & 1 == 1 {
                matcher.accept(id).unwrap();
            }
        }
    }
}

#[test]
fn what_a_schema_rules_out_is_no_part_without_an_end() {
    let compiler = compiler(&tokenizer());
    for schema in [
        json!({"type": "object", "properties": {"a": false, "b": {"type": "null"}}}),
        json!({"type": "array", "items": false}),
        json!({"type": "array", "prefixItems": [{"type": "null"}], "items": false}),
        json!({"anyOf": [{"type": "string"}, false]}),
        json!({"type": "object", "properties": {"next": {"$ref": "#"}}}),
        json!({"type": "object", "additionalProperties": false}),
        json!({"allOf": [{"type": ["string", "null"]}, {"type": ["null", "number"]}]}),
    ] {
        compiler
            .compile(&Grammar::JsonSchema(schema.clone()))
            .unwrap_or_else(|error| panic!("{error}: {schema}"));
    }
}

#[test]
fn what_cannot_be_followed_is_refused_with_its_reason() {
    let compiler = compiler(&tokenizer());
    let wide: serde_json::Map<String, Value> = (0..60_000)
        .map(|i| {
            (format!("key{i}"), json!({"type": "string", "pattern": format!("^(a|b){{{i}}}$")}))
        })
        .collect();
    let lark = |text: &str| Grammar::Lark(text.to_owned());
    for (grammar, reason) in [
        (Grammar::JsonSchema(json!({"type": "colour"})), "colour"),
        (Grammar::JsonSchema(json!({"type": "string", "pattern": "(?=x)"})), ""),
        (Grammar::JsonSchema(json!({"$ref": "#/nowhere"})), "nowhere"),
        (Grammar::JsonSchema(json!({"uniqueItems": true, "type": "array"})), "uniqueItems"),
        (Grammar::JsonSchema(json!(3)), "object"),
        (Grammar::JsonSchema(json!({"properties": wide})), ""),
        (chain(20_000), "$ref"),
        (Grammar::Regex("(".to_owned()), "unclosed group"),
        (Grammar::Regex("a\\".to_owned()), "backslash"),
        (lark("start: nothing"), "nothing"),
        (lark("start: start \"a\""), "never ends"),
        (lark("start: \"a\" start"), "never ends"),
        (lark("start: \"a\" | \"b\" loop\nloop: \"c\" loop"), "never ends"),
        (
            Grammar::JsonSchema(
                json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
            ),
            "never ends",
        ),
        (lark("root ::= \"a\""), ""),
        (lark(&format!("start: {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000))), ""),
        (lark(&format!("start: /{}a{}/", "(".repeat(50_000), ")".repeat(50_000))), ""),
        (Grammar::Choice(vec!["x".repeat(2 << 20)]), ""),
    ] {
        let error =
            compiler.compile(&grammar).map(drop).expect_err("cannot be followed").to_string();
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
        assert!(!error.contains('\n') && error.len() < 1000, "{error}");
    }
}

/// Whether `text` is a whole answer to `schema`.
fn follows(schema: &Value, text: &str) -> bool {
    let tokenizer = tokenizer();
    let mut matcher = compiler(&tokenizer).compile(&Grammar::JsonSchema(schema.clone())).unwrap();
    let ids = tokenizer.encode(text, false).unwrap();
    let mut mask = vec![0; tokenizer.vocab_size().div_ceil(32)];
    ids.into_iter().all(|id| matcher.accept(id).is_ok())
        && matcher.fill_mask(&mut mask).is_ok()
        && {
            let eos = eos(&tokenizer);
            mask[eos as usize / 32] >> (eos % 32) & 1 == 1
        }
}

/// Another spelling of a name would let it have another schema's value.
#[test]
fn a_free_name_is_none_that_has_a_schema() {
    let schema = json!({"type": "object", "properties": {"foo": {"type": "string"}}});
    assert!(follows(&schema, r#"{"foo":"x"}"#) && follows(&schema, r#"{"bar":1}"#));
    assert!(!follows(&schema, r#"{"foo":1}"#) && !follows(&schema, r#"{"\u0066oo":1}"#));
    let mut guided = schema;
    guided["x-guidance"] = json!({"whitespace_flexible": false});
    assert!(follows(&guided, r#"{"bar":1}"#) && !follows(&guided, r#"{"\u0066oo":1}"#));
}

#[test]
fn dates_and_times_exist() {
    let date = json!({"type": "string", "format": "date"});
    assert!(follows(&date, "\"2024-02-29\"") && follows(&date, "\"2000-02-29\""));
    assert!(!follows(&date, "\"2021-02-29\"") && !follows(&date, "\"1900-02-29\""));
    let time = json!({"type": "string", "format": "time"});
    assert!(follows(&time, "\"23:59:59Z\"") && !follows(&time, "\"22:59:60Z\""));
    let both = json!({"type": "string", "format": "date-time", "pattern": "^2"});
    assert!(follows(&both, "\"2021-02-28T08:30:06.25+01:00\""));
    assert!(
        !follows(&both, "\"2021-02-29T08:30:06Z\"") && !follows(&both, "\"1999-02-28T08:30:06Z\"")
    );
    // A property may have any name.
    let named = json!({"type": "object", "properties": {"format": {"const": "date"}}, "required": ["format"]});
    assert!(follows(&named, r#"{"format":"date"}"#));
}

#[test]
fn addresses_are_no_longer_than_addresses_are() {
    let email = json!({"type": "string", "format": "email"});
    let of_length = |local: usize, label: usize| {
        follows(&email, &format!("\"{}@{}.org\"", "a".repeat(local), "b".repeat(label)))
    };
    assert!(of_length(64, 63) && !of_length(65, 1) && !of_length(1, 64));
    let host = json!({"type": "string", "format": "hostname"});
    assert!(follows(&host, "\"a-b.example\"") && !follows(&host, "\"xn--b.example\""));
}

#[test]
fn patterns_are_those_of_ecmascript() {
    for (pattern, text, matches) in [
        ("^.$", "\"a\"", true),
        ("^.$", "\"\\r\"", false),
        ("^.$", "\"\u{2028}\"", false),
        ("^\\S$", "\"\u{feff}\"", false),
        ("^\\s$", "\"\u{feff}\"", true),
        ("^\\s$", "\"\u{85}\"", false),
        ("^[^\\D]$", "\"5\"", true),
        ("^[^\\D]$", "\"\u{7c0}\"", false),
        ("^[^\\W]$", "\"\u{e9}\"", false),
        ("^[a&&b]+$", "\"a&b\"", true),
        ("^[[x]$", "\"[\"", true),
        ("^[.]$", "\"x\"", false),
        ("^\\.\\/$", "\"./\"", true),
    ] {
        let schema = json!({"type": "string", "pattern": pattern});
        assert_eq!(follows(&schema, text), matches, "{pattern} and {text}");
    }
    let named = json!({"type": "object", "patternProperties": {"^.$": {"type": "null"}}, "additionalProperties": false});
    assert!(follows(&named, "{\"a\":null}") && !follows(&named, "{\"\\r\":null}"));
}

#[test]
fn what_would_be_followed_wrongly_is_refused_by_name() {
    let compiler = compiler(&tokenizer());
    for (schema, reason) in [
        (
            json!({"const": 9_007_199_254_740_993_u64}),
            "const: 9007199254740993 has too many digits",
        ),
        (json!({"items": {"maximum": -9_007_199_254_740_993_i64}}), "maximum"),
        (json!({"enum": [["a\u{0}b"]]}), "enum: \"a\\u0000b\" has control characters"),
        (json!({"type": "string", "pattern": "a\\vb"}), "control characters"),
        (json!({"type": "string", "pattern": "a\\u0001b"}), "control characters"),
        (json!({"type": "string", "pattern": "\\Aa"}), "\\A is not ECMAScript"),
        (json!({"type": "string", "pattern": "(?x) a"}), "flags"),
        (json!({"patternProperties": {"[a--b]": true}}), "-- in brackets"),
        (json!({"type": "string", "pattern": "[]"}), "empty brackets"),
        (json!({"type": "object", "minProperties": 2}), "minProperties"),
        (json!({"x-guidance": {"colour": 1}}), "x-guidance"),
    ] {
        let error = compiler.compile(&Grammar::JsonSchema(schema)).map(drop).unwrap_err();
        assert!(error.to_string().contains(reason), "{error} does not say {reason}");
    }
    let range = json!({"type": "string", "pattern": "^[^\\x00-\\x1f\\v-\\r]$"});
    assert!(follows(&range, "\"a\"") && !follows(&range, "\"\\n\""));
}

/// The golden tokenizer, with `tag` as a special token of its own.
fn tokenizer_with(tag: &str) -> Tokenizer {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/qwen/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let id = tokenizer().vocab_size();
    json["added_tokens"].as_array_mut().unwrap().push(json!({"id": id, "content": tag,
        "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false}));
    Tokenizer::from_bytes(json.to_string().as_bytes(), SpecialTokens::default()).unwrap()
}

/// Every format's closing tag, as text and as one special token, ends its block for the parser and
/// for the grammar, wherever in the tag the text already is.
#[test]
fn a_closing_tag_closes() {
    let choice = || Grammar::Choice(vec!["yes".to_owned()]);
    for reasoning in ReasoningFormat::ALL.iter().copied() {
        let tag = ClosingTag::new(reasoning, &tokenizer()).unwrap().unwrap();
        let text = tokenizer().decode(tag.after(""), false).unwrap();
        let start = match reasoning.name() {
            "gemma4" => "<|channel>thought".to_owned(),
            "granite" => "Here is my thought process:".to_owned(),
            "openai_gptoss" => "<|channel|>analysis<|message|>".to_owned(),
            _ => text.replacen('/', "", 1).replace("END", "START"),
        };
        let next = if reasoning.name() == "openai_gptoss" { "<|start|>assistant" } else { "" };
        let format = OutputFormat { reasoning: Some(reasoning), tools: None };
        for tokenizer in [tokenizer(), tokenizer_with(&text)] {
            let tag = ClosingTag::new(reasoning, &tokenizer).unwrap().unwrap();
            let prompt = format!("assistant\n{start}\n");
            let grammar = format.after_reasoning(&tokenizer, &prompt, choice()).unwrap();
            let compiler = compiler(&tokenizer);
            for len in 0..text.len() {
                let mut parser = OutputParser::new(&format, &[], true);
                parser.push("a b");
                parser.push(&text[..len]);
                let is_whole = tokenizer.token_id(&text).is_some();
                let begun = if is_whole { "" } else { &text[..len] };
                let mut ids = tokenizer.encode("a b", false).unwrap();
                ids.extend(begun.bytes().flat_map(|byte| {
                    tokenizer.encode(&char::from(byte).to_string(), false).unwrap()
                }));
                ids.extend(tag.after(parser.held()));
                ids.extend(tokenizer.encode(&format!("{next}yes"), false).unwrap());
                let mut matcher = compiler.compile(&grammar).unwrap();
                let accepted = ids.iter().all(|id| matcher.accept(*id).is_ok());
                assert!(accepted, "{} after {:?}", reasoning.name(), parser.held());
                parser.push(&tokenizer.decode(tag.after(parser.held()), false).unwrap());
                assert!(!parser.in_reasoning(), "{} at {len}", reasoning.name());
            }
        }
    }
}
