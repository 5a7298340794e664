//! The W3C header `traceparent`: a request that belongs to a trace goes on in it.

use std::fmt;

use axum::http::{HeaderMap, HeaderName};

use crate::random::random_u64;

/// In a request the caller's part of the trace, in the answer ours.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("traceparent");

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) flags: u8,
}

impl TraceContext {
    /// What the request brings. Anything malformed counts as nothing, as the standard says; so does
    /// more than one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(HEADER).iter();
        let value = given.next()?.to_str().ok()?;
        if given.next().is_some() {
            return None;
        }
        Self::parse(value.trim())
    }

    /// `version-trace-span-flags`. Versions to come may have more behind it.
    fn parse(value: &str) -> Option<Self> {
        let mut parts = value.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)? as u64;
        let flags = hex(parts.next()?, 2)? as u8;
        let has_rest = parts.next().is_some();
        let is_valid = version != 0xff && !(version == 0 && has_rest);
        (is_valid && trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags })
    }

    /// Our part of the same trace.
    pub(crate) fn child(self) -> Self {
        // Only the flag "sampled" has a meaning that we know.
        Self { span_id: random_u64().max(1), flags: self.flags & 1, ..self }
    }

    /// The trace, as logs and headers write it.
    pub(crate) fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Exactly `len` lowercase digits.
fn hex(digits: &str, len: usize) -> Option<u128> {
    let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_plain = digits.len() == len && digits.bytes().all(plain);
    is_plain.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_brings() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let span = "00f067aa0ba902b7";
        let good = TraceContext::parse(&format!("00-{trace}-{span}-01")).unwrap();
        assert_eq!(good.to_string(), format!("00-{trace}-{span}-01"));
        assert!(TraceContext::parse(&format!("cc-{trace}-{span}-01-what-comes")).is_some());
        let zeros = "0".repeat(32);
        for bad in [
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{zeros}-{span}-01"),
            format!("00-{trace}-{}-01", &zeros[..16]),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", &trace[1..]),
            format!("00-+{}-{span}-01", &trace[1..]),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-1"),
            String::new(),
        ] {
            assert_eq!(TraceContext::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn our_part_is_another_place_in_the_same_trace() {
        let theirs = TraceContext { trace_id: 7, span_id: 8, flags: 0xff };
        let ours = theirs.child();
        assert_eq!((ours.trace_id, ours.flags), (7, 1));
        assert_ne!(ours.span_id, theirs.span_id);
    }
}
