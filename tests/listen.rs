//! Listening, end to end.
