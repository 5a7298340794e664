//! Products on x86-64.
//!
//! Only `Element::multiply` names the types, for a `Path` that the processor has: every `unsafe`
//! here rests on that.

mod integers;

pub(super) use integers::{Avx2Int4, Avx2Int8, Avx512VnniInt4, Avx512VnniInt8};

use super::cpu::{Job, Part};
use super::element::Words;
use super::multiply::{InLanes, LANES, Multiply, run_part};
use super::portable::widen;
use crate::simd;
use half::bf16;
use std::arch::x86_64::*;

/// f32, 16 at a time.
pub(super) struct Avx512F32;

/// bf16, 16 pairs at a time.
pub(super) struct Avx512Bf16;

/// bf16 widened to f32 as it is read.
pub(super) struct Avx512WidenedBf16;

/// f32, 8 at a time.
pub(super) struct Avx2F32;

/// bf16 widened to f32 as it is read.
pub(super) struct Avx2Bf16;

/// What the sums begin as and where they end, given their registers.
macro_rules! sums {
    ($sums:ty, $zero:expr, $store:expr) => {
        #[inline(always)]
        fn begin((): ()) -> $sums {
            // SAFETY: the instructions are there: see the head of the file.
            unsafe { $zero }
        }
        #[inline(always)]
        fn finish(sums: $sums, (): (), _scales: Option<&[u32; LANES]>, total: &mut [f32; LANES]) {
            // SAFETY: the instructions are there, and the array has room for all lanes.
            unsafe { $store(sums, total.as_mut_ptr()) };
        }
    };
}

/// Runs a part with the features enabled.
macro_rules! run_with {
    ($features:literal) => {
        fn run<O: simd::Element>(job: &Job<'_, Self, O>, part: &Part) {
            #[target_feature(enable = $features)]
            fn enabled<M: InLanes, O: simd::Element>(job: &Job<'_, M, O>, part: &Part) {
                run_part(job, part);
            }
            // SAFETY: the features are there: see the head of the file.
            unsafe { enabled(job, part) }
        }
    };
}

use run_with;

impl Multiply for Avx512F32 {
    type Element = f32;
    type Input = f32;
    type Block = ();

    const ROWS: usize = 12;

    #[inline(always)]
    fn input(elements: &[f32]) -> f32 {
        elements[0]
    }
    run_with!("avx512f,avx2,fma");
}

impl InLanes for Avx512F32 {
    type Weights = __m512;
    type Sums = __m512;

    const ROWS_OF_WHOLE_PANEL: usize = 12;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> __m512 {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        unsafe { _mm512_loadu_ps(words.as_ptr().cast()) }
    }
    #[inline(always)]
    fn mul_add(sums: __m512, weights: __m512, x: f32) -> __m512 {
        // SAFETY: AVX-512 is there: see the head of the file.
        unsafe { _mm512_fmadd_ps(weights, _mm512_set1_ps(x), sums) }
    }
    sums!(__m512, _mm512_setzero_ps(), |sums, out| _mm512_storeu_ps(out, sums));
}

impl Multiply for Avx512Bf16 {
    type Element = bf16;
    type Input = u32;
    type Block = ();

    const ROWS: usize = 12;

    #[inline(always)]
    fn input(elements: &[bf16]) -> u32 {
        bf16::word(elements)
    }
    run_with!("avx512f,avx512bf16,avx2,fma");
}

impl InLanes for Avx512Bf16 {
    type Weights = __m512i;
    type Sums = __m512;

    const ROWS_OF_WHOLE_PANEL: usize = 12;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> __m512i {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }
    #[inline(always)]
    fn mul_add(sums: __m512, weights: __m512i, x: u32) -> __m512 {
        // SAFETY: AVX-512 with bf16 is there, and the two register types are the same 512 bits.
        unsafe {
            let x = _mm512_set1_epi32(x.cast_signed());
            _mm512_dpbf16_ps(
                sums,
                std::mem::transmute::<__m512i, __m512bh>(weights),
                std::mem::transmute::<__m512i, __m512bh>(x),
            )
        }
    }
    sums!(__m512, _mm512_setzero_ps(), |sums, out| _mm512_storeu_ps(out, sums));
}

impl Multiply for Avx512WidenedBf16 {
    type Element = bf16;
    type Input = [f32; 2];
    type Block = ();

    const ROWS: usize = 12;

