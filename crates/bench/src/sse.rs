//! Server-sent events out of a byte stream that may be cut anywhere.

use memchr::memchr2;

/// Longest event that is kept. A server that sends no end of line must not fill the memory.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// An event, or a line of one, was longer than [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Takes bytes as they arrive and gives the data of whole events.
#[derive(Debug, Default)]
pub(crate) struct EventStream {
    /// Beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// Data lines of the event so far, joined by newlines.
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: a LF that follows belongs to it.
    after_cr: bool,
}

impl EventStream {
    /// Reads `bytes` and calls `on_data` with each event that they complete.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut on_data: impl FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            self.after_cr = bytes[end] == b'\r' && rest.is_empty();
            bytes =
                if bytes[end] == b'\r' { rest.strip_prefix(b"\n").unwrap_or(rest) } else { rest };
            if self.line.is_empty() {
                self.end_line(line, &mut on_data)?;
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.end_line(&whole, &mut on_data)?;
                whole.clear();
                self.line = whole;
            }
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > MAX_EVENT_BYTES { Err(TooLong) } else { Ok(()) }
    }

    fn end_line(&mut self, line: &[u8], on_data: &mut impl FnMut(&[u8])) -> Result<(), TooLong> {
        if line.is_empty() {
            if self.has_data {
                on_data(&self.data);
            }
            self.data.clear();
            self.has_data = false;
            return Ok(());
        }
        // Comments (heartbeats), `event`, `id` and `retry` say nothing that the data do not.
        let Some(value) = line.strip_prefix(b"data") else { return Ok(()) };
        let value = match value {
            [] => value,
            [b':', b' ', rest @ ..] | [b':', rest @ ..] => rest,
            _ => return Ok(()),
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
        if self.data.len() > MAX_EVENT_BYTES { Err(TooLong) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut stream = EventStream::default();
        let mut found = Vec::new();
        for piece in pieces {
            let keep = |data: &[u8]| found.push(String::from_utf8(data.to_vec()).unwrap());
            stream.push(piece, keep).unwrap();
        }
        found
    }

    #[test]
    fn fields_comments_and_ends_of_line() {
        let text = b": hello\r\n\r\nevent: x\ndata: {\"a\":1}\n\ndata:b\rdata: c\r\r\
            datum: no\n\ndata\n\nid: 3\n\ndata: cut";
        assert_eq!(events(&[text]), ["{\"a\":1}", "b\nc", ""]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut stream = EventStream::default();
        let megabyte = vec![b'x'; 1 << 20];
        let refused = (0..32).any(|_| stream.push(&megabyte, |_| ()).is_err());
        assert!(refused);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            lines in prop::collection::vec("(data: ?[a-zé]{0,6}|: c|event: e|)(\n|\r\n|\r)", 0..12),
            cuts in prop::collection::vec(0usize..200, 0..20),
        ) {
            let text = lines.concat().into_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut < text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(events(&pieces), events(&[&text]));
        }
    }
}
