//! The product on the CPU: which instructions, which thread does what, and where results go.

use super::element::Element;
use super::integers;
use super::multiply::{LANES, Multiply};
use super::pack::Packed;
use crate::disjoint::DisjointMut;
use crate::pages::Pages;
use crate::pool::{for_each_task, num_threads};
use crate::simd::{self, Path};
use std::cell::RefCell;
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
        let in_features = weight.in_features();
        let num_rows = self.x.len() / in_features;
        let len = num_rows * weight.out_features();
        let mut y = Vec::with_capacity(len);
        let mut memory = TILES.take();
        let num_passes = num_rows.div_ceil(ROWS_OF_PASS);
        let blocks_of_row = blocks.len() / num_rows.max(1);
        for pass in 0..num_passes {
            let rows = pass * num_rows / num_passes..(pass + 1) * num_rows / num_passes;
            let part = |len: usize| rows.start * len..rows.end * len;
            let (x, blocks) = (&self.x[part(in_features)], &blocks[part(blocks_of_row)]);
            let tiles = Tiles::<M>::new(x, blocks, in_features, &mut memory);
            let y = &mut y.spare_capacity_mut()[part(weight.out_features())];
            let bias = self.bias.as_deref();
            let job = Job { weight, bias, y: DisjointMut::new(y), tiles: &tiles };
            let parts = job.parts();
            // A word of the weight arrives from memory as fast as eight or so are multiplied.
            let num_words = weight.size_in_bytes() / size_of::<u32>();
            let work = num_words / 2 + num_words * rows.len() / 16;
            for_each_task(parts.len(), work, |i| M::run(&job, &parts[i]));
        }
        TILES.set(memory);
        // SAFETY: the passes cover all rows, their parts every tile of rows and every panel, so all
        // elements are written.
        unsafe { y.set_len(len) };
        y
    }
}

/// Rows that are multiplied before the next ones are: the memory of their tiles is bounded, and the
/// weight is read anew so seldom that it does not show.
const ROWS_OF_PASS: usize = 512;

thread_local! {
    /// Of the tiles of a pass, kept from product to product.
    static TILES: RefCell<Option<Pages<MaybeUninit<u8>>>> = const { RefCell::new(None) };
}

/// x, in tiles of rows whose steps lie beside each other: `[tiles][steps, rows of the tile]`.
pub(super) struct Tiles<'a, M: Multiply> {
    pub(super) data: &'a [M::Input],
    /// `[tiles][blocks, rows of the tile]`
    pub(super) blocks: Vec<M::Block>,
    /// Of a row.
    pub(super) num_steps: usize,
    /// Of a row.
    pub(super) num_blocks: usize,
    num_rows: usize,
    len: usize,
}

impl<'a, M: Multiply> Tiles<'a, M> {
    fn new(
        x: &[M::Element],
        blocks: &[M::Block],
        in_features: usize,
        memory: &'a mut Option<Pages<MaybeUninit<u8>>>,
    ) -> Self {
        let num_rows = x.len() / in_features;
        let num_steps = in_features.div_ceil(M::PER_STEP);
        let len = num_rows * num_steps;
        let data = room_for::<M::Input>(len, memory);
        let mut tiles = Self {
            data: &[],
            blocks: Vec::with_capacity(blocks.len()),
            num_steps,
            num_blocks: num_steps.div_ceil(M::BLOCK),
            num_rows,
            len: num_rows.div_ceil(M::ROWS),
        };
        let disjoint = DisjointMut::new(data);
        for_each_task(tiles.len, len, |tile| {
            let rows = tiles.rows(tile);
            // SAFETY: each task writes its own tile.
            let out = unsafe { disjoint.slice(rows.start * num_steps..rows.end * num_steps) };
            interleave::<M>(&x[rows.start * in_features..rows.end * in_features], rows.len(), out);
        });
        // SAFETY: the tiles cover all rows, and `interleave` writes all steps of a tile.
        tiles.data = unsafe { data.assume_init_ref() };
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

fn room_for<T>(len: usize, memory: &mut Option<Pages<MaybeUninit<u8>>>) -> &mut [MaybeUninit<T>] {
    let num_bytes = len * size_of::<T>();
    let fitting = memory.take().filter(|memory| memory.len() >= num_bytes);
    let memory = memory.insert(fitting.unwrap_or_else(|| Pages::new(num_bytes)));
    // SAFETY: bytes that may be anything are as good as elements that may be.
    let (before, elements, _) = unsafe { memory.align_to_mut() };
    assert!(before.is_empty(), "pages are aligned to everything");
    &mut elements[..len]
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
    pub(super) tiles: &'a Tiles<'a, M>,
    bias: Option<&'a [f32]>,
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
    /// Several parts a thread, as threads may be slowed down by others: runs of panels, and of tiles as
    /// well where a part has as many of either, so that it reads least.
    fn parts(&self) -> Vec<Part> {
        let wanted = (8 * num_threads())
            .min(self.weight.size_in_bytes() / MIN_PART_BYTES)
            .max(num_threads());
        let (num_panels, num_tiles) = (self.weight.num_panels(), self.tiles.len);
        let num_splits = (wanted * num_tiles / num_panels).isqrt().clamp(1, num_tiles.max(1));
        let num_runs = num_panels.min(wanted / num_splits).max(1);
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
            match self.bias {
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
