//! The packed form of a weight: panels of output features, read in order by every product.

use super::element::{Element, Words};
use super::integers::{BLOCK, Integers};
use crate::disjoint::DisjointMut;
use crate::pages::Pages;
use crate::pool::{for_each_row, for_each_task};
use float8::F8E4M3;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// A panel has [`PANEL`] output features, a step one word of each: two cache lines.
pub(super) use crate::simd::tiles::{PANEL, Step};

/// An e4m3 element of every output feature of a panel.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct NarrowStep(pub(super) [u8; PANEL]);

/// `[panels, steps]`: what a product reads one after the other lies one after the other. Output
/// features and `in` are padded with zeros to whole panels and words.
pub(super) struct Packed {
    steps: Steps,
    steps_per_panel: usize,
    out_features: usize,
    in_features: usize,
}

/// The steps of all panels.
enum Steps {
    Wide(Pages<Step>),
    /// One an input feature, with a scale an output feature: widened panel by panel where they are used.
    Narrow(Pages<NarrowStep>, Box<[f32]>),
    /// Before those of each block of inputs one with the scales of the panel's output features.
    Integers(Integers, Pages<Step>),
}

thread_local! {
    /// A panel that was widened, kept from part to part.
    pub(super) static WIDENED: RefCell<Vec<Step>> = RefCell::default();
}

/// The steps of one panel.
#[derive(Clone, Copy)]
pub(super) enum Panel<'a> {
    Wide(&'a [Step]),
    Narrow(&'a [NarrowStep]),
}

impl<'a> Panel<'a> {
    /// As steps; narrow ones are widened into `scratch`, exactly and without their scales.
    #[inline(always)]
    pub(super) fn steps<W: Words>(self, scratch: &'a mut Vec<Step>) -> &'a [Step] {
        match self {
            Self::Wide(steps) => steps,
            Self::Narrow(narrow) => {
                scratch.resize(narrow.len().div_ceil(W::PER_WORD), Step([0; PANEL]));
                for (step, narrow) in scratch.iter_mut().zip(narrow.chunks(W::PER_WORD)) {
                    W::widen(narrow, step);
                }
                scratch
            }
        }
    }

    /// Some steps of it, up to its end.
    #[inline(always)]
    pub(super) fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::Wide(steps) => Self::Wide(&steps[range.start..range.end.min(steps.len())]),
            Self::Narrow(steps) => Self::Narrow(&steps[range.start..range.end.min(steps.len())]),
        }
    }

    /// Where it begins, and how many bytes it has.
    #[inline(always)]
    pub(super) fn bytes(self) -> (*const u8, usize) {
        match self {
            Self::Wide(steps) => (steps.as_ptr().cast(), size_of_val(steps)),
            Self::Narrow(steps) => (steps.as_ptr().cast(), size_of_val(steps)),
        }
    }
}

impl Packed {
    /// rows `[out, in]`, not empty
    pub(super) fn new<E: Element>(rows: &[E], in_features: usize) -> Self {
        let out_features = rows.len() / in_features;
        let steps_per_panel = in_features.div_ceil(E::PER_WORD);
        let num_panels = out_features.div_ceil(PANEL);
        let mut steps = Pages::new(num_panels * steps_per_panel);
        let disjoint = DisjointMut::new(&mut steps);
        for_each_task(num_panels, rows.len(), |panel| {
            let start = panel * steps_per_panel;
            // SAFETY: each task writes its own panel.
            let steps = unsafe { disjoint.slice(start..start + steps_per_panel) };
            let first = panel * PANEL * in_features;
            let end = rows.len().min(first + PANEL * in_features);
            pack_panel(&rows[first..end], in_features, steps);
        });
        // SAFETY: the tasks wrote every step of every panel.
        let steps = Steps::Wide(unsafe { steps.assume_init() });
        Self { steps, steps_per_panel, out_features, in_features }
    }

    /// rows `[out, in]` of e4m3, not empty, and a scale each
    pub(super) fn narrow(rows: &[F8E4M3], scales: &[f32], in_features: usize) -> Self {
        let out_features = scales.len();
        let num_panels = out_features.div_ceil(PANEL);
        let mut steps = Pages::new(num_panels * in_features);
        for_each_row(&mut steps, in_features, rows.len(), |panel, steps| {
            let first = panel * PANEL * in_features;
            let end = rows.len().min(first + PANEL * in_features);
            for (column, step) in steps.iter_mut().enumerate() {
                let mut elements = [0; PANEL];
                for (element, row) in elements.iter_mut().zip(rows[first..end].chunks(in_features))
                {
                    *element = row[column].to_bits();
                }
                step.write(NarrowStep(elements));
            }
        });
        // SAFETY: every step of every panel was written.
        let steps = unsafe { steps.assume_init() };
        let steps = Steps::Narrow(steps, scales.into());
        Self { steps, steps_per_panel: in_features, out_features, in_features }
    }

