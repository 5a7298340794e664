//! The micro-kernel of tile registers: up to 32 rows times a panel, 64 bytes of a row at a time.
//!
//! A panel lies in memory as such registers want it: sixteen words along `in`, each of sixteen output
//! features, are one. A register has sixteen rows; one step takes two of x and two of weights, and
//! adds to the four sums between them.
//!
//! Four registers are read for four products, as fast as the second cache gives them at best. So many
//! rows are taken in runs along `in` (Goto and van de Geijn 2008): a run of a panel stays in the first cache,
//! those of the rows in the second, and sums wait in memory, which changes none of them.

use super::cpu::{Job, Part, Tiles};
use super::element::Words;
use super::integers::{BLOCK, Block, halves};
use super::multiply::Multiply;
use super::pack::{PANEL, Panel, Step, WIDENED};
use crate::simd::tiles::{Ahead, Factors, Line, MAX_ROWS, SIDE, Sums, TileKernel, Unit};
use crate::simd::{self, LANES, Lanes};
use half::bf16;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// What to ask for while tiles of rows pass over a run of a panel: their part of the next one.
#[inline(always)]
fn ahead<'a>(run: Panel<'_>, num_pairs: usize, index: usize, count: usize) -> Ahead<'a> {
    let (start, num_bytes) = run.bytes();
    let num_lines = num_pairs * Ahead::LINES;
    let stride = num_bytes / num_lines / count;
    Ahead::Ask { address: start.wrapping_add(index * num_lines * stride), stride }
}

/// Behind so many lines of x, of what is asked for.
#[inline(always)]
fn after(ahead: Ahead<'_>, num_pairs: usize) -> Ahead<'_> {
    match ahead {
        Ahead::Ask { address, stride } => {
            let address = address.wrapping_add(num_pairs * Ahead::LINES * stride);
            Ahead::Ask { address, stride }
        }
        Ahead::Nothing | Ahead::Read(_) => Ahead::Nothing,
    }
}

/// One way of multiplying in tile registers.
pub(super) trait InTiles: Multiply<Input = Line> {
    type Unit: Unit;

    /// What of a panel goes with some lines of x.
    fn run_of<'a>(panel: Panel<'a>, lines: &Range<usize>) -> Panel<'a>;

    /// It, as it is multiplied.
    fn steps<'a>(run: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step];

    /// Adds the products of a tile of x and a run of a panel to the sums, unless they are to begin.
    fn add(x: Tile<'_, Self::Block>, steps: &[Step], sums: &mut Sums<f32>, begin: bool);
}

/// Lines of some rows of x.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a, B> {
    /// `[lines][rows]`
    lines: &'a [Line],
    /// `[blocks][rows]`
    blocks: &'a [B],
    ahead: Ahead<'a>,
}

/// A line of as many elements as a line has, or of fewer and zeros.
#[inline(always)]
fn line<E: Words>(elements: &[E]) -> Line {
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
    Line(words)
}

/// Lines of a run: with a panel's they fill half of a first cache of 48 kB.
const RUN: usize = 32;

/// Panels that the rows' runs pass over before the next ones do.
const PANELS: usize = 8;

thread_local! {
    /// Of the tiles of a part and [`PANELS`] panels, between runs.
    static SUMS: RefCell<Vec<Sums<f32>>> = RefCell::default();
}

/// One of a job's parts, to be computed.
struct RunPart<'a, M: Multiply, O> {
    job: &'a Job<'a, M, O>,
    part: &'a Part,
}

impl<M: InTiles, O: simd::Element> TileKernel<M::Unit> for RunPart<'_, M, O> {
    #[inline(always)]
    fn run(self) {
        run_part(self.job, self.part);
    }
}

