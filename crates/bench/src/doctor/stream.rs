//! An answer in events.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::chat;
use super::options::{UNICODE, unicode_question};
use super::report::Report;
use super::subject::{CHAT, Subject, complaint, is_refusal};
use super::verdict::{Trouble, Verdict, not_shown, not_supported, on, short, wrong};
use super::wire::Wire;
use crate::sse::EventStream;

/// A stream of status 200, read as leniently as any client does.
#[derive(Debug)]
pub(super) struct Stream {
    wire: Wire,
    /// The body as text.
    text: String,
    /// The data of each event.
    data: Vec<String>,
    /// Those that are JSON.
    pub(super) chunks: Vec<Value>,
}

impl Stream {
    pub(super) fn new(wire: Wire) -> Verdict<Self> {
        let bytes = wire.pieces.concat();
        if wire.status != 200 {
            let said = complaint(wire.status, &bytes);
            return if is_refusal(wire.status) { not_supported(said) } else { wrong(said) };
        }
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        let data = events(&bytes)?;
        let chunks: Vec<Value> =
            data.iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
        if let Some(error) = chunks.iter().find_map(|chunk| chunk.get("error")) {
            return wrong(format!("an error in the stream: {error}"));
        }
        Ok(Self { wire, text, data, chunks })
    }

    /// The choices in all chunks, in order.
    pub(super) fn choices(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.chunks.iter().flat_map(|chunk| chunk["choices"].as_array().into_iter().flatten())
    }

    /// What the model wrote into the only choice of a chat.
    fn written(&self) -> String {
        let part = |field| self.choices().map(move |choice| choice["delta"][field].as_str());
        let reasoning: String = part("reasoning_content").flatten().collect();
        let reasoning =
            if reasoning.is_empty() { part("reasoning").flatten().collect() } else { reasoning };
        reasoning + &part("content").flatten().collect::<String>()
    }

    pub(super) fn finish_reason(&self) -> &Value {
        let mut reasons = self.choices().map(|choice| &choice["finish_reason"]);
        reasons.rfind(|reason| !reason.is_null()).unwrap_or(&Value::Null)
    }
}

pub(super) async fn examine(subject: &Subject, whole: Option<&Value>, report: &mut Report) {
    let stream = subject.stream(CHAT, &chat::question()).await.and_then(Stream::new);
    let stream = stream.map_err(|trouble| match trouble {
        Trouble::NotSupported(seen) => Trouble::Wrong(seen),
        trouble => trouble,
    });
    report.add("stream.head", stream.as_ref().map_err(Clone::clone).and_then(head));
    let stream = stream.ok();
    let stream = stream.as_ref();
    report.add("stream.framing", on(stream, framing));
    report.add("stream.pieces", on(stream, pieces));
    report.add("stream.done", on(stream, done));
    report.add("stream.chunks", on(stream, |stream| chunks(stream, "chat.completion.chunk")));
    report.add("stream.role", on(stream, role));
    report.add("stream.finish", on(stream, finish));
    report.add("stream.no_usage", on(stream, no_usage));
    report.add("stream.usage", usage(subject, whole).await);
    let equal = |stream: &Stream| on(whole, |whole| equals_whole(stream, whole));
    report.add("stream.equals_whole", on(stream, equal));
    report.add("stream.unicode", unicode(subject).await);
}

fn head(stream: &Stream) -> Verdict {
    let header = |name| stream.wire.headers.get(name).and_then(|value| value.to_str().ok());
    let content_type = header("content-type").unwrap_or_default();
    if !content_type.starts_with("text/event-stream") {
        return wrong(format!("content-type is `{content_type}`"));
    }
    if let Some(encoding) = header("content-encoding").filter(|encoding| *encoding != "identity") {
        return wrong(format!("compressed with {encoding}, which holds events back"));
    }
    Ok(content_type.to_owned())
}

