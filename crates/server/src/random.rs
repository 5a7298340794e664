//! Identifiers and seeds: unpredictable enough to be unique, not secret.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A random number. `RandomState` is keyed from the system once a thread and changes with each
/// call, so that no two calls agree but by chance.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// `prefix` and 128 random bits in hexadecimal.
pub(crate) fn random_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", random_u64(), random_u64())
}
