//! A server that does everything right, in parts that a fault can change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::options::UNICODE;
use crate::fake::{self, Asked, Step, write};

pub(super) const CHAT: &str = "POST /v1/chat/completions";
pub(super) const COMPLETIONS: &str = "POST /v1/completions";
pub(super) const EMBEDDINGS: &str = "POST /v1/embeddings";
pub(super) const KEY: &str = "k";

/// An answer before it is bytes.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) json: Value,
    /// Instead of the JSON.
    pub(super) text: Option<String>,
    /// Instead of both: what is written in one HTTP chunk each.
    pub(super) pieces: Option<Vec<String>>,
    /// The end of the chunks comes.
    pub(super) ends: bool,
    /// It never comes.
    pub(super) hangs: bool,
}

impl Told {
    pub(super) fn new(status: u16, json: Value) -> Self {
        Self {
            status,
            content_type: "application/json".to_owned(),
            headers: Vec::new(),
            json,
            text: None,
            pieces: None,
            ends: true,
            hangs: false,
        }
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let error = json!({"message": message, "type": "invalid_request_error", "param": null,
                           "code": code});
        Self::new(status, json!({"error": error}))
    }

    pub(super) fn stream(chunks: &[Value]) -> Self {
        let pieces = chunks.iter().map(|chunk| format!("data: {chunk}\n\n"));
        let pieces = pieces.chain(["data: [DONE]\n\n".to_owned()]).collect();
        let content_type = "text/event-stream".to_owned();
        Self { content_type, pieces: Some(pieces), ..Self::new(200, Value::Null) }
    }

    pub(super) fn steps(self) -> Vec<Step> {
        let content_type = [("content-type", self.content_type)];
        let headers = content_type.iter().chain(&self.headers);
        let headers: Vec<_> = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {} x\r\n{}", self.status, headers.concat());
        let Some(pieces) = self.pieces else {
            let body = self.text.unwrap_or_else(|| self.json.to_string());
            return vec![write(format!("{head}content-length: {}\r\n\r\n{body}", body.len()))];
        };
        let mut steps = vec![write(head + "transfer-encoding: chunked\r\n\r\n")];
        steps.extend(pieces.iter().map(|p| write(format!("{:x}\r\n{p}\r\n", p.len()))));
        if self.hangs {
            steps.push(Step::Pause(Duration::from_hours(1)));
        }
        steps.push(if self.ends { fake::stream_end() } else { Step::Close });
        steps
    }

    /// The chunks of a stream, changed.
    pub(super) fn chunks(&mut self, change: impl FnOnce(&mut Vec<Value>)) {
        let pieces = self.pieces.take().expect("a stream");
        let data = pieces.iter().map(|piece| piece.strip_prefix("data: ").expect("an event"));
        let mut chunks = data.filter_map(|data| serde_json::from_str(data).ok()).collect();
        change(&mut chunks);
        self.pieces = Self::stream(&chunks).pieces;
    }

    pub(super) fn piece(&mut self, number: usize) -> &mut String {
        &mut self.pieces.as_mut().expect("a stream")[number]
    }

    pub(super) fn header(&mut self, wanted: &str) -> &mut String {
        let header = self.headers.iter_mut().find(|(name, _)| *name == wanted);
        &mut header.expect("it is sent").1
    }
}

/// What the model says to a body: the words and the finish reason.
fn answer(body: &Value) -> (Vec<String>, &'static str) {
    let words: Vec<String> = if body.get("response_format").is_some() {
        ["{\"answer\": ", &format!("\"{UNICODE}\""), "}"].map(str::to_owned).to_vec()
    } else if body["prompt"].is_array() || body["messages"][1].is_object() {
        vec!["sunny".to_owned()]
    } else {
        (1..=9).map(|number| format!("{number}, ")).collect()
    };
    let max_tokens = body["max_tokens"].as_u64().unwrap_or(99) as usize;
    if let Some(stop) = body["stop"][0].as_str() {
        let text = words.concat();
        return (vec![text[..text.find(stop).unwrap()].to_owned()], "stop");
    }
    if words.len() > max_tokens {
        return (words[..max_tokens].to_vec(), "length");
    }
    (words, "stop")
}

