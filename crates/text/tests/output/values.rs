//! Values between tags: what the schema says of them, and where they end.

use serde_json::{Value, json};
use text::{OutputFormat, OutputParser, OutputPart, ToolFormat};

/// The arguments of a call of `f` with a value for `p`.
fn arguments(format: &str, schema: &Value, value: &str) -> String {
    let format = OutputFormat { reasoning: None, tools: ToolFormat::from_name(format) };
    let parameters = json!({"type": "object", "properties": {"p": schema},
        "$defs": {"unit": {"enum": ["5", "c"]}, "alias": {"$ref": "#/$defs/unit"}}});
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
    let mut parser = OutputParser::new(&format, &[tool], false);
    let output = match format.tools.expect("a format").name() {
        "glm45" => format!(
            "<tool_call>f\n<arg_key>p</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"
        ),
        _ => format!(
            "<tool_call>\n<function=f>\n<parameter=p>\n{value}\n</parameter>\n</function>\n</tool_call>"
        ),
    };
    let parts = output.chars().flat_map(|c| parser.push(c.encode_utf8(&mut [0; 4])));
    let mut parts: Vec<_> = parts.collect();
    parts.extend(parser.finish());
    let text = |part: OutputPart| match part {
        OutputPart::Arguments { json, .. } => json,
        OutputPart::Text(text) => panic!("{text:?} is left of {output}"),
        _ => String::new(),
    };
    parts.into_iter().map(text).collect()
}

#[test]
fn a_tag_in_a_string_of_json_ends_nothing() {
    for (format, tag) in [("qwen3_coder", "</parameter>"), ("glm45", "</arg_value>")] {
        let object = json!({"type": "object"});
        for value in [
            format!("{{\"a\": \"x{tag}y\", \"b\": \"\\\"{tag}\"}}"),
            format!("{{\"a\\\\\": [\"{tag}\"]}}"),
        ] {
            assert_eq!(arguments(format, &object, &value), format!("{{\"p\": {value}}}"));
        }
        // A string that nothing ends is none, and no JSON.
        let broken = arguments("qwen3_coder", &object, "{\"a\": \"x");
        assert_eq!(broken, "{\"p\": \"{\\\"a\\\": \\\"x\"}");
        // Quotes of a text are the text's.
        for schema in [json!({"type": "string"}), json!({"type": ["string", "null"]}), json!({})] {
            assert_eq!(arguments(format, &schema, "\"a"), "{\"p\": \"\\\"a\"}");
        }
    }
}

#[test]
fn references_say_what_a_value_is() {
    for schema in [
        json!({"$ref": "#/$defs/unit"}),
        json!({"$ref": "#/$defs/alias"}),
        json!({"allOf": [{"$ref": "#/$defs/alias"}]}),
        json!({"anyOf": [{"$ref": "#/$defs/unit"}, {"type": "null"}]}),
    ] {
        assert_eq!(arguments("qwen3_coder", &schema, "5"), "{\"p\": \"5\"}", "{schema}");
    }
    let endless = json!({"anyOf": vec![json!({"$ref": "#/properties/p"}); 30]});
    assert_eq!(arguments("qwen3_coder", &endless, "5"), "{\"p\": 5}");
}
