//! An engine that follows a script, a tokenizer whose tokens are bytes, and a client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use engine::{
    Constraint, EngineError, EngineStats, Event, FinishReason, SamplingParams, SeqId, Share, Sink,
    TokenLogprobs,
};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use server::{
    App, Generator, HeadRules, Load, Matryoshka, PoolingRules, ServedModel, ServerConfig,
};
use text::{OutputFormat, TextFiles, TextModel};
use tower::ServiceExt;

use crate::contract;

pub(crate) const IM_START: u32 = 256;
pub(crate) const IM_END: u32 = 257;
pub(crate) const VOCAB_SIZE: usize = 258;
pub(crate) const MAX_MODEL_LEN: usize = 200;

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'tool' and m.content == 'bad' %}\
    {{ raise_exception('no such tool') }}{% endif %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}\
    {{ m.content }}\
    {% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments.city }}]\
    {% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\
    {{ prefix or '' }}{% endif %}";

/// A request as the engine got it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) prompt: Vec<u32>,
    pub(crate) params: SamplingParams,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<String>,
    pub(crate) constrained: bool,
    pub(crate) share: Option<Share>,
    pub(crate) deadline: Option<Instant>,
}

/// Answers every sequence with `answer` at once, or keeps the sinks for the test to feed. What must
/// look like something has the bytes of `answer` where they may come, and else the first that may.
#[derive(Default)]
pub(crate) struct Fake {
    /// `{seed}` in it becomes the sequence's seed.
    pub(crate) answer: String,
    /// Ends a sequence instead of its end token.
    pub(crate) failure: Option<EngineError>,
    /// Refuses every request.
    pub(crate) refusal: Option<EngineError>,
    /// Panic instead of taking a request.
    pub(crate) panics: bool,
    /// Tokens that prompt and answer may have beyond `MAX_MODEL_LEN`.
    pub(crate) extra_len: usize,
    /// Answer with vectors.
    pub(crate) pools: bool,
    /// Refuse more than so many requests at once as too many; 0 refuses none.
    pub(crate) most_at_once: usize,
    /// Keep the sinks.
    pub(crate) hold: bool,
    /// Until the queue is empty.
    pub(crate) time_to_drain: Duration,
    pub(crate) dead: AtomicBool,
    pub(crate) restarting: AtomicBool,
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) sinks: Mutex<Vec<Sink>>,
    /// Of held sequences that have one.
    pub(crate) constraints: Mutex<Vec<Box<dyn Constraint>>>,
    pub(crate) aborted: Mutex<Vec<u64>>,
    pub(crate) next_id: AtomicU64,
}

impl Fake {
    pub(crate) fn answering(answer: &str) -> Self {
        Self { answer: answer.into(), ..Self::default() }
    }

    pub(crate) fn holding() -> Self {
        Self { hold: true, ..Self::default() }
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().unwrap().clone()
    }

    /// Sends an event to a held sequence; whether anybody listens.
    pub(crate) fn send(&self, sequence: usize, event: Event) -> bool {
        self.sinks.lock().unwrap()[sequence](event)
    }

    /// Sends tokens for each byte of `text`.
    pub(crate) fn say(&self, sequence: usize, text: &str) {
        for id in text.bytes() {
            self.send(sequence, Event::Token { id: id.into(), logprobs: None });
        }
    }

    pub(crate) fn finish(&self, sequence: usize) {
        let reason = FinishReason::Length;
        self.send(sequence, Event::Finished { reason, cached_tokens: 0, num_preemptions: 0 });
    }

