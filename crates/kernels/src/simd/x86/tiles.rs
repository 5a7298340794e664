//! Tile registers of x86-64: AMX.
//!
//! As in `mod.rs`, every `unsafe` rests on the features that were found, and here on the operating system's
//! consent, too, before the type was named. The instructions are written as assembly because Rust's own are
//! not stable yet; each block leaves nothing in the registers that another one needs, but how they are
//! configured, of which the compiler knows nothing.

use super::Avx512;
use crate::simd::tiles::{Ahead, Factors, Line, MAX_ROWS, Pair, SIDE, Sums, TileKernel, Unit};
use crate::simd::widen_e4m3;
use float8::F8E4M3;
use half::bf16;
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::transmute;

/// Registers 0 to 3 have sums, 4 and 5 rows of x, 6 and 7 the halves of a panel.
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

/// The product with one register of x or two, and what is done with each pair besides, for which there are
/// an address and another number.
macro_rules! multiply {
    (
        $factors:ident, $sums:ident, $begin:ident, $num_rows:expr,
        [$($zero:expr),*], [$($load:expr),*], [$($step:expr),*], [$($store:expr),*],
        $address:expr, $number:expr, [$($besides:expr),*]
    ) => {
        asm!(
            "test {begin:e}, {begin:e}",
            "jz 5f",
            $($zero,)*
            "jmp 2f",
            "5:",
            $($load,)*
            "2:",
            "test {pairs_left}, {pairs_left}",
            "jz 4f",
            "3:",
            "tileloadd tmm6, [{weights} + {line_of_weights}*1]",
            "tileloadd tmm7, [{weights} + {line_of_weights}*1 + 64]",
            $($step,)*
            $($besides,)*
            "add {x}, {lines_of_step}",
            "add {weights}, 2048",
            "dec {pairs_left}",
            "jnz 3b",
            // Once more, with what is behind the last whole pair.
            "4:",
            "mov {weights}, {rest}",
            "xor {rest:e}, {rest:e}",
            "mov {pairs_left:e}, 1",
            "test {weights}, {weights}",
            "jnz 3b",
            $($store,)*
            x = inout(reg) $factors.x.as_ptr() => _,
            lines_of_step = in(reg) $num_rows * 64,
            line_of_x = in(reg) 64usize,
            weights = inout(reg) $factors.pairs.as_ptr() => _,
            line_of_weights = in(reg) 128usize,
            pairs_left = inout(reg) $factors.pairs.len() => _,
            rest = inout(reg) $factors.rest.map_or(std::ptr::null(), std::ptr::from_ref) => _,
            address = inout(reg) $address => _,
            number = in(reg) $number,
            sums = in(reg) std::ptr::from_mut($sums),
            begin = in(reg) u32::from($begin),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            out("zmm0") _,
            options(nostack),
        )
    };
}

/// The product, with what is to be brought near.
macro_rules! multiply_ahead {
    ($factors:ident, $($product:tt)*) => {
        match $factors.ahead {
            Ahead::Ask { address, stride } => multiply!(
                $factors,
                $($product)*,
                address,
                stride,
                [
                    "prefetcht1 [{address}]",
                    "add {address}, {number}",
                    "prefetcht1 [{address}]",
                    "add {address}, {number}",
                    "prefetcht1 [{address}]",
                    "add {address}, {number}",
                    "prefetcht1 [{address}]",
                    "add {address}, {number}"
                ]
            ),
            Ahead::Read(steps) if let Some([first, last]) = Ahead::bounds(steps) => multiply!(
                $factors,
                $($product)*,
                first,
                last,
                [
                    ".irp line,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                    "vmovdqa64 zmm0, [{address} + 64*\\line]",
                    ".endr",
                    "add {address}, 2048",
                    "cmp {address}, {number}",
                    "cmova {address}, {number}"
                ]
            ),
            // Every operand must stand in the text.
            Ahead::Nothing | Ahead::Read(_) => {
                let nothing = std::ptr::null::<u8>();
                multiply!($factors, $($product)*, nothing, 0usize, ["/* {address} {number} */"])
            }
        }
    };
}

/// A line of each row, of which there are no more than [`SIDE`], times a pair.
macro_rules! few {
    ($dot:literal) => {
        concat!(
            "tileloadd tmm4, [{x} + {line_of_x}*1]\n",
            $dot,
            " tmm0, tmm4, tmm6\n",
            $dot,
            " tmm1, tmm4, tmm7\n"
        )
    };
}

/// A line of each of more rows.
macro_rules! many {
    ($dot:literal) => {
        concat!(
            few!($dot),
            "tileloadd tmm5, [{x} + {line_of_x}*1 + 1024]\n",
            $dot,
            " tmm2, tmm5, tmm6\n",
            $dot,
            " tmm3, tmm5, tmm7\n"
        )
    };
}

