//! A server that does nothing but stream: known contents at known times, cut where one likes. The
//! generator is measured against it, and tested.

use std::sync::Arc;
#[cfg(test)]
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server answers to a request.
pub(crate) type Script = dyn Fn(&Asked) -> Vec<Step> + Send + Sync;

/// A request as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    /// `POST /v1/completions`
    pub(crate) line: String,
    /// The head in lower case.
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

/// A piece of an answer, byte for byte.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Waits.
    #[cfg(test)]
    Pause(Duration),
    /// Lets the other streams write, so that what follows arrives on its own.
    Yield,
    /// Writes, as one write.
    Write(Arc<[u8]>),
    #[cfg(test)]
    /// Closes the connection, without an end of the answer.
    Close,
}

/// Serves on a free port until the runtime ends. Returns the URL.
pub(crate) async fn serve(script: Arc<Script>) -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a free port")?;
    let url = format!("http://{}", listener.local_addr().context("a free port")?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = Arc::clone(&script);
            // A client that leaves ends its connection, nothing else.
            tokio::spawn(async move { drop(talk(stream, &*script).await) });
        }
    });
    Ok(url)
}

async fn talk(mut stream: TcpStream, script: &Script) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    while let Some(asked) = read(&mut stream, &mut bytes).await? {
        for step in script(&asked) {
            match step {
                #[cfg(test)]
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::Yield => tokio::task::yield_now().await,
                Step::Write(bytes) => stream.write_all(&bytes).await?,
                #[cfg(test)]
                Step::Close => return Ok(()),
            }
        }
    }
    Ok(())
}

/// The next request of a connection; what came behind it stays in `bytes`.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<Option<Asked>> {
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
            if bytes.len() >= end + 4 + length {
                let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
                let line = line.lines().next().unwrap_or_default().to_owned();
                let body = serde_json::from_slice(&bytes[end + 4..end + 4 + length]);
                bytes.drain(..end + 4 + length);
                let line = line.trim_end_matches(" HTTP/1.1").to_owned();
                return Ok(Some(Asked { line, head, body: body.unwrap_or_default() }));
            }
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// A whole answer of JSON.
pub(crate) fn json(status: &str, headers: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    vec![write(format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    ))]
}

/// The head of an answer in chunks.
pub(crate) fn stream_head() -> Step {
    write(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )
}

/// One HTTP chunk with one event.
pub(crate) fn event(data: &str) -> String {
    let event = format!("data: {data}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// The end of an answer in chunks.
pub(crate) fn stream_end() -> Step {
    write("0\r\n\r\n")
}

pub(crate) fn write(text: impl AsRef<[u8]>) -> Step {
    Step::Write(text.as_ref().into())
}

/// An event of `/v1/completions` as servers send it.
pub(crate) fn completion_event(text: &str) -> String {
    format!(
        "{{\"id\":\"cmpl-7c1e2a9f0b5d4e6f8a7b9c0d1e2f3a4b\",\"object\":\"text_completion\",\"created\":1795629223,\
         \"model\":\"fake\",\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":null}}]}}"
    )
}
