//! Grammars: whatever a model prefers, the answer follows; what cannot be a grammar is refused.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod calls;
mod schema;
mod structural_tag;
mod walk;

use serde_json::{Value, json};
use text::{Calls, Grammar, OutputFormat, OutputParser, OutputPart, ReasoningFormat, ToolFormat};
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
            for text in walks(&tool_format.grammar(&tokenizer(), &tools(), calls).unwrap()) {
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
    let grammar = hermes.grammar(&tokenizer(), &tools(), Calls::AmongText).unwrap();
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
            let grammar = hermes.grammar_or(&tokenizer(), &tools(), calls, reply).unwrap();
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
    assert!(hermes.grammar_or(&tokenizer(), &tools(), Calls::One, &lark).is_err());
    let bare = ToolFormat::from_name("llama3_json").unwrap();
    assert!(bare.grammar_or(&tokenizer(), &tools(), Calls::One, &json).is_err());
    // Walks end in one of both, and behind thoughts as well.
    let thinking = OutputFormat { reasoning: ReasoningFormat::from_name("qwen3"), ..format };
    let grammar = hermes.grammar_or(&tokenizer(), &tools(), Calls::One, &json).unwrap();
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
        let grammar = format.grammar(&tokenizer(), &tools(), Calls::AmongText).unwrap();
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
        let grammar = hermes.grammar(&tokenizer(), &tool(parameters), Calls::One).unwrap();
        for (arguments, good) in [("{}", true), ("3", false), ("null", false)] {
            let text = format!(
                "<tool_call>\n{{\"name\": \"f\", \"arguments\": {arguments}}}\n</tool_call>"
            );
            assert_eq!(accepts(&compiler, &grammar, &text), good, "{text}");
        }
    }
    let string = tool(json!({"type": "string"}));
    assert!(hermes.grammar(&tokenizer(), &string, Calls::One).is_err());
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