fn framing(stream: &Stream) -> Verdict {
    let bytes = stream.wire.pieces.concat();
    if let Err(error) = std::str::from_utf8(&bytes) {
        return wrong(format!("not UTF-8: {error}"));
    }
    if !stream.text.ends_with("\n\n") {
        return wrong("the last event has no empty line after it");
    }
    for event in stream.text.split("\n\n") {
        let mut data = event.lines().filter(|line| !line.starts_with(':') && !line.is_empty());
        let Some(line) = data.next() else { continue };
        if data.next().is_some() {
            return wrong(format!("an event of several fields: `{}`", short(event)));
        }
        let Some(data) = line.strip_prefix("data: ") else {
            return wrong(format!("a line that is no `data: `: `{}`", short(line)));
        };
        if data != "[DONE]" && !serde_json::from_str(data).is_ok_and(|json: Value| json.is_object())
        {
            return wrong(format!("data that is no object in JSON: `{}`", short(data)));
        }
    }
    Ok(format!("{} events", stream.data.len()))
}

/// The data of each event, the last one's also if no empty line follows it.
fn events(bytes: &[u8]) -> Verdict<Vec<String>> {
    let mut data = Vec::new();
    let mut stream = EventStream::default();
    for bytes in [bytes, b"\n\n"] {
        let keep = |event: &[u8]| data.push(String::from_utf8_lossy(event).into_owned());
        if stream.push(bytes, keep).is_err() {
            return wrong("an event of more than 16 MiB");
        }
    }
    Ok(data)
}

/// Events of text in a chunk of HTTP.
fn num_written(piece: &[u8]) -> Verdict<usize> {
    let events = events(piece)?.into_iter();
    let chunks = events.filter_map(|data| serde_json::from_str::<Value>(&data).ok());
    Ok(chunks.filter(|chunk| !chat::text(&chunk["choices"][0]["delta"]).is_empty()).count())
}

/// A proxy may join a few events that come quickly; one that waits for the end joins them all.
fn pieces(stream: &Stream) -> Verdict {
    if !stream.wire.is_chunked {
        return not_shown("the body has no chunks");
    }
    let pieces = &stream.wire.pieces;
    let is_whole = |piece: &[u8]| {
        ["\n\n", "\r\n\r\n", "\r\r"].iter().any(|end| piece.ends_with(end.as_bytes()))
    };
    if let Some(cut) = pieces.iter().find(|piece| !is_whole(piece)) {
        let cut = String::from_utf8_lossy(cut);
        return wrong(format!("an event is cut: a chunk ends `{}`", short(tail(&cut))));
    }
    let written = pieces.iter().map(|piece| num_written(piece)).collect::<Verdict<Vec<_>>>()?;
    let (most, all) = (written.iter().copied().max().unwrap_or(0), written.iter().sum::<usize>());
    if all >= 4 && most * 4 > all * 3 {
        return wrong(format!("held back: {most} of {all} events with text came in one chunk"));
    }
    Ok(format!("{} chunks of whole events, at most {most} with text in one", pieces.len()))
}

fn tail(text: &str) -> &str {
    let start = text.char_indices().rev().nth(40).map_or(0, |(at, _)| at);
    &text[start..]
}

pub(super) fn done(stream: &Stream) -> Verdict {
    if !stream.wire.is_complete {
        return wrong("the connection ended before the body did");
    }
    match stream.data.iter().position(|data| data == "[DONE]") {
        None => wrong("no [DONE]"),
        Some(at) if at + 1 < stream.data.len() => {
            wrong(format!("after [DONE] comes `{}`", short(&stream.data[at + 1])))
        }
        Some(_) => Ok("[DONE], and the end of the body".to_owned()),
    }
}

pub(super) fn chunks(stream: &Stream, object: &str) -> Verdict {
    let Some(first) = stream.chunks.first() else { return wrong("no chunk at all") };
    for chunk in &stream.chunks {
        chat::envelope(chunk)?;
        if chunk["object"] != *object {
            return wrong(format!("object is {}", chunk["object"]));
        }
        for name in ["id", "created", "model"] {
            if chunk[name] != first[name] {
                return wrong(format!("{name} is {}, then {}", first[name], chunk[name]));
            }
        }
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            if !choice["index"].is_u64() {
                return wrong(format!("a choice without index: {choice}"));
            }
        }
    }
    Ok(format!("{} chunks of one id", stream.chunks.len()))
}

