//! An answer in one piece.

use serde_json::{Value, json};

use super::report::Report;
use super::subject::{CHAT, Reply, Subject, laid_over};
use super::verdict::{Verdict, not_shown, on, wrong};

/// The finish reasons that clients know.
const FINISH_REASONS: [&str; 4] = ["stop", "length", "tool_calls", "content_filter"];

/// What is asked, whole and streamed.
pub(super) fn question() -> Value {
    json!({
        "messages": [{"role": "user", "content": "Count from 1 to 9."}],
        "temperature": 0, "seed": 7, "max_tokens": 16,
    })
}

/// The same with other fields.
pub(super) fn question_with(fields: &Value) -> Value {
    let mut question = question();
    laid_over(&mut question, fields);
    question
}

/// Returns the answer if there was one.
pub(super) async fn examine(subject: &Subject, report: &mut Report) -> Option<Value> {
    let first = ask(subject).await;
    report.add("chat.shape", first.as_ref().map_err(Clone::clone).and_then(shape));
    let first = first.ok().and_then(|reply| reply.json().ok());
    let first = first.filter(|answer| answer["choices"][0].is_object());
    report.add("chat.message", on(first.as_ref(), message));
    report.add("chat.finish", on(first.as_ref(), |answer| finish(&answer["choices"][0])));
    report.add("chat.usage", on(first.as_ref(), |answer| usage(&answer["usage"])));
    let again = ask(subject).await.and_then(|reply| reply.good());
    report.add("chat.repeats", on(first.as_ref(), |first| repeats(first, &again?)));
    first
}

async fn ask(subject: &Subject) -> Verdict<Reply> {
    subject.post(CHAT, &question()).await
}

fn shape(reply: &Reply) -> Verdict {
    let answer = reply.good()?;
    let content_type = reply.header("content-type");
    if !content_type.starts_with("application/json") {
        return wrong(format!("content-type is `{content_type}`"));
    }
    if answer["object"] != "chat.completion" {
        return wrong(format!("object is {}", answer["object"]));
    }
    envelope(&answer)?;
    let index = &answer["choices"][0]["index"];
    if *index != 0 {
        return wrong(format!("the only choice's index is {index}"));
    }
    Ok("id, object, created, model, choices".to_owned())
}

/// What every object and chunk of a generation has.
pub(super) fn envelope(answer: &Value) -> Verdict<()> {
    for name in ["id", "model"] {
        if answer[name].as_str().is_none_or(str::is_empty) {
            return wrong(format!("{name} is {}", answer[name]));
        }
    }
    if !answer["created"].is_u64() {
        return wrong(format!("created is {}, not whole seconds", answer["created"]));
    }
    match answer["choices"].as_array() {
        None => wrong(format!("choices is {}", answer["choices"])),
        Some(choices) if choices.is_empty() => wrong("choices is empty"),
        Some(_) => Ok(()),
    }
}

fn message(answer: &Value) -> Verdict {
    let message = &answer["choices"][0]["message"];
    if message["role"] != "assistant" {
        return wrong(format!("message.role is {}", message["role"]));
    }
    let content = &message["content"];
    if !content.is_string() && !content.is_null() {
        return wrong(format!("message.content is {content}"));
    }
    Ok(format!("role assistant, {} characters", text(message).chars().count()))
}

/// What the model wrote into a message or delta, its reasoning first.
pub(super) fn text(message: &Value) -> String {
    let reasoning = message["reasoning_content"].as_str().or(message["reasoning"].as_str());
    [reasoning, message["content"].as_str()].into_iter().flatten().collect()
}

pub(super) fn finish(choice: &Value) -> Verdict {
    match choice["finish_reason"].as_str() {
        Some(reason) if FINISH_REASONS.contains(&reason) => Ok(reason.to_owned()),
        _ => wrong(format!("finish_reason is {}", choice["finish_reason"])),
    }
}

pub(super) fn usage(usage: &Value) -> Verdict {
    let count = |name: &str| match usage[name].as_u64() {
        Some(count) => Ok(count),
        None => wrong(format!("usage.{name} is {}", usage[name])),
    };
    let (prompt, completion) = (count("prompt_tokens")?, count("completion_tokens")?);
    let total = count("total_tokens")?;
    if prompt + completion != total {
        return wrong(format!("{prompt} + {completion} is not {total}"));
    }
    if prompt == 0 || completion == 0 {
        return wrong(format!("{prompt} tokens of prompt, {completion} of answer"));
    }
    Ok(format!("{prompt} + {completion} = {total}"))
}

fn repeats(first: &Value, again: &Value) -> Verdict {
    let [first, again] = [first, again].map(|answer| text(&answer["choices"][0]["message"]));
    if first.is_empty() {
        return not_shown("the answer is empty");
    }
    if first != again {
        return wrong(format!("`{first}`, then `{again}`"));
    }
    Ok("twice the same".to_owned())
}