/// Multiplies the part's tiles of rows with its panels.
#[inline(always)]
fn run_part<M: InTiles, O: simd::Element>(job: &Job<'_, M, O>, part: &Part) {
    let mut sums = SUMS.take();
    let num_tiles = part.tiles.len();
    // Where nothing is read again, nothing is gained by runs.
    let run = if num_tiles > 2 { RUN } else { job.tiles.num_steps };
    let num_sums = if job.tiles.num_steps > run { PANELS * num_tiles } else { 1 };
    sums.resize_with(num_sums.max(sums.len()), Sums::default);
    for first in part.panels.clone().step_by(PANELS) {
        let panels = first..part.panels.end.min(first + PANELS);
        run_panels(job, panels, part.tiles.clone(), run, &mut sums[..num_sums]);
    }
    M::Unit::release();
    SUMS.set(sums);
}

/// The sums of a tile and a panel are `[panels][tiles]`, or the only ones.
#[inline(always)]
fn run_panels<M: InTiles, O: simd::Element>(
    job: &Job<'_, M, O>,
    panels: Range<usize>,
    tiles: Range<usize>,
    run: usize,
    sums: &mut [Sums<f32>],
) {
    let mut scratch = WIDENED.take();
    let num_lines = job.tiles.num_steps;
    let last_panel = job.weight.num_panels() - 1;
    let mut configured = 0;
    for start in (0..num_lines).step_by(run) {
        let lines = start..num_lines.min(start + run);
        for panel in panels.clone() {
            let next = M::run_of(job.weight.panel(last_panel.min(panel + 1)), &lines);
            let steps = M::steps(M::run_of(job.weight.panel(panel), &lines), &mut scratch);
            let in_order = job.weight.in_order(panel);
            for (i, tile) in tiles.clone().enumerate() {
                let rows = job.tiles.rows(tile);
                if rows.len() != configured {
                    configured = rows.len();
                    M::Unit::configure(configured);
                }
                let at = ((panel - panels.start) * tiles.len() + i).min(sums.len() - 1);
                let ahead = match in_order.filter(|_| tiles.len() <= 2) {
                    Some(steps) if i == 0 => Ahead::Read(steps),
                    Some(_) => Ahead::Nothing,
                    None => ahead(next, lines.len(), i, tiles.len()),
                };
                let x = job.tiles.part(tile, &lines, ahead);
                M::add(x, steps, &mut sums[at], start == 0);
                if lines.end == num_lines {
                    for (row, sums) in rows.zip(&mut sums[at].0) {
                        job.finish(row, panel * PANEL, std::array::from_mut(sums));
                    }
                }
            }
        }
    }
    WIDENED.set(scratch);
}

impl<M: InTiles> Tiles<'_, M> {
    /// Lines of a tile.
    #[inline(always)]
    fn part<'b>(
        &'b self,
        tile: usize,
        lines: &Range<usize>,
        ahead: Ahead<'b>,
    ) -> Tile<'b, M::Block> {
        let rows = self.rows(tile);
        let (first_line, first_block) = (rows.start * self.num_steps, rows.start * self.num_blocks);
        let lines_of_block = M::BLOCK.min(self.num_steps);
        let blocks = lines.start / lines_of_block..lines.end.div_ceil(lines_of_block);
        Tile {
            lines: &self.data[first_line..][lines.start * rows.len()..lines.end * rows.len()],
            blocks: &self.blocks[first_block..][blocks.start * rows.len()..blocks.end * rows.len()],
            ahead,
        }
    }
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
        line(elements)
    }

    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
        U::enable(RunPart { job, part });
    }
}

impl<U: Unit> InTiles for TileBf16<U> {
    type Unit = U;

    #[inline(always)]
    fn run_of<'a>(panel: Panel<'a>, lines: &Range<usize>) -> Panel<'a> {
        let steps_of_line = match panel {
            Panel::Wide(_) => SIDE,
            Panel::Narrow(_) => 2 * SIDE,
        };
        panel.part(lines.start * steps_of_line..lines.end * steps_of_line)
    }

    #[inline(always)]
    fn steps<'a>(run: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step] {
        run.steps::<bf16>(scratch)
    }

    #[inline(always)]
    fn add(x: Tile<'_, ()>, steps: &[Step], sums: &mut Sums<f32>, begin: bool) {
        let mut rest = [Step([0; PANEL]); SIDE];
        U::multiply_bf16(Factors::new(x.lines, steps, &mut rest, x.ahead), sums, begin);
    }
}

