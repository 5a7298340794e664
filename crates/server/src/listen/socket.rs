//! What is accepted from, and a connection's bytes below TLS: they tell of every write, and a close
//! lets the client read the answer to a request that it is still sending.

use std::io;
use std::os::unix;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;

/// When the kernel asks whether a silent client is still there, and how often before it gives up.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// How long a close waits for a client that is still sending.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How much of what it sends is read away in one go.
const DISCARD_BYTES: usize = 16 << 10;

/// A listening socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket that is watched by no runtime yet.
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(unix::net::UnixStream),
}

impl Socket {
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%error, "cannot set TCP options");
                }
                stream.into_std().map(Accepted::Tcp)
            }
            Self::Unix(listener) => listener.accept().await?.0.into_std().map(Accepted::Unix),
        }
    }
}

impl Accepted {
    /// Watched by this task's runtime from now on.
    pub(super) fn open(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Box::new(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Box::new(UnixStream::from_std(stream)?),
        })
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    // An event is a small write: it must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The bytes of a connection, whatever carries them.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

pub(super) type Stream = Box<dyn Bytes>;

/// A stream that tells of its writes and closes with care.
pub(super) struct Careful {
    stream: Stream,
    activity: Arc<Activity>,
    /// Set once our side is closed.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Careful {
    pub(super) fn new(stream: Stream, activity: Arc<Activity>) -> Self {
        Self { stream, activity, linger: None }
    }

    fn noted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.activity.wrote();
        }
        written
    }
}

impl AsyncRead for Careful {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Careful {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes our side. Dropping a socket with unread bytes makes the kernel reset the connection,
    /// and a client that is still sending loses the answer, such as a 413, before it reads it: what
    /// it sends is read away for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            let has_unread = matches!(discard(&mut self.stream, cx), Poll::Ready(Ok(1..)));
            if !has_unread && !self.activity.is_sending() {
                return Poll::Ready(Ok(()));
            }
            self.linger = Some(Box::pin(sleep(LINGER_TIME)));
        }
        let this = &mut *self;
        if this.linger.as_mut().is_some_and(|until| until.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        match ready!(discard(&mut this.stream, cx)) {
            Ok(1..) => {
                // There may be more. Others get their turn first.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(0) | Err(_) => Poll::Ready(Ok(())),
        }
    }
}

/// Reads away some bytes; how many. 0 is the end.
fn discard(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut bytes = [0; DISCARD_BYTES];
    let mut buf = ReadBuf::new(&mut bytes);
    ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}
