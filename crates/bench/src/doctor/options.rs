//! Fields that change an answer.

use serde_json::{Value, json};

use super::chat;
use super::report::Report;
use super::subject::{CHAT, Subject};
use super::verdict::{Verdict, not_shown, short, wrong};

/// Characters of two, three and four bytes.
pub(super) const UNICODE: &str = "Grüße 你好 🌍";

pub(super) async fn examine(subject: &Subject, whole: Option<&Value>, report: &mut Report) {
    report.add("options.max_tokens", max_tokens(subject).await);
    let stop = match whole {
        Some(whole) => stop(subject, whole).await,
        None => not_shown("there was no answer to cut"),
    };
    report.add("options.stop", stop);
    report.add("options.n", choices(subject).await);
    report.add("options.logprobs", logprobs(subject).await);
    report.add("options.json_schema", json_schema(subject).await);
}

async fn max_tokens(subject: &Subject) -> Verdict {
    const TOKENS: u64 = 3;
    let answer =
        subject.post(CHAT, &chat::question_with(&json!({"max_tokens": TOKENS}))).await?.good()?;
    let reason = &answer["choices"][0]["finish_reason"];
    let tokens = answer["usage"]["completion_tokens"].as_u64();
    match tokens {
        Some(tokens) if tokens > TOKENS => wrong(format!("{tokens} tokens, {TOKENS} were allowed")),
        Some(tokens) if tokens < TOKENS && reason == "stop" => {
            not_shown(format!("the answer has {tokens} tokens"))
        }
        _ if reason != "length" => {
            wrong(format!("finish_reason is {reason} after {TOKENS} tokens"))
        }
        _ => Ok(format!("length after {TOKENS} tokens")),
    }
}

/// Stops in the middle of what the model would say.
async fn stop(subject: &Subject, whole: &Value) -> Verdict {
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    let letters: Vec<_> = content.char_indices().collect();
    if letters.len() < 4 {
        return not_shown("the answer is too short");
    }
    let (start, _) = letters[letters.len() / 2];
    let end = letters.get(letters.len() / 2 + 2).map_or(content.len(), |(at, _)| *at);
    let stop = &content[start..end];
    let expected = &content[..content.find(stop).unwrap_or(start)];
    let answer =
        subject.post(CHAT, &chat::question_with(&json!({"stop": [stop]}))).await?.supported()?;
    let choice = &answer["choices"][0];
    let found = choice["message"]["content"].as_str().unwrap_or_default();
    if found != expected {
        return wrong(format!("`{}` for stop `{stop}`, not `{}`", short(found), short(expected)));
    }
    if choice["finish_reason"] != "stop" {
        return wrong(format!("finish_reason is {}", choice["finish_reason"]));
    }
    Ok(format!("the text ends before `{stop}`"))
}

async fn choices(subject: &Subject) -> Verdict {
    let answer = subject.post(CHAT, &chat::question_with(&json!({"n": 2}))).await?.supported()?;
    let indices = answer["choices"].as_array().into_iter().flatten();
    let mut indices: Vec<_> = indices.map(|choice| choice["index"].as_u64()).collect();
    indices.sort_unstable();
    match indices[..] {
        [Some(0), Some(1)] => Ok("2 choices, 0 and 1".to_owned()),
        _ => wrong(format!("for n 2 the indices are {indices:?}")),
    }
}

async fn logprobs(subject: &Subject) -> Verdict {
    let fields = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 4});
    let answer = subject.post(CHAT, &chat::question_with(&fields)).await?.supported()?;
    let Some(tokens) = answer["choices"][0]["logprobs"]["content"].as_array() else {
        return wrong(format!("logprobs is {}", answer["choices"][0]["logprobs"]));
    };
    if answer["usage"]["completion_tokens"].as_u64().is_some_and(|n| n < tokens.len() as u64) {
        return wrong(format!("{} entries for fewer tokens", tokens.len()));
    }
    for token in tokens {
        is_logprob(token)?;
        let Some(top) = token["top_logprobs"].as_array().filter(|top| top.len() == 2) else {
            return wrong(format!("not 2 top_logprobs: {}", token["top_logprobs"]));
        };
        top.iter().try_for_each(is_logprob)?;
    }
    Ok(format!("{} tokens, 2 alternatives each", tokens.len()))
}

fn is_logprob(token: &Value) -> Verdict<()> {
    let negative = token["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0);
    let bytes = token.get("bytes").is_some_and(|bytes| bytes.is_null() || bytes.is_array());
    if !token["token"].is_string() || !negative || !bytes {
        return wrong(format!("no token, logprob and bytes: {}", short(&token.to_string())));
    }
    Ok(())
}

/// Asks for an object that has one possible content.
pub(super) fn unicode_question() -> Value {
    let schema = json!({
        "type": "object", "properties": {"answer": {"type": "string", "enum": [UNICODE]}},
        "required": ["answer"], "additionalProperties": false,
    });
    chat::question_with(&json!({
        "messages": [{"role": "user", "content": "Greet me, as JSON with the key answer."}],
        "response_format": {"type": "json_schema",
                            "json_schema": {"name": "greeting", "strict": true, "schema": schema}},
        "max_tokens": 256,
    }))
}

async fn json_schema(subject: &Subject) -> Verdict {
    let answer = subject.post(CHAT, &unicode_question()).await?.supported()?;
    let choice = &answer["choices"][0];
    if choice["finish_reason"] == "length" {
        return not_shown("256 tokens were not enough");
    }
    let content = choice["message"]["content"].as_str().unwrap_or_default();
    match serde_json::from_str::<Value>(content) {
        Ok(json) if json == json!({"answer": UNICODE}) => Ok(short(content)),
        _ => wrong(format!("the schema forbids `{}`", short(content))),
    }
}
