//! The server that is examined: how it is asked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::DoctorArgs;
use super::verdict::{Verdict, not_supported, short, wrong};
use super::wire::{Wire, exchange};
use crate::client::{Answer, Client};
use crate::failure::{Failure, FailureKind, error_message};
use crate::server::first_model;

pub(super) const CHAT: &str = "/chat/completions";
/// What the SDKs of OpenAI send. A stream must not be compressed for it; whole answers may be, which
/// nobody here could read.
const ACCEPT_ENCODING: &str = "accept-encoding: gzip, deflate";

const FREED_WITHIN: Duration = Duration::from_secs(5);

/// A server, and as whom it is asked.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) url: String,
    pub(super) model: String,
    /// Tokens of its context, if it says so.
    pub(super) max_model_len: Option<usize>,
    api_key: Option<String>,
    pub(super) timeout: Duration,
    /// How long a place may stay taken after its client has left.
    pub(super) freed_within: Duration,
    client: Arc<Client>,
    stream_client: Arc<Client>,
}

impl Subject {
    /// Asks which model there is; that much must work.
    pub(super) async fn connect(args: &DoctorArgs) -> Result<Self> {
        let api_key = args.api_key.clone();
        let client = Arc::new(Client::new(&args.url, api_key.as_deref(), &[])?);
        let headers = [ACCEPT_ENCODING.to_owned()];
        let stream_client = Arc::new(Client::new(&args.url, api_key.as_deref(), &headers)?);
        let model = match &args.model {
            Some(model) => model.clone(),
            None => first_model(&client, &args.url).await?,
        };
        let mut subject = Self {
            url: args.url.clone(),
            model,
            max_model_len: None,
            api_key,
            timeout: args.timeout,
            freed_within: FREED_WITHIN,
            client,
            stream_client,
        };
        let models = subject.get("/models").await.and_then(|reply| reply.good());
        let models = models.unwrap_or_default();
        let mut cards = models["data"].as_array().into_iter().flatten();
        let card = cards.find(|card| card["id"] == *subject.model);
        let length = card.and_then(|card| card["max_model_len"].as_u64());
        subject.max_model_len = length.map(|length| length as usize);
        Ok(subject)
    }

    /// The same server asked with another key and further headers, `Name: value`.
    pub(super) fn with(&self, api_key: Option<&str>, headers: &[&str]) -> Verdict<Self> {
        let headers: Vec<_> = headers.iter().map(|&header| header.to_owned()).collect();
        match Client::new(&self.url, api_key, &headers) {
            Ok(client) => Ok(Self { client: Arc::new(client), ..self.clone() }),
            Err(error) => wrong(error),
        }
    }

    /// The same server and key with further headers.
    pub(super) fn with_headers(&self, headers: &[&str]) -> Verdict<Self> {
        self.with(self.api_key.as_deref(), headers)
    }

    /// `fields` with the model's name.
    pub(super) fn body(&self, fields: &Value) -> Value {
        let mut body = json!({"model": self.model});
        laid_over(&mut body, fields);
        body
    }

    pub(super) async fn get(&self, endpoint: &str) -> Verdict<Reply> {
        self.send(Method::GET, &self.client.api_path(endpoint), "").await
    }

    /// Beside the API: `/metrics`.
    pub(super) async fn get_root(&self, endpoint: &str) -> Verdict<Reply> {
        self.send(Method::GET, &self.client.root_path(endpoint), "").await
    }

    pub(super) async fn post(&self, endpoint: &str, fields: &Value) -> Verdict<Reply> {
        self.call(Method::POST, endpoint, self.body(fields).to_string()).await
    }

    /// Any method and body at an endpoint of the API.
    pub(super) async fn call(
        &self,
        method: Method,
        endpoint: &str,
        body: impl Into<Bytes>,
    ) -> Verdict<Reply> {
        self.send(method, &self.client.api_path(endpoint), body).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Verdict<Reply> {
        let reply = async {
            let answer = self.client.send(method, path, body.into()).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            Ok(Reply { status, headers, body: answer.whole().await? })
        };
        self.in_time(reply).await
    }

    /// A stream as it is on the wire.
    pub(super) async fn stream(&self, endpoint: &str, fields: &Value) -> Verdict<Wire> {
        let mut body = self.body(fields);
        body["stream"] = Value::Bool(true);
        self.in_time(exchange(&self.stream_client, &self.client.api_path(endpoint), &body)).await
    }

    /// A stream whose reader may leave: dropping the answer closes the connection.
    pub(super) async fn start(&self, endpoint: &str, fields: &Value) -> Verdict<Answer> {
        let mut body = self.body(fields);
        body["stream"] = Value::Bool(true);
        let path = self.client.api_path(endpoint);
        self.in_time(self.client.send(Method::POST, &path, body.to_string().into())).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Verdict<T> {
        let late =
            || Failure::new(FailureKind::Timeout, format!("no answer within {:?}", self.timeout));
        Ok(timeout(self.timeout, work).await.map_err(|_| late())??)
    }
}

/// Puts the members of `fields` into `body`.
pub(super) fn laid_over(body: &mut Value, fields: &Value) {
    for (name, value) in fields.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(super) fn json(&self) -> Verdict<Value> {
        match serde_json::from_slice(&self.body) {
            Ok(json) => Ok(json),
            Err(error) => wrong(format!(
                "HTTP {} with what is no JSON ({error}): {}",
                self.status,
                short(&String::from_utf8_lossy(&self.body))
            )),
        }
    }

    /// What a request gets that every server must take.
    pub(super) fn good(&self) -> Verdict<Value> {
        if self.status == 200 { self.json() } else { wrong(self.complaint()) }
    }

    /// What a request gets that a server may refuse.
    pub(super) fn supported(&self) -> Verdict<Value> {
        if is_refusal(self.status) { not_supported(self.complaint()) } else { self.good() }
    }

    /// Status and message of an answer that is none.
    pub(super) fn complaint(&self) -> String {
        complaint(self.status, &self.body)
    }
}

/// Statuses by which servers say that they do not do something.
pub(super) fn is_refusal(status: u16) -> bool {
    [400, 404, 405, 422, 501].contains(&status)
}

pub(super) fn complaint(status: u16, body: &[u8]) -> String {
    let message = match serde_json::from_slice(body) {
        Ok(json) => error_message(&json),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    format!("HTTP {status}: {}", short(&message))
}
