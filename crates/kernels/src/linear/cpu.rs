//! The product on the CPU: which instructions, which thread does what, and where results go.

use super::element::Element;
use super::integers;
use super::multiply::{LANES, Multiply};
use super::pack::Packed;
use crate::disjoint::DisjointMut;
use crate::pool::{for_each_task, num_threads};
use crate::simd::{self, Path};
use std::mem::MaybeUninit;
use std::ops::Range;

/// x `[tokens, in]` to y `[tokens, out]`, each element rounded once.
pub(super) fn forward<E: Element, O: simd::Element>(
    path: Path,
    weight: &Packed,
    x: &[E],
    bias: Option<&[E]>,
) -> Vec<O> {
    let bias = bias.map(|bias| bias.iter().map(|bias| bias.to_f32()).collect());
    match weight.integers() {
        Some(kind) => integers::multiply(path, kind, weight, x, bias),
        None => E::multiply(path, Product { weight, x, bias }),
    }
}

/// What is to be multiplied.
pub(super) struct Product<'a, X> {
    pub(super) weight: &'a Packed,
    /// `[tokens, in]`
    pub(super) x: &'a [X],
    /// `[out]`
    pub(super) bias: Option<Vec<f32>>,
}

impl<X> Product<'_, X> {
    /// Of numbers about whose blocks nothing needs to be known.
    pub(super) fn compute<M: Multiply<Element = X, Block = ()>, O: simd::Element>(self) -> Vec<O> {
        let num_rows = self.x.len() / self.weight.in_features();
        self.compute_blocks::<M, O>(&vec![(); num_rows])
    }

    /// blocks `[tokens, blocks]`
    pub(super) fn compute_blocks<M: Multiply<Element = X>, O: simd::Element>(
        self,
        blocks: &[M::Block],
    ) -> Vec<O> {
        let weight = self.weight;
        let num_rows = self.x.len() / weight.in_features();
        let tiles = Tiles::<M>::new(self.x, blocks, weight.in_features());
        let len = num_rows * weight.out_features();
        let mut y = Vec::with_capacity(len);
        let job = Job {
            weight,
            bias: self.bias,
            y: DisjointMut::new(&mut y.spare_capacity_mut()[..len]),
            tiles: &tiles,
        };
        let parts = job.parts();
        // A word of the weight arrives from memory as fast as eight or so are multiplied.
        let num_words = weight.size_in_bytes() / size_of::<u32>();
        let work = num_words / 2 + num_words * num_rows / 16;
        for_each_task(parts.len(), work, |i| M::run(&job, &parts[i]));
        // SAFETY: the parts cover every tile of rows and every panel, so all elements are written.
        unsafe { y.set_len(len) };
        y
    }
}

/// x, in tiles of rows whose steps lie beside each other: `[tiles][steps, rows of the tile]`.
pub(super) struct Tiles<M: Multiply> {
    pub(super) data: Vec<M::Input>,
    /// `[tiles][blocks, rows of the tile]`
    pub(super) blocks: Vec<M::Block>,
    /// Of a row.
    pub(super) num_steps: usize,
    /// Of a row.
    pub(super) num_blocks: usize,
    num_rows: usize,
    len: usize,
}

impl<M: Multiply> Tiles<M> {
    fn new(x: &[M::Element], blocks: &[M::Block], in_features: usize) -> Self {
        let num_rows = x.len() / in_features;
        let num_steps = in_features.div_ceil(M::PER_STEP);
        let len = num_rows * num_steps;
        let mut data = Vec::with_capacity(len);
        let mut tiles = Self {
            data: Vec::new(),
            blocks: Vec::with_capacity(blocks.len()),
            num_steps,
            num_blocks: num_steps.div_ceil(M::BLOCK),
            num_rows,
            len: num_rows.div_ceil(M::ROWS),
        };
        let disjoint = DisjointMut::new(&mut data.spare_capacity_mut()[..len]);
        for_each_task(tiles.len, len, |tile| {
            let rows = tiles.rows(tile);
            // SAFETY: each task writes its own tile.
            let out = unsafe { disjoint.slice(rows.start * num_steps..rows.end * num_steps) };
            interleave::<M>(&x[rows.start * in_features..rows.end * in_features], rows.len(), out);
        });
        // SAFETY: the tiles cover all rows, and `interleave` writes all steps of a tile.
        unsafe { data.set_len(len) };
        tiles.data = data;
        for tile in 0..tiles.len {
            let rows = tiles.rows(tile);
            for block in 0..tiles.num_blocks {
                for row in rows.clone() {
                    tiles.blocks.push(blocks[row * tiles.num_blocks + block]);
                }
            }
        }
        tiles
    }

