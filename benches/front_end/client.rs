//! The other end of the sockets, in a process of its own, so that the server's is measured alone.
//!
//! It writes `open` when all streams have begun, and at the end what came.

use axum::http::StatusCode;
use benches::Result;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

/// The first argument of such a process.
pub(crate) const ARGUMENT: &str = "client";

/// Connections that are being made at once.
const MAX_CONNECTING: usize = 64;

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// So many requests at once, each read to its end.
    Streams,
    /// One after the other on one connection.
    Requests,
}

/// A client at work.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

/// What came to a client.
#[derive(Debug)]
pub(crate) struct Received {
    /// Events of all streams.
    pub(crate) num_events: usize,
    /// When the event of this number had come to the last stream.
    pub(crate) arrivals: Vec<Duration>,
}

impl Client {
    /// Sends `body` to `path` so many times.
    pub(crate) fn start(
        kind: Kind,
        address: SocketAddr,
        num: usize,
        (path, body): (&str, &str),
    ) -> Result<Self> {
        let mut client = Self::prepare(kind, address, num, path)?;
        client.send(body)?;
        Ok(client)
    }

    /// Starts the process, which waits for what it is to send.
    pub(crate) fn prepare(kind: Kind, address: SocketAddr, num: usize, path: &str) -> Result<Self> {
        let kind = if kind == Kind::Streams { "streams" } else { "requests" };
        let mut child = Command::new(std::env::current_exe()?)
            .args([ARGUMENT, kind, &address.to_string(), &num.to_string(), path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = std::io::BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self { child, output })
    }

    /// The body of all its requests; once.
    pub(crate) fn send(&mut self, body: &str) -> Result<()> {
        Ok(self.child.stdin.take().ok_or("it has a body")?.write_all(body.as_bytes())?)
    }

    /// Returns when all streams have begun.
    pub(crate) fn wait_open(&mut self) -> Result<()> {
        match self.line()?.as_str() {
            "open" => Ok(()),
            line => Err(format!("the client says {line:?}").into()),
        }
    }

    /// Returns when all answers have ended.
    pub(crate) fn wait(mut self) -> Result<Received> {
        let line = self.line()?;
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let num_events = numbers.next().ok_or("the client says nothing")?? as usize;
        let arrivals = numbers.map(|nanos| Ok(Duration::from_nanos(nanos?))).collect::<Result<_>>();
        self.child.wait()?;
        Ok(Received { num_events, arrivals: arrivals? })
    }

    /// Leaves without a word.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.output, &mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

/// Since 1970, which is the same moment in every process.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Runs a client, from the arguments behind the first.
#[expect(clippy::print_stdout, reason = "the other process reads it")]
pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut argument = || arguments.next().ok_or("an argument is missing");
    let (kind, address, num) = (argument()?, argument()?.parse()?, argument()?.parse()?);
    let path = argument()?;
    let mut body = String::new();
    std::io::stdin().read_to_string(&mut body)?;
    let streams = kind == "streams";
    let connection = if streams { "close" } else { "keep-alive" };
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
         connection: {connection}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (num_events, arrivals) = if streams {
            follow_all(address, num, request).await?
        } else {
            (ask(address, num, &request).await?, Vec::new())
        };
        print!("{num_events}");
        for arrival in arrivals {
            print!(" {}", arrival.as_nanos());
        }
        println!();
        Ok(())
    })
}

/// Events of all, and when the last stream had each.
#[expect(clippy::print_stdout, reason = "the other process reads it")]
async fn follow_all(
    address: SocketAddr,
    num: usize,
    request: String,
) -> Result<(usize, Vec<Duration>)> {
    let connecting = Arc::new(Semaphore::new(MAX_CONNECTING));
    let request = Arc::new(request);
    let (opened, mut open) = mpsc::channel(1);
    let mut tasks = Vec::new();
    for _ in 0..num {
        let (connecting, request) = (Arc::clone(&connecting), Arc::clone(&request));
        let opened = opened.clone();
        tasks.push(tokio::spawn(async move {
            let permit = connecting.acquire().await.map_err(|error| error.to_string())?;
            let stream = begin(address, &request).await.map_err(|error| error.to_string())?;
            drop((permit, opened));
            follow(stream).await.map_err(|error| error.to_string())
        }));
    }
    drop(opened);
    // Nothing is sent: it ends with the last that opens.
    let _: Option<()> = open.recv().await;
    println!("open");
    let (mut num_events, mut latest) = (0, Vec::new());
    for task in tasks {
        let arrivals = task.await??;
        num_events += arrivals.len();
        latest.resize(latest.len().max(arrivals.len()), Duration::ZERO);
        for (latest, arrival) in latest.iter_mut().zip(arrivals) {
            *latest = arrival.max(*latest);
        }
    }
    Ok((num_events, latest))
}

/// Sends the request and reads the head of its answer.
async fn begin(address: SocketAddr, request: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let (_, rest) = read_head(&mut stream).await?;
    assert!(rest.is_empty(), "the first event comes with the first step");
    Ok(stream)
}

/// When each event came.
async fn follow(mut stream: TcpStream) -> std::io::Result<Vec<Duration>> {
    let mut buffer = vec![0; 4096];
    let (mut arrivals, mut last) = (Vec::new(), 0);
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Ok(arrivals);
        }
        let now = now();
        for &byte in &buffer[..len] {
            if byte == b'\n' && last == b'\n' {
                arrivals.push(now);
            }
            last = byte;
        }
    }
}

/// How many answers were whole.
async fn ask(address: SocketAddr, num: usize, request: &str) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(address).await?;
    for _ in 0..num {
        stream.write_all(request.as_bytes()).await?;
        let (head, mut rest) = read_head(&mut stream).await?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        while rest.len() < length {
            stream.read_buf(&mut rest).await?;
        }
    }
    Ok(num)
}

/// The head of an answer, and what came with it.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let head = String::from_utf8_lossy(&bytes).into_owned();
            let is_ok = head.split(' ').nth(1) == Some(StatusCode::OK.as_str());
            assert!(is_ok, "{head}{}", String::from_utf8_lossy(&rest));
            return Ok((head, rest));
        }
    }
}
