//! Tile registers: a product of up to 32 rows with 32 columns, 64 bytes of a row at a time.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "other processors only share the form of weights")
)]

use super::{LANES, Lanes};
use float8::F8E4M3;
use half::bf16;

/// Rows of a register, and words of one of its rows.
pub(crate) const SIDE: usize = 16;

/// Rows of x that two registers hold.
pub(crate) const MAX_ROWS: usize = 2 * SIDE;

/// A row of a register of x: 64 bytes along `in`.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [u32; SIDE]);

impl Line {
    /// Of bf16, one line after the other.
    pub(crate) fn elements(lines: &[Self]) -> &[bf16] {
        // SAFETY: a line is 64 bytes and aligned to more than an element is, which may be any two of them.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * PANEL) }
    }
}

/// Columns that two registers hold side by side.
pub(crate) const PANEL: usize = 2 * SIDE;

/// A row of two registers of weights: a word of every column of a panel.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Step(pub(crate) [u32; PANEL]);

/// Two registers of weights: `[words along in][columns of a panel]`.
pub(crate) type Pair = [Step; SIDE];

/// Sums of rows of x and the columns of a panel.
#[repr(align(64))]
pub(crate) struct Sums<T>(pub(crate) [[[T; LANES]; PANEL / LANES]; MAX_ROWS]);

impl<T: Copy + Default> Default for Sums<T> {
    #[inline(always)]
    fn default() -> Self {
        Self([[[T::default(); LANES]; PANEL / LANES]; MAX_ROWS])
    }
}

/// What is multiplied at once.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a> {
    /// `[pairs][rows]`, as many rows as were [configured](Unit::configure).
    pub(crate) x: &'a [Line],
    pub(crate) pairs: &'a [Pair],
    /// The pair behind them, if `in` ends within one.
    pub(crate) rest: Option<&'a Pair>,
    pub(crate) ahead: Ahead<'a>,
}

impl<'a> Factors<'a> {
    /// Of whole pairs. What comes next is left where it is.
    #[inline(always)]
    pub(crate) fn of(x: &'a [Line], pairs: &'a [Pair]) -> Self {
        Self { x, pairs, rest: None, ahead: Ahead::Nothing }
    }

    /// `rest` gets what is left of the steps, and zeros.
    #[inline(always)]
    pub(crate) fn new(
        x: &'a [Line],
        steps: &'a [Step],
        rest: &'a mut Pair,
        ahead: Ahead<'a>,
    ) -> Self {
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

/// What is brought near meanwhile.
#[derive(Clone, Copy)]
pub(crate) enum Ahead<'a> {
    Nothing,
    /// Lines are asked for, [so many](Ahead::LINES) a pair.
    Ask {
        address: *const u8,
        stride: usize,
    },
    /// The pairs and what lies behind them, to be read by vectors half a pair ahead. Of what comes from
    /// memory tile loads alone do not have as much on its way as the processor could; asking for it is no
    /// help where there is no time left to fetch it.
    Read(&'a [Step]),
}

impl<'a> Ahead<'a> {
    pub(crate) const LINES: usize = 4;

    /// Where the first pair to be read is, and the last one that may be.
    #[inline(always)]
    pub(crate) fn bounds(steps: &'a [Step]) -> Option<[*const Step; 2]> {
        let last = steps.len().checked_sub(SIDE)?;
        let first = last.min(SIDE / 2);
        Some([first, last].map(|step| std::ptr::from_ref(&steps[step])))
    }
}

/// What multiplies registers of tiles.
pub(crate) trait Unit: Sized {
    /// What is done besides is done with; as bits they are rows of a register, too.
    type Lanes: Lanes;

    /// Runs a kernel with all the instructions enabled that go with it.
    fn enable<K: TileKernel<Self>>(kernel: K);

    /// For so many rows of x, up to [`MAX_ROWS`].
    fn configure(num_rows: usize);

    /// Lets go of the registers, so that nobody saves them when the thread sleeps.
    fn release();

    /// Sums of products of bf16 in f32: of both elements of the words of a register each, in ascending order,
    /// which are added to those of the registers before it, and to the sums unless they are to begin.
    fn multiply_bf16(factors: Factors<'_>, sums: &mut Sums<f32>, begin: bool);

    /// The same of two lines of each row with the same pair, one after the other: x is `[pairs][2][rows]`.
    fn multiply_twice(x: &[Line], pairs: &[Pair], sums: &mut Sums<f32>);

    /// The same of rows of bf16 as they lie in memory, four times [`SIDE`] of them, with sixteen columns,
    /// `[lines][words][columns]`. For [`SIDE`] rows.
    fn multiply_rows(
        rows: [&[bf16]; 4],
        columns: &[[Line; SIDE]],
        sums: &mut [[[f32; SIDE]; SIDE]; 4],
    );

    /// Sums of products of i8, exactly.
    fn multiply_i8(factors: Factors<'_>, sums: &mut Sums<i32>);

    /// A row of bf16.
    fn load(row: &[bf16; PANEL]) -> Self::Lanes;

    /// A row of e4m3 as one of bf16, exactly.
    fn load_e4m3(row: &[F8E4M3; PANEL]) -> Self::Lanes;

    /// Two vectors as a row of bf16, rounded to the nearest, ties to even; what is less than the smallest
    /// normal number may become 0.
    fn round(x: Self::Lanes, y: Self::Lanes) -> Self::Lanes;

    /// The other way round, exactly.
    fn widen(row: Self::Lanes) -> [Self::Lanes; 2];

    /// Two rows of bf16 as words of one element of each, the first in the lowest bits: those of the first
    /// half, then of the second.
    fn interleave(x: Self::Lanes, y: Self::Lanes) -> [Self::Lanes; 2];

    /// Whether all elements of a row of bf16 are finite.
    fn is_finite(x: Self::Lanes) -> bool;
}

/// A computation with tile registers.
pub(crate) trait TileKernel<U> {
    /// Must be `#[inline(always)]`.
    fn run(self);
}
