//! Structural tags in both spellings: what is accepted, what is not, and what is refused by path.

use serde_json::{Value, json};
use text::{Grammar, StructuralTag};

use crate::walk::{accepts, compiler, tokenizer, walks};

fn grammar(tag: &Value) -> Grammar {
    let tag = StructuralTag::parse(tag).unwrap_or_else(|error| panic!("{error}: {tag}"));
    tag.grammar(&tokenizer()).unwrap()
}

/// Asserts what a structural tag accepts as a whole answer, and what it does not.
fn check(tag: &Value, good: &[&str], bad: &[&str]) {
    let (grammar, compiler) = (grammar(tag), compiler(&tokenizer()));
    for text in good {
        assert!(accepts(&compiler, &grammar, text), "{tag} refuses {text:?}: {grammar:?}");
    }
    for text in bad {
        assert!(!accepts(&compiler, &grammar, text), "{tag} accepts {text:?}: {grammar:?}");
    }
}

fn number() -> Value {
    json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
           "additionalProperties": false})
}

fn function(name: &str) -> Value {
    let content = json!({"type": "json_schema", "json_schema": number()});
    json!({"begin": format!("<function={name}>"), "content": content, "end": "</function>"})
}

fn triggered(extra: &Value) -> Value {
    let mut format = json!({"type": "triggered_tags", "triggers": ["<function="],
                            "tags": [function("f"), function("g")]});
    format.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    format
}

fn whole(format: &Value) -> Value {
    json!({"type": "structural_tag", "format": format})
}

const F: &str = "<function=f>{\"n\": 1}</function>";
const G: &str = "<function=g>{\"n\": 2}</function>";

#[test]
fn the_older_spelling_is_free_text_with_tags() {
    let structure = |name: &str| json!({"begin": format!("<function={name}>"), "schema": number(), "end": "</function>"});
    let tag = json!({"type": "structural_tag", "structures": [structure("f"), structure("g")],
                     "triggers": ["<function="]});
    let both = format!("See <b>: {F} and\n{G} done.");
    check(
        &tag,
        &["", "Hi. <fun", F, &both],
        &[
            "<function=",
            "<function=h>{\"n\": 1}</function>",
            "<function=f>{}</function>",
            "a <function=f>",
        ],
    );
    check(
        &json!({"structures": [structure("f"), {"begin": "[go]", "schema": true, "end": ""}], "triggers": ["<function", "[go]"]}),
        &["x [go]3", &format!("[go]{{}} {F}!")],
        &["[go]", "[go]x", "<function=x"],
    );
}

#[test]
fn triggered_tags_come_as_often_as_they_may() {
    let twice = format!("{F}{G}");
    let late = format!("a{F}b");
    check(&whole(&triggered(&json!({}))), &["", "a", &late, &twice], &["<function="]);
    check(
        &whole(&triggered(&json!({"at_least_one": true}))),
        &[F, &twice, &format!("{F} a {G} b")],
        &["", "a", &late],
    );
    check(
        &whole(&triggered(&json!({"stop_after_first": true}))),
        &["", "a", &format!("a{F}")],
        &[&late, &twice],
    );
    check(
        &whole(&triggered(&json!({"at_least_one": true, "stop_after_first": true}))),
        &[F, G],
        &["", "a", &late, &twice],
    );
    check(&whole(&triggered(&json!({"excludes": ["no"]}))), &["yes", &late], &["no", "a no b"]);
}

#[test]
fn tags_with_a_separator_have_nothing_between_them() {
    let tags = |extra: &Value| {
        let mut format = json!({"type": "tags_with_separator", "separator": ",\n", "tags": [function("f"), function("g")]});
        format.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        whole(&format)
    };
    let twice = format!("{F},\n{G}");
    check(
        &tags(&json!({})),
        &["", F, &twice, &format!("{twice},\n{F}")],
        &["a", &format!("{F}{G}"), &format!("{F},\n")],
    );
    check(&tags(&json!({"at_least_one": true})), &[F, &twice], &[""]);
    check(&tags(&json!({"stop_after_first": true})), &["", F], &[&twice]);
}

#[test]
fn formats_combine() {
    let think = json!({"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"});
    let format = json!({"type": "sequence", "elements": [think, triggered(&json!({}))]});
    check(
        &whole(&format),
        &["<think>hm <function= </think>", &format!("<think>\n</think>So: {F}.")],
        &["hm", "<think>", "<think></think><function=x"],
    );
    let nested = json!({"type": "tag", "begin": "<calls>", "content": triggered(&json!({})), "end": ["</calls>", "<end/>"]});
    check(
        &whole(&nested),
        &["<calls></calls>", &format!("<calls>a{F}b<end/>")],
        &["<calls>", "<calls></calls>x", "<calls><function=</calls>"],
    );
    // Regular parts are one lexeme: `[a-z]+` does not swallow what must follow.
    let regular = json!({"type": "sequence", "elements": [
        {"type": "regex", "pattern": "[a-z]+"}, {"type": "const_string", "value": "end"},
        {"type": "or", "elements": [{"type": "const_string", "value": "!"}, {"type": "regex", "pattern": "\\?{2}"}]},
    ]});
    check(&whole(&regular), &["abend!", "endend??"], &["end!", "abend", "abend?"]);
    let or = json!({"type": "or", "elements": [
        {"type": "const_string", "value": "none"}, {"type": "json_schema", "json_schema": number()}, function("f")["content"],
    ]});
    check(&whole(&or), &["none", "{\"n\": 5}"], &["", "non", "none{\"n\": 5}"]);
    let excludes = json!({"type": "tag", "begin": "[", "content": {"type": "any_text", "excludes": ["(", "["]}, "end": "]"});
    check(&whole(&excludes), &["[]", "[a{b]"], &["[a(b]", "[[]", "[a]]"]);
}

