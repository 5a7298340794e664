//! Products of bytes on x86-64, four to a lane.
//!
//! As in `mod.rs`, every `unsafe` rests on the features that were found before a type was named.

use super::super::cpu::{Job, Part};
use super::super::element::Words;
use super::super::integers::{BLOCK, Block, words_of_eight};
use super::super::multiply::{InLanes, LANES, Multiply, run_part};
use super::run_with;
use crate::simd;
use std::arch::x86_64::*;

/// 16 at a time. Its instruction takes one factor without sign: 128 is added to weights, and 128 times
/// the sum of x taken away.
pub(in super::super) struct Avx512VnniInt8;

/// Four bits, to which 8 is added in memory.
pub(in super::super) struct Avx512VnniInt4;

/// 8 at a time. Its instruction, which takes one factor without sign, too, adds two products in 16 bits: of
/// a weight without its sign and x with the weight's, which fit; of weights with 128 added they would not.
pub(in super::super) struct Avx2Int8;

/// Four bits, to which 8 is added in memory.
pub(in super::super) struct Avx2Int4;

const SIGN_BITS: i32 = 0x8080_8080u32.cast_signed();
const LOW_HALVES: i32 = 0x0f0f_0f0f;

/// `sums + weights * x`, of four bytes a lane.
#[inline(always)]
fn dot_avx512(sums: __m512i, weights: __m512i, x: u32) -> __m512i {
    // SAFETY: AVX-512 with VNNI is there.
    unsafe { _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(x.cast_signed())) }
}

/// The same of 8 lanes. Sums of two products must fit 16 bits.
#[inline(always)]
fn dot_avx2(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    // SAFETY: AVX2 is there.
    unsafe {
        let pairs = _mm256_maddubs_epi16(weights, x);
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// The functions that are the same for both widths of integers.
macro_rules! avx512_block {
    ($offset:expr) => {
        #[inline(always)]
        fn begin(block: Block) -> __m512i {
            // SAFETY: AVX-512 is there.
            unsafe { _mm512_set1_epi32(-$offset * block.sum) }
        }
        #[inline(always)]
        fn finish(
            sums: __m512i,
            block: Block,
            scales: Option<&[u32; LANES]>,
            total: &mut [f32; LANES],
        ) {
            let scales: *const f32 = scales.expect("integers have scales").as_ptr().cast();
            // SAFETY: AVX-512 is there, and the arrays have 64 bytes.
            unsafe {
                let scales = _mm512_mul_ps(_mm512_loadu_ps(scales), _mm512_set1_ps(block.scale));
                let before = _mm512_loadu_ps(total.as_ptr());
                let sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scales, before);
                _mm512_storeu_ps(total.as_mut_ptr(), sums);
            }
        }
    };
}

impl Multiply for Avx512VnniInt8 {
    type Element = i8;
    type Input = u32;
    type Block = Block;

    const BLOCK: usize = BLOCK / Self::PER_STEP;
    const ROWS: usize = 12;

    #[inline(always)]
    fn input(elements: &[i8]) -> u32 {
        i8::word(elements)
    }
    run_with!("avx512f,avx512bw,avx512vnni,avx2,fma");
}

impl InLanes for Avx512VnniInt8 {
    type Weights = __m512i;
    type Sums = __m512i;

    const SCALES: usize = 1;
    const ROWS_OF_WHOLE_PANEL: usize = 12;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> __m512i {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        unsafe {
            let weights = _mm512_loadu_si512(words.as_ptr().cast());
            _mm512_xor_si512(weights, _mm512_set1_epi32(SIGN_BITS))
        }
    }
    #[inline(always)]
    fn mul_add(sums: __m512i, weights: __m512i, x: u32) -> __m512i {
        dot_avx512(sums, weights, x)
    }
    avx512_block!(128);
}

impl Multiply for Avx512VnniInt4 {
    type Element = i8;
    type Input = [u32; 2];
    type Block = Block;

    const PER_STEP: usize = 8;
    const BLOCK: usize = BLOCK / Self::PER_STEP;
    const ROWS: usize = 12;

    #[inline(always)]
    fn input(elements: &[i8]) -> [u32; 2] {
        words_of_eight(elements)
    }
    run_with!("avx512f,avx512bw,avx512vnni,avx2,fma");
}

impl InLanes for Avx512VnniInt4 {
    type Weights = [__m512i; 2];
    type Sums = __m512i;

    const SCALES: usize = 1;
    const ROWS_OF_WHOLE_PANEL: usize = 12;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [__m512i; 2] {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        unsafe {
            let weights = _mm512_loadu_si512(words.as_ptr().cast());
            let low = _mm512_set1_epi32(LOW_HALVES);
            let high = _mm512_srli_epi32::<4>(weights);
            [_mm512_and_si512(weights, low), _mm512_and_si512(high, low)]
        }
    }
    #[inline(always)]
    fn mul_add(sums: __m512i, weights: [__m512i; 2], x: [u32; 2]) -> __m512i {
        dot_avx512(dot_avx512(sums, weights[0], x[0]), weights[1], x[1])
    }
    avx512_block!(8);
}

macro_rules! avx2_block {
    ($offset:expr) => {
        #[inline(always)]
        fn begin(block: Block) -> [__m256i; 2] {
            // SAFETY: AVX2 is there.
            unsafe { [_mm256_set1_epi32(-$offset * block.sum); 2] }
        }
        #[inline(always)]
        fn finish(
            sums: [__m256i; 2],
            block: Block,
            scales: Option<&[u32; LANES]>,
            total: &mut [f32; LANES],
        ) {
            let (scales, _) = scales.expect("integers have scales").as_chunks::<8>();
            let (totals, _) = total.as_chunks_mut::<8>();
            for ((sums, scales), total) in sums.into_iter().zip(scales).zip(totals) {
                // SAFETY: AVX2 and FMA are there, and the arrays have 32 bytes.
                unsafe {
                    let scales = _mm256_loadu_ps(scales.as_ptr().cast());
                    let scales = _mm256_mul_ps(scales, _mm256_set1_ps(block.scale));
                    let before = _mm256_loadu_ps(total.as_ptr());
                    let sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scales, before);
                    _mm256_storeu_ps(total.as_mut_ptr(), sums);
                }
            }
        }
    };
}

