//! Constraints that are built to explode: each is refused by the path of what is at fault, while a
//! stream beside it goes on.

use std::time::Duration;

use engine::EngineError;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::ServerConfig;
use tokio::time::timeout;

use crate::fake::{Fake, chat, config, open, post, post_request, tool_app, tool_app_with};

const CHAT: &str = "/v1/chat/completions";

fn schema(schema: &Value) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}})
}

/// A strict tool.
fn tool(name: &str, parameters: &Value) -> Value {
    let mut parameters = parameters.clone();
    parameters["title"] = json!(name); // What is the same is written once.
    let function = json!({"name": name, "strict": true, "parameters": parameters});
    json!({"type": "function", "function": function})
}

/// A schema of about this many bytes.
fn large(bytes: usize) -> Value {
    let property = |i: usize| (format!("property_{i}"), json!({"type": "integer", "minimum": i}));
    let properties: serde_json::Map<String, Value> = (0..bytes / 44).map(property).collect();
    json!({"type": "object", "properties": properties})
}

fn bombs() -> Vec<(Value, &'static str, &'static str)> {
    let field = "response_format.json_schema.schema";
    let itself = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
    let forever = json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]});
    let doubling: serde_json::Map<String, Value> = (0..60)
        .map(|i| {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            (format!("d{i}"), json!({"allOf": [next, next]}))
        })
        .chain([("d60".to_owned(), json!({"not": {}}))])
        .collect();
    let doubling = json!({"$ref": "#/$defs/d0", "$defs": doubling});
    let nested = (0..40).fold(json!({"type": "colour"}), |inner, _| json!({"items": inner}));
    let many: Vec<Value> = (0..128).map(|i| tool(&format!("tool_{i}"), &large(10_000))).collect();
    let dense: Vec<Value> = (0..128).map(|i| tool(&format!("tool_{i}"), &large(6_000))).collect();
    let outputs = |name: &str, value: &str| json!({"structured_outputs": {name: value}});
    let regex = |pattern: &str| outputs("regex", pattern);
    let tag = |schema: &Value| {
        let tag = json!({"begin": "<f>", "schema": schema, "end": "</f>"});
        json!({"response_format": {"type": "structural_tag", "structures": [tag], "triggers": ["<f"]}})
    };
    vec![
        (schema(&itself), field, "never ends"),
        (schema(&forever), field, "never ends"),
        (schema(&doubling), field, ""),
        (schema(&nested), field, "colour"),
        (schema(&large(2 << 20)), field, "bytes"),
        (tag(&forever), "response_format.structures[0].schema", "never ends"),
        (
            regex(&format!("{}a{}", "(".repeat(500), ")".repeat(500))),
            "structured_outputs.regex",
            "brackets",
        ),
        (regex(&"(a|b){1,9}".repeat(200_000)), "structured_outputs.regex", ""),
        (regex("(?=a)b"), "structured_outputs.regex", ""),
        (outputs("grammar", "start: \"a\" start"), "structured_outputs.grammar", "never ends"),
        (
            outputs("grammar", "start: \"a\" (b | c)\nb: \"b\"\nc: \"c\" c"),
            "structured_outputs.grammar",
            "never ends",
        ),
        (json!({"tools": many}), "tools", "more than"),
        (json!({"tools": many, "tool_choice": "required"}), "tool_choice", "more than"),
        (json!({"tools": dense}), "tools", "more symbols than can be compiled"),
        (
            json!({"tools": [tool("a", &large(100)), tool("b", &forever)]}),
            "tools[1].function.parameters",
            "never ends",
        ),
        (
            json!({"tools": [tool("a", &itself)], "tool_choice": "required"}),
            "tools[0].function.parameters",
            "",
        ),
        (json!({"tools": [tool("a", &doubling)]}), "tools[0].function.parameters", ""),
    ]
}

#[tokio::test]
async fn bombs_are_refused_and_streams_go_on() {
    let config = ServerConfig { max_body_bytes: 8 << 20, ..config() };
    let (app, fake) = tool_app_with(Fake::holding(), config);
    let body = chat(&json!({"stream": true}));
    let stream = open(&app, post_request(CHAT, body.to_string())).await;
    fake.say(0, "on");
    for (extra, param, says) in bombs() {
        let body = chat(&extra);
        // One that is taken waits for the engine, which does not answer.
        let reply = timeout(Duration::from_mins(1), post(&app, CHAT, &body)).await;
        let reply =
            reply.unwrap_or_else(|_| panic!("taken, for {param}: {:.300}", extra.to_string()));
        assert_eq!(reply.status, 400, "{param}: {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], json!(param), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says), "{message:?} does not say {says:?}");
        assert!(message.len() < 1000, "{message}");
        fake.say(0, ".");
    }
    fake.say(0, "and on");
    fake.finish(0);
    assert_eq!(fake.seen.lock().unwrap().len(), 1, "no bomb reached the engine");
    let text = stream.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert_eq!(text.matches("\"content\":\".\"").count(), bombs().len(), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test]
async fn many_large_tools_that_fit_are_taken() {
    let config = ServerConfig { max_body_bytes: 8 << 20, ..config() };
    let (app, fake) = tool_app_with(Fake::answering("x"), config);
    let tools: Vec<Value> = (0..128).map(|i| tool(&format!("tool_{i}"), &large(1_500))).collect();
    let reply = post(&app, CHAT, &chat(&json!({"tools": tools}))).await;
    assert_eq!(reply.status, 200, "{:.300}", reply.text);
    assert!(fake.last().constrained);
    let mut more = tools;
    more.push(tool("one_more", &large(10)));
    let reply = post(&app, CHAT, &chat(&json!({"tools": more}))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("tools")));
}

/// What turns out too large only in the course of the answer names its field, too.
#[tokio::test]
async fn a_constraint_that_fails_on_the_way_is_told_by_its_path() {
    let error = EngineError::Constraint("too many expressions".into());
    for (extra, field) in [
        (json!({"structured_outputs": {"regex": "a+"}}), Some("structured_outputs.regex")),
        (json!({}), None),
    ] {
        let fake = Fake { failure: Some(error.clone()), ..Fake::answering("a") };
        let (app, _) = tool_app(fake);
        let reply = post(&app, "/v1/chat/completions", &chat(&extra)).await;
        assert_eq!(reply.status, 400);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "constraint_failed");
        assert_eq!(error["param"], json!(field));
        let message = error["message"].as_str().unwrap();
        assert_eq!(
            message.starts_with("'structured_outputs.regex': the answer cannot"),
            field.is_some(),
            "{message}"
        );
    }
}
