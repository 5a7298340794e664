//! Connections: accepted, timed, and let go in good order when the process is asked to end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::state::App;

/// Longest request head, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long connections may take to send their last bytes.
const CLOSING_TIME: Duration = Duration::from_secs(3);

/// Serves `app` on `listener` until `shutdown` resolves, then drains: `/ready` and new requests
/// get 503 while those in flight finish; past the drain timeout they end with an error event.
///
/// # Errors
/// None after the start: a failing accept (too many open files) is tried again.
pub async fn serve(
    listener: TcpListener,
    app: App,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let connections = GracefulShutdown::new();
    let router = app.router();
    let header_timeout = app.config().header_timeout;
    let mut ended = pin!(async {
        shutdown.await;
        drain(&app).await;
    });
    loop {
        let accepted = tokio::select! {
            () = &mut ended => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let watcher = connections.watcher();
                tokio::spawn(connection(stream, router.clone(), header_timeout, watcher));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if timeout(CLOSING_TIME, connections.shutdown()).await.is_err() {
        tracing::warn!("some connections did not close in time");
    }
    Ok(())
}

/// Returns when nothing is in flight any more.
async fn drain(app: &App) {
    app.start_draining();
    let drain_timeout = app.config().drain_timeout;
    if timeout(drain_timeout, app.idle()).await.is_err() {
        tracing::warn!(?drain_timeout, "ending the requests that are still in flight");
        app.cut();
        // A client that does not read its last events is not waited for.
        let _ = timeout(CLOSING_TIME, app.idle()).await;
    }
}

async fn connection(stream: TcpStream, router: Router, header_timeout: Duration, watcher: Watcher) {
    // An event is a small write: it must not wait for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        // Clients that go away are no fault of ours.
        tracing::debug!(%error, "a connection ended early");
    }
}
