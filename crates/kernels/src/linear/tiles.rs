//! The micro-kernel of tile registers: up to 32 rows times a panel, 64 bytes of a row at a time.
//!
//! A panel lies in memory as such registers want it: sixteen words along `in`, each of sixteen output
//! features, are one. A register has sixteen rows; one step takes two of x and two of weights, and
//! adds to the four sums between them.

use super::cpu::{Job, Part};
use super::element::Words;
use super::integers::{BLOCK, Block, halves};
use super::multiply::{LANES, Multiply};
use super::pack::{PANEL, Panel, Step, WIDENED};
use crate::simd;
use half::bf16;
use std::marker::PhantomData;

/// Rows of a register, and words of one of its rows.
pub(super) const SIDE: usize = 16;

/// Rows of x that two registers hold.
pub(super) const MAX_ROWS: usize = 2 * SIDE;

/// A row of a register of x: 64 bytes along `in`.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(
    #[cfg_attr(not(test), expect(dead_code, reason = "assembly reads it"))] pub(super) [u32; SIDE],
);

impl Line {
    /// Of as many elements as a line has, or of fewer and zeros.
    #[inline(always)]
    fn new<E: Words>(elements: &[E]) -> Self {
        let mut words = [0; SIDE];
        // Not the loop below, so that all lengths are known and it becomes a copy.
        if elements.len() == SIDE * E::PER_WORD {
            for i in 0..SIDE {
                words[i] = E::word(&elements[i * E::PER_WORD..][..E::PER_WORD]);
            }
        } else {
            for (word, elements) in words.iter_mut().zip(elements.chunks(E::PER_WORD)) {
                *word = E::word(elements);
            }
        }
        Self(words)
    }
}

/// A register of weights and the one beside it: both halves of a panel.
pub(super) type Pair = [Step; SIDE];

/// Sums of rows of x and the output features of a panel.
#[repr(align(64))]
pub(super) struct Sums<T>(pub(super) [[[T; LANES]; PANEL / LANES]; MAX_ROWS]);

impl<T: Copy> Sums<T> {
    #[inline(always)]
    fn of(value: T) -> Self {
        Self([[[value; LANES]; PANEL / LANES]; MAX_ROWS])
    }
}

/// What is multiplied at once.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    /// `[pairs][rows]`, as many rows as were [configured](Unit::configure).
    pub(super) x: &'a [Line],
    pub(super) pairs: &'a [Pair],
    /// The pair behind them, if `in` ends within one.
    pub(super) rest: Option<&'a Pair>,
    pub(super) ahead: Ahead,
}

impl<'a> Factors<'a> {
    /// `rest` gets what is left of the steps, and zeros.
    #[inline(always)]
    fn new(x: &'a [Line], steps: &'a [Step], rest: &'a mut Pair, ahead: Ahead) -> Self {
        let (pairs, left) = steps.as_chunks::<SIDE>();
        if left.is_empty() {
            return Self { x, pairs, rest: None, ahead };
        }
        for (i, step) in rest.iter_mut().enumerate() {
            *step = left.get(i).copied().unwrap_or(Step([0; PANEL]));
        }
        Self { x, pairs, rest: Some(rest), ahead }
    }
}

/// Where to read ahead, [so many](Ahead::LINES) lines a pair, while tiles of rows pass over one panel.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) address: *const u8,
    pub(super) stride: usize,
}

impl Ahead {
    /// Few tiles bring less than the next panel, which then is read in order, as processors expect.
    pub(super) const LINES: usize = 4;

    /// Share `index` of `count` of a panel, while `num_steps` pass.
    #[inline(always)]
    fn new(panel: Panel<'_>, num_steps: usize, index: usize, count: usize) -> Self {
        let (start, num_bytes) = panel.bytes();
        let num_lines = num_steps.div_ceil(SIDE) * Self::LINES;
        let stride = num_bytes / num_lines / count;
        Self { address: start.wrapping_add(index * num_lines * stride), stride }
    }

