//! A lean HTTP/1.1 client: kept connections, no redirects, no decoding, nothing between the socket
//! and the reader. Everything runs on the one thread of the generator.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::failure::{Failure, FailureKind};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that is not a stream.
const MAX_ANSWER_BYTES: usize = 64 << 20;

type Sender = SendRequest<Full<Bytes>>;

/// A connection's bytes, in TLS or in clear.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Transport for T {}

/// Where requests go, and the connections there.
#[derive(Debug)]
pub(crate) struct Client {
    host: String,
    port: u16,
    tls: Option<Tls>,
    /// Path of the API's base, without a slash at the end: `/v1`.
    base: String,
    headers: HeaderMap,
    idle: Mutex<Vec<Sender>>,
    num_opened: AtomicUsize,
}

struct Tls(TlsConnector, ServerName<'static>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.1.fmt(f)
    }
}

impl Client {
    /// Understands `http://host:port`, with or without `/v1`. `headers` are `Name: value`.
    pub(crate) fn new(url: &str, api_key: Option<&str>, headers: &[String]) -> Result<Self> {
        let with_scheme =
            if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = with_scheme.parse().with_context(|| format!("--url {url}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("--url {url}: wants http:// or https://"),
        };
        let host = uri.host().with_context(|| format!("--url {url}: names no host"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let base = match uri.path().trim_end_matches('/') {
            "" => "/v1".to_owned(),
            path => path.to_owned(),
        };
        let authority = uri.authority().context("a host was found")?.as_str();
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        Ok(Self {
            tls: if secure { Some(Tls::new(&host)?) } else { None },
            headers: header_map(authority, api_key, headers)?,
            host,
            port,
            base,
            idle: Mutex::new(Vec::new()),
            num_opened: AtomicUsize::new(0),
        })
    }

    /// Path of an endpoint of the API: `/chat/completions` is at `/v1/chat/completions`.
    pub(crate) fn api_path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.base)
    }

    /// Path beside the API: `/tokenize` is at the root where the API is at `/v1`.
    pub(crate) fn root_path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.base.strip_suffix("/v1").unwrap_or(&self.base))
    }

    /// Connections opened so far.
    pub(crate) fn num_opened(&self) -> usize {
        self.num_opened.load(Ordering::Relaxed)
    }

    /// Sends a request; the answer's body is still to be read.
    pub(crate) async fn send(
        self: &Arc<Self>,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        if let Some(mut sender) = self.kept() {
            // The server may have closed a kept connection just now: that is no failure of it.
            let sent = sender.send_request(self.request(method.clone(), path, body.clone())).await;
            match sent {
                Ok(response) => return Ok(self.answer(response, sender)),
                Err(error) if error.is_canceled() || error.is_incomplete_message() => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(self.request(method, path, body)).await;
        Ok(self.answer(response.map_err(|error| broken(&error))?, sender))
    }

    /// Sends a request and reads the whole answer as JSON.
    pub(crate) async fn json(
        self: &Arc<Self>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = self.send(method, path, body).await?.checked().await?;
        let bytes = answer.whole().await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new(FailureKind::Malformed, format!("{path}: {error}")))
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
        request.headers_mut().clone_from(&self.headers);
        request
    }

    /// A connection whose last answer was read to the end.
    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }

    /// A connection on which nothing has been said.
    pub(crate) async fn open(&self) -> Result<Pin<Box<dyn Transport>>, Failure> {
        let transport = tokio::time::timeout(CONNECT_TIMEOUT, self.transport()).await;
        let transport = transport.map_err(|_| self.no_connection(&"no connection within 10 s"))?;
        transport.map_err(|error| self.no_connection(&error))
    }

    /// The head of a POST of so many bytes as it is written on a connection of [`Self::open`].
    pub(crate) fn post_head(&self, path: &str, length: usize) -> Vec<u8> {
        let mut head = format!("POST {path} HTTP/1.1\r\n").into_bytes();
        for (name, value) in &self.headers {
            head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        head.extend(format!("content-length: {length}\r\n\r\n").into_bytes());
        head
    }

    fn no_connection(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(FailureKind::Connect, format!("{}:{}: {why}", self.host, self.port))
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let io = TokioIo::new(self.open().await?);
        let shaken = handshake(io).await;
        let (sender, connection) = shaken.map_err(|error| self.no_connection(&error))?;
        self.num_opened.fetch_add(1, Ordering::Relaxed);
        // What goes wrong on the connection reaches the request that is on it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn transport(&self) -> io::Result<Pin<Box<dyn Transport>>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::pin(tcp),
            Some(Tls(connector, name)) => Box::pin(connector.connect(name.clone(), tcp).await?),
        })
    }

    fn answer(self: &Arc<Self>, response: Response<Incoming>, sender: Sender) -> Answer {
        Answer { response, sender, client: Arc::clone(self) }
    }
}

