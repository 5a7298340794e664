//! A request's constraint as the engine drives it: asked on the kernels' pool, told on the engine
//! thread.

use std::sync::{Mutex, PoisonError};

use crate::request::Constraint;

/// A constraint, and what went wrong with it in the step at hand.
pub(crate) struct Steering(Mutex<State>);

struct State {
    constraint: Box<dyn Constraint>,
    /// Why a row has no mask. It matters if the text gets that far, which drafts may not.
    fault: Option<String>,
    /// What was filled last, for the other ranks of a model.
    filled: Filled,
}

/// Rows of words, and what they came after.
#[derive(Default)]
struct Filled {
    num_tokens: usize,
    drafts: Vec<u32>,
    words: Vec<u32>,
}

/// Everything that decides which tokens the rows of a sequence may give.
pub(crate) struct Mask<'a> {
    pub(crate) steering: Option<&'a Steering>,
    /// One bit a token, 1 allows it.
    pub(crate) allowed: Option<&'a [u32]>,
    /// Of each row: ids that may not come. `[1 + drafts]`
    pub(crate) banned: Vec<&'a [u32]>,
    /// Prompt and output so far.
    pub(crate) num_tokens: usize,
    /// Row `n` comes after the first `n` of these.
    pub(crate) drafts: &'a [u32],
    /// Whether others will ask for the same rows: they are computed once.
    pub(crate) is_shared: bool,
}

impl Mask<'_> {
    /// Rows of words that [`fill`](Self::fill) writes.
    pub(crate) fn num_rows(&self) -> usize {
        1 + self.drafts.len()
    }

    /// Writes which tokens may come, a row of `num_words` after another. After a draft that may not
    /// come, or where the constraint fails, there are none.
    pub(crate) fn fill(&self, words: &mut [u32], num_words: usize) {
        let Some(steering) = self.steering else {
            return words.chunks_mut(num_words).for_each(|row| {
                row.copy_from_slice(self.allowed.expect("a mask has a reason"));
            });
        };
        let State { constraint, fault, filled: known } =
            &mut *steering.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_shared && known.is_of(self) && known.words.len() == words.len() {
            return words.copy_from_slice(&known.words);
        }
        let mut rows = words.chunks_mut(num_words);
        let mut num_accepted = 0;
        let filled = rows.by_ref().enumerate().try_for_each(|(at, row)| {
            row.fill(0);
            self.fill_row(&mut **constraint, at, row).map_err(Some)?;
            let draft = self.drafts.get(at).filter(|&&id| is_set(row, id)).ok_or(None)?;
            let is_complete = constraint.accept(*draft).map_err(Some)?;
            num_accepted += 1;
            if is_complete { Err(None) } else { Ok(()) }
        });
        rows.for_each(|row| row.fill(0));
        *fault = filled.err().flatten();
        if num_accepted > 0
            && let Err(message) = constraint.rollback(num_accepted)
        {
            words.fill(0);
            *fault = Some(message);
        }
        if self.is_shared {
            let (num_tokens, drafts) = (self.num_tokens, self.drafts.to_vec());
            *known = Filled { num_tokens, drafts, words: words.to_vec() };
        }
    }

    fn fill_row(
        &self,
        constraint: &mut dyn Constraint,
        at: usize,
        row: &mut [u32],
    ) -> Result<(), String> {
        if let Err(message) = constraint.fill_mask(row) {
            row.fill(0);
            return Err(message);
        }
        for (word, allowed) in row.iter_mut().zip(self.allowed.into_iter().flatten()) {
            *word &= allowed;
        }
        for &id in self.banned[at] {
            row[id as usize / 32] &= !(1 << (id % 32));
        }
        Ok(())
    }
}

impl Filled {
    fn is_of(&self, mask: &Mask<'_>) -> bool {
        self.num_tokens == mask.num_tokens && self.drafts == mask.drafts
    }
}

fn is_set(mask: &[u32], id: u32) -> bool {
    mask[id as usize / 32] >> (id % 32) & 1 == 1
}

impl Steering {
    pub(crate) fn new(constraint: Box<dyn Constraint>) -> Self {
        Self(Mutex::new(State { constraint, fault: None, filled: Filled::default() }))
    }

    fn state(&mut self) -> &mut State {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Constraint::accept`].
    pub(crate) fn accept(&mut self, id: u32) -> Result<bool, String> {
        self.state().constraint.accept(id)
    }

    /// Why the row that the text has come to has no mask, if that is a fault of the constraint.
    pub(crate) fn take_fault(&mut self) -> Option<String> {
        self.state().fault.take()
    }

    /// See [`Constraint::forced`].
    pub(crate) fn forced(&mut self, max: usize) -> Vec<u32> {
        self.state().constraint.forced(max)
    }
}
