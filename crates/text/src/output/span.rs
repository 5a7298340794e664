//! Where a JSON value ends, one character at a time, without reading what it says.

/// What one more character means to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanStep {
    Inside,
    /// The value ends with this character.
    Ends,
    /// The value ended with the character before.
    Ended,
}

/// A JSON value that has begun. It counts brackets and knows strings: what is well bracketed but not
/// JSON passes, because bytes are handed on as the model wrote them.
#[derive(Debug, Clone)]
pub(super) struct Span {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Span {
    /// Begins with a value's first character; nothing if no value begins so.
    pub(super) fn begin(c: char) -> Option<Self> {
        let depth = match c {
            '{' | '[' => 1,
            '"' | '-' => 0,
            _ if c.is_ascii_alphanumeric() => 0,
            _ => return None,
        };
        Some(Self { depth, in_string: c == '"', escaped: false })
    }

    pub(super) fn step(&mut self, c: char) -> SpanStep {
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            let ends = !self.in_string && self.depth == 0;
            return if ends { SpanStep::Ends } else { SpanStep::Inside };
        }
        if self.depth == 0 {
            let scalar = c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
            return if scalar { SpanStep::Inside } else { SpanStep::Ended };
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth -= 1,
            _ => {}
        }
        if self.depth == 0 { SpanStep::Ends } else { SpanStep::Inside }
    }
}