impl Tls {
    fn new(host: &str) -> Result<Self> {
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect::<RootCertStore>();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(host.to_owned());
        let name = name.with_context(|| format!("--url: `{host}` is no host name"))?;
        Ok(Self(TlsConnector::from(Arc::new(config)), name))
    }
}

fn header_map(authority: &str, api_key: Option<&str>, extra: &[String]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_str(authority).context("--url")?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = api_key {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
            .context("--api-key: has characters that a header cannot carry")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    for header in extra {
        let (name, value) = header
            .split_once([':', '='])
            .with_context(|| format!("--header `{header}`: wants `Name: value`"))?;
        let name = HeaderName::from_bytes(name.trim().as_bytes());
        let name = name.with_context(|| format!("--header `{header}`"))?;
        let value = HeaderValue::from_str(value.trim());
        headers.insert(name, value.with_context(|| format!("--header `{header}`"))?);
    }
    Ok(headers)
}

/// A connection that broke before or while an answer came.
pub(crate) fn broken(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        Failure::new(FailureKind::Malformed, format!("not HTTP: {error}"))
    } else {
        Failure::new(FailureKind::StreamCut, format!("the connection broke: {error}"))
    }
}

/// An answer whose head has arrived.
#[derive(Debug)]
pub(crate) struct Answer {
    response: Response<Incoming>,
    sender: Sender,
    client: Arc<Client>,
}

impl Answer {
    /// Turns an error status into the failure that it tells of.
    pub(crate) async fn checked(self) -> Result<Self, Failure> {
        let status = self.response.status();
        if status.is_success() {
            return Ok(self);
        }
        let retry_after = self.response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let body = self.whole().await?;
        Err(Failure::of_answer(status.as_u16(), &body, retry_after.map(Duration::from_secs)))
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The whole body.
    pub(crate) async fn whole(mut self) -> Result<Bytes, Failure> {
        let body = Limited::new(self.response.body_mut(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| Failure::new(FailureKind::StreamCut, error))?;
        self.done();
        Ok(body.to_bytes())
    }

    /// The next bytes, as they come off the socket; `None` at the end of the body.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            match self.response.body_mut().frame().await? {
                Err(error) => return Some(Err(broken(&error))),
                Ok(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Some(Ok(bytes));
                    }
                }
            }
        }
    }

    /// Keeps the connection for others: the body was read to its end.
    pub(crate) fn done(self) {
        self.client.keep(self.sender);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Client {
        Client::new(url, None, &[]).unwrap()
    }

    #[test]
    fn urls_as_people_give_them() {
        for url in ["localhost:8000", "http://localhost:8000/", "http://localhost:8000/v1/"] {
            let client = client(url);
            assert_eq!((client.host.as_str(), client.port), ("localhost", 8000));
            assert_eq!(client.api_path("/models"), "/v1/models");
            assert_eq!(client.root_path("/tokenize"), "/tokenize");
        }
        let client = client("http://[::1]/openai/v1");
        assert_eq!((client.host.as_str(), client.port), ("::1", 80));
        assert_eq!(client.api_path("/models"), "/openai/v1/models");
        assert_eq!(client.root_path("/tokenize"), "/openai/tokenize");
        assert_eq!(client.headers[HOST], "[::1]");
        for wrong in ["ftp://host", "http://", "http://a b"] {
            assert!(Client::new(wrong, None, &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn https_and_headers() {
        let headers = ["X-Team: blue".to_owned()];
        let client = Client::new("https://api.example.com", Some("key"), &headers).unwrap();
        assert_eq!(client.port, 443);
        assert!(client.tls.is_some());
        assert_eq!(client.headers["authorization"], "Bearer key");
        assert_eq!(client.headers["x-team"], "blue");
        assert!(Client::new("http://a", None, &["nothing".to_owned()]).is_err());
    }
}
