//! What a check found.

use std::fmt::Display;

use crate::failure::Failure;

/// What was seen, or why it is not good.
pub(super) type Verdict<T = String> = Result<T, Trouble>;

/// Why a check did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server does what would break a client.
    Wrong(String),
    /// The server says that it cannot do this.
    NotSupported(String),
    /// Nothing came by which this could be judged.
    NotShown(String),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Wrong(failure.message)
    }
}

pub(super) fn wrong<T>(seen: impl Display) -> Verdict<T> {
    Err(Trouble::Wrong(seen.to_string()))
}

pub(super) fn not_supported<T>(seen: impl Display) -> Verdict<T> {
    Err(Trouble::NotSupported(seen.to_string()))
}

pub(super) fn not_shown<T>(seen: impl Display) -> Verdict<T> {
    Err(Trouble::NotShown(seen.to_string()))
}

/// `check` on what was seen, if anything was.
pub(super) fn on<T>(seen: Option<&T>, check: impl FnOnce(&T) -> Verdict) -> Verdict {
    match seen {
        Some(seen) => check(seen),
        None => not_shown("there was no answer to look at"),
    }
}

/// Text of a server for one cell of a table.
pub(super) fn short(text: &str) -> String {
    const MAX_CHARS: usize = 160;
    let text = text.trim();
    match text.char_indices().nth(MAX_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
