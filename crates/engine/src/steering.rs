//! A request's constraint as the engine drives it: asked on the kernels' pool, told on the engine
//! thread.

use std::sync::{Mutex, PoisonError};

use crate::request::Constraint;

/// A constraint, and what went wrong with it in the step at hand.
pub(crate) struct Steering(Mutex<State>);

struct State {
    constraint: Box<dyn Constraint>,
    fault: Option<Fault>,
}

/// Why a row has no mask.
struct Fault {
    /// Tokens of the step that must come before it matters: those that were drafted may not.
    num_tokens: usize,
    message: String,
}

/// Everything that decides which tokens the rows of a sequence may give.
pub(crate) struct Mask<'a> {
    pub(crate) steering: Option<&'a Steering>,
    /// One bit a token, 1 allows it.
    pub(crate) allowed: Option<&'a [u32]>,
    /// Of each row: ids that may not come. `[1 + drafts]`
    pub(crate) banned: Vec<&'a [u32]>,
    /// Row `n` comes after the first `n` of these.
    pub(crate) drafts: &'a [u32],
}

impl Mask<'_> {
    /// Rows of words that [`fill`](Self::fill) writes.
    pub(crate) fn num_rows(&self) -> usize {
        1 + self.drafts.len()
    }

    /// Writes which tokens may come, a row of `num_words` after another. Where that is none, all are
    /// allowed and [`Steering::accept`] fails: a row that no token fits would fail the step of its
    /// neighbours. Rows after a draft that may not come are of no use and allow all, too.
    pub(crate) fn fill(&self, words: &mut [u32], num_words: usize) {
        let mut rows = words.chunks_mut(num_words);
        let Some(steering) = self.steering else {
            return rows.for_each(|row| {
                row.copy_from_slice(self.allowed.expect("a mask has a reason"));
            });
        };
        let state = &mut *steering.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.fault = None;
        let mut num_accepted = 0;
        for (at, row) in rows.by_ref().enumerate() {
            if let Err(message) = self.fill_row(&mut *state.constraint, at, row) {
                row.fill(u32::MAX);
                state.fault = Some(Fault { num_tokens: at, message });
                break;
            }
            let Some(&draft) = self.drafts.get(at).filter(|&&id| is_set(row, id)) else { break };
            match state.constraint.accept(draft) {
                Ok(is_complete) => {
                    num_accepted += 1;
                    if is_complete {
                        break;
                    }
                }
                Err(message) => {
                    state.fault = Some(Fault { num_tokens: at, message });
                    break;
                }
            }
        }
        rows.for_each(|row| row.fill(u32::MAX));
        if num_accepted > 0
            && let Err(message) = state.constraint.rollback(num_accepted)
        {
            state.fault = Some(Fault { num_tokens: 0, message });
        }
    }

    fn fill_row(
        &self,
        constraint: &mut dyn Constraint,
        at: usize,
        row: &mut [u32],
    ) -> Result<(), String> {
        constraint.fill_mask(row)?;
        for (word, allowed) in row.iter_mut().zip(self.allowed.into_iter().flatten()) {
            *word &= allowed;
        }
        for &id in self.banned[at] {
            row[id as usize / 32] &= !(1 << (id % 32));
        }
        if row.iter().all(|&word| word == 0) {
            return Err("no token is possible".to_owned());
        }
        Ok(())
    }
}

fn is_set(mask: &[u32], id: u32) -> bool {
    mask[id as usize / 32] >> (id % 32) & 1 == 1
}

impl Steering {
    pub(crate) fn new(constraint: Box<dyn Constraint>) -> Self {
        Self(Mutex::new(State { constraint, fault: None }))
    }

    fn state(&mut self) -> &mut State {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Constraint::accept`]; `id` is token number `at` of the step.
    pub(crate) fn accept(&mut self, at: usize, id: u32) -> Result<bool, String> {
        let state = self.state();
        match state.fault.take_if(|fault| fault.num_tokens <= at) {
            Some(fault) => Err(fault.message),
            None => state.constraint.accept(id),
        }
    }

    /// See [`Constraint::forced`].
    pub(crate) fn forced(&mut self, max: usize) -> Vec<u32> {
        self.state().constraint.forced(max)
    }
}
