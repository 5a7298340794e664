//! `usage.completion_tokens_details.reasoning_tokens`: how many tokens of an answer are reasoning.
//!
//! A token counts if any of its characters is in a block of reasoning or in a tag around one. A token
//! without characters of its own, a part of one or the end of the sequence, counts if the character
//! behind it does, and at the end if the block was never closed.

use std::collections::VecDeque;

use text::Stretch;

/// Counts the tokens of one choice, whose text may become certain later than it comes.
#[derive(Debug, Default)]
pub(super) struct ReasoningTokens {
    /// Characters that have not been read yet of each token that is not decided.
    open: VecDeque<usize>,
    /// Whether what was read of the first of them is reasoning.
    begun: bool,
    count: usize,
}

impl ReasoningTokens {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// A token came that stands for so many characters.
    pub(super) fn token(&mut self, num_chars: usize) {
        self.open.push_back(num_chars);
    }

    /// What the next characters are.
    pub(super) fn read(&mut self, stretches: impl IntoIterator<Item = Stretch>) {
        for Stretch { mut num_chars, is_reasoning } in stretches {
            while num_chars > 0
                && let Some(left) = self.open.front_mut()
            {
                self.begun |= is_reasoning;
                let read = num_chars.min(*left);
                num_chars -= read;
                *left -= read;
                if *left == 0 {
                    self.close();
                }
            }
        }
    }

    /// The output has ended, in a block of reasoning or not.
    pub(super) fn finish(&mut self, in_reasoning: bool) {
        while !self.open.is_empty() {
            self.begun |= in_reasoning;
            self.close();
        }
    }

    fn close(&mut self) {
        self.open.pop_front();
        self.count += usize::from(std::mem::take(&mut self.begun));
    }
}