    fn run(&self, request: engine::Request) {
        let mut sink = request.sink;
        let params = request.params;
        sink(Event::Started { cached_tokens: 16 });
        if let Some(top) = params.prompt_logprobs {
            let scores = request.prompt.iter().enumerate();
            let scores = scores.map(|(i, &id)| (i > 0).then(|| logprobs(id, top)));
            sink(Event::PromptScored(scores.collect()));
        }
        if self.pools {
            assert_eq!(params.max_tokens, 0, "nothing is generated");
            sink(Event::Started { cached_tokens: 1 });
            sink(Event::Pooled(vector(&request.prompt)));
            let reason = FinishReason::Length;
            sink(Event::Finished { reason, cached_tokens: 1, num_preemptions: 0 });
            return;
        }
        let answer = self.answer.replace("{seed}", &params.seed.to_string());
        let mut ids: Vec<u32> = answer.bytes().map(u32::from).collect();
        if self.failure.is_none() {
            ids.push(IM_END);
        }
        let mut is_complete = false;
        if let Some(mut constraint) = request.constraint {
            (ids, is_complete) = followed(&mut *constraint, &ids, params.max_tokens);
        }
        let mut reason = if is_complete { FinishReason::Stop(None) } else { FinishReason::Length };
        for &id in ids.iter().take(params.max_tokens) {
            sink(Event::Token { id, logprobs: params.logprobs.map(|top| logprobs(id, top)) });
            if params.stop_token_ids.contains(&id) {
                reason = FinishReason::Stop(Some(id));
                break;
            }
            if id == IM_END {
                reason = FinishReason::Stop(None);
            }
        }
        match &self.failure {
            Some(error) => sink(Event::Failed(error.clone())),
            None => sink(Event::Finished { reason, cached_tokens: 16, num_preemptions: 0 }),
        };
    }
}

/// What a prompt becomes.
pub(crate) fn vector(prompt: &[u32]) -> Vec<f32> {
    vec![prompt[0] as f32, prompt.len() as f32, *prompt.last().unwrap() as f32]
}

/// The tokens that may come, and whether one must.
pub(crate) fn allowed(constraint: &mut dyn Constraint) -> (Vec<u32>, Vec<u32>) {
    let forced = constraint.forced(8);
    let mut mask = vec![0; VOCAB_SIZE.div_ceil(32)];
    constraint.fill_mask(&mut mask).unwrap();
    let is_set = |id: &u32| mask[*id as usize / 32] >> (id % 32) & 1 == 1;
    let allowed: Vec<u32> = (0..VOCAB_SIZE as u32).filter(is_set).collect();
    if let Some(first) = forced.first() {
        assert_eq!(allowed, [*first], "what is forced is all that may come");
    }
    (allowed, forced)
}

/// What `constraint` makes of `wanted`, and whether nothing may follow.
fn followed(
    constraint: &mut dyn Constraint,
    wanted: &[u32],
    max_tokens: usize,
) -> (Vec<u32>, bool) {
    let (mut ids, mut wanted) = (Vec::new(), wanted.iter().peekable());
    while ids.len() < max_tokens && ids.last() != Some(&IM_END) {
        let (allowed, forced) = allowed(constraint);
        // What is forced is what was wanted only if all of it is.
        let is_wanted = wanted.clone().zip(&forced).all(|(wanted, forced)| wanted == forced);
        let id = wanted.next_if(|id| is_wanted && allowed.contains(*id)).copied();
        let id = id.unwrap_or(allowed[0]);
        ids.push(id);
        if constraint.accept(id).unwrap() {
            return (ids, true);
        }
    }
    (ids, false)
}

/// The token itself with -0.5, then its successors with -1.5, -2.5, ...
fn logprobs(id: u32, num_top: u32) -> TokenLogprobs {
    let top = (0..num_top).map(|i| ((id + i) % VOCAB_SIZE as u32, -0.5 - i as f32)).collect();
    TokenLogprobs { logprob: -0.5, rank: 1, top }
}

impl Generator for Fake {
    fn max_num_queued_reqs(&self) -> usize {
        if self.most_at_once == 0 { 1024 } else { self.most_at_once }
    }

    fn submit_all(&self, requests: Vec<engine::Request>) -> Result<Vec<SeqId>, EngineError> {
        if let Some(error) = &self.refusal {
            return Err(error.clone());
        }
        assert!(!self.panics, "as asked");
        if self.most_at_once > 0 && requests.len() > self.most_at_once {
            return Err(EngineError::QueueFull { waiting: 0, limit: self.most_at_once });
        }
        let mut ids = Vec::new();
        for request in requests {
            ids.push(SeqId(self.next_id.fetch_add(1, Ordering::Relaxed)));
            self.seen.lock().unwrap().push(Seen {
                prompt: request.prompt.clone(),
                params: request.params.clone(),
                priority: request.priority,
                cache_salt: request.cache_salt.clone(),
                constrained: request.constraint.is_some(),
                share: request.share.clone(),
                deadline: request.deadline,
            });
            if self.hold {
                self.constraints.lock().unwrap().extend(request.constraint);
                self.sinks.lock().unwrap().push(request.sink);
            } else {
                self.run(request);
            }
        }
        Ok(ids)
    }

