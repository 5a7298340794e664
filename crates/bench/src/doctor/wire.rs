//! A stream as it is on the wire: which bytes came in which chunk of HTTP. A client library hides
//! that, and some clients have none.

use std::pin::Pin;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Client, Transport};
use crate::failure::{Failure, FailureKind, broken_io};

/// Longest answer that is read.
const MAX_BYTES: usize = 16 << 20;

/// An answer in the pieces that the server made.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// The chunks of `transfer-encoding: chunked`; one piece without it.
    pub(super) pieces: Vec<Vec<u8>>,
    pub(super) is_chunked: bool,
    /// The answer's own end came, not only the connection's.
    pub(super) is_complete: bool,
}

/// Sends a POST on a connection of its own and reads the answer.
pub(super) async fn exchange(client: &Client, path: &str, body: &Value) -> Result<Wire, Failure> {
    let body = body.to_string();
    let mut socket = client.open().await?;
    let request = [client.post_head(path, body.len()), body.into_bytes()].concat();
    socket.write_all(&request).await.map_err(|error| broken_io(&error))?;
    let mut reader = Reader { socket, bytes: Vec::new(), taken: 0 };
    let Some(head) = reader.until(b"\r\n\r\n").await? else {
        return Err(Failure::new(FailureKind::StreamCut, "the connection ended without an answer"));
    };
    let (status, headers) = parse_head(&head)?;
    let is_chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
    let mut wire = Wire { status, headers, pieces: Vec::new(), is_chunked, is_complete: false };
    if is_chunked {
        wire.is_complete = reader.chunks(&mut wire.pieces).await?;
    } else {
        let length = wire.headers.get("content-length").and_then(|value| value.to_str().ok());
        let length = length.and_then(|length| length.parse().ok());
        let body = reader.take(length.unwrap_or(MAX_BYTES)).await?;
        wire.is_complete = length.is_none_or(|length| length == body.len());
        wire.pieces.push(body);
    }
    Ok(wire)
}

fn parse_head(head: &[u8]) -> Result<(u16, HeaderMap), Failure> {
    let malformed = |what: &str| Failure::new(FailureKind::Malformed, format!("not HTTP: {what}"));
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| malformed(first))?;
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| malformed(line))?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed(line))?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| malformed(line))?;
        headers.append(name, value);
    }
    Ok((status, headers))
}

struct Reader {
    socket: Pin<Box<dyn Transport>>,
    bytes: Vec<u8>,
    /// Bytes of earlier takes.
    taken: usize,
}

impl Reader {
    /// Reads on; `false` at the end of the connection.
    async fn more(&mut self) -> Result<bool, Failure> {
        if self.taken + self.bytes.len() > MAX_BYTES {
            return Err(Failure::new(FailureKind::Malformed, "an answer without an end"));
        }
        let read = self.socket.read_buf(&mut self.bytes).await;
        Ok(read.map_err(|error| broken_io(&error))? > 0)
    }

    /// Everything up to `end`, which is taken, too; `None` if the connection ends first.
    async fn until(&mut self, end: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let found = self.bytes.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                let head = self.bytes.drain(..at + end.len()).take(at).collect();
                return Ok(Some(head));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// `length` bytes, or fewer if the connection ends.
    async fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.bytes.len() < length && self.more().await? {}
        let taken: Vec<u8> = self.bytes.drain(..length.min(self.bytes.len())).collect();
        self.taken += taken.len();
        Ok(taken)
    }

    /// Every chunk; whether the last one, which is empty, came.
    async fn chunks(&mut self, pieces: &mut Vec<Vec<u8>>) -> Result<bool, Failure> {
        while let Some(line) = self.until(b"\r\n").await? {
            let size = String::from_utf8_lossy(&line);
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| {
                Failure::new(FailureKind::Malformed, format!("`{size}` is no size of a chunk"))
            })?;
            if size == 0 {
                return Ok(self.until(b"\r\n").await?.is_some());
            }
            if size > MAX_BYTES {
                return Err(Failure::new(FailureKind::Malformed, "a chunk without an end"));
            }
            let piece = self.take(size).await?;
            let is_whole = piece.len() == size;
            pieces.push(piece);
            if !is_whole || self.take(2).await? != b"\r\n" {
                return Ok(false);
            }
        }
        Ok(false)
    }
}
