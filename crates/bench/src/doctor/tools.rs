//! Calls of tools, whole, streamed and answered.

use serde_json::{Map, Value, json};

use super::report::Report;
use super::stream::Stream;
use super::subject::{CHAT, Subject, laid_over};
use super::verdict::{Trouble, Verdict, not_shown, on, short, wrong};

const NAME: &str = "get_weather";

fn question() -> Value {
    let parameters = json!({
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    });
    let function = json!({"name": NAME, "description": "The weather in a city",
                          "parameters": parameters});
    json!({
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": function}], "tool_choice": "required",
        "temperature": 0, "seed": 7, "max_tokens": 256,
    })
}

pub(super) async fn examine(subject: &Subject, report: &mut Report) {
    let answer = subject.post(CHAT, &question()).await.and_then(|reply| reply.supported());
    report.add("tools.whole", answer.as_ref().map_err(Clone::clone).and_then(whole));
    if let Err(Trouble::NotSupported(seen)) = &answer {
        for check in ["tools.finish", "tools.stream", "tools.result"] {
            report.add(check, Err(Trouble::NotSupported(seen.clone())));
        }
        return;
    }
    let answer = answer.ok().filter(|answer| whole(answer).is_ok());
    report.add("tools.finish", on(answer.as_ref(), finish));
    report.add("tools.stream", streamed(subject).await);
    let result = match &answer {
        Some(answer) => result(subject, answer).await,
        None => not_shown("there was no call to answer"),
    };
    report.add("tools.result", result);
}

fn whole(answer: &Value) -> Verdict {
    let choice = &answer["choices"][0];
    if choice["finish_reason"] == "length" {
        return not_shown("256 tokens were not enough for a call");
    }
    let calls = choice["message"]["tool_calls"].as_array().filter(|calls| !calls.is_empty());
    let Some(calls) = calls else {
        return wrong("no tool_calls though tool_choice was required");
    };
    for call in calls {
        let function = &call["function"];
        is_call(call, function["arguments"].as_str())?;
    }
    Ok(calls.iter().map(|call| call["function"].to_string()).collect::<Vec<_>>().join(", "))
}

/// Whether it has an id, a type, the name, and arguments that are an object.
fn is_call(call: &Value, arguments: Option<&str>) -> Verdict<()> {
    if call["id"].as_str().is_none_or(str::is_empty) {
        return wrong(format!("a call's id is {}", call["id"]));
    }
    if call["type"] != "function" {
        return wrong(format!("a call's type is {}", call["type"]));
    }
    if call["function"]["name"] != NAME {
        return wrong(format!("a call's function.name is {}", call["function"]["name"]));
    }
    let Some(arguments) = arguments else {
        let found = &call["function"]["arguments"];
        return wrong(format!("function.arguments is {found}, not JSON in a string"));
    };
    match serde_json::from_str::<Map<String, Value>>(arguments) {
        Ok(_) => Ok(()),
        Err(_) => wrong(format!("function.arguments is no object in JSON: `{}`", short(arguments))),
    }
}

fn finish(answer: &Value) -> Verdict {
    let reason = &answer["choices"][0]["finish_reason"];
    if reason != "tool_calls" {
        return wrong(format!("finish_reason is {reason} after a call"));
    }
    Ok("tool_calls".to_owned())
}

async fn streamed(subject: &Subject) -> Verdict {
    let stream = Stream::new(subject.stream(CHAT, &question()).await?)?;
    // Each call as its first delta said, and its arguments.
    let mut calls: Vec<(Value, String)> = Vec::new();
    let mut num_deltas = 0;
    for delta in stream.choices().filter_map(|c| c["delta"]["tool_calls"].as_array()).flatten() {
        num_deltas += 1;
        add_delta(&mut calls, delta)?;
    }
    if stream.finish_reason() == "length" {
        return not_shown("256 tokens were not enough for a call");
    }
    if calls.is_empty() {
        return wrong("no tool_calls though tool_choice was required");
    }
    for (call, arguments) in &calls {
        is_call(call, Some(arguments))?;
    }
    if stream.finish_reason() != "tool_calls" {
        return wrong(format!("finish_reason is {} after a call", stream.finish_reason()));
    }
    Ok(format!("{} calls in {num_deltas} deltas", calls.len()))
}

fn add_delta(calls: &mut Vec<(Value, String)>, delta: &Value) -> Verdict<()> {
    let Some(index) = delta["index"].as_u64() else {
        return wrong(format!("a call's delta without index: {delta}"));
    };
    let function = &delta["function"];
    let arguments = match function.get("arguments") {
        None => "",
        Some(Value::String(arguments)) => arguments,
        Some(other) => return wrong(format!("function.arguments is {other}, not a string")),
    };
    let known = calls.len() as u64;
    if index > known {
        return wrong(format!("index {index} after {known} calls"));
    }
    if index == known {
        calls.push((delta.clone(), arguments.to_owned()));
        return Ok(());
    }
    // Accumulators add up what comes again, and raise at a null.
    let again = ["id", "type"].into_iter().find(|name| delta.get(*name).is_some());
    if let Some(name) = again.or(function.get("name").map(|_| "function.name")) {
        return wrong(format!("a later delta has {name} again: {delta}"));
    }
    calls[index as usize].1.push_str(arguments);
    Ok(())
}

/// Answers the call, as agents do.
async fn result(subject: &Subject, answer: &Value) -> Verdict {
    let message = &answer["choices"][0]["message"];
    let mut question = question();
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let results = calls.map(
        |call| json!({"role": "tool", "tool_call_id": call["id"], "content": "18 degrees and sun"}),
    );
    let mut messages = vec![question["messages"][0].clone(), message.clone()];
    messages.extend(results);
    laid_over(&mut question, &json!({"messages": messages, "tool_choice": "auto"}));
    let answer = subject.post(CHAT, &question).await?.good()?;
    let message = &answer["choices"][0]["message"];
    if message["role"] != "assistant" {
        return wrong(format!("message.role is {}", message["role"]));
    }
    Ok(format!("`{}`", short(message["content"].as_str().unwrap_or("a further call"))))
}