    fn abort(&self, id: SeqId) {
        self.aborted.lock().unwrap().push(id.0);
    }

    fn load(&self) -> Load {
        let stats = EngineStats {
            num_running: 3,
            num_waiting: 2,
            kv_blocks_used: 16,
            kv_blocks_total: 64,
            ..EngineStats::default()
        };
        Load { stats, block_size: 16, cache_dtype: "bfloat16", ..Load::default() }
    }

    fn time_to_drain(&self) -> Duration {
        self.time_to_drain
    }

    fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }

    fn is_restarting(&self) -> bool {
        self.restarting.load(Ordering::Relaxed)
    }

    fn max_model_len(&self) -> usize {
        MAX_MODEL_LEN + self.extra_len
    }

    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }
}

/// A model whose tokens are the 256 bytes and two special ones.
pub(crate) fn text_model() -> TextModel {
    text_model_with(TEMPLATE)
}

fn text_model_with(template: &str) -> TextModel {
    // GPT-2's alphabet: printable bytes stand for themselves, the others follow from U+0100 on.
    let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 0x100_u32;
    let mut vocab = Map::new();
    for byte in 0..=255_u8 {
        let letter = if printable(&byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        vocab.insert(letter.to_string(), byte.into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(IM_START, "<|im_start|>"), special(IM_END, "<|im_end|>")],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let files = TextFiles {
        tokenizer: tokenizer.to_string().into_bytes(),
        tokenizer_config: Some(json!({"eos_token": "<|im_end|>"}).to_string().into_bytes()),
        chat_template: Some(template.into()),
        ..TextFiles::default()
    };
    TextModel::from_files(&files).unwrap()
}

pub(crate) fn config() -> ServerConfig {
    ServerConfig {
        max_body_bytes: 100_000,
        drain_timeout: Duration::from_millis(300),
        ..ServerConfig::default()
    }
}

/// A loaded server with the names `tiny` and `org/alias`.
pub(crate) fn app_with(fake: Fake, config: ServerConfig) -> (App, Arc<Fake>) {
    serve_with(fake, config, text_model())
}

/// The same for a model that thinks in `<think>` and calls in `<tool_call>`.
pub(crate) fn tool_app(fake: Fake) -> (App, Arc<Fake>) {
    tool_app_with(fake, config())
}

/// The same for a model whose template names these markers.
pub(crate) fn format_app(fake: Fake, markers: &str) -> (App, Arc<Fake>) {
    let mut text = text_model();
    text.set_output_format(OutputFormat::detect(markers, None));
    serve_with(fake, config(), text)
}

pub(crate) fn tool_app_with(fake: Fake, config: ServerConfig) -> (App, Arc<Fake>) {
    let mut text = text_model();
    text.set_output_format(OutputFormat::detect("<think> <tool_call>", None));
    serve_with(fake, config, text)
}

/// The same with a chat template of the test's own.
pub(crate) fn template_app(fake: Fake, template: &str) -> (App, Arc<Fake>) {
    let mut text = text_model_with(template);
    text.set_output_format(OutputFormat::detect("<think> <tool_call>", None));
    serve_with(fake, config(), text)
}

fn serve_with(fake: Fake, config: ServerConfig, text: TextModel) -> (App, Arc<Fake>) {
    let fake = Arc::new(fake);
    let app = App::new(config);
    let names = vec!["tiny".into(), "org/alias".into()];
    let generator: Arc<dyn Generator> = fake.clone();
    app.set_model(ServedModel::new(names, generator, Arc::new(text)));
    (app, fake)
}

/// A server of an embedding model, whose vectors may be cut to two elements.
pub(crate) fn pooling_app(fake: Fake) -> (App, Arc<Fake>) {
    let fake = Arc::new(Fake { pools: true, ..fake });
    let app = App::new(config());
    let generator: Arc<dyn Generator> = fake.clone();
    let model = ServedModel::new(vec!["tiny".into()], generator, Arc::new(text_model()));
    app.set_model(model.with_pooling(PoolingRules {
        size: 3,
        normalizes: true,
        matryoshka: Matryoshka::Of(vec![2]),
        lowercases: false,
        truncates: false,
        head: None,
    }));
    (app, fake)
}

/// A server of a model that scores pairs: by the first byte, as if it were a number.
pub(crate) fn scoring_app(fake: Fake, head: HeadRules) -> (App, Arc<Fake>) {
    let fake = Arc::new(Fake { pools: true, ..fake });
    let app = App::new(config());
    let generator: Arc<dyn Generator> = fake.clone();
    let model = ServedModel::new(vec!["tiny".into()], generator, Arc::new(text_model()));
    app.set_model(model.with_pooling(PoolingRules {
        size: head.num_labels,
        normalizes: false,
        matryoshka: Matryoshka::No,
        lowercases: true,
        truncates: false,
        head: Some(head),
    }));
    (app, fake)
}

pub(crate) fn app(fake: Fake) -> (App, Arc<Fake>) {
    app_with(fake, config())
}

/// What came back, whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// The data of each event.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text);
        let events = self.text.split("\n\n").filter(|event| !event.is_empty());
        let data = events.map(|event| event.strip_prefix("data: ").unwrap());
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }
}

