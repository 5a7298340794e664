//! Holds what the server does to what it says in `/openapi.json`. Every request of these tests is
//! looked at: [`crate::fake::send`] shows it here together with its answer.

use std::collections::BTreeMap;

use axum::http::Method;
use jsonschema::Validator;
use serde_json::Value;
use server::App;
use tokio::sync::OnceCell;

use crate::fake::{Reply, config, get_request, unchecked};

/// The description, ready to be held against.
struct Contract {
    operations: BTreeMap<(String, String), Operation>,
}

struct Operation {
    request: Option<Validator>,
    whole: Option<Validator>,
    event: Option<Validator>,
    error: Validator,
}

/// 400s that a schema can foresee; but for `model`, which only several models make needed.
const FORESEEN: &[&str] = &["unknown_parameter", "invalid_type", "missing_required_parameter"];

static CONTRACT: OnceCell<Contract> = OnceCell::const_new();

async fn contract() -> &'static Contract {
    let read = || async {
        let document = document().await;
        let mut operations = BTreeMap::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let key = (path.clone(), method.to_uppercase());
                operations.insert(key, Operation::new(&document, operation));
            }
        }
        Contract { operations }
    };
    CONTRACT.get_or_init(read).await
}

/// `/openapi.json`.
pub(crate) async fn document() -> Value {
    unchecked(&App::new(config()), get_request("/openapi.json")).await.json()
}

/// A schema of the document, with what it refers to.
fn validator(document: &Value, schema: &Value) -> Validator {
    let mut schema = schema.clone();
    if schema.is_object() {
        schema["components"] = document["components"].clone();
    }
    jsonschema::options().build(&schema).unwrap()
}

impl Operation {
    fn new(document: &Value, operation: &Value) -> Self {
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        let content = &operation["responses"]["200"]["content"];
        let events = &content["text/event-stream"]["schema"];
        let given = |schema: &Value| (!schema.is_null()).then(|| validator(document, schema));
        let error = &operation["responses"]["default"]["content"]["application/json"]["schema"];
        Self {
            request: given(body),
            whole: given(&content["application/json"]["schema"]),
            event: given(&events["properties"]["data"]["contentSchema"]),
            error: validator(document, error),
        }
    }
}

/// The operation of a request, if there is one.
async fn operation(path: &str, method: &Method) -> Option<&'static Operation> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let path = path.split('?').next().unwrap();
    let fits = |pattern: &str| {
        let (fixed, rest) = pattern.split_once("{id}").unwrap_or((pattern, ""));
        if !pattern.contains('{') {
            return path == pattern;
        }
        let id = path.strip_prefix(fixed).and_then(|id| id.strip_suffix(rest));
        id.is_some_and(|id| !id.is_empty() && (fixed == "/v1/models/" || !id.contains('/')))
    };
    let found = contract()
        .await
        .operations
        .iter()
        .find(|((pattern, own), _)| own == method && fits(pattern));
    found.map(|(_, operation)| operation)
}

#[track_caller]
fn assert_fits(validator: &Validator, value: &Value, what: &str) {
    let errors: Vec<_> = validator
        .iter_errors(value)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{what} is not as described: {errors:#?}\n{value:#}");
}

/// Holds one request and its answer to the description.
pub(crate) async fn check(
    method: &Method,
    path: &str,
    anthropics: bool,
    body: &[u8],
    reply: &Reply,
) {
    let Some(operation) = operation(path, method).await else { return };
    let what = format!("{method} {path}");
    let kind = reply.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap();
    let is_error = !reply.status.is_success();
    match (kind, reply.text.as_str()) {
        (_, "") => {}
        ("application/json", _)
            if is_error && (!anthropics || path.starts_with("/v1/messages")) =>
        {
            assert_fits(&operation.error, &reply.json(), &format!("the error of {what}"));
        }
        ("application/json", _) if !is_error && !anthropics => {
            assert_fits(operation.whole.as_ref().unwrap(), &reply.json(), &what);
        }
        ("text/event-stream", text) => {
            let event = operation.event.as_ref().unwrap();
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            for data in data.filter(|data| *data != "[DONE]") {
                let Ok(data) = serde_json::from_str::<Value>(data) else { continue };
                if data.get("error").is_none_or(Value::is_null) {
                    assert_fits(event, &data, &format!("an event of {what}"));
                }
            }
        }
        _ => {}
    }
    let (Some(request), Ok(body)) = (&operation.request, serde_json::from_slice::<Value>(body))
    else {
        return;
    };
    if !is_error {
        assert_fits(request, &body, &format!("a request that was taken by {what}"));
        return;
    }
    let error = &reply.json()["error"];
    let is_foreseen =
        FORESEEN.iter().any(|code| error["code"] == *code) && error["param"] != "model";
    assert!(
        !is_foreseen || !request.is_valid(&body),
        "{what} refused what it describes: {body:#}\n{error:#}"
    );
}
