//! Faults of the caller: their status, and the envelope in which they are told.

use hyper::Method;
use serde_json::{Value, json};

use super::chat;
use super::report::Report;
use super::subject::{CHAT, Reply, Subject};
use super::verdict::{Verdict, not_supported, short, wrong};

/// Words of a prompt for a server that does not say how long its context is. Their bytes pass most
/// limits of bodies.
const MANY_WORDS: usize = 400_000;
/// Longest context that is overrun.
const MAX_WORDS: usize = 4_000_000;

pub(super) async fn examine(subject: &Subject, report: &mut Report) {
    let mistyped = chat::question_with(&json!({"temperature": "hot"}));
    let silent = chat::question_with(&json!({"messages": null}));
    let unknown = chat::question_with(&json!({"model": "doctor/no-such-model"}));
    let post = |fields: Value| subject.body(&fields).to_string();
    for (check, method, endpoint, body, statuses) in [
        ("errors.bad_json", Method::POST, CHAT, "{\"model\":".to_owned(), &[400, 422][..]),
        ("errors.wrong_type", Method::POST, CHAT, post(mistyped), &[400, 422]),
        ("errors.missing_field", Method::POST, CHAT, post(silent), &[400, 422]),
        ("errors.unknown_model", Method::POST, CHAT, post(unknown), &[404]),
        ("errors.unknown_route", Method::POST, "/no/such/route", "{}".to_owned(), &[404]),
        ("errors.wrong_method", Method::GET, CHAT, String::new(), &[404, 405]),
    ] {
        let reply = subject.call(method, endpoint, body).await;
        report.add(check, reply.and_then(|reply| error(&reply, statuses)));
    }
    report.add("errors.bad_key", bad_key(subject).await);
    report.add("errors.too_long", too_long(subject).await);
}

/// Asserts one of the statuses and the envelope; returns both for the report.
fn error(reply: &Reply, statuses: &[u16]) -> Verdict {
    if !statuses.contains(&reply.status) {
        return wrong(reply.complaint());
    }
    let status = reply.status;
    let content_type = reply.header("content-type");
    if !content_type.starts_with("application/json") {
        return wrong(format!("{status} with content-type `{content_type}`"));
    }
    let body = reply.json()?;
    let Some(error) = body["error"].as_object() else {
        return wrong(format!("{status} without an object `error`: {}", short(&body.to_string())));
    };
    for name in ["message", "type"] {
        if error.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
            return wrong(format!("{status} without error.{name}: {}", short(&body.to_string())));
        }
    }
    for name in ["param", "code"] {
        // vLLM and llama.cpp have the status as a number for a code: clients live with it.
        match error.get(name) {
            Some(Value::Null | Value::String(_)) => {}
            Some(Value::Number(_)) if name == "code" => {}
            _ => {
                return wrong(format!(
                    "{status} without error.{name}: {}",
                    short(&body.to_string())
                ));
            }
        }
    }
    Ok(reply.complaint())
}

async fn bad_key(subject: &Subject) -> Verdict {
    let stranger = subject.with(Some("doctor-no-such-key"), &[])?;
    let reply = stranger.post(CHAT, &chat::question()).await?;
    if reply.status == 200 {
        // The key that was given may be one from the environment, meant for another server.
        let nobody = subject.with(None, &[])?;
        if nobody.post(CHAT, &chat::question()).await?.status == 200 {
            return not_supported("the server wants no key");
        }
    }
    error(&reply, &[401])
}

async fn too_long(subject: &Subject) -> Verdict {
    let words = subject.max_model_len.map_or(MANY_WORDS, |length| length.min(MAX_WORDS) + 1);
    let message = json!([{"role": "user", "content": "a ".repeat(words)}]);
    let reply = subject.post(CHAT, &chat::question_with(&json!({"messages": message}))).await?;
    let seen = error(&reply, &[400, 413])?;
    if reply.status == 400 {
        let body = String::from_utf8_lossy(&reply.body).to_lowercase();
        for words in ["context_length_exceeded", "maximum context length is"] {
            if !body.contains(words) {
                return wrong(format!("{seen} does not say `{words}`"));
            }
        }
    }
    Ok(seen)
}
