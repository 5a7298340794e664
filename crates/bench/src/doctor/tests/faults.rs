//! What can be wrong with an answer, a row each: the check that is meant to find it, the request at
//! whose answer it is, and how it differs from a healthy one.

use serde_json::{Map, Value, json};

use super::healthy::{CHAT, COMPLETIONS, EMBEDDINGS, Told, has_key, object, usage};
use crate::fake::Asked;

/// Which request.
type When = fn(&Asked) -> bool;

/// How an answer is changed. Places are JSON pointers, values JSON.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Set(&'static str, &'static str),
    Cut(&'static str),
    /// In a chunk of a stream; from the end if negative.
    In(isize, &'static str, &'static str),
    CutIn(isize, &'static str),
    Each(&'static str, &'static str),
    Do(fn(&mut Told)),
}
use Change::{Cut, CutIn, Do, Each, In, Set};

impl Change {
    pub(super) fn make(self, told: &mut Told) {
        match self {
            Set(place, json) => set(&mut told.json, place, json),
            Cut(place) => cut(&mut told.json, place),
            In(number, place, json) => told.chunks(|chunks| set(at(chunks, number), place, json)),
            CutIn(number, place) => told.chunks(|chunks| cut(at(chunks, number), place)),
            Each(place, json) => {
                told.chunks(|chunks| chunks.iter_mut().for_each(|chunk| set(chunk, place, json)));
            }
            Do(change) => change(told),
        }
    }
}

fn at(chunks: &mut [Value], number: isize) -> &mut Value {
    let number =
        if number < 0 { chunks.len().wrapping_add_signed(number) } else { number as usize };
    &mut chunks[number]
}

fn parent<'a, 'b>(json: &'a mut Value, place: &'b str) -> (&'a mut Value, &'b str) {
    let (parent, name) = place.rsplit_once('/').expect("a pointer begins with a slash");
    (json.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}")), name)
}

fn set(json: &mut Value, place: &str, value: &str) {
    let value = serde_json::from_str(value).expect(value);
    match parent(json, place) {
        (Value::Array(list), name) => list[name.parse::<usize>().expect(name)] = value,
        (object, name) => object[name] = value,
    }
}

fn cut(json: &mut Value, place: &str) {
    let cut = match parent(json, place) {
        (Value::Array(list), name) => Some(list.remove(name.parse::<usize>().expect(name))),
        (object, name) => object.as_object_mut().and_then(|object| object.remove(name)),
    };
    assert!(cut.is_some(), "no {place}");
}

/// Asked with the key, and in earnest.
fn is_question(asked: &Asked) -> bool {
    let short = |content: &Value| content.as_str().is_some_and(|text| text.len() < 100);
    asked.line == CHAT
        && has_key(asked)
        && asked.body["model"] == "fake"
        && asked.body["temperature"] == 0
        && short(&asked.body["messages"][0]["content"])
}

fn streams(asked: &Asked) -> bool {
    asked.body["stream"] == true
}

/// The question that is asked whole and streamed.
fn is_plain(asked: &Asked) -> bool {
    let num_fields = asked.body.as_object().map_or(0, Map::len);
    is_question(asked)
        && asked.body["max_tokens"] == 16
        && num_fields == 5 + usize::from(streams(asked))
}

pub(super) const PLAIN: When = |asked| is_plain(asked) && !streams(asked);
pub(super) const STREAM: When = |asked| is_plain(asked) && streams(asked);
const USAGE: When = |asked| asked.body.get("stream_options").is_some();
const CUT: When = |asked| asked.body["max_tokens"] == 3;
const STOP: When = |asked| asked.body.get("stop").is_some();
const CHOICES: When = |asked| asked.body.get("n").is_some();
const LOGPROBS: When = |asked| asked.body.get("logprobs").is_some();
const SCHEMA: When = |asked| asked.body.get("response_format").is_some() && !streams(asked);
const UNICODE: When = |asked| asked.body.get("response_format").is_some() && streams(asked);
const CALL: When = |asked| asked.body["tool_choice"] == "required" && !streams(asked);
pub(super) const CALLS: When = |asked| asked.body["tool_choice"] == "required" && streams(asked);
const RESULT: When = |asked| asked.body["tool_choice"] == "auto";
const COMPLETION: When =
    |asked| asked.line == COMPLETIONS && !streams(asked) && asked.body["prompt"].is_string();
const COMPLETED: When = |asked| asked.line == COMPLETIONS && streams(asked);
const LIST: When = |asked| asked.body["prompt"].is_array();
const NUMBERS: When = |asked| asked.line == EMBEDDINGS && asked.body["encoding_format"] == "float";
const PACKED: When = |asked| asked.line == EMBEDDINGS && asked.body["encoding_format"] == "base64";
const MODELS: When = |asked| asked.line == "GET /v1/models";
const MODEL: When = |asked| asked.line == "GET /v1/models/fake";
const BAD_JSON: When = |asked| asked.line == CHAT && asked.body.is_null();
const LONG: When =
    |asked| asked.body["messages"][0]["content"].as_str().is_some_and(|text| text.len() > 2_000);
const PREFLIGHT: When = |asked| asked.line.starts_with("OPTIONS ");

/// Requests with a fault, by the check that wants it told in the envelope.
pub(super) const REFUSED: &[(&str, When)] = &[
    ("errors.bad_json", BAD_JSON),
    ("errors.wrong_type", |asked| asked.body["temperature"] == "hot"),
    ("errors.missing_field", |asked| {
        asked.line == CHAT && asked.body.is_object() && asked.body["messages"].is_null()
    }),
    ("errors.unknown_model", |asked| asked.body["model"] == "doctor/no-such-model"),
    ("errors.unknown_route", |asked| asked.line.contains("/no/such")),
    ("errors.wrong_method", |asked| asked.line == "GET /v1/chat/completions"),
    ("errors.bad_key", |asked| asked.head.contains("bearer doctor-no")),
    ("errors.too_long", LONG),
];

/// How each of them can be told wrongly.
pub(super) const NO_ENVELOPE: &[Change] = &[
    Do(|told| told.json = json!({"detail": [{"msg": "no"}]})),
    Set("/error", r#""no""#),
    Do(|told| told.text = Some("<html>no</html>".to_owned())),
    Do(|told| told.content_type = "text/html".to_owned()),
    Cut("/error/type"),
    Cut("/error/param"),
    Cut("/error/code"),
    Set("/error/param", "7"),
    Set("/error/message", r#""""#),
    Do(|told| told.status = 500),
    Do(|told| told.status = 200),
];

const FAILS: Change = Do(|told| {
    *told = Told { headers: std::mem::take(&mut told.headers), ..Told::error(500, "x", "oh") };
});

/// Puts something before the second event, in its HTTP chunk.
macro_rules! insert {
    ($text:literal) => {
        Do(|told| told.piece(2).insert_str(0, $text))
    };
}

pub(super) const FAULTS: &[(&str, When, Change)] = &[
    ("models.list", MODELS, Set("/object", r#""models""#)),
    ("models.list", MODELS, Set("/data", "[]")),
    ("models.list", MODELS, Set("/data", "null")),
    ("models.list", MODELS, Set("/data/0/id", r#""another""#)),
    ("models.list", MODELS, Set("/data/0/id", "1")),
    ("models.one", MODEL, Set("/id", r#""another""#)),
    ("models.one", MODEL, FAILS),
    ("chat.shape", PLAIN, Do(|told| told.content_type = "text/plain".to_owned())),
    ("chat.shape", PLAIN, Set("/object", r#""chat""#)),
    ("chat.shape", PLAIN, Set("/id", "null")),
    ("chat.shape", PLAIN, Set("/created", "1.5")),
    ("chat.shape", PLAIN, Set("/model", r#""""#)),
    ("chat.shape", PLAIN, Set("/choices", "[]")),
    ("chat.shape", PLAIN, Set("/choices", "null")),
    ("chat.shape", PLAIN, Cut("/choices/0/index")),
    ("chat.shape", PLAIN, Do(|told| told.text = Some("hello".to_owned()))),
    ("chat.shape", PLAIN, FAILS),
    ("chat.message", PLAIN, Cut("/choices/0/message/role")),
    ("chat.message", PLAIN, Set("/choices/0/message/role", r#""bot""#)),
    ("chat.finish", PLAIN, Set("/choices/0/finish_reason", r#""eos_token""#)),
    ("chat.finish", PLAIN, Set("/choices/0/finish_reason", r#""error""#)),
    ("chat.usage", PLAIN, Set("/usage/total_tokens", "99")),
    ("chat.usage", PLAIN, Cut("/usage/total_tokens")),
    ("stream.head", STREAM, Do(|told| told.content_type = "application/json".to_owned())),
    ("stream.head", STREAM, Do(|told| told.headers.push(("content-encoding", "gzip".to_owned())))),
    ("stream.head", STREAM, FAILS),
    (
        "stream.framing",
        STREAM,
        Do(|told| *told.piece(2) = told.piece(2).replace("data: ", "data:")),
    ),
    ("stream.framing", STREAM, insert!("event: ping\ndata: {}\n\n")),
    ("stream.framing", STREAM, insert!("data: \n\n")),
    ("stream.framing", STREAM, insert!("data: {\"choices\": [}\n\n")),
    ("stream.framing", STREAM, insert!("data: 7\ndata: 8\n\n")),
    ("stream.framing", STREAM, insert!("id: 3\n\n")),
    // Both are events to whoever reads by the standard, and not to those who look for `data: `.
    (
        "stream.framing",
        STREAM,
        Do(|told| *told.piece(3) = told.piece(3).replace(",\"", ",\ndata:\"")),
    ),
    (
        "stream.framing",
        STREAM,
        Do(|told| {
            let pieces = told.pieces.as_mut().unwrap().iter_mut();
            pieces.for_each(|piece| *piece = piece.replace('\n', "\r"));
        }),
    ),
    (
        "stream.pieces",
        STREAM,
        Do(|told| {
            let pieces = told.pieces.as_mut().unwrap();
            let joined = pieces.drain(1..9).collect();
            pieces.insert(1, joined);
        }),
    ),
    (
        "stream.pieces",
        STREAM,
        Do(|told| {
            let half = told.piece(2).split_off(20);
            told.pieces.as_mut().unwrap().insert(3, half);
        }),
    ),
    ("stream.done", STREAM, Do(|told| drop(told.pieces.as_mut().unwrap().pop()))),
    (
        "stream.done",
        STREAM,
        Do(|told| told.pieces.as_mut().unwrap().push("data: [DONE]\n\n".to_owned())),
    ),
    ("stream.done", STREAM, Do(|told| told.ends = false)),
    ("stream.chunks", STREAM, Each("/object", r#""chat.completion""#)),
    ("stream.chunks", STREAM, Each("/created", "1.5")),
    ("stream.chunks", STREAM, Each("/choices/0/index", "null")),
    ("stream.chunks", STREAM, In(2, "/id", r#""x-2""#)),
    ("stream.chunks", STREAM, In(2, "/created", "1")),
    ("stream.chunks", STREAM, In(2, "/model", r#""another""#)),
    ("stream.chunks", STREAM, CutIn(2, "/choices/0/index")),
    ("stream.chunks", STREAM, Do(|told| told.chunks(|chunks| chunks.insert(2, json!({}))))),
    (
        "stream.chunks",
        STREAM,
        Do(|told| {
            told.chunks(|chunks| chunks.push(object("chat.completion.chunk", &Value::Null)));
        }),
    ),
    ("stream.role", STREAM, CutIn(0, "/choices/0/delta/role")),
    ("stream.role", STREAM, In(0, "/choices/0/delta/role", r#""bot""#)),
    ("stream.role", STREAM, In(3, "/choices/0/delta/role", r#""user""#)),
    ("stream.finish", STREAM, Do(|told| told.chunks(|chunks| chunks.push(chunks[0].clone())))),
    (
        "stream.finish",
        STREAM,
        Do(|told| told.chunks(|chunks| chunks.extend(chunks.last().cloned()))),
    ),
    ("stream.finish", STREAM, In(-1, "/choices/0/finish_reason", "null")),
    ("stream.finish", STREAM, In(-1, "/choices/0/finish_reason", r#""eos_token""#)),
    ("stream.no_usage", STREAM, Each("/usage", "{}")),
    ("stream.usage", USAGE, Do(|told| told.chunks(|chunks| drop(chunks.pop())))),
    ("stream.usage", USAGE, In(-1, "/choices", "null")),
    ("stream.usage", USAGE, CutIn(-1, "/choices")),
    ("stream.usage", USAGE, In(2, "/usage", "{}")),
    ("stream.usage", USAGE, Do(|told| told.chunks(|c| c.last_mut().unwrap()["usage"] = usage(8)))),
    ("stream.usage", USAGE, In(-1, "/usage/total_tokens", "1")),
    ("stream.equals_whole", STREAM, In(3, "/choices/0/delta/content", r#""x""#)),
    ("stream.equals_whole", STREAM, In(-1, "/choices/0/finish_reason", r#""length""#)),
    ("stream.unicode", UNICODE, In(2, "/choices/0/delta/content", r#""\ufffd""#)),
    ("options.max_tokens", CUT, Set("/choices/0/finish_reason", r#""stop""#)),
    ("options.max_tokens", CUT, Set("/usage/completion_tokens", "4")),
    ("options.stop", STOP, Set("/choices/0/message/content", r#""1, 2, 3, 4, 5, 6""#)),
    ("options.stop", STOP, Set("/choices/0/finish_reason", r#""length""#)),
    ("options.n", CHOICES, Cut("/choices/1")),
    ("options.n", CHOICES, Set("/choices/1/index", "0")),
    ("options.logprobs", LOGPROBS, Set("/choices/0/logprobs", "null")),
    ("options.logprobs", LOGPROBS, Set("/choices/0/logprobs/content/0/logprob", "0.5")),
    ("options.logprobs", LOGPROBS, Set("/choices/0/logprobs/content/0/top_logprobs", "[]")),
    ("options.logprobs", LOGPROBS, Set("/choices/0/logprobs/content/0/token", "17")),
    ("options.logprobs", LOGPROBS, Cut("/choices/0/logprobs/content/0/bytes")),
    ("options.logprobs", LOGPROBS, Set("/usage/completion_tokens", "1")),
    ("options.json_schema", SCHEMA, Set("/choices/0/message/content", r#""Hello!""#)),
    ("options.json_schema", SCHEMA, Set("/choices/0/message/content", r#""{\"answer\": 1}""#)),
    ("tools.whole", CALL, Set("/choices/0/message/tool_calls", "[]")),
    ("tools.whole", CALL, Set("/choices/0/message/tool_calls/0/id", "null")),
    ("tools.whole", CALL, Cut("/choices/0/message/tool_calls/0/type")),
    ("tools.whole", CALL, Set("/choices/0/message/tool_calls/0/function/name", r#""f""#)),
    ("tools.whole", CALL, Set("/choices/0/message/tool_calls/0/function/arguments", "{}")),
    ("tools.whole", CALL, Set("/choices/0/message/tool_calls/0/function/arguments", r#""{""#)),
    ("tools.finish", CALL, Set("/choices/0/finish_reason", r#""stop""#)),
    ("tools.stream", CALLS, In(2, "/choices/0/delta/tool_calls/0/id", r#""call-1""#)),
    ("tools.stream", CALLS, In(2, "/choices/0/delta/tool_calls/0/id", "null")),
    ("tools.stream", CALLS, In(2, "/choices/0/delta/tool_calls/0/type", r#""function""#)),
    ("tools.stream", CALLS, In(2, "/choices/0/delta/tool_calls/0/function/name", r#""f""#)),
    ("tools.stream", CALLS, In(2, "/choices/0/delta/tool_calls/0/function/name", "null")),
    ("tools.stream", CALLS, CutIn(1, "/choices/0/delta/tool_calls/0/index")),
    ("tools.stream", CALLS, CutIn(2, "/choices/0/delta/tool_calls/0/index")),
    ("tools.stream", CALLS, In(1, "/choices/0/delta/tool_calls/0/index", "3")),
    ("tools.stream", CALLS, CutIn(1, "/choices/0/delta/tool_calls/0/type")),
    ("tools.stream", CALLS, CutIn(1, "/choices/0/delta/tool_calls/0/id")),
    ("tools.stream", CALLS, In(1, "/choices/0/delta/tool_calls/0/function/arguments", "{}")),
    // Two calls under one index.
    (
        "tools.stream",
        CALLS,
        In(3, "/choices/0/delta/tool_calls/0/function/arguments", r#""\"Paris\"}{\"a\": 1}""#),
    ),
    ("tools.stream", CALLS, Do(|told| told.chunks(|chunks| drop(chunks.drain(1..4))))),
    ("tools.stream", CALLS, In(-1, "/choices/0/finish_reason", r#""stop""#)),
    ("tools.result", RESULT, FAILS),
    ("tools.result", RESULT, Set("/choices/0/message/role", r#""tool""#)),
    ("completions.whole", COMPLETION, Set("/object", r#""chat.completion""#)),
    ("completions.whole", COMPLETION, Set("/choices/0/text", "null")),
    ("completions.whole", COMPLETION, Set("/choices/0/finish_reason", r#""eos""#)),
    ("completions.whole", COMPLETION, Set("/usage", "null")),
    ("completions.whole", COMPLETION, Set("/created", r#""now""#)),
    ("completions.stream", COMPLETED, In(1, "/choices/0/text", r#""x""#)),
    ("completions.stream", COMPLETED, In(-1, "/choices/0/finish_reason", "null")),
    ("completions.stream", COMPLETED, Each("/object", r#""chat.completion.chunk""#)),
    ("completions.stream", COMPLETED, Do(|told| drop(told.pieces.as_mut().unwrap().pop()))),
    ("completions.list", LIST, Set("/choices/1/index", "0")),
    ("completions.list", LIST, Cut("/choices/1")),
    ("embeddings.shape", NUMBERS, Set("/data", "[]")),
    ("embeddings.shape", NUMBERS, Set("/data/1/index", "0")),
    ("embeddings.shape", NUMBERS, Set("/data/1/embedding", "[0.5]")),
    ("embeddings.shape", NUMBERS, Set("/data/1/embedding", r#""AAAAPwAAAD8=""#)),
    ("embeddings.shape", NUMBERS, Set("/usage", "null")),
    ("embeddings.shape", NUMBERS, FAILS),
    ("embeddings.base64", PACKED, Set("/data/0/embedding", "[0.5, 0.5]")),
    ("embeddings.base64", PACKED, Set("/data/0/embedding", r#""AAAAPw==""#)),
    ("errors.too_long", LONG, Set("/error/code", r#""too_long""#)),
    ("errors.too_long", LONG, Set("/error/message", r#""The prompt is too long.""#)),
    ("http.cors", PREFLIGHT, Do(|told| told.status = 401)),
    (
        "http.cors",
        PREFLIGHT,
        Do(|told| "content-type".clone_into(told.header("access-control-allow-headers"))),
    ),
    (
        "http.cors",
        PREFLIGHT,
        Do(|told| "*".clone_into(told.header("access-control-allow-headers"))),
    ),
    (
        "http.cors",
        PREFLIGHT,
        Do(|told| "GET".clone_into(told.header("access-control-allow-methods"))),
    ),
    (
        "http.cors",
        MODELS,
        Do(|told| told.headers.retain(|(name, _)| *name != "access-control-allow-origin")),
    ),
    ("http.head", |asked| asked.line == "HEAD /", Do(|told| told.status = 500)),
    ("http.head", |asked| asked.line == "HEAD /v1/models", Do(|told| told.status = 404)),
    ("http.request_id", |_| true, Do(|told| "r".clone_into(told.header("x-request-id")))),
    (
        "http.request_id",
        BAD_JSON,
        Do(|told| told.headers.retain(|(name, _)| *name != "x-request-id")),
    ),
];

/// A check whose fault another cannot but find, too, and that other.
pub(super) const COMPANIONS: [(&str, &str); 3] = [
    ("chat.finish", "stream.equals_whole"),
    ("stream.finish", "stream.equals_whole"),
    ("stream.framing", "stream.chunks"),
];
