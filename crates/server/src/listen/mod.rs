//! Listening: a TCP port or a unix socket, in clear or in TLS, HTTP/1.1 and HTTP/2 alike. Accepts
//! up to the limit, and lets go in good order when the process is asked to end.

mod activity;
mod connection;
mod socket;
mod tls;
mod workers;

use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use self::connection::Connections;
use self::socket::Socket;
pub use self::tls::{ClientCerts, Tls, TlsError, TlsFiles};
use crate::state::App;

/// What the threads are called that serve connections.
pub const CONNECTION_THREADS: &str = "connections";

/// How long connections may take to send their last bytes.
const CLOSING_TIME: Duration = Duration::from_secs(3);
/// How long to wait after a failed accept: there are too many open files, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where requests come in.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    tls: Option<Arc<Tls>>,
}

impl Listener {
    /// The same, in TLS.
    #[must_use]
    pub fn with_tls(self, tls: Arc<Tls>) -> Self {
        Self { tls: Some(tls), ..self }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { socket: Socket::Tcp(listener), tls: None }
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self { socket: Socket::Unix(listener), tls: None }
    }
}

/// Serves `app` until `shutdown` resolves. From then on `/ready` says 503; after the drain delay
/// nothing is accepted any more and requests in flight finish, past the drain timeout with an error
/// event.
///
/// # Errors
/// The threads for connections cannot be started. None after the start: a failing accept is tried again.
pub async fn serve(
    listener: impl Into<Listener>,
    app: App,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let Listener { socket, tls } = listener.into();
    app.text_pool().run_on(Handle::current());
    let connections = Connections::start(&app, tls.clone())?;
    let ended = async {
        shutdown.await;
        app.start_stopping();
        // Where nothing can be served nothing is worth waiting for.
        if app.fault().is_none() {
            sleep(app.config().drain_delay).await;
        }
    };
    let refreshed = async {
        match &tls {
            Some(tls) => tls.follow_files().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = ended => {}
        () = accept(&socket, &connections) => {}
        () = refreshed => {}
    }
    app.start_draining();
    drop(socket);
    connections.close();
    drain(&app).await;
    if timeout(CLOSING_TIME, connections.ended()).await.is_err() {
        tracing::warn!("some connections did not close in time");
    }
    Ok(())
}

/// Accepts for ever.
async fn accept(socket: &Socket, connections: &Connections) {
    loop {
        match socket.accept().await {
            Ok(accepted) => connections.spawn(accepted),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Returns when nothing is in flight any more.
async fn drain(app: &App) {
    let drain_timeout = app.config().drain_timeout;
    if timeout(drain_timeout, app.idle()).await.is_err() {
        tracing::warn!(?drain_timeout, "ending the requests that are still in flight");
        app.cut();
        // A client that does not read its last events is not waited for.
        let _ = timeout(CLOSING_TIME, app.idle()).await;
    }
}
