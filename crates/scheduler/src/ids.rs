//! Names of things: sequences, tokens, cache blocks.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Deref;
use std::slice;

/// A sequence, named by the caller; unique among those the scheduler still knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// A row of the vocabulary.
pub type TokenId = u32;

/// A block of the paged KV cache: `0..num_blocks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

impl BlockId {
    /// Its place in arrays that have one element a block.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Token ids in a row. Most rows have one, as sequences that decode have in every step, and it is kept
/// without memory of its own.
#[derive(Clone)]
pub enum Tokens {
    /// Just one.
    One(TokenId),
    /// Any number.
    Many(Vec<TokenId>),
}

impl Deref for Tokens {
    type Target = [TokenId];

    fn deref(&self) -> &[TokenId] {
        match self {
            Self::One(id) => slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl From<&[TokenId]> for Tokens {
    fn from(ids: &[TokenId]) -> Self {
        match ids {
            [id] => Self::One(*id),
            ids => Self::Many(ids.to_vec()),
        }
    }
}

impl From<Vec<TokenId>> for Tokens {
    fn from(ids: Vec<TokenId>) -> Self {
        Self::Many(ids)
    }
}

impl From<Option<TokenId>> for Tokens {
    fn from(id: Option<TokenId>) -> Self {
        id.map_or_else(Self::default, Self::One)
    }
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Tokens {}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&**self).finish()
    }
}

/// By sequence. A step looks each of its sequences up several times.
pub(crate) type SeqMap<T> = HashMap<SeqId, T, BuildHasherDefault<SeqIdHasher>>;

/// Spreads numbers that callers count up; it keeps nobody from choosing ids that collide.
#[derive(Debug, Default)]
pub(crate) struct SeqIdHasher(u64);

impl Hasher for SeqIdHasher {
    fn write_u64(&mut self, id: u64) {
        // 2^64 by the golden ratio (Knuth, TAOCP 3, 6.4).
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("an id is one number");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
