//! The micro-kernel of vectors: a tile of rows times a panel, written once over what a processor can do.

use super::cpu::{Job, Part};
use super::element::Words;
use super::pack::{PANEL, Panel, Step, WIDENED};
use crate::simd;

/// f32 sums of one register group: output features abreast.
pub(super) const LANES: usize = 16;

/// Most rows of a tile on any path.
pub(super) const MAX_ROWS: usize = 12;

/// One way of multiplying.
pub(super) trait Multiply: Sized {
    /// Of x.
    type Element: Words;
    /// What a step of x is multiplied as.
    type Input: Copy + Send + Sync;
    /// What is known of a row's elements in a block of steps.
    type Block: Copy + Send + Sync;

    /// Elements of x in a step.
    const PER_STEP: usize = Self::Element::PER_WORD;
    /// Steps whose products are summed before their scales are applied.
    const BLOCK: usize = usize::MAX;
    /// Rows of the largest tile: as many as there are registers for.
    const ROWS: usize;

    /// [`PER_STEP`](Multiply::PER_STEP) elements, or fewer at the end of a row.
    fn input(elements: &[Self::Element]) -> Self::Input;

    /// Computes a part, with the instructions enabled.
    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part);
}

/// One that multiplies vectors of lanes, a word each, in [`run_part`]. All must be `#[inline(always)]`: only
/// below [`Multiply::run`] are the vector instructions enabled.
pub(super) trait InLanes: Multiply {
    /// Sixteen words of a panel.
    type Weights: Copy;
    /// Sixteen sums.
    type Sums: Copy;

    /// Steps before those of a block, with the scales of its weights: one or none.
    const SCALES: usize = 0;
    /// Rows up to which a tile takes the whole panel at once, not half after half.
    const ROWS_OF_WHOLE_PANEL: usize;

    /// What the sums of a block begin with.
    fn begin(block: Self::Block) -> Self::Sums;
    fn load(words: &[u32; LANES]) -> Self::Weights;
    /// `sums + weights * input`, along `in` in ascending order.
    fn mul_add(sums: Self::Sums, weights: Self::Weights, input: Self::Input) -> Self::Sums;
    /// Adds the sums of a block to those of the blocks before it. The scales of its weights are there, as
    /// bits, if it has [any](InLanes::SCALES).
    fn finish(
        sums: Self::Sums,
        block: Self::Block,
        scales: Option<&[u32; LANES]>,
        total: &mut [f32; LANES],
    );
}

/// Multiplies the part's tiles of rows with its panels; a panel stays in L2 while the tiles pass.
#[inline(always)]
pub(super) fn run_part<M: InLanes, O: simd::Element>(job: &Job<'_, M, O>, part: &Part) {
    let mut widened = WIDENED.take();
    let last_panel = job.weight.num_panels() - 1;
    for panel in part.panels.clone() {
        let next_panel = job.weight.panel(last_panel.min(panel + 1));
        let steps = job.weight.panel(panel).steps::<M::Element>(&mut widened);
        for (i, tile) in part.tiles.clone().enumerate() {
            let rows = job.tiles.rows(tile);
            let ahead = Ahead::new(next_panel, steps.len(), i, part.tiles.len());
            let at = Place { steps, panel, first_row: rows.start };
            match rows.len() {
                1 => tile_of::<M, O, 1>(job, at, ahead),
                2 => tile_of::<M, O, 2>(job, at, ahead),
                3 => tile_of::<M, O, 3>(job, at, ahead),
                4 => tile_of::<M, O, 4>(job, at, ahead),
                5 => tile_of::<M, O, 5>(job, at, ahead),
                6 => tile_of::<M, O, 6>(job, at, ahead),
                7 => tile_of::<M, O, 7>(job, at, ahead),
                8 => tile_of::<M, O, 8>(job, at, ahead),
                9 => tile_of::<M, O, 9>(job, at, ahead),
                10 => tile_of::<M, O, 10>(job, at, ahead),
                11 => tile_of::<M, O, 11>(job, at, ahead),
                MAX_ROWS => tile_of::<M, O, MAX_ROWS>(job, at, ahead),
                other => unreachable!("a tile of {other} rows"),
            }
        }
    }
    WIDENED.set(widened);
}

/// Which tile is to be computed: a panel, whose steps these are, and rows from the first on.
#[derive(Clone, Copy)]
struct Place<'a> {
    steps: &'a [Step],
    panel: usize,
    first_row: usize,
}

