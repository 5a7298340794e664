//! The lanes of x86-64: one AVX-512 register or two AVX2 registers.
//!
//! Only the functions at the top name the types, and what multiplies in tile registers, which are called for
//! a `Path` that the processor has; every `unsafe` here rests on that.

mod amx;
mod pairs;
mod products;
mod tiles;

pub(super) use amx::has_amx;
pub(crate) use tiles::Amx;

use super::pairs::PairKernel;
use super::{Kernel, LANES, Lanes};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma")]
pub(super) fn avx512_bf16<K: PairKernel>(kernel: K) -> K::Output {
    kernel.run_pairs::<Avx512>()
}

#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
pub(super) fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

#[derive(Clone, Copy)]
pub(super) struct Avx2([__m256; 2]);

/// Both halves of an [`Avx2`] through one intrinsic.
macro_rules! halves {
    ($f:ident, $($x:expr),+) => {
        // SAFETY: AVX2 and FMA are there: see the head of the file.
        unsafe { Avx2([$f($($x.0[0]),+), $f($($x.0[1]),+)]) }
    };
}

#[inline(always)]
fn prefetch<T>(x: &[T]) {
    const LINE_BYTES: usize = 64;
    let start: *const i8 = x.as_ptr().cast();
    for at in (0..size_of_val(x)).step_by(LINE_BYTES) {
        // SAFETY: a prefetch reads nothing that the program sees and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(at)) };
    }
}

impl Lanes for Avx512 {
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        Self(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        // SAFETY: AVX-512 is there, and the array has 64 writable bytes.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe { _mm512_add_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe { _mm512_sub_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe { _mm512_mul_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe { _mm512_div_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // The instruction returns its second operand if either is NaN.
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe { _mm512_max_ps(b.0, self.0) })
    }
    #[inline(always)]
    fn select_less(self, b: Self, yes: Self, no: Self) -> Self {
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0), no.0, yes.0)
        })
    }
    #[inline(always)]
    fn prefetch<T>(x: &[T]) {
        prefetch(x);
    }
    #[inline(always)]
    fn exp2_biased(self) -> Self {
        // SAFETY: AVX-512 is there: see the head of the file.
        Self(unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3f80_0000)))
        })
    }
    #[inline(always)]
    fn store_words(self, out: &mut [u32; LANES]) {
        // SAFETY: AVX-512 is there, and the array has 64 writable bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_castps_si512(self.0)) }
    }
    #[inline(always)]
    fn of_integers(x: &[i32; LANES]) -> Self {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(x.as_ptr().cast())) })
    }
    #[inline(always)]
    fn load_bf16(x: &[half::bf16; LANES]) -> Self {
        // SAFETY: AVX-512 is there, and the array has 32 readable bytes.
        Self(unsafe {
            let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
        })
    }
    #[inline(always)]
    fn store_bf16(self, out: &mut [half::bf16; LANES]) {
        // SAFETY: AVX-512 is there, and the array has 32 writable bytes.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let upper = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            // Rounding could carry a NaN into infinity: keep its head and make it quiet.
            let quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let narrow = _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(is_nan, rounded, quiet));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), narrow);
        }
    }

    #[inline(always)]
    fn reduce_max(self) -> f32 {
        // SAFETY: AVX-512 is there: see the head of the file.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    /// Swaps the off-diagonal quarters of ever smaller squares (Eklundh 1972).
    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        Self::swap_quarters::<8>(rows);
        Self::swap_quarters::<4>(rows);
        Self::swap_quarters::<2>(rows);
        Self::swap_quarters::<1>(rows);
    }
}

/// Lanes of two vectors back to back that make the upper and the lower row of a swap.
struct Swap<const STEP: usize>;

impl<const STEP: usize> Swap<STEP> {
    /// Lane j keeps its own value, or takes lane j - STEP of the lower row.
    const UPPER: [i32; LANES] = {
        let mut index = [0; LANES];
        let mut j = 0;
        while j < LANES {
            index[j] = if j & STEP == 0 { j } else { LANES + j - STEP } as i32;
            j += 1;
        }
        index
    };
    /// Lane j takes lane j + STEP of the upper row, or keeps its own value.
    const LOWER: [i32; LANES] = {
        let mut index = [0; LANES];
        let mut j = 0;
        while j < LANES {
            index[j] = if j & STEP == 0 { j + STEP } else { LANES + j } as i32;
            j += 1;
        }
        index
    };
}

impl Avx512 {
    /// One step of a transposition. The indices are constants: computed in a loop over steps they
    /// would cost more than all the rest of attention.
    #[inline(always)]
    fn swap_quarters<const STEP: usize>(rows: &mut [Self; LANES]) {
        for i in 0..LANES {
            if i & STEP == 0 {
                let (a, b) = (rows[i], rows[i + STEP]);
                rows[i] = a.permute2(&Swap::<STEP>::UPPER, b);
                rows[i + STEP] = a.permute2(&Swap::<STEP>::LOWER, b);
            }
        }
    }

    /// Lane j is lane `index[j]` of the two vectors back to back.
    #[inline(always)]
    fn permute2(self, index: &[i32; LANES], b: Self) -> Self {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        Self(unsafe {
            _mm512_permutex2var_ps(self.0, _mm512_loadu_si512(index.as_ptr().cast()), b.0)
        })
    }
}

impl Lanes for Avx2 {
    const TILE_ROWS: usize = 1;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: AVX2 is there: see the head of the file.
        Self([unsafe { _mm256_set1_ps(x) }; 2])
    }
    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        // SAFETY: AVX2 is there, and the array has 64 readable bytes.
        Self(unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] })
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        // SAFETY: AVX2 is there, and the array has 64 writable bytes.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), self.0[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), self.0[1]);
        }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        halves!(_mm256_add_ps, self, b)
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        halves!(_mm256_sub_ps, self, b)
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        halves!(_mm256_mul_ps, self, b)
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        halves!(_mm256_div_ps, self, b)
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        halves!(_mm256_fmadd_ps, self, b, c)
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // The instruction returns its second operand if either is NaN.
        halves!(_mm256_max_ps, b, self)
    }
    #[inline(always)]
    fn select_less(self, b: Self, yes: Self, no: Self) -> Self {
        let less = halves!(less, self, b);
        halves!(_mm256_blendv_ps, no, yes, less)
    }
    #[inline(always)]
    fn prefetch<T>(x: &[T]) {
        prefetch(x);
    }
    #[inline(always)]
    fn exp2_biased(self) -> Self {
        halves!(exp2_biased, self)
    }
}

/// All ones where `a < b`.
#[inline]
#[target_feature(enable = "avx2")]
fn less(a: __m256, b: __m256) -> __m256 {
    _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)
}

/// [`Lanes::exp2_biased`] of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn exp2_biased(x: __m256) -> __m256 {
    let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(x));
    _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3f80_0000)))
}
