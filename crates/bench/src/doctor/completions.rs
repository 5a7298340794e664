//! `/v1/completions`.

use serde_json::{Value, json};

use super::chat;
use super::report::Report;
use super::stream::{Stream, chunks, done, finish};
use super::subject::{Subject, laid_over};
use super::verdict::{Trouble, Verdict, on, short, wrong};

const COMPLETIONS: &str = "/completions";

fn question() -> Value {
    json!({"prompt": "1, 2, 3,", "temperature": 0, "seed": 7, "max_tokens": 8})
}

pub(super) async fn examine(subject: &Subject, report: &mut Report) {
    let answer = subject.post(COMPLETIONS, &question()).await.and_then(|reply| reply.supported());
    report.add("completions.whole", answer.as_ref().map_err(Clone::clone).and_then(whole));
    if let Err(Trouble::NotSupported(seen)) = &answer {
        for check in ["completions.stream", "completions.list"] {
            report.add(check, Err(Trouble::NotSupported(seen.clone())));
        }
        return;
    }
    let answer = answer.ok().filter(|answer| answer["choices"][0]["text"].is_string());
    let stream = subject.stream(COMPLETIONS, &question()).await.and_then(Stream::new);
    report.add("completions.stream", on(answer.as_ref(), |answer| streamed(&stream?, answer)));
    report.add("completions.list", list(subject).await);
}

fn whole(answer: &Value) -> Verdict {
    chat::envelope(answer)?;
    if answer["object"] != "text_completion" {
        return wrong(format!("object is {}", answer["object"]));
    }
    let choice = &answer["choices"][0];
    let Some(text) = choice["text"].as_str() else {
        return wrong(format!("text is {}", choice["text"]));
    };
    chat::finish(choice)?;
    chat::usage(&answer["usage"])?;
    Ok(format!("`{}`", short(text)))
}

fn streamed(stream: &Stream, answer: &Value) -> Verdict {
    done(stream)?;
    chunks(stream, "text_completion")?;
    finish(stream)?;
    let streamed: String = stream.choices().filter_map(|choice| choice["text"].as_str()).collect();
    let whole = answer["choices"][0]["text"].as_str().unwrap_or_default();
    if streamed != whole {
        return wrong(format!("`{}` streamed, `{}` whole", short(&streamed), short(whole)));
    }
    Ok("the same text".to_owned())
}

async fn list(subject: &Subject) -> Verdict {
    let mut question = question();
    laid_over(&mut question, &json!({"prompt": ["1, 2, 3,", "a, b, c,"]}));
    let answer = subject.post(COMPLETIONS, &question).await?.supported()?;
    let choices = answer["choices"].as_array().into_iter().flatten();
    let indices: Vec<_> = choices.map(|choice| choice["index"].as_u64()).collect();
    match indices[..] {
        [Some(0), Some(1)] => Ok("2 choices, 0 and 1".to_owned()),
        _ => wrong(format!("for 2 prompts the indices are {indices:?}")),
    }
}