#[test]
fn special_tokens_are_told_from_text() {
    // `<|im_start|>` is a special token of this vocabulary; `<tool_call>` need not be.
    let content = json!({"type": "json_schema", "json_schema": number()});
    let tag = json!({"begin": "<|im_start|>call ", "content": content, "end": "<|endoftext|>"});
    let format = json!({"type": "triggered_tags", "triggers": ["<|im_start|>call"], "tags": [tag]});
    check(
        &whole(&format),
        &["a", "a<|im_start|>call {\"n\": 1}<|endoftext|>b"],
        &["a<|im_start|>", "a<|im_start|>b", "<|endoftext|>", "<|im_start|>call {\"n\": 1}"],
    );
    let text = json!({"type": "tag", "begin": "<|im_start|>", "content": {"type": "any_text"}, "end": ["<|endoftext|>", "."]});
    check(
        &whole(&text),
        &["<|im_start|>ab<|endoftext|>", "<|im_start|>a."],
        &["<|im_start|>a.b", "<|im_start|>a"],
    );
    let late = json!({"type": "triggered_tags", "triggers": ["a<|im_start|>"],
                      "tags": [{"begin": "a<|im_start|>", "content": {"type": "const_string", "value": "x"}, "end": ""}]});
    let error = StructuralTag::parse(&whole(&late)).unwrap().grammar(&tokenizer()).unwrap_err();
    assert!(error.to_string().contains("special token"), "{error}");
}

#[test]
fn whatever_a_model_prefers_the_tags_hold() {
    for format in [
        triggered(&json!({"at_least_one": true, "stop_after_first": true})),
        json!({"type": "tags_with_separator", "separator": "\n", "at_least_one": true, "tags": [function("f"), function("g")]}),
    ] {
        for text in walks(&grammar(&whole(&format))) {
            for call in text.split('\n').filter(|line| line.starts_with("<function")) {
                assert!(
                    call.starts_with("<function=f>{") || call.starts_with("<function=g>{"),
                    "{text}"
                );
            }
            assert!(text.ends_with("</function>"), "{text}");
        }
    }
}

#[test]
fn what_is_not_understood_is_refused_by_path() {
    let rows = include_str!("bad_tags.json");
    let mut rows: Vec<(Value, String, String)> = serde_json::from_str(rows).unwrap();
    let mut row = |format: Value, path: &str, says: &str| {
        rows.push((json!({"format": format}), path.to_owned(), says.to_owned()));
    };
    row(triggered(&json!({"triggers": ["<f", "<func"]})), "format.tags[0].begin", "exactly one");
    row(triggered(&json!({"triggers": ["<x"]})), "format.tags[0].begin", "exactly one");
    row(triggered(&json!({"triggers": ["<function=", "<x"]})), "format.triggers[1]", "no tag");
    row(triggered(&json!({"triggers": []})), "format.triggers", "none of them empty");
    row(triggered(&json!({"at_least_one": 1})), "format.at_least_one", "boolean");
    let mut extra = function("f");
    extra["style"] = json!("x");
    let tags = json!({"tags": [function("f"), extra]});
    row(triggered(&tags), "format.tags[1].style", "not supported");
    let many = vec![json!({"type": "any_text"}); 2000];
    row(json!({"type": "or", "elements": many}), "", "the limit is 1000");
    row(json!({"type": "const_string", "value": "x".repeat(2 << 20)}), "", "bytes");
    for (value, path, says) in rows {
        let error = StructuralTag::parse(&value).map(drop).expect_err(&value.to_string());
        assert_eq!(error.path, path, "{error}: {value}");
        assert!(error.message.contains(&says), "{error} does not say {says:?}");
    }
}

#[test]
fn leaves_have_their_paths() {
    let format = json!({"type": "or", "elements": [
        {"type": "regex", "pattern": "("}, {"type": "tag", "begin": "", "content": {"type": "json_schema", "json_schema": {"type": "colour"}}, "end": "x"},
    ]});
    let tag = StructuralTag::parse(&whole(&format)).unwrap();
    let paths: Vec<_> = tag.leaves().iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["format.elements[0].pattern", "format.elements[1].content.json_schema"]);
}