/// A function with what is done to a pair: with few rows and with many, so many lines of each.
macro_rules! multiply_with {
    ($name:ident, $sum:ty, $lines_of_pair:literal, $few:expr, $many:expr) => {
        #[inline(always)]
        fn $name(factors: Factors<'_>, sums: &mut Sums<$sum>, begin: bool) {
            let num_pairs = factors.pairs.len() + usize::from(factors.rest.is_some());
            let num_lines = num_pairs * $lines_of_pair;
            let num_rows = factors.x.len() / num_lines;
            assert!(num_rows <= MAX_ROWS && num_rows * num_lines == factors.x.len());
            if num_rows <= SIDE {
                // SAFETY: the instructions are there. x has its lines for each row and pair, a pair has two
                // registers, sums have room for four; what is read ahead is within its steps, and a prefetch
                // reads nothing that the program sees.
                unsafe {
                    multiply_ahead!(
                        factors,
                        sums,
                        begin,
                        num_rows,
                        ["tilezero tmm0", "tilezero tmm1"],
                        [
                            "tileloadd tmm0, [{sums} + {line_of_weights}*1]",
                            "tileloadd tmm1, [{sums} + {line_of_weights}*1 + 64]"
                        ],
                        [$few],
                        [
                            "tilestored [{sums} + {line_of_weights}*1], tmm0",
                            "tilestored [{sums} + {line_of_weights}*1 + 64], tmm1"
                        ]
                    );
                }
            } else {
                // SAFETY: as above.
                unsafe {
                    multiply_ahead!(
                        factors,
                        sums,
                        begin,
                        num_rows,
                        ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
                        [
                            "tileloadd tmm0, [{sums} + {line_of_weights}*1]",
                            "tileloadd tmm1, [{sums} + {line_of_weights}*1 + 64]",
                            "tileloadd tmm2, [{sums} + {line_of_weights}*1 + 2048]",
                            "tileloadd tmm3, [{sums} + {line_of_weights}*1 + 2112]"
                        ],
                        [$many],
                        [
                            "tilestored [{sums} + {line_of_weights}*1], tmm0",
                            "tilestored [{sums} + {line_of_weights}*1 + 64], tmm1",
                            "tilestored [{sums} + {line_of_weights}*1 + 2048], tmm2",
                            "tilestored [{sums} + {line_of_weights}*1 + 2112], tmm3"
                        ]
                    );
                }
            }
        }
    };
}

multiply_with!(add_bf16, f32, 1, few!("tdpbf16ps"), many!("tdpbf16ps"));
multiply_with!(add_i8, i32, 1, few!("tdpbssd"), many!("tdpbssd"));
multiply_with!(
    add_bf16_twice,
    f32,
    2,
    concat!(few!("tdpbf16ps"), "add {x}, {lines_of_step}\n", few!("tdpbf16ps")),
    concat!(many!("tdpbf16ps"), "add {x}, {lines_of_step}\n", many!("tdpbf16ps"))
);

/// As many as `multiply` reads ahead.
const _: () = assert!(Ahead::LINES == 4);

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
        add_bf16(factors, sums, begin);
    }

    #[inline(always)]
    fn multiply_twice(x: &[Line], pairs: &[Pair], sums: &mut Sums<f32>) {
        add_bf16_twice(Factors::of(x, pairs), sums, false);
    }

    #[inline(always)]
    fn multiply_rows(
        rows: [&[bf16]; 4],
        columns: &[[Line; SIDE]],
        sums: &mut [[[f32; SIDE]; SIDE]; 4],
    ) {
        let num_lines = columns.len();
        assert!(num_lines > 0 && rows.iter().all(|rows| rows.len() == SIDE * num_lines * 2 * SIDE));
        // SAFETY: the instructions are there, and each of the rows has as many lines as the columns.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm7, [{columns} + {line}*1]",
                "tileloadd tmm4, [{first} + {row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm7",
                "tileloadd tmm6, [{second} + {row}*1]",
                "tdpbf16ps tmm1, tmm6, tmm7",
                "tileloadd tmm4, [{third} + {row}*1]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tileloadd tmm6, [{fourth} + {row}*1]",
                "tdpbf16ps tmm3, tmm6, tmm7",
                "add {first}, {line}",
                "add {second}, {line}",
                "add {third}, {line}",
                "add {fourth}, {line}",
                "add {columns}, 1024",
                "dec {lines_left}",
                "jnz 2b",
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 1024], tmm1",
                "tilestored [{sums} + {line}*1 + 2048], tmm2",
                "tilestored [{sums} + {line}*1 + 3072], tmm3",
                first = inout(reg) rows[0].as_ptr() => _,
                second = inout(reg) rows[1].as_ptr() => _,
                third = inout(reg) rows[2].as_ptr() => _,
                fourth = inout(reg) rows[3].as_ptr() => _,
                row = in(reg) num_lines * 64,
                columns = inout(reg) columns.as_ptr() => _,
                line = in(reg) 64usize,
                lines_left = inout(reg) num_lines => _,
                sums = in(reg) std::ptr::from_mut(sums),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    #[inline(always)]
    fn multiply_i8(factors: Factors<'_>, sums: &mut Sums<i32>) {
        add_i8(factors, sums, true);
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