/// Weights of 8 bits.
pub(super) struct TileInt8<U>(PhantomData<U>);

/// Weights of 4 bits, made 8 panel by panel.
pub(super) struct TileInt4<U>(PhantomData<U>);

macro_rules! integers {
    ($way:ident, $steps_of_block:expr, $steps:ident) => {
        impl<U: Unit> Multiply for $way<U> {
            type Element = i8;
            type Input = Line;
            type Block = Block;

            const PER_STEP: usize = 4 * SIDE;
            const BLOCK: usize = LINES_OF_BLOCK;
            const ROWS: usize = MAX_ROWS;

            #[inline(always)]
            fn input(elements: &[i8]) -> Line {
                line(elements)
            }

            fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
                U::enable(RunPart { job, part });
            }
        }

        impl<U: Unit> InTiles for $way<U> {
            type Unit = U;

            #[inline(always)]
            fn run_of<'a>(panel: Panel<'a>, lines: &Range<usize>) -> Panel<'a> {
                let blocks = lines.start / LINES_OF_BLOCK..lines.end.div_ceil(LINES_OF_BLOCK);
                panel.part(blocks.start * $steps_of_block..blocks.end * $steps_of_block)
            }

            #[inline(always)]
            fn steps<'a>(run: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step] {
                $steps(run, scratch)
            }

            #[inline(always)]
            fn add(x: Tile<'_, Block>, steps: &[Step], sums: &mut Sums<f32>, begin: bool) {
                add_blocks::<U>(x, steps, sums, begin);
            }
        }
    };
}

integers!(TileInt8, 1 + BLOCK / 4, as_they_are);
integers!(TileInt4, 1 + BLOCK / 8, widened);

const LINES_OF_BLOCK: usize = BLOCK / (4 * SIDE);

#[inline(always)]
fn as_they_are<'a>(run: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step] {
    run.steps::<i8>(scratch)
}

/// Each block's scales, and two words for each of its words.
#[inline(always)]
fn widened<'a>(run: Panel<'a>, scratch: &'a mut Vec<Step>) -> &'a [Step] {
    let Panel::Wide(narrow) = run else { unreachable!("integers are not e4m3") };
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
fn add_blocks<U: Unit>(x: Tile<'_, Block>, steps: &[Step], totals: &mut Sums<f32>, begin: bool) {
    let num_rows = x.blocks.len() / steps.len().div_ceil(1 + BLOCK / 4);
    let mut rest = [Step([0; PANEL]); SIDE];
    let mut sums = Sums::default();
    if begin {
        totals.0[..num_rows].fill([[0.0; LANES]; PANEL / LANES]);
    }
    let parts = steps.chunks(1 + BLOCK / 4).zip(x.lines.chunks(LINES_OF_BLOCK * num_rows));
    for (i, ((steps, lines), blocks)) in parts.zip(x.blocks.chunks(num_rows)).enumerate() {
        let (scales, steps) = steps.split_at(1);
        let ahead = after(x.ahead, i * LINES_OF_BLOCK);
        U::multiply_i8(Factors::new(lines, steps, &mut rest, ahead), &mut sums);
        let scales = scales[0].0.map(f32::from_bits);
        let (scales, _) = scales.as_chunks::<LANES>();
        for ((totals, sums), block) in totals.0.iter_mut().zip(&sums.0).zip(blocks) {
            let of_x = U::Lanes::splat(block.scale);
            for ((total, sum), scales) in totals.iter_mut().zip(sums).zip(scales) {
                let scale = U::Lanes::load(scales).mul(of_x);
                let sum = U::Lanes::of_integers(sum);
                sum.mul_add(scale, U::Lanes::load(total)).store(total);
            }
        }
    }
}
