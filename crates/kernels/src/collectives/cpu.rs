//! Collectives of threads that compute in the same memory: they show each other their tensors.

use super::GIVEN_UP;
use crate::pool::for_each_row;
use crate::simd::Element;
use crate::views::{cpu_slice, match_element};
use candle_core::{Device, Result, Tensor, bail};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// A rank's end: where all ranks of a group meet.
#[derive(Debug)]
pub(super) struct Meeting {
    rank: usize,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Room {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What each rank has brought to the round.
    brought: Vec<Option<Tensor>>,
    num_brought: usize,
    /// Rounds that are over.
    num_rounds: u64,
    /// What the last of them gave. All have taken it before the next one is over: they bring to it.
    given: Arc<[Tensor]>,
    is_given_up: bool,
}

impl Meeting {
    pub(super) fn of(num_ranks: usize) -> Vec<Self> {
        let state = Mutex::new(State::new(num_ranks));
        let room = Arc::new(Room { state, changed: Condvar::new() });
        (0..num_ranks).map(|rank| Self { rank, room: Arc::clone(&room) }).collect()
    }

    /// What all ranks bring to a round, in their order.
    pub(super) fn exchange(&self, x: &Tensor) -> Result<Arc<[Tensor]>> {
        let mut state = self.room.state.lock();
        let round = state.num_rounds;
        if state.is_given_up || state.brought[self.rank].replace(x.clone()).is_some() {
            bail!("{GIVEN_UP}");
        }
        state.num_brought += 1;
        if state.num_brought == state.brought.len() {
            state.num_brought = 0;
            state.given = state.brought.iter_mut().filter_map(Option::take).collect();
            state.num_rounds += 1;
            self.room.changed.notify_all();
        }
        while state.num_rounds == round && !state.is_given_up {
            self.room.changed.wait(&mut state);
        }
        if state.num_rounds == round {
            bail!("{GIVEN_UP}");
        }
        Ok(Arc::clone(&state.given))
    }

    pub(super) fn give_up(&self) {
        self.room.state.lock().is_given_up = true;
        self.room.changed.notify_all();
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.room.state.lock().is_given_up
    }

    pub(super) fn begin_anew(&self) {
        let mut state = self.room.state.lock();
        *state = State::new(state.brought.len());
    }
}

impl State {
    fn new(num_ranks: usize) -> Self {
        Self {
            brought: vec![None; num_ranks],
            num_brought: 0,
            num_rounds: 0,
            given: Arc::default(),
            is_given_up: false,
        }
    }
}

/// The sum of tensors of one shape, rounded once.
pub(super) fn sum(parts: &[Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else { bail!("a sum of nothing") };
    for other in parts {
        if other.dims() != first.dims() || other.dtype() != first.dtype() {
            let ((a, b), (c, d)) = ((first.dims(), first.dtype()), (other.dims(), other.dtype()));
            bail!("ranks sum tensors of one shape and dtype, not {a:?} {b:?} and {c:?} {d:?}");
        }
    }
    match_element!(first.dtype(), "x", E => sum_of::<E>(parts, first.dims()))
}

fn sum_of<E: Element>(parts: &[Tensor], dims: &[usize]) -> Result<Tensor> {
    /// Elements that one thread sums at a time.
    const RUN: usize = 4096;
    let parts: Vec<_> = parts.iter().map(Tensor::storage_and_layout).collect();
    let slices: Vec<&[E]> = parts
        .iter()
        .map(|(storage, layout)| cpu_slice(storage, layout, "x"))
        .collect::<Result<_>>()?;
    let mut sums = vec![E::default(); slices[0].len()];
    let work = sums.len() * slices.len();
    for_each_row(&mut sums, RUN, work, |run, sums| {
        for (i, sum) in sums.iter_mut().enumerate() {
            let values = slices.iter().map(|slice| slice[run * RUN + i].to_f32());
            *sum = E::from_f32(values.reduce(|sum, value| sum + value).unwrap_or_default());
        }
    });
    Tensor::from_vec(sums, dims, &Device::Cpu)
}
