//! Every cap the scheduler keeps, checked once.

use std::fmt;

/// The caps of one scheduler. All counts are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Blocks of the KV cache.
    pub num_blocks: usize,
    /// Tokens a block holds.
    pub block_size: usize,
    /// Sequences that run at once.
    pub max_num_seqs: usize,
    /// Tokens of one step, at least `max_num_seqs`: so each running sequence gets its token.
    pub max_num_batched_tokens: usize,
    /// Tokens of a sequence, prompt and generated ones together.
    pub max_model_len: usize,
    /// Whether computed blocks are found again by later sequences with the same beginning.
    pub enable_prefix_caching: bool,
}

/// Why [`Limits`] make no scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsError {
    /// The named field is 0.
    Zero(&'static str),
    /// More blocks than a 32-bit block id can name.
    TooManyBlocks(usize),
    /// One step could not hold a token of every running sequence.
    BudgetBelowSeqs {
        /// The token budget of a step.
        max_num_batched_tokens: usize,
        /// What it must reach.
        max_num_seqs: usize,
    },
}

impl Limits {
    /// Refuses limits under which a sequence could wait forever.
    pub fn validate(&self) -> Result<(), LimitsError> {
        let counts = [
            ("num_blocks", self.num_blocks),
            ("block_size", self.block_size),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(LimitsError::Zero(name));
        }
        // The last id is the end mark of the free list.
        if self.num_blocks >= u32::MAX as usize {
            return Err(LimitsError::TooManyBlocks(self.num_blocks));
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            return Err(LimitsError::BudgetBelowSeqs {
                max_num_batched_tokens: self.max_num_batched_tokens,
                max_num_seqs: self.max_num_seqs,
            });
        }
        Ok(())
    }

    /// Blocks that `num_tokens` fill or begin to fill.
    pub fn blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.block_size)
    }
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero(name) => write!(f, "{name} is 0: give at least 1"),
            Self::TooManyBlocks(num_blocks) => {
                write!(f, "num_blocks is {num_blocks}: give fewer than {}", u32::MAX)
            }
            Self::BudgetBelowSeqs { max_num_batched_tokens, max_num_seqs } => write!(
                f,
                "max_num_batched_tokens is {max_num_batched_tokens}: give at least max_num_seqs, \
                 {max_num_seqs}"
            ),
        }
    }
}

impl std::error::Error for LimitsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            num_blocks: 8,
            block_size: 4,
            max_num_seqs: 2,
            max_num_batched_tokens: 2,
            max_model_len: 32,
            enable_prefix_caching: true,
        }
    }

    #[test]
    fn refuses_what_could_not_run() {
        assert_eq!(limits().validate(), Ok(()));
        let zero = Limits { block_size: 0, ..limits() };
        assert_eq!(zero.validate(), Err(LimitsError::Zero("block_size")));
        let small = Limits { max_num_batched_tokens: 1, ..limits() };
        let error = small.validate().unwrap_err();
        assert_eq!(error.to_string(), "max_num_batched_tokens is 1: give at least max_num_seqs, 2");
        let vast = Limits { num_blocks: usize::MAX, ..limits() };
        assert_eq!(vast.validate(), Err(LimitsError::TooManyBlocks(usize::MAX)));
    }
}
