//! Connections: how many there may be, the TLS handshake, HTTP/1.1 or HTTP/2, and when one is
//! closed that its client does not use.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use super::CLOSING_TIME;
use super::activity::{Activity, Arriving};
use super::socket::{Accepted, Careful, Stream};
use super::tls::Tls;
use super::workers::Workers;
use crate::error::ApiError;
use crate::seldom::Seldom;
use crate::state::App;

/// Longest request head, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long the TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// HTTP/2: requests at once on one connection.
const MAX_STREAMS: u32 = 256;
/// HTTP/2: a client that does not answer a ping is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections over the limit that are told so at once; more are closed without a word.
const MAX_REFUSALS: usize = 64;
/// Under attack there may be thousands a second: the log hears of them this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// How long telling so may take.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Everything that is open.
#[derive(Debug)]
pub(super) struct Connections {
    workers: Workers,
    http: Arc<Http>,
    tls: Option<Arc<Tls>>,
    limit: usize,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    /// Since the last complaint in the log.
    num_refused: AtomicU64,
    last_complaint: Mutex<Option<Instant>>,
    closing: watch::Sender<bool>,
}

impl Connections {
    pub(super) fn start(app: &App, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        let limit = app.config().max_connections;
        Ok(Self {
            workers: Workers::start()?,
            http: Arc::new(Http::new(app)),
            tls,
            limit,
            places: Arc::new(Semaphore::new(limit)),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            num_refused: AtomicU64::new(0),
            last_complaint: Mutex::new(None),
            closing: watch::Sender::new(false),
        })
    }

    /// Serves a connection on a worker, or refuses it.
    pub(super) fn spawn(&self, accepted: Accepted) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return self.refuse(accepted);
        };
        let (http, tls, closing) =
            (Arc::clone(&self.http), self.tls.clone(), self.closing.subscribe());
        let (worker, on_worker) = self.workers.place();
        worker.spawn(async move {
            let _places = (place, on_worker);
            if let Err(error) = connect(&http, tls, accepted, closing).await {
                // Clients that go away are no fault of ours.
                tracing::debug!(error, "a connection ended early");
            }
        });
    }

    fn refuse(&self, accepted: Accepted) {
        self.num_refused.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last_complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL) {
            *last = Some(Instant::now());
            let refused = self.num_refused.swap(0, Ordering::Relaxed);
            tracing::warn!(refused, limit = self.limit, "too many connections: --max-connections");
        }
        if self.tls.is_some() {
            return; // It would cost a handshake.
        }
        let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let (worker, on_worker) = self.workers.place();
        worker.spawn(async move {
            let _places = (place, on_worker);
            let _ = timeout(REFUSAL_TIME, refuse(accepted)).await;
        });
    }

    /// Asks every connection to end with what it is doing.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Resolves when none is open.
    pub(super) async fn ended(&self) {
        let all = u32::try_from(self.limit).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.places.acquire_many(all).await;
    }
}

/// Tells a client that there is no place for it. It may be any HTTP; most are 1.1.
async fn refuse(accepted: Accepted) -> io::Result<()> {
    let mut stream = accepted.open()?;
    let message = "The server has as many connections as it may have. Try again later.";
    let body = ApiError::unavailable("too_many_connections", message).body().to_string();
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
                retry-after: 1\r\nconnection: close\r\ncontent-length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    stream.shutdown().await?;
    // Bytes left unread would make the kernel reset the connection before the client has read this.
    let mut sent = [0; 4096];
    while stream.read(&mut sent).await? > 0 {}
    Ok(())
}

async fn connect(
    http: &Http,
    tls: Option<Arc<Tls>>,
    accepted: Accepted,
    closing: watch::Receiver<bool>,
) -> Result<(), String> {
    let stream = accepted.open().map_err(|error| error.to_string())?;
    let activity = Activity::new();
    let stream = Careful::new(stream, Arc::clone(&activity));
    let stream: Stream = match tls {
        None => Box::new(stream),
        Some(tls) => match timeout(HANDSHAKE_TIME, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => return Err(format!("TLS handshake: {error}")),
            Err(_) => return Err("TLS handshake: it took too long".into()),
        },
    };
    http.run(stream, &activity, closing).await.map_err(|error| error.to_string())
}

/// How connections speak.
#[derive(Debug)]
struct Http {
    builder: auto::Builder<TokioExecutor>,
    router: TowerToHyperService<Router>,
    idle_time: Duration,
    stall_time: Duration,
}

impl Http {
    fn new(app: &App) -> Self {
        let config = app.config();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Self {
            builder,
            router: TowerToHyperService::new(app.router()),
            idle_time: config.header_timeout,
            // Heartbeats are what a stream gets on with while it is queued.
            stall_time: config.stall_timeout.max(config.heartbeat * 2),
        }
    }

    async fn run(
        &self,
        stream: Stream,
        activity: &Arc<Activity>,
        mut closing: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let service = service_fn(|request: Request<Incoming>| {
            let handling = activity.handle(request.version());
            let response =
                self.router.call(request.map(|body| Body::new(Arriving::new(body, activity))));
            async move {
                Ok::<_, std::convert::Infallible>(
                    response.await?.map(|body| handling.answering(body)),
                )
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let end = Seldom::new(async {
            tokio::select! {
                () = activity.wasted(self.idle_time, self.stall_time) => {}
                // The sender lives as long as the listener: an error says the same.
                _ = closing.wait_for(|closing| *closing) => {}
            }
        });
        tokio::select! {
            biased;
            done = connection.as_mut() => return done,
            () = end => {}
        }
        connection.as_mut().graceful_shutdown();
        // HTTP/2 asks the client first, which may not answer; a request may have come meanwhile.
        let abandoned = async {
            sleep(CLOSING_TIME).await;
            activity.wasted(CLOSING_TIME, self.stall_time).await;
        };
        tokio::select! {
            done = connection => done,
            () = abandoned => Err("idle, or its answer is not read".into()),
        }
    }
}