    /// Behind so many lines of x.
    #[inline(always)]
    fn after(self, num_pairs: usize) -> Self {
        let address = self.address.wrapping_add(num_pairs * Self::LINES * self.stride);
        Self { address, ..self }
    }
}

/// What multiplies registers of tiles.
pub(super) trait Unit: Sized {
    /// Calls [`run_part`] with all the instructions enabled that go with it.
    fn run<M: InTiles<Unit = Self>, O: simd::Element>(job: &Job<'_, M, O>, part: &Part);

    /// For so many rows of x, up to [`MAX_ROWS`].
    fn configure(num_rows: usize);

    /// Lets go of the registers, so that nobody saves them when the thread sleeps.
    fn release();

    /// Sums of products of bf16 in f32: of both elements of the words of a register each, in ascending order,
    /// which are added to those of the registers before it.
    fn multiply_bf16(factors: Factors<'_>, sums: &mut Sums<f32>);

    /// Sums of products of i8, exactly.
    fn multiply_i8(factors: Factors<'_>, sums: &mut Sums<i32>);
}

/// One way of multiplying in tile registers.
pub(super) trait InTiles: Multiply<Input = Line> {
    type Unit: Unit;

    /// A panel as it is multiplied.
    fn steps<'a>(panel: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step];

    /// The sums of a tile of x, `[lines][rows]`, and a panel, with the scales of blocks.
    fn totals(
        x: &[Line],
        blocks: &[Self::Block],
        steps: &[Step],
        ahead: Ahead,
        totals: &mut Sums<f32>,
    );
}

/// Multiplies the part's tiles of rows with its panels; a panel stays in L2 while the tiles pass.
#[inline(always)]
pub(super) fn run_part<M: InTiles, O: simd::Element>(job: &Job<'_, M, O>, part: &Part) {
    let mut scratch = WIDENED.take();
    let (num_lines, num_blocks) = (job.tiles.num_steps, job.tiles.num_blocks);
    let last_panel = job.weight.num_panels() - 1;
    let mut totals = Sums::of(0.0);
    let mut configured = 0;
    for panel in part.panels.clone() {
        let next_panel = job.weight.panel(last_panel.min(panel + 1));
        let steps = M::steps(job.weight.panel(panel), &mut scratch);
        for (i, tile) in part.tiles.clone().enumerate() {
            let rows = job.tiles.rows(tile);
            if rows.len() != configured {
                configured = rows.len();
                M::Unit::configure(configured);
            }
            let ahead = Ahead::new(next_panel, steps.len(), i, part.tiles.len());
            let x = &job.tiles.data[rows.start * num_lines..rows.end * num_lines];
            let blocks = &job.tiles.blocks[rows.start * num_blocks..rows.end * num_blocks];
            M::totals(x, blocks, steps, ahead, &mut totals);
            for (row, totals) in rows.zip(&mut totals.0) {
                job.finish(row, panel * PANEL, std::array::from_mut(totals));
            }
        }
    }
    if configured > 0 {
        M::Unit::release();
    }
    WIDENED.set(scratch);
}

/// bf16, and e4m3 widened to it.
pub(super) struct TileBf16<U>(PhantomData<U>);

impl<U: Unit> Multiply for TileBf16<U> {
    type Element = bf16;
    type Input = Line;
    type Block = ();

    const PER_STEP: usize = 2 * SIDE;
    const ROWS: usize = MAX_ROWS;

    #[inline(always)]
    fn input(elements: &[bf16]) -> Line {
        Line::new(elements)
    }

    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
        U::run(job, part);
    }
}

impl<U: Unit> InTiles for TileBf16<U> {
    type Unit = U;

    #[inline(always)]
    fn steps<'a>(panel: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step] {
        panel.steps::<bf16>(scratch)
    }

    #[inline(always)]
    fn totals(x: &[Line], _: &[()], steps: &[Step], ahead: Ahead, totals: &mut Sums<f32>) {
        let mut rest = [Step([0; PANEL]); SIDE];
        U::multiply_bf16(Factors::new(x, steps, &mut rest, ahead), totals);
    }
}

/// Weights of 8 bits.
pub(super) struct TileInt8<U>(PhantomData<U>);

/// Weights of 4 bits, made 8 panel by panel.
pub(super) struct TileInt4<U>(PhantomData<U>);

macro_rules! integers {
    ($way:ident, $steps:ident) => {
        impl<U: Unit> Multiply for $way<U> {
            type Element = i8;
            type Input = Line;
            type Block = Block;

            const PER_STEP: usize = 4 * SIDE;
            const BLOCK: usize = LINES_OF_BLOCK;
            const ROWS: usize = MAX_ROWS;

            #[inline(always)]
            fn input(elements: &[i8]) -> Line {
                Line::new(elements)
            }

            fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
                U::run(job, part);
            }
        }

        impl<U: Unit> InTiles for $way<U> {
            type Unit = U;

            #[inline(always)]
            fn steps<'a>(panel: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step] {
                $steps(panel, scratch)
            }

            #[inline(always)]
            fn totals(
                x: &[Line],
                blocks: &[Block],
                steps: &[Step],
                ahead: Ahead,
                totals: &mut Sums<f32>,
            ) {
                totals_of_blocks::<U>(x, blocks, steps, ahead, totals);
            }
        }
    };
}