    /// As [`Packed::rounded`] makes them.
    pub(super) fn of_integers(
        kind: Integers,
        steps: Pages<Step>,
        [out_features, in_features]: [usize; 2],
    ) -> Self {
        let steps_per_panel = kind.steps_per_panel(in_features);
        let steps = Steps::Integers(kind, steps);
        Self { steps, steps_per_panel, out_features, in_features }
    }

    /// What the sums of output features are to be multiplied by. `[out]`
    #[inline(always)]
    pub(super) fn scales(&self) -> Option<&[f32]> {
        match &self.steps {
            Steps::Wide(_) | Steps::Integers(..) => None,
            Steps::Narrow(_, scales) => Some(scales),
        }
    }

    /// What the weight was rounded to, if it was to integers.
    pub(super) fn integers(&self) -> Option<Integers> {
        match &self.steps {
            Steps::Wide(_) | Steps::Narrow(..) => None,
            Steps::Integers(kind, _) => Some(*kind),
        }
    }

    pub(super) fn out_features(&self) -> usize {
        self.out_features
    }

    pub(super) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(super) fn num_panels(&self) -> usize {
        self.out_features.div_ceil(PANEL)
    }

    pub(super) fn size_in_bytes(&self) -> usize {
        match &self.steps {
            Steps::Wide(steps) | Steps::Integers(_, steps) => size_of_val(&**steps),
            Steps::Narrow(steps, scales) => size_of_val(&**steps) + size_of_val(&**scales),
        }
    }

    #[inline(always)]
    pub(super) fn panel(&self, index: usize) -> Panel<'_> {
        let range = index * self.steps_per_panel..(index + 1) * self.steps_per_panel;
        match &self.steps {
            Steps::Wide(steps) | Steps::Integers(_, steps) => Panel::Wide(&steps[range]),
            Steps::Narrow(steps, _) => Panel::Narrow(&steps[range]),
        }
    }

    /// All steps from a panel on, if they are multiplied as they lie.
    #[inline(always)]
    pub(super) fn in_order(&self, panel: usize) -> Option<&[Step]> {
        match &self.steps {
            Steps::Wide(steps) => Some(&steps[panel * self.steps_per_panel..]),
            Steps::Narrow(..) | Steps::Integers(..) => None,
        }
    }

    /// Rows of the weight, whose ids are those from `first` on, as they were, or as they were rounded: `[ids, in]`;
    /// zeros of other ids; none of an e4m3 weight.
    pub(super) fn gather<E: Element>(&self, ids: &[u32], first: u32) -> Option<Vec<E>> {
        /// A step is a cache line that no other step of the row shares.
        const OPERATIONS_PER_STEP: usize = 8;
        let (steps, kind) = match &self.steps {
            Steps::Wide(steps) => (steps, None),
            Steps::Integers(kind, steps) => (steps, Some(*kind)),
            Steps::Narrow(..) => return None,
        };
        let mut out = vec![E::default(); ids.len() * self.in_features];
        let work = OPERATIONS_PER_STEP * ids.len() * self.steps_per_panel;
        for_each_row(&mut out, self.in_features, work, |i, out| {
            let id = ids[i].wrapping_sub(first) as usize;
            if id >= self.out_features {
                return;
            }
            let (panel, lane) = (id / PANEL, id % PANEL);
            let steps = &steps[panel * self.steps_per_panel..][..self.steps_per_panel];
            let Some(kind) = kind else {
                for (out, step) in out.chunks_mut(E::PER_WORD).zip(steps) {
                    for (index, out) in out.iter_mut().enumerate() {
                        *out = E::from_word(step.0[lane], index);
                    }
                }
                return;
            };
            let blocks = steps.chunks(1 + BLOCK / kind.per_word());
            for (out, steps) in out.chunks_mut(BLOCK).zip(blocks) {
                let scale = f32::from_bits(steps[0].0[lane]);
                for (out, step) in out.chunks_mut(kind.per_word()).zip(&steps[1..]) {
                    for (index, out) in out.iter_mut().enumerate() {
                        *out = E::from_f32(kind.element(step.0[lane], index) * scale);
                    }
                }
            }
        });
        Some(out)
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
