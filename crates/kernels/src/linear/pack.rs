//! The packed form of a weight: panels of output features, read in order by every product.

use super::element::Element;
use crate::disjoint::DisjointMut;
use crate::pages::advise_huge_pages;
use crate::pool::{for_each_row, for_each_task};
use std::mem::{MaybeUninit, size_of};

/// Output features of a panel.
pub(super) const PANEL: usize = 32;

/// One word of every output feature of a panel: two cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Step(pub(super) [u32; PANEL]);

/// `[panels, steps]` of [`Step`]: what a product reads one after the other lies one after the
/// other. Output features and `in` are padded with zeros to whole panels and words.
pub(super) struct Packed {
    steps: Box<[Step]>,
    steps_per_panel: usize,
    out_features: usize,
    in_features: usize,
}

impl Packed {
    /// rows `[out, in]`, not empty
    pub(super) fn new<E: Element>(rows: &[E], in_features: usize) -> Self {
        let out_features = rows.len() / in_features;
        let steps_per_panel = in_features.div_ceil(E::PER_WORD);
        let num_panels = out_features.div_ceil(PANEL);
        let mut steps = Box::<[Step]>::new_uninit_slice(num_panels * steps_per_panel);
        advise_huge_pages(&steps);
        let disjoint = DisjointMut::new(&mut steps);
        for_each_task(num_panels, rows.len(), |panel| {
            let start = panel * steps_per_panel;
            // SAFETY: each task writes its own panel.
            let steps = unsafe { disjoint.slice(start..start + steps_per_panel) };
            let first = panel * PANEL * in_features;
            let end = rows.len().min(first + PANEL * in_features);
            pack_panel(&rows[first..end], in_features, steps);
        });
        Self {
            // SAFETY: the tasks wrote every step of every panel.
            steps: unsafe { steps.assume_init() },
            steps_per_panel,
            out_features,
            in_features,
        }
    }

    pub(super) fn out_features(&self) -> usize {
        self.out_features
    }

    pub(super) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(super) fn num_panels(&self) -> usize {
        self.steps.len() / self.steps_per_panel
    }

    pub(super) fn size_in_bytes(&self) -> usize {
        size_of::<Step>() * self.steps.len()
    }

    pub(super) fn panel(&self, index: usize) -> &[Step] {
        &self.steps[index * self.steps_per_panel..][..self.steps_per_panel]
    }

    /// Rows of the weight as they were: `[ids, in]`.
    pub(super) fn gather<E: Element>(&self, ids: &[u32]) -> Vec<E> {
        /// A step is a cache line that no other step of the row shares.
        const OPERATIONS_PER_STEP: usize = 8;
        let mut out = vec![E::default(); ids.len() * self.in_features];
        let work = OPERATIONS_PER_STEP * ids.len() * self.steps_per_panel;
        for_each_row(&mut out, self.in_features, work, |i, out| {
            let row = ids[i] as usize;
            let steps = self.panel(row / PANEL);
            for (out, step) in out.chunks_mut(E::PER_WORD).zip(steps) {
                for (index, out) in out.iter_mut().enumerate() {
                    *out = E::from_word(step.0[row % PANEL], index);
                }
            }
        });
        out
    }
}

/// Transposes rows `[1..=PANEL, in]` into one panel.
fn pack_panel<E: Element>(rows: &[E], in_features: usize, steps: &mut [MaybeUninit<Step>]) {
    /// Words of a row taken at a time: a cache line of it, and few enough steps to stay in L1.
    const BLOCK: usize = 16;
    for (block, steps) in steps.chunks_mut(BLOCK).enumerate() {
        let mut words = [Step([0; PANEL]); BLOCK];
        for (lane, row) in rows.chunks(in_features).enumerate() {
            let elements = row[block * BLOCK * E::PER_WORD..].chunks(E::PER_WORD);
            for (step, elements) in words.iter_mut().zip(elements) {
                step.0[lane] = E::word(elements);
            }
        }
        steps.write_copy_of_slice(&words[..steps.len()]);
    }
}