    /// Rows are spread evenly, so that no tile is much smaller, and so less efficient, than others.
    pub(super) fn rows(&self, tile: usize) -> Range<usize> {
        let start = |tile: usize| tile * self.num_rows / self.len;
        start(tile)..start(tile + 1)
    }
}

/// x `[rows, in]` to `[steps, rows]`.
fn interleave<M: Multiply>(x: &[M::Element], num_rows: usize, out: &mut [MaybeUninit<M::Input>]) {
    /// Steps of a row taken at a time, so that what is written in turns stays in L1.
    const RUN: usize = 128;
    for (run, out) in out.chunks_mut(RUN * num_rows).enumerate() {
        for (r, row) in x.chunks(x.len() / num_rows).enumerate() {
            let steps = row[run * RUN * M::PER_STEP..].chunks(M::PER_STEP);
            for (out, elements) in out[r..].iter_mut().step_by(num_rows).zip(steps) {
                out.write(M::input(elements));
            }
        }
    }
}

/// A product under way.
pub(super) struct Job<'a, M: Multiply, O> {
    pub(super) weight: &'a Packed,
    pub(super) tiles: &'a Tiles<M>,
    bias: Option<Vec<f32>>,
    y: DisjointMut<'a, MaybeUninit<O>>,
}

/// What one task computes.
pub(super) struct Part {
    pub(super) panels: Range<usize>,
    pub(super) tiles: Range<usize>,
}

/// Of weights. Less is multiplied before another thread has taken it.
const MIN_PART_BYTES: usize = 64 << 10;

impl<M: Multiply, O: simd::Element> Job<'_, M, O> {
    /// Several parts a thread, as threads may be slowed down by others: runs of panels, and where
    /// there are few panels of tiles as well.
    fn parts(&self) -> Vec<Part> {
        let wanted = (8 * num_threads())
            .min(self.weight.size_in_bytes() / MIN_PART_BYTES)
            .max(num_threads());
        let (num_panels, num_tiles) = (self.weight.num_panels(), self.tiles.len);
        let num_runs = num_panels.min(wanted);
        let num_splits = (wanted / num_runs).clamp(1, num_tiles.max(1));
        let range = |i: usize, num: usize, len: usize| i * len / num..(i + 1) * len / num;
        (0..num_runs * num_splits)
            .map(|i| Part {
                panels: range(i / num_splits, num_runs, num_panels),
                tiles: range(i % num_splits, num_splits, num_tiles),
            })
            .collect()
    }

    /// Multiplies the sums of some rows and output features by their scales, adds the bias, and rounds
    /// them into y.
    #[inline(always)]
    pub(super) fn finish<const R: usize, const C: usize>(
        &self,
        first_row: usize,
        first_feature: usize,
        sums: &mut [[[f32; LANES]; C]; R],
    ) {
        let out_features = self.weight.out_features();
        // The last panel may have lanes, or a whole half, of padding.
        let first_feature = first_feature.min(out_features);
        let width = (out_features - first_feature).min(C * LANES);
        let scales = self.weight.scales().map(|scales| &scales[first_feature..]);
        for (r, sums) in sums.iter_mut().enumerate() {
            let sums = sums.as_flattened_mut();
            if let Some(scales) = scales {
                for (sum, scale) in sums.iter_mut().zip(scales) {
                    *sum *= scale;
                }
            }
            let start = (first_row + r) * out_features + first_feature;
            // SAFETY: no other tile has these rows and output features.
            let y = unsafe { self.y.slice(start..start + width) };
            match &self.bias {
                None => {
                    for (y, sum) in y.iter_mut().zip(sums) {
                        y.write(O::from_f32(*sum));
                    }
                }
                Some(bias) => {
                    for ((y, sum), bias) in y.iter_mut().zip(sums).zip(&bias[first_feature..]) {
                        y.write(O::from_f32(*sum + bias));
                    }
                }
            }
        }
    }
}
