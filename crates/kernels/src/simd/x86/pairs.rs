//! Pairs of bf16 in AVX-512 registers.

use super::Avx512;
use crate::simd::pairs::{PAIRED, PairLanes};
use half::bf16;
use std::arch::x86_64::*;
use std::mem::transmute;

/// `f` of lanes 0 and 2, and of 1 and 3, of every four of `a` and then of `b`, added.
macro_rules! add_neighbours {
    ($shuffle:ident, $a:expr, $b:expr) => {
        _mm512_add_ps($shuffle::<0b10_00_10_00>($a, $b), $shuffle::<0b11_01_11_01>($a, $b))
    };
}

impl PairLanes for Avx512 {
    type Pairs = __m512i;

    #[inline(always)]
    fn load_pairs(x: &[bf16; PAIRED]) -> __m512i {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_some_pairs(x: &[bf16]) -> __m512i {
        assert!(x.len() < PAIRED, "a whole vector is loaded otherwise");
        // SAFETY: AVX-512 is there, and only elements of the slice are read.
        unsafe { _mm512_maskz_loadu_epi16((1 << x.len()) - 1, x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_pairs(pairs: __m512i, out: &mut [bf16; PAIRED]) {
        // SAFETY: AVX-512 is there, and the array has 64 writable bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs) }
    }
    #[inline(always)]
    fn add_products(self, a: __m512i, b: __m512i) -> Self {
        // SAFETY: AVX-512 with bf16 is there, and the two register types are the same 512 bits.
        Self(unsafe {
            _mm512_dpbf16_ps(
                self.0,
                transmute::<__m512i, __m512bh>(a),
                transmute::<__m512i, __m512bh>(b),
            )
        })
    }
    #[inline(always)]
    fn sums_in_quarters([a, b, c, d]: [Self; 4]) -> Self {
        // SAFETY: AVX-512 is there: see the head of the parent.
        Self(unsafe {
            let (ab, cd) = (
                add_neighbours!(_mm512_shuffle_ps, a.0, b.0),
                add_neighbours!(_mm512_shuffle_ps, c.0, d.0),
            );
            add_neighbours!(_mm512_shuffle_ps, ab, cd)
        })
    }
    #[inline(always)]
    fn sums_of_quarters([a, b, c, d]: [Self; 4]) -> Self {
        // SAFETY: AVX-512 is there: see the head of the parent.
        Self(unsafe {
            let (ab, cd) = (
                add_neighbours!(_mm512_shuffle_f32x4, a.0, b.0),
                add_neighbours!(_mm512_shuffle_f32x4, c.0, d.0),
            );
            add_neighbours!(_mm512_shuffle_f32x4, ab, cd)
        })
    }
}
