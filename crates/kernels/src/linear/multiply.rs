//! The micro-kernel: a tile of rows times a panel, written once over what a processor can do.

use super::cpu::{Job, Part};
use super::element::Element;
use super::pack::{PANEL, Panel, Step};
use crate::simd;
use std::cell::RefCell;

/// f32 sums of one register group: output features abreast.
pub(super) const LANES: usize = 16;

/// Most rows of a tile on any path.
pub(super) const MAX_ROWS: usize = 12;

/// One way of multiplying. All but [`Multiply::run`] must be `#[inline(always)]`: only below `run`
/// are the vector instructions enabled.
pub(super) trait Multiply: Sized {
    type Element: Element;
    /// A word of x as it is multiplied.
    type Input: Copy + Send + Sync;
    /// Sixteen words of a panel.
    type Weights: Copy;
    /// Sixteen sums.
    type Sums: Copy;

    /// Rows of the largest tile: as many as there are registers for.
    const ROWS: usize;
    /// Rows up to which a tile takes the whole panel at once, not half after half.
    const ROWS_OF_WHOLE_PANEL: usize;

    fn input(word: u32) -> Self::Input;
    fn zero() -> Self::Sums;
    fn load(words: &[u32; LANES]) -> Self::Weights;
    /// `sums + weights * input`, along `in` in ascending order.
    fn mul_add(sums: Self::Sums, weights: Self::Weights, input: Self::Input) -> Self::Sums;
    fn store(sums: Self::Sums) -> [f32; LANES];
    /// Asks for a line that will be wanted soon. The address need not be one of a step.
    fn prefetch(address: *const Step);

    /// [`run_part`] with the instructions enabled.
    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part);
}

thread_local! {
    /// A panel that was widened, kept from part to part.
    static WIDENED: RefCell<Vec<Step>> = RefCell::default();
}

/// Multiplies the part's tiles of rows with its panels; a panel stays in L2 while the tiles pass.
#[inline(always)]
pub(super) fn run_part<M: Multiply, O: simd::Element>(job: &Job<'_, M, O>, part: &Part) {
    let mut widened = WIDENED.take();
    let last_panel = job.weight.num_panels() - 1;
    for panel in part.panels.clone() {
        let next_panel = job.weight.panel(last_panel.min(panel + 1));
        let steps = job.weight.panel(panel).widened::<M::Element>(&mut widened);
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
}

#[inline(always)]
fn tile_of<M: Multiply, O: simd::Element, const R: usize>(
    job: &Job<'_, M, O>,
    Place { steps, panel, first_row }: Place<'_>,
    ahead: Ahead,
) {
    assert!(R <= M::ROWS, "the tile has more rows than registers");
    let x = job.tiles.data[first_row * steps.len()..][..R * steps.len()].as_chunks::<R>().0;
    if R <= M::ROWS_OF_WHOLE_PANEL {
        let sums = accumulate::<M, R, 2>(steps, x, 0, ahead);
        job.finish(first_row, panel * PANEL, &sums);
    } else {
        for half in 0..2 {
            let sums = accumulate::<M, R, 1>(steps, x, half, ahead);
            job.finish(first_row, panel * PANEL + half * LANES, &sums);
        }
    }
}

/// Sums of `R` rows and `C` groups of output features from group `first`.
#[inline(always)]
fn accumulate<M: Multiply, const R: usize, const C: usize>(
    steps: &[Step],
    x: &[[M::Input; R]],
    first: usize,
    mut ahead: Ahead,
) -> [[[f32; LANES]; C]; R] {
    let mut sums = [[M::zero(); C]; R];
    for (step, x) in steps.iter().zip(x) {
        M::prefetch(ahead.address);
        ahead.address = ahead.address.wrapping_byte_add(ahead.stride);
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
    let mut out = [[[0.0; LANES]; C]; R];
    for r in 0..R {
        for c in 0..C {
            out[r][c] = M::store(sums[r][c]);
        }
    }
    out
}