pub(crate) async fn open(app: &App, request: Request<Body>) -> Response<Body> {
    app.router().oneshot(request).await.unwrap()
}

/// What comes back, held to the description of the API.
pub(crate) async fn send(app: &App, request: Request<Body>) -> Reply {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.clone(), parts.uri.to_string());
    let anthropics = parts.headers.contains_key("anthropic-version");
    let body = body.collect().await.unwrap().to_bytes();
    let reply = unchecked(app, Request::from_parts(parts, Body::from(body.clone()))).await;
    contract::check(&method, &path, anthropics, &body, &reply).await;
    reply
}

pub(crate) async fn unchecked(app: &App, request: Request<Body>) -> Reply {
    let response = open(app, request).await;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Reply { status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
}

pub(crate) fn post_request(path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(Method::POST).uri(path);
    request.header("content-type", "application/json").body(body.into()).unwrap()
}

pub(crate) async fn post(app: &App, path: &str, body: &Value) -> Reply {
    send(app, post_request(path, body.to_string())).await
}

pub(crate) fn get_request(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

pub(crate) async fn get(app: &App, path: &str) -> Reply {
    send(app, get_request(path)).await
}

/// A prompt as text.
pub(crate) fn prompt_text(ids: &[u32]) -> String {
    let special = |id: u32| if id == IM_END { "<|im_end|>" } else { "<|im_start|>" };
    let piece = |&id: &u32| {
        u8::try_from(id).map_or_else(|_| special(id).to_owned(), |byte| char::from(byte).into())
    };
    ids.iter().map(piece).collect()
}

/// A user saying "hi", with `extra` fields.
pub(crate) fn chat(extra: &Value) -> Value {
    with(json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}), extra)
}

/// The prompt "ab", with `extra` fields.
pub(crate) fn completion(extra: &Value) -> Value {
    with(json!({"model": "tiny", "prompt": "ab"}), extra)
}

fn with(mut body: Value, extra: &Value) -> Value {
    let extra = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(extra);
    body
}

/// The same with what changes from run to run blanked.
pub(crate) fn stable(text: &str) -> String {
    let mut text = text.to_owned();
    for (key, end, blank) in [("\"id\":\"", '"', "ID"), ("\"created\":", ',', "0")] {
        let mut from = 0;
        while let Some(found) = text[from..].find(key) {
            let start = from + found + key.len();
            let len = text[start..].find(end).unwrap();
            let generated = text[start..].starts_with(['c', '1']);
            if generated {
                text.replace_range(start..start + len, blank);
            }
            from = start;
        }
    }
    text.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

/// A body as it should have come, pretty-printed for a snapshot.
pub(crate) fn pretty(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let value: Value = serde_json::from_str(&stable(&reply.text)).unwrap();
    serde_json::to_string_pretty(&value).unwrap()
}