pub(super) fn usage(words: usize) -> Value {
    json!({"prompt_tokens": 5, "completion_tokens": words, "total_tokens": 5 + words})
}

pub(super) fn object(kind: &str, choices: &Value) -> Value {
    json!({"id": "x-1", "object": kind, "created": 1_795_629_223, "model": "fake",
           "choices": choices})
}

fn whole(body: &Value, is_chat: bool) -> Told {
    let (words, finish) = answer(body);
    let entry = |word: &str| json!({"token": word, "logprob": -0.5, "bytes": null});
    let logprobs = words.iter().map(|word| {
        let mut token = entry(word);
        token["top_logprobs"] = json!([entry(word), entry("b")]);
        token
    });
    let logprobs = json!({"content": logprobs.collect::<Vec<_>>()});
    let logprobs = if body["logprobs"] == true { logprobs } else { Value::Null };
    let num_prompts = body["prompt"].as_array().map_or(1, Vec::len) as u64;
    let choice = |index: u64| {
        let mut choice = json!({"index": index, "finish_reason": finish, "logprobs": logprobs});
        if is_chat {
            choice["message"] = json!({"role": "assistant", "content": words.concat()});
        } else {
            choice["text"] = words.concat().into();
        }
        choice
    };
    let choices = (0..body["n"].as_u64().unwrap_or(num_prompts)).map(choice).collect();
    let kind = if is_chat { "chat.completion" } else { "text_completion" };
    let mut whole = object(kind, &choices);
    whole["usage"] = usage(words.len());
    Told::new(200, whole)
}

fn streamed(body: &Value, is_chat: bool) -> Told {
    let (words, finish) = answer(body);
    let kind = if is_chat { "chat.completion.chunk" } else { "text_completion" };
    let chunk = |delta: Value, finish: Value| {
        let mut choice = json!({"index": 0, "finish_reason": finish});
        choice[if is_chat { "delta" } else { "text" }] = delta;
        object(kind, &json!([choice]))
    };
    let delta = |word: &String| if is_chat { json!({"content": word}) } else { json!(word) };
    let role = is_chat.then(|| chunk(json!({"role": "assistant", "content": ""}), Value::Null));
    let mut chunks: Vec<_> = role.into_iter().collect();
    chunks.extend(words.iter().map(|word| chunk(delta(word), Value::Null)));
    chunks.push(chunk(if is_chat { json!({}) } else { json!("") }, json!(finish)));
    if body["stream_options"]["include_usage"] == true {
        let mut last = object(kind, &json!([]));
        last["usage"] = usage(words.len());
        chunks.push(last);
    }
    Told::stream(&chunks)
}

fn call(is_streamed: bool) -> Told {
    let function = |arguments: &str| json!({"name": "get_weather", "arguments": arguments});
    let call =
        |arguments| json!({"id": "call-1", "type": "function", "function": function(arguments)});
    if !is_streamed {
        let message = json!({"role": "assistant", "content": null,
                             "tool_calls": [call("{\"city\": \"Paris\"}")]});
        let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
        let mut whole = object("chat.completion", &json!([choice]));
        whole["usage"] = usage(8);
        return Told::new(200, whole);
    }
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        object("chat.completion.chunk", &json!([choice]))
    };
    let mut first = call("");
    first["index"] = json!(0);
    let more = |text: &str| json!({"index": 0, "function": {"arguments": text}});
    let calls = [first, more("{\"city\": "), more("\"Paris\"}")];
    let mut chunks = vec![chunk(json!({"role": "assistant", "content": null}), Value::Null)];
    chunks.extend(calls.map(|call| chunk(json!({"tool_calls": [call]}), Value::Null)));
    chunks.push(chunk(json!({}), json!("tool_calls")));
    Told::stream(&chunks)
}