    #[inline(always)]
    fn input(elements: &[bf16]) -> [f32; 2] {
        widen(bf16::word(elements))
    }
    run_with!("avx512f,avx2,fma");
}

impl InLanes for Avx512WidenedBf16 {
    type Weights = [__m512; 2];
    type Sums = __m512;

    const ROWS_OF_WHOLE_PANEL: usize = 12;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [__m512; 2] {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        unsafe {
            let pairs = _mm512_loadu_si512(words.as_ptr().cast());
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(-0x1_0000));
            let first = _mm512_slli_epi32::<16>(pairs);
            [_mm512_castsi512_ps(first), _mm512_castsi512_ps(second)]
        }
    }
    #[inline(always)]
    fn mul_add(sums: __m512, weights: [__m512; 2], x: [f32; 2]) -> __m512 {
        // SAFETY: AVX-512 is there: see the head of the file.
        unsafe {
            let sums = _mm512_fmadd_ps(weights[0], _mm512_set1_ps(x[0]), sums);
            _mm512_fmadd_ps(weights[1], _mm512_set1_ps(x[1]), sums)
        }
    }
    sums!(__m512, _mm512_setzero_ps(), |sums, out| _mm512_storeu_ps(out, sums));
}

impl Multiply for Avx2F32 {
    type Element = f32;
    type Input = f32;
    type Block = ();

    const ROWS: usize = 6;

    #[inline(always)]
    fn input(elements: &[f32]) -> f32 {
        elements[0]
    }
    run_with!("avx2,fma");
}

impl InLanes for Avx2F32 {
    type Weights = [__m256; 2];
    type Sums = [__m256; 2];

    const ROWS_OF_WHOLE_PANEL: usize = 2;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [__m256; 2] {
        let words: *const f32 = words.as_ptr().cast();
        // SAFETY: AVX2 is there, and the array has twice 32 readable bytes.
        unsafe { [_mm256_loadu_ps(words), _mm256_loadu_ps(words.add(8))] }
    }
    #[inline(always)]
    fn mul_add(sums: [__m256; 2], weights: [__m256; 2], x: f32) -> [__m256; 2] {
        // SAFETY: AVX2 and FMA are there: see the head of the file.
        unsafe {
            let x = _mm256_set1_ps(x);
            [_mm256_fmadd_ps(weights[0], x, sums[0]), _mm256_fmadd_ps(weights[1], x, sums[1])]
        }
    }
    sums!([__m256; 2], [_mm256_setzero_ps(); 2], store_avx2);
}

impl Multiply for Avx2Bf16 {
    type Element = bf16;
    type Input = [f32; 2];
    type Block = ();

    const ROWS: usize = 5;

    #[inline(always)]
    fn input(elements: &[bf16]) -> [f32; 2] {
        widen(bf16::word(elements))
    }
    run_with!("avx2,fma");
}

impl InLanes for Avx2Bf16 {
    type Weights = [[__m256; 2]; 2];
    type Sums = [__m256; 2];

    const ROWS_OF_WHOLE_PANEL: usize = 1;

    #[inline(always)]
    fn load(words: &[u32; LANES]) -> [[__m256; 2]; 2] {
        // SAFETY: AVX2 is there, and the array has twice 32 readable bytes.
        unsafe {
            let pairs: *const __m256i = words.as_ptr().cast();
            let (low, high) = (_mm256_loadu_si256(pairs), _mm256_loadu_si256(pairs.add(1)));
            let mask = _mm256_set1_epi32(-0x1_0000);
            [
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
                ],
                [
                    _mm256_castsi256_ps(_mm256_and_si256(low, mask)),
                    _mm256_castsi256_ps(_mm256_and_si256(high, mask)),
                ],
            ]
        }
    }
    #[inline(always)]
    fn mul_add(sums: [__m256; 2], weights: [[__m256; 2]; 2], x: [f32; 2]) -> [__m256; 2] {
        let sums = Avx2F32::mul_add(sums, weights[0], x[0]);
        Avx2F32::mul_add(sums, weights[1], x[1])
    }
    sums!([__m256; 2], [_mm256_setzero_ps(); 2], store_avx2);
}

/// # Safety
/// AVX2 must be there and `out` have room for sixteen lanes.
#[inline(always)]
unsafe fn store_avx2(sums: [__m256; 2], out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        _mm256_storeu_ps(out, sums[0]);
        _mm256_storeu_ps(out.add(8), sums[1]);
    }
}
