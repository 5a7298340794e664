//! Products in plain Rust, for the compiler to vectorise.

use super::cpu::{Job, Part};
use super::multiply::{LANES, Multiply, run_part};
use super::pack::Step;
use crate::simd;
use half::bf16;

pub(super) struct PortableF32;

pub(super) struct PortableBf16;

/// Fused only where that is one instruction: elsewhere it is a call into libm.
#[inline(always)]
fn mul_add(sum: f32, weight: f32, x: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { weight.mul_add(x, sum) } else { weight * x + sum }
}

impl Multiply for PortableF32 {
    type Element = f32;
    type Input = f32;
    type Weights = [f32; LANES];
    type Sums = [f32; LANES];

    const ROWS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };
    const ROWS_OF_WHOLE_PANEL: usize = 1;

    #[inline(always)]
    fn input(word: u32) -> f32 {
        f32::from_bits(word)
    }
    #[inline(always)]
    fn zero() -> [f32; LANES] {
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
    fn store(sums: [f32; LANES]) -> [f32; LANES] {
        sums
    }
    #[inline(always)]
    fn prefetch(_address: *const Step) {}

    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
        run_part(job, part);
    }
}

impl Multiply for PortableBf16 {
    type Element = bf16;
    type Input = [f32; 2];
    type Weights = [u32; LANES];
    type Sums = [f32; LANES];

    const ROWS: usize = PortableF32::ROWS;
    const ROWS_OF_WHOLE_PANEL: usize = 1;

    #[inline(always)]
    fn input(word: u32) -> [f32; 2] {
        [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
    }
    #[inline(always)]
    fn zero() -> [f32; LANES] {
        [0.0; LANES]
    }
    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [u32; LANES] {
        *words
    }
    #[inline(always)]
    fn mul_add(mut sums: [f32; LANES], weights: [u32; LANES], x: [f32; 2]) -> [f32; LANES] {
        for (sum, word) in sums.iter_mut().zip(weights) {
            let [first, second] = Self::input(word);
            *sum = mul_add(mul_add(*sum, first, x[0]), second, x[1]);
        }
        sums
    }
    #[inline(always)]
    fn store(sums: [f32; LANES]) -> [f32; LANES] {
        sums
    }
    #[inline(always)]
    fn prefetch(_address: *const Step) {}

    fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
        run_part(job, part);
    }
}
