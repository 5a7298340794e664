//! Products in plain Rust, for the compiler to vectorise.

use super::cpu::{Job, Part};
use super::element::Words;
use super::integers::{BLOCK, Block, halves, words_of_eight};
use super::multiply::{InLanes, LANES, Multiply, run_part};
use crate::simd;
use half::bf16;

pub(super) struct PortableF32;

pub(super) struct PortableBf16;

pub(super) struct PortableInt8;

pub(super) struct PortableInt4;

/// Fused only where that is one instruction: elsewhere it is a call into libm.
#[inline(always)]
fn mul_add(sum: f32, weight: f32, x: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { weight.mul_add(x, sum) } else { weight * x + sum }
}

/// The two elements of a bf16 pair, as f32.
#[inline(always)]
pub(super) fn widen(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

impl Multiply for PortableF32 {
    type Element = f32;
    type Input = f32;
    type Block = ();

    const ROWS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };

    #[inline(always)]
    fn input(elements: &[f32]) -> f32 {
        elements[0]
    }
    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
        run_part(job, part);
    }
}

impl InLanes for PortableF32 {
    type Weights = [f32; LANES];
    type Sums = [f32; LANES];

    const ROWS_OF_WHOLE_PANEL: usize = 1;

    #[inline(always)]
    fn begin((): ()) -> [f32; LANES] {
        [0.0; LANES]
    }
    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [f32; LANES] {
        words.map(f32::from_bits)
    }
    #[inline(always)]
    fn mul_add(mut sums: [f32; LANES], weights: [f32; LANES], x: f32) -> [f32; LANES] {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = mul_add(*sum, weight, x);
        }
        sums
    }
    #[inline(always)]
    fn finish(
        sums: [f32; LANES],
        (): (),
        _scales: Option<&[u32; LANES]>,
        total: &mut [f32; LANES],
    ) {
        *total = sums;
    }
}

impl Multiply for PortableBf16 {
    type Element = bf16;
    type Input = [f32; 2];
    type Block = ();

    const ROWS: usize = PortableF32::ROWS;

    #[inline(always)]
    fn input(elements: &[bf16]) -> [f32; 2] {
        widen(bf16::word(elements))
    }
    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
        run_part(job, part);
    }
}

impl InLanes for PortableBf16 {
    type Weights = [u32; LANES];
    type Sums = [f32; LANES];

    const ROWS_OF_WHOLE_PANEL: usize = 1;

    #[inline(always)]
    fn begin((): ()) -> [f32; LANES] {
        [0.0; LANES]
    }
    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [u32; LANES] {
        *words
    }
    #[inline(always)]
    fn mul_add(mut sums: [f32; LANES], weights: [u32; LANES], x: [f32; 2]) -> [f32; LANES] {
        for (sum, word) in sums.iter_mut().zip(weights) {
            let [first, second] = widen(word);
            *sum = mul_add(mul_add(*sum, first, x[0]), second, x[1]);
        }
        sums
    }
    #[inline(always)]
    fn finish(
        sums: [f32; LANES],
        (): (),
        _scales: Option<&[u32; LANES]>,
        total: &mut [f32; LANES],
    ) {
        *total = sums;
    }
}

/// Products of the bytes of two words.
#[inline(always)]
fn dot(weights: [i8; 4], x: u32) -> i32 {
    let mut sum = 0;
    for (weight, x) in weights.into_iter().zip(x.to_le_bytes()) {
        sum += i32::from(weight) * i32::from(x.cast_signed());
    }
    sum
}

/// What is the same for both widths of integers.
macro_rules! portable_block {
    () => {
        type Weights = [u32; LANES];
        type Sums = [i32; LANES];

        const SCALES: usize = 1;
        const ROWS_OF_WHOLE_PANEL: usize = 1;

        #[inline(always)]
        fn load(words: &[u32; LANES]) -> [u32; LANES] {
            *words
        }
        #[inline(always)]
        fn finish(
            sums: [i32; LANES],
            block: Block,
            scales: Option<&[u32; LANES]>,
            total: &mut [f32; LANES],
        ) {
            let scales = scales.expect("integers have scales");
            for ((total, sum), scale) in total.iter_mut().zip(sums).zip(scales) {
                *total = mul_add(*total, sum as f32, f32::from_bits(*scale) * block.scale);
            }
        }
    };
}

impl Multiply for PortableInt8 {
    type Element = i8;
    type Input = u32;
    type Block = Block;

    const BLOCK: usize = BLOCK / Self::PER_STEP;
    const ROWS: usize = PortableF32::ROWS;

    #[inline(always)]
    fn input(elements: &[i8]) -> u32 {
        i8::word(elements)
    }
    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
        run_part(job, part);
    }
}

impl InLanes for PortableInt8 {
    portable_block!();

    #[inline(always)]
    fn begin(_block: Block) -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    fn mul_add(mut sums: [i32; LANES], weights: [u32; LANES], x: u32) -> [i32; LANES] {
        for (sum, word) in sums.iter_mut().zip(weights) {
            *sum += dot(word.to_le_bytes().map(u8::cast_signed), x);
        }
        sums
    }
}

impl Multiply for PortableInt4 {
    type Element = i8;
    type Input = [u32; 2];
    type Block = Block;

    const PER_STEP: usize = 8;
    const BLOCK: usize = BLOCK / Self::PER_STEP;
    const ROWS: usize = PortableF32::ROWS;

    #[inline(always)]
    fn input(elements: &[i8]) -> [u32; 2] {
        words_of_eight(elements)
    }
    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
        run_part(job, part);
    }
}

impl InLanes for PortableInt4 {
    portable_block!();

    #[inline(always)]
    fn begin(block: Block) -> [i32; LANES] {
        [-8 * block.sum; LANES]
    }
    #[inline(always)]
    fn mul_add(mut sums: [i32; LANES], weights: [u32; LANES], x: [u32; 2]) -> [i32; LANES] {
        for (sum, word) in sums.iter_mut().zip(weights) {
            for (weights, x) in halves(word).into_iter().zip(x) {
                *sum += dot(weights.to_le_bytes().map(u8::cast_signed), x);
            }
        }
        sums
    }
}