fn chat(body: &Value) -> Told {
    let stream = body["stream"] == true;
    let content = body["messages"][0]["content"].as_str().unwrap_or_default();
    if !body["messages"].is_array() {
        return Told::error(400, "missing_required_parameter", "no messages");
    }
    if body["temperature"].is_string() {
        return Told::error(400, "invalid_value", "temperature is no number");
    }
    if body["model"] != "fake" {
        return Told::error(404, "model_not_found", "no such model");
    }
    if content.len() > 2_000 {
        let message = "This model's maximum context length is 1000 tokens.";
        return Told::error(400, "context_length_exceeded", message);
    }
    if content.contains("100000") {
        return Told { hangs: true, ..streamed(body, true) };
    }
    match (body["tool_choice"] == "required", stream) {
        (true, stream) => call(stream),
        (false, true) => streamed(body, true),
        (false, false) => whole(body, true),
    }
}

fn embeddings(body: &Value) -> Told {
    let vector = |index: usize| {
        let packed = body["encoding_format"] == "base64";
        let vector = if packed { json!("AAAAPwAAAD8=") } else { json!([0.5, 0.5]) };
        json!({"object": "embedding", "index": index, "embedding": vector})
    };
    Told::new(
        200,
        json!({"object": "list", "data": [vector(0), vector(1)], "model": "fake",
                          "usage": {"prompt_tokens": 4, "total_tokens": 4}}),
    )
}

pub(super) fn has_key(asked: &Asked) -> bool {
    asked.head.lines().any(|line| line == format!("authorization: bearer {KEY}"))
}

#[derive(Default)]
pub(super) struct State {
    num_requests: AtomicUsize,
    /// Running requests, at the next look and after it.
    running: AtomicUsize,
}

/// Does everything right.
pub(super) fn healthy(asked: &Asked, state: &State) -> Told {
    let card = json!({"id": "fake", "object": "model", "max_model_len": 1000});
    let body = &asked.body;
    let mut told = match asked.line.as_str() {
        line if line.starts_with("OPTIONS ") || line.starts_with("HEAD ") => {
            Told { text: Some(String::new()), ..Told::new(200, Value::Null) }
        }
        _ if !has_key(asked) => Told::error(401, "invalid_api_key", "no such key"),
        "GET /v1/models" => Told::new(200, json!({"object": "list", "data": [card]})),
        "GET /v1/models/fake" => Told::new(200, card),
        "GET /metrics" => {
            let running = state.running.swap(0, Ordering::Relaxed);
            let text = format!("vllm:num_requests_running{{model_name=\"fake\"}} {running}\n");
            Told { text: Some(text), ..Told::new(200, Value::Null) }
        }
        CHAT if body.is_null() => Told::error(400, "invalid_json", "no JSON"),
        CHAT => chat(body),
        COMPLETIONS if body["stream"] == true => streamed(body, false),
        COMPLETIONS => whole(body, false),
        EMBEDDINGS => embeddings(body),
        "GET /v1/chat/completions" => Told::error(405, "method_not_allowed", "POST alone"),
        _ => Told::error(404, "unknown_url", "no such route"),
    };
    if told.hangs {
        state.running.store(1, Ordering::Relaxed);
    }
    let given = asked.head.lines().find_map(|line| line.strip_prefix("x-request-id: "));
    let number = state.num_requests.fetch_add(1, Ordering::Relaxed);
    told.headers = vec![
        ("x-request-id", given.map_or_else(|| format!("r-{number}"), str::to_owned)),
        ("access-control-allow-origin", "*".to_owned()),
        ("access-control-allow-methods", "GET, POST".to_owned()),
        ("access-control-allow-headers", "Authorization, content-type, x-stainless-os".to_owned()),
    ];
    told
}
