//! The server under test, as found before the load begins: its model, its fields, its tokenizer.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::api::{Api, Fields, Input};
use crate::cli::{IgnoreEos, ServeArgs};
use crate::client::Client;
use crate::failure::{Failure, FailureKind};
use crate::request::{Asked, Sample, ask};

/// How long the look at the server may take: it may be busy or load lazily.
const PROBE_TIMEOUT: Duration = Duration::from_mins(2);

/// A server that has answered.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) client: Arc<Client>,
    pub(crate) api: Api,
    pub(crate) model: String,
    pub(crate) fields: Fields,
    /// What the server calls itself, if it says so.
    pub(crate) version: Option<String>,
    pub(crate) timeout: Duration,
    /// Events with output so far, of all requests.
    pub(crate) num_events: AtomicU64,
    extra: Map<String, Value>,
}

impl Server {
    /// Asks the server for its model and for one token, and learns which fields it takes.
    pub(crate) async fn connect(args: &ServeArgs) -> Result<Self> {
        let client = Arc::new(Client::new(&args.url, args.api_key.as_deref(), &args.header)?);
        let extra = match &args.extra_body {
            None => Map::new(),
            Some(text) => serde_json::from_str(text)
                .with_context(|| format!("--extra-body `{text}`: wants a JSON object"))?,
        };
        let model = match &args.model {
            Some(model) => model.clone(),
            None => first_model(&client, &args.url).await?,
        };
        let path = client.root_path("/version");
        let version = client.json(Method::GET, &path, None);
        let version = tokio::time::timeout(PROBE_TIMEOUT, version).await;
        let version = version.ok().and_then(Result::ok);
        let version = version.and_then(|json| json["version"].as_str().map(str::to_owned));
        let fields =
            Fields { ignore_eos: args.ignore_eos != IgnoreEos::Never, include_usage: true };
        let server = Self::unchecked(client, args.api, model, args.timeout);
        let mut server = Self { fields, version, extra, ..server };
        server.learn_fields(args.ignore_eos).await?;
        Ok(server)
    }

    /// A server about which nothing is to be found out.
    pub(crate) fn unchecked(
        client: Arc<Client>,
        api: Api,
        model: String,
        timeout: Duration,
    ) -> Self {
        Self {
            client,
            api,
            model,
            fields: Fields { ignore_eos: false, include_usage: false },
            version: None,
            timeout,
            num_events: AtomicU64::new(0),
            extra: Map::new(),
        }
    }

    /// Leaves out the fields that the server refuses.
    async fn learn_fields(&mut self, ignore_eos: IgnoreEos) -> Result<()> {
        let input = Input::Text("Say something.".to_owned());
        loop {
            let sample = self.probe(&input, 2).await;
            let Err(error) = sample else { return Ok(()) };
            let refused = error
                .downcast_ref::<Failure>()
                .is_some_and(|failure| failure.kind == FailureKind::BadRequest);
            let names = |field: &str| error.to_string().contains(field);
            if refused && self.fields.include_usage && names("stream_options") {
                self.fields.include_usage = false;
            } else if refused && self.fields.ignore_eos && ignore_eos == IgnoreEos::Auto {
                // Not every server names the field that it does not know.
                self.fields.ignore_eos = false;
            } else if refused && self.fields.include_usage && self.api != Api::Responses {
                self.fields.include_usage = false;
            } else {
                let path = self.client.api_path(self.api.endpoint());
                return Err(error.context(format!("the first request ({path}) failed")));
            }
        }
    }

    /// The bytes of a request.
    pub(crate) fn body(&self, input: &Input, max_tokens: usize) -> Bytes {
        let body = self.api.body(&self.model, input, max_tokens, self.fields, &self.extra);
        Bytes::from(body.to_string())
    }

    /// One request outside of any measurement; a failure is an error.
    pub(crate) async fn probe(&self, input: &Input, max_tokens: usize) -> Result<Sample> {
        let asked = Asked { prompt_tokens: None, output_tokens: max_tokens, keep_text: false };
        let now = Instant::now();
        let sample = ask(self, input, asked, now, now, PROBE_TIMEOUT).await;
        match sample.failure {
            Some(failure) => Err(failure.into()),
            None => Ok(sample),
        }
    }

    /// Tokens of the prompt that a text makes, by the server's `/tokenize`.
    pub(crate) async fn tokenize(&self, text: &str) -> Result<usize> {
        let body = match self.api {
            Api::Completions => json!({"model": self.model, "prompt": text}),
            Api::Chat | Api::Responses => {
                json!({"model": self.model, "messages": [{"role": "user", "content": text}]})
            }
        };
        let path = self.client.root_path("/tokenize");
        let answer = self.client.json(Method::POST, &path, Some(&body));
        let answer = tokio::time::timeout(PROBE_TIMEOUT, answer).await.context("/tokenize")??;
        let count = answer["count"].as_u64().map(|count| count as usize);
        let count = count.or_else(|| answer["tokens"].as_array().map(Vec::len));
        count.with_context(|| format!("/tokenize gave neither count nor tokens: {answer}"))
    }
}

/// The model that the server lists first.
pub(crate) async fn first_model(client: &Arc<Client>, url: &str) -> Result<String> {
    let path = client.api_path("/models");
    let answer = client.json(Method::GET, &path, None);
    let answer = tokio::time::timeout(PROBE_TIMEOUT, answer).await;
    let answer = answer.map_err(|_| anyhow!("--url {url}: no answer to GET {path}"))?;
    let models = match answer {
        Ok(models) => models,
        Err(failure) => match failure.kind {
            FailureKind::Connect => bail!("no server answers at {url} ({failure}): is it running?"),
            FailureKind::Unauthorized => bail!("{url} wants a key: give --api-key ({failure})"),
            _ => bail!("GET {path}: {failure}; --model NAME makes this look-up unnecessary"),
        },
    };
    let id = models["data"][0]["id"].as_str();
    Ok(id.with_context(|| format!("{url} lists no model: give --model"))?.to_owned())
}