integers!(TileInt8, as_they_are);
integers!(TileInt4, widened);

const LINES_OF_BLOCK: usize = BLOCK / (4 * SIDE);

#[inline(always)]
fn as_they_are<'a>(panel: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step] {
    panel.steps::<i8>(scratch)
}

/// Each block's scales, and two words for each of its words.
#[inline(always)]
fn widened<'a>(panel: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step] {
    let Panel::Wide(narrow) = panel else { unreachable!("integers are not e4m3") };
    scratch.clear();
    for block in narrow.chunks(1 + BLOCK / 8) {
        let (scales, words) = block.split_at(1);
        scratch.extend_from_slice(scales);
        for words in words {
            for half in 0..2 {
                let mut step = Step([0; PANEL]);
                for (wide, word) in step.0.iter_mut().zip(words.0) {
                    // 8 less in each byte, without borrowing from the next.
                    *wide = ((halves(word)[half] | 0x8080_8080) - 0x0808_0808) ^ 0x8080_8080;
                }
                scratch.push(step);
            }
        }
    }
    scratch
}

#[inline(always)]
fn totals_of_blocks<U: Unit>(
    x: &[Line],
    blocks: &[Block],
    steps: &[Step],
    ahead: Ahead,
    totals: &mut Sums<f32>,
) {
    let num_blocks = steps.len().div_ceil(1 + BLOCK / 4);
    let num_rows = blocks.len() / num_blocks;
    let mut rest = [Step([0; PANEL]); SIDE];
    let mut sums = Sums::of(0);
    totals.0[..num_rows].fill([[0.0; LANES]; PANEL / LANES]);
    let parts = steps.chunks(1 + BLOCK / 4).zip(x.chunks(LINES_OF_BLOCK * num_rows));
    for (i, ((steps, x), blocks)) in parts.zip(blocks.chunks(num_rows)).enumerate() {
        let (scales, steps) = steps.split_at(1);
        let ahead = ahead.after(i * LINES_OF_BLOCK);
        U::multiply_i8(Factors::new(x, steps, &mut rest, ahead), &mut sums);
        let (scales, _) = scales[0].0.as_chunks::<LANES>();
        for ((totals, sums), block) in totals.0.iter_mut().zip(&sums.0).zip(blocks) {
            for ((totals, sums), scales) in totals.iter_mut().zip(sums).zip(scales) {
                for ((total, sum), scale) in totals.iter_mut().zip(sums).zip(scales) {
                    let scale = f32::from_bits(*scale) * block.scale;
                    *total = (*sum as f32).mul_add(scale, *total);
                }
            }
        }
    }
}
