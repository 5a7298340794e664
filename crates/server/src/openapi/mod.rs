//! The description of the API: an OpenAPI 3.1 document made from the types that requests are read
//! into and responses are written from, and a page for people made from the document.

mod operation;
mod operations;
mod page;
mod schema;

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use self::operations::operations;
pub(crate) use self::schema::{Schemas, request};

/// The document and the page, as they are sent.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) document: String,
    pub(crate) page: String,
}

/// Made when it is asked for the first time.
pub(crate) fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let document = document();
        Reference { page: page::render(&document), document: document.to_string() }
    })
}

fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.described(&mut schemas);
    }
    let mut named = schemas.named();
    named.insert("Error".into(), error());
    named.insert("AnthropicError".into(), anthropic_error());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sconce",
            "version": env!("CARGO_PKG_VERSION"),
            "description": INTRODUCTION,
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": named,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

const INTRODUCTION: &str = "OpenAI's API, with vLLM's fields beside OpenAI's, and Anthropic's \
    messages. A field that is not honoured is refused by name. A request may say in the header \
    `x-request-timeout-ms` how long it may wait to run; each answer has an `x-request-id`.";

/// The envelope that [`ApiError`](crate::error::ApiError) is told in.
fn error() -> Value {
    let text = || json!({"type": ["string", "null"]});
    let mut properties = json!({
        "message": {"type": "string", "description": "What is wrong and what to do, for a person."},
        "type": {"type": "string"},
        "param": text(),
        "code": text(),
    });
    properties["param"]["description"] = "The field at fault, as a path.".into();
    properties["code"]["description"] = "A name for programs.".into();
    closed(&json!({"error": closed(&properties)}))
}

fn anthropic_error() -> Value {
    let text = || json!({"type": "string"});
    let mut error = closed(&json!({"type": text(), "message": text()}));
    error["properties"]["details"] =
        json!({"type": "object", "description": "Of a refused `thread`: what clients go on from."});
    closed(&json!({
        "type": {"const": "error"},
        "error": error,
        "request_id": {"type": ["string", "null"]},
    }))
}

/// An object that has all of these and no more.
fn closed(properties: &Value) -> Value {
    let required: Vec<_> = properties.as_object().into_iter().flat_map(Map::keys).collect();
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    })
}
