//! Tile registers of x86-64: AMX.
//!
//! As in `mod.rs`, every `unsafe` rests on the features that were found, and here on the operating system's
//! consent, too, before the type was named. The instructions are written as assembly, those that multiply in
//! `products.rs`, because Rust's own are not stable yet; each block leaves nothing in the registers that
//! another one needs, but how they are configured, of which the compiler knows nothing.

use super::{Avx512, products};
use crate::simd::tiles::{Factors, Line, Pair, SIDE, Sums, TileKernel, Unit};
use crate::simd::widen_e4m3;
use float8::F8E4M3;
use half::bf16;
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::transmute;

pub(crate) struct Amx;

/// What `ldtilecfg` reads: Intel's manual, volume 1, 18.3.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

impl Unit for Amx {
    type Lanes = Avx512;

    fn enable<K: TileKernel<Self>>(kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma")]
        fn enabled<K: TileKernel<Amx>>(kernel: K) {
            kernel.run();
        }
        // SAFETY: the features are there: see the head of the file.
        unsafe { enabled(kernel) }
    }

    fn configure(num_rows: usize) {
        let rows = [num_rows.min(SIDE) as u8, num_rows.saturating_sub(SIDE) as u8];
        // Of few rows 2 and 3 have sums, too, where rows are multiplied as they lie.
        let second = if num_rows > SIDE { rows[1] } else { rows[0] };
        let rows = [rows[0], rows[0], second, second, rows[0], rows[1], SIDE as u8, SIDE as u8];
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_of_row: [0; 16],
            rows: [0; 16],
        };
        for (register, rows) in rows.into_iter().enumerate() {
            config.rows[register] = rows;
            config.bytes_of_row[register] = if rows > 0 { 64 } else { 0 };
        }
        // SAFETY: the instruction is there, and it reads the 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
    }

    fn release() {
        // SAFETY: the instruction is there.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    #[inline(always)]
    fn multiply_bf16(factors: Factors<'_>, sums: &mut Sums<f32>, begin: bool) {
        products::add_bf16(factors, sums, begin);
    }

    #[inline(always)]
    fn multiply_twice(x: &[Line], pairs: &[Pair], sums: &mut Sums<f32>) {
        products::add_bf16_twice(Factors::of(x, pairs), sums, false);
    }

    #[inline(always)]
    fn multiply_rows(
        rows: [&[bf16]; 4],
        columns: &[[Line; SIDE]],
        sums: &mut [[[f32; SIDE]; SIDE]; 4],
    ) {
        products::multiply_rows(rows, columns, sums);
    }

    #[inline(always)]
    fn multiply_i8(factors: Factors<'_>, sums: &mut Sums<i32>) {
        products::add_i8(factors, sums, true);
    }

    #[inline(always)]
    fn load(row: &[bf16; 2 * SIDE]) -> Avx512 {
        // SAFETY: AVX-512 is there, and the array has 64 readable bytes.
        Avx512(unsafe { _mm512_castsi512_ps(_mm512_loadu_si512(row.as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_e4m3(row: &[F8E4M3; 2 * SIDE]) -> Avx512 {
        /// Of every number without its sign.
        static WIDE: [[u16; 2 * SIDE]; 4] = {
            let mut wide = [[0; 2 * SIDE]; 4];
            let mut bits = 0;
            while bits < 128 {
                let of_f32 = widen_e4m3(bits as u8).to_bits();
                wide[bits / 32][bits % 32] = (of_f32 >> 16) as u16;
                bits += 1;
            }
            wide
        };
        // SAFETY: AVX-512 is there, and the arrays have 32 and 64 readable bytes.
        unsafe {
            let bits = _mm512_cvtepu8_epi16(_mm256_loadu_si256(row.as_ptr().cast()));
            let table = |i: usize| _mm512_loadu_si512(WIDE[i].as_ptr().cast());
            // The lowest six bits say which of two registers' elements.
            let small = _mm512_permutex2var_epi16(table(0), bits, table(1));
            let large = _mm512_permutex2var_epi16(table(2), bits, table(3));
            let is_large = _mm512_test_epi16_mask(bits, _mm512_set1_epi16(0x40));
            let wide = _mm512_mask_blend_epi16(is_large, small, large);
            let signs = _mm512_slli_epi16::<8>(_mm512_and_si512(bits, _mm512_set1_epi16(0x80)));
            Avx512(_mm512_castsi512_ps(_mm512_or_si512(wide, signs)))
        }
    }

    #[inline(always)]
    fn round(x: Avx512, y: Avx512) -> Avx512 {
        // SAFETY: AVX-512 with bf16 is there, and the two register types are the same 512 bits.
        Avx512(unsafe { transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(y.0, x.0)) })
    }

    #[inline(always)]
    fn widen(row: Avx512) -> [Avx512; 2] {
        // SAFETY: AVX-512 is there: see the head of the file.
        unsafe {
            let row = _mm512_castps_si512(row.0);
            let halves = [_mm512_castsi512_si256(row), _mm512_extracti64x4_epi64::<1>(row)];
            let wide =
                |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
            [Avx512(wide(halves[0])), Avx512(wide(halves[1]))]
        }
    }

    #[inline(always)]
    fn interleave(x: Avx512, y: Avx512) -> [Avx512; 2] {
        /// Element i of the first, then of the second, from element `FIRST` on.
        const fn index<const FIRST: i16>() -> [i16; 32] {
            let mut index = [0; 32];
            let mut i = 0;
            while i < 32 {
                index[i] = FIRST + i as i16 / 2 + 32 * (i as i16 % 2);
                i += 1;
            }
            index
        }
        // SAFETY: AVX-512 is there, and the arrays have 64 readable bytes.
        unsafe {
            let (x, y) = (_mm512_castps_si512(x.0), _mm512_castps_si512(y.0));
            let mut halves = [x; 2];
            for (half, index) in
                halves.iter_mut().zip([const { index::<0>() }, const { index::<16>() }])
            {
                let index = _mm512_loadu_si512(index.as_ptr().cast());
                *half = _mm512_permutex2var_epi16(x, index, y);
            }
            [Avx512(_mm512_castsi512_ps(halves[0])), Avx512(_mm512_castsi512_ps(halves[1]))]
        }
    }

    #[inline(always)]
    fn is_finite(x: Avx512) -> bool {
        // SAFETY: AVX-512 is there: see the head of the file.
        unsafe {
            let exponents = _mm512_set1_epi16(0x7f80);
            let of_x = _mm512_and_si512(_mm512_castps_si512(x.0), exponents);
            _mm512_cmpeq_epi16_mask(of_x, exponents) == 0
        }
    }
}
