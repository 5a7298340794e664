//! A request's constraint as the engine drives it: asked on the kernels' pool, told on the engine
//! thread.

use std::sync::{Mutex, PoisonError};

use crate::request::Constraint;

/// A constraint, and what went wrong with it in the step at hand.
pub(crate) struct Steering(Mutex<State>);

struct State {
    constraint: Box<dyn Constraint>,
    fault: Option<String>,
}

/// Everything that decides which tokens a row may give.
pub(crate) struct Mask<'a> {
    pub(crate) steering: Option<&'a Steering>,
    /// One bit a token, 1 allows it.
    pub(crate) allowed: Option<&'a [u32]>,
    pub(crate) banned: &'a [u32],
}

impl Mask<'_> {
    /// Writes which tokens may come next. Where that is none, all are allowed and
    /// [`Steering::accept`] fails: a row that no token fits would fail the step of its neighbours.
    pub(crate) fn fill(&self, words: &mut [u32]) {
        let Some(steering) = self.steering else {
            return words.copy_from_slice(self.allowed.expect("a mask has a reason"));
        };
        let State { constraint, fault } =
            &mut *steering.0.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = constraint.fill_mask(words).and_then(|()| {
            for (word, allowed) in words.iter_mut().zip(self.allowed.into_iter().flatten()) {
                *word &= allowed;
            }
            for &id in self.banned {
                words[id as usize / 32] &= !(1 << (id % 32));
            }
            let none = words.iter().all(|&word| word == 0);
            if none { Err("no token is possible".to_owned()) } else { Ok(()) }
        });
        if let Err(error) = filled {
            *fault = Some(error);
            words.fill(u32::MAX);
        }
    }
}

impl Steering {
    pub(crate) fn new(constraint: Box<dyn Constraint>) -> Self {
        Self(Mutex::new(State { constraint, fault: None }))
    }

    /// See [`Constraint::accept`].
    pub(crate) fn accept(&mut self, id: u32) -> Result<bool, String> {
        let state = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        match state.fault.take() {
            Some(fault) => Err(fault),
            None => state.constraint.accept(id),
        }
    }
}