fn role(stream: &Stream) -> Verdict {
    let roles: Vec<_> = stream.choices().map(|choice| choice["delta"].get("role")).collect();
    match roles.first() {
        Some(Some(role)) if *role == "assistant" => {}
        Some(Some(role)) => return wrong(format!("the first delta's role is {role}")),
        _ => return wrong("the first delta has no role"),
    }
    // A null is harmless to clients, another role is not.
    if let Some(role) = roles.iter().flatten().find(|role| **role != "assistant" && !role.is_null())
    {
        return wrong(format!("a later delta's role is {role}"));
    }
    Ok("assistant, in the first delta".to_owned())
}

pub(super) fn finish(stream: &Stream) -> Verdict {
    let choices: Vec<_> = stream.choices().collect();
    let finishes = choices.iter().filter(|choice| !choice["finish_reason"].is_null());
    let num_finishes = finishes.count();
    if num_finishes != 1 {
        return wrong(format!("{num_finishes} chunks with a finish_reason"));
    }
    match choices.last() {
        Some(last) if !last["finish_reason"].is_null() => chat::finish(last),
        _ => wrong("deltas follow the finish_reason"),
    }
}

fn no_usage(stream: &Stream) -> Verdict {
    match stream.chunks.iter().filter(|chunk| chunk["usage"].is_object()).count() {
        0 => Ok("none".to_owned()),
        found => wrong(format!("{found} chunks have usage that was not asked for")),
    }
}

async fn usage(subject: &Subject, whole: Option<&Value>) -> Verdict {
    let question = chat::question_with(&json!({"stream_options": {"include_usage": true}}));
    let stream = Stream::new(subject.stream(CHAT, &question).await?)?;
    let told = stream.chunks.iter().filter(|chunk| chunk["usage"].is_object());
    let num_told = told.count();
    let Some(last) = stream.chunks.last().filter(|last| last["usage"].is_object()) else {
        return wrong("the last chunk has no usage though include_usage was sent");
    };
    if num_told > 1 {
        return wrong(format!("{num_told} chunks have usage, not the last alone"));
    }
    if last.get("choices") != Some(&json!([])) {
        return wrong(format!("its choices are {}, not []", last["choices"]));
    }
    let seen = chat::usage(&last["usage"])?;
    for name in ["prompt_tokens", "completion_tokens"] {
        let [streamed, whole] = [Some(&last["usage"]), whole.map(|whole| &whole["usage"])]
            .map(|usage| usage.and_then(|usage| usage[name].as_u64()));
        if whole.is_some() && streamed != whole {
            return wrong(format!("{name}: {streamed:?} streamed, {whole:?} whole"));
        }
    }
    Ok(seen)
}

fn equals_whole(stream: &Stream, whole: &Value) -> Verdict {
    let choice = &whole["choices"][0];
    let (streamed, text) = (stream.written(), chat::text(&choice["message"]));
    if streamed != text {
        return wrong(format!("`{}` streamed, `{}` whole", short(&streamed), short(&text)));
    }
    if *stream.finish_reason() != choice["finish_reason"] {
        let (streamed, whole) = (stream.finish_reason(), &choice["finish_reason"]);
        return wrong(format!("finish_reason {streamed} streamed, {whole} whole"));
    }
    Ok(format!("`{}`", short(&text)))
}

/// Characters of two, three and four bytes, forced where the server can force text.
async fn unicode(subject: &Subject) -> Verdict {
    let mut stream = Stream::new(subject.stream(CHAT, &unicode_question()).await?);
    if matches!(stream, Err(Trouble::NotSupported(_))) {
        let plea = format!("Repeat after me: {UNICODE}");
        let plea = json!({"messages": [{"role": "user", "content": plea}], "temperature": 0,
                          "max_tokens": 64});
        stream = Stream::new(subject.stream(CHAT, &plea).await?);
    }
    let stream = stream?;
    let written = stream.written();
    if written.contains('\u{fffd}') {
        return wrong(format!("a character was cut: `{}`", short(&written)));
    }
    let long: BTreeSet<char> = written.chars().filter(|letter| !letter.is_ascii()).collect();
    if long.is_empty() {
        return not_shown("the model wrote nothing beyond ASCII");
    }
    Ok(format!("whole: {}", long.iter().collect::<String>()))
}