/// Both halves of sixteen words.
#[inline(always)]
fn load_avx2(words: &[u32; LANES]) -> [__m256i; 2] {
    let words: *const __m256i = words.as_ptr().cast();
    // SAFETY: AVX2 is there, and the array has twice 32 readable bytes.
    unsafe { [_mm256_loadu_si256(words), _mm256_loadu_si256(words.add(1))] }
}

impl Multiply for Avx2Int8 {
    type Element = i8;
    type Input = u32;
    type Block = Block;

    const BLOCK: usize = BLOCK / Self::PER_STEP;
    const ROWS: usize = 4;

    #[inline(always)]
    fn input(elements: &[i8]) -> u32 {
        i8::word(elements)
    }
    run_with!("avx2,fma");
}

impl InLanes for Avx2Int8 {
    type Weights = [__m256i; 2];
    type Sums = [__m256i; 2];

    const SCALES: usize = 1;
    const ROWS_OF_WHOLE_PANEL: usize = 1;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [__m256i; 2] {
        load_avx2(words)
    }
    #[inline(always)]
    fn mul_add(mut sums: [__m256i; 2], weights: [__m256i; 2], x: u32) -> [__m256i; 2] {
        for (sums, weights) in sums.iter_mut().zip(weights) {
            // SAFETY: AVX2 is there.
            let (sizes, x) = unsafe {
                let x = _mm256_set1_epi32(x.cast_signed());
                (_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights))
            };
            *sums = dot_avx2(*sums, sizes, x);
        }
        sums
    }
    avx2_block!(0);
}

impl Multiply for Avx2Int4 {
    type Element = i8;
    type Input = [u32; 2];
    type Block = Block;

    const PER_STEP: usize = 8;
    const BLOCK: usize = BLOCK / Self::PER_STEP;
    const ROWS: usize = 4;

    #[inline(always)]
    fn input(elements: &[i8]) -> [u32; 2] {
        words_of_eight(elements)
    }
    run_with!("avx2,fma");
}

impl InLanes for Avx2Int4 {
    type Weights = [[__m256i; 2]; 2];
    type Sums = [__m256i; 2];

    const SCALES: usize = 1;
    const ROWS_OF_WHOLE_PANEL: usize = 1;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [[__m256i; 2]; 2] {
        let [first, second] = load_avx2(words);
        // SAFETY: AVX2 is there.
        unsafe {
            let low = _mm256_set1_epi32(LOW_HALVES);
            let (high, high_of_second) =
                (_mm256_srli_epi32::<4>(first), _mm256_srli_epi32::<4>(second));
            [
                [_mm256_and_si256(first, low), _mm256_and_si256(second, low)],
                [_mm256_and_si256(high, low), _mm256_and_si256(high_of_second, low)],
            ]
        }
    }
    #[inline(always)]
    fn mul_add(mut sums: [__m256i; 2], weights: [[__m256i; 2]; 2], x: [u32; 2]) -> [__m256i; 2] {
        for (weights, x) in weights.into_iter().zip(x) {
            for (sums, weights) in sums.iter_mut().zip(weights) {
                // SAFETY: AVX2 is there.
                let x = unsafe { _mm256_set1_epi32(x.cast_signed()) };
                *sums = dot_avx2(*sums, weights, x);
            }
        }
        sums
    }
    avx2_block!(8);
}
