//! Names of things: sequences, tokens, cache blocks.

use std::fmt;

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

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