/// Where to read ahead: while tiles of rows pass over one panel, memory would idle if each of them
/// did not bring its share of the next one.
#[derive(Clone, Copy)]
struct Ahead {
    address: *const Step,
    stride: usize,
}

impl Ahead {
    /// Share `index` of `count` of a panel, while `num_steps` pass.
    #[inline(always)]
    fn new(panel: Panel<'_>, num_steps: usize, index: usize, count: usize) -> Self {
        let (start, num_bytes) = panel.bytes();
        let stride = num_bytes / num_steps / count;
        let address = start.wrapping_add(index * num_steps * stride).cast();
        Self { address, stride }
    }

    /// Asks for the next line.
    #[inline(always)]
    fn fetch(&mut self) {
        prefetch(self.address);
        self.address = self.address.wrapping_byte_add(self.stride);
    }
}

/// Asks for a line that will be wanted soon. The address need not be one of a step.
#[inline(always)]
fn prefetch(address: *const Step) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[inline(always)]
fn tile_of<M: InLanes, O: simd::Element, const R: usize>(
    job: &Job<'_, M, O>,
    at: Place<'_>,
    ahead: Ahead,
) {
    assert!(R <= M::ROWS, "the tile has more rows than registers");
    let feature = at.panel * PANEL;
    if R <= M::ROWS_OF_WHOLE_PANEL {
        let mut totals = totals::<M, O, R, 2>(job, at, 0, ahead);
        job.finish(at.first_row, feature, &mut totals);
    } else {
        for half in 0..2 {
            let mut totals = totals::<M, O, R, 1>(job, at, half, ahead);
            job.finish(at.first_row, feature + half * LANES, &mut totals);
        }
    }
}

/// Sums of `R` rows and `C` groups of output features from group `first`, over all blocks.
#[inline(always)]
fn totals<M: InLanes, O: simd::Element, const R: usize, const C: usize>(
    job: &Job<'_, M, O>,
    Place { steps, first_row, .. }: Place<'_>,
    first: usize,
    mut ahead: Ahead,
) -> [[[f32; LANES]; C]; R] {
    let (num_steps, num_blocks) = (job.tiles.num_steps, job.tiles.num_blocks);
    let (x, _) = job.tiles.data[first_row * num_steps..][..R * num_steps].as_chunks::<R>();
    let (blocks, _) = job.tiles.blocks[first_row * num_blocks..][..R * num_blocks].as_chunks::<R>();
    let mut totals = [[[0.0; LANES]; C]; R];
    let pairs = steps.chunks(M::SCALES.saturating_add(M::BLOCK)).zip(x.chunks(M::BLOCK));
    for ((steps, x), blocks) in pairs.zip(blocks) {
        let (scales, steps) = steps.split_at(M::SCALES);
        for _ in scales {
            ahead.fetch();
        }
        let sums = accumulate::<M, R, C>(steps, x, blocks, first, &mut ahead);
        let scales = scales.first().map(|scales| scales.0.as_chunks::<LANES>().0);
        for r in 0..R {
            for c in 0..C {
                let scales = scales.map(|scales| &scales[first + c]);
                M::finish(sums[r][c], blocks[r], scales, &mut totals[r][c]);
            }
        }
    }
    totals
}

/// The same of one block.
#[inline(always)]
fn accumulate<M: InLanes, const R: usize, const C: usize>(
    steps: &[Step],
    x: &[[M::Input; R]],
    blocks: &[M::Block; R],
    first: usize,
    ahead: &mut Ahead,
) -> [[M::Sums; C]; R] {
    // Not `map`: its closure would not be inlined to where the vector instructions are enabled.
    let mut sums = [[M::begin(blocks[0]); C]; R];
    for r in 1..R {
        sums[r] = [M::begin(blocks[r]); C];
    }
    for (step, x) in steps.iter().zip(x) {
        ahead.fetch();
        let groups = step.0.as_chunks::<LANES>().0;
        let mut weights = [M::load(&groups[first]); C];
        for c in 1..C {
            weights[c] = M::load(&groups[first + c]);
        }
        // Each input is read once and dropped: held for a second pass, they would not all find
        // a register.
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = M::mul_add(sums[r][c], weights[c], x[r]);
            }
        }
    }
    sums
}
