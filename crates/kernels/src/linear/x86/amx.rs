//! Tile registers of x86-64: AMX.
//!
//! As in `mod.rs`, every `unsafe` rests on the features that were found, and here on the operating system's
//! consent, too, before the type was named. The instructions are written as assembly because Rust's own are
//! not stable yet; each block leaves nothing in the registers that another one needs, but how they are
//! configured, of which the compiler knows nothing.

use super::super::cpu::{Job, Part};
use super::super::tiles::{Ahead, Factors, InTiles, MAX_ROWS, SIDE, Sums, Unit, run_part};
use crate::simd;
use std::arch::asm;

/// Registers 0 to 3 have sums, 4 and 5 rows of x, 6 and 7 the halves of a panel.
pub(in super::super) struct Amx;

/// What `ldtilecfg` reads: Intel's manual, volume 1, 18.3.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

/// The product with one register of x or two.
macro_rules! multiply {
    (
        $factors:ident, $sums:ident, $begin:ident, $num_rows:expr,
        [$($zero:expr),*], [$($load:expr),*], [$($step:expr),*], [$($store:expr),*]
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
            "prefetcht1 [{ahead}]",
            "add {ahead}, {stride}",
            "prefetcht1 [{ahead}]",
            "add {ahead}, {stride}",
            "prefetcht1 [{ahead}]",
            "add {ahead}, {stride}",
            "prefetcht1 [{ahead}]",
            "add {ahead}, {stride}",
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
            ahead = inout(reg) $factors.ahead.address => _,
            stride = in(reg) $factors.ahead.stride,
            sums = in(reg) std::ptr::from_mut($sums),
            begin = in(reg) u32::from($begin),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// A function with an instruction, which begins the sums or adds to them.
macro_rules! multiply_with {
    ($name:ident, $dot:literal, $sum:ty) => {
        #[inline(always)]
        fn $name(factors: Factors<'_>, sums: &mut Sums<$sum>, begin: bool) {
            let num_pairs = factors.pairs.len() + usize::from(factors.rest.is_some());
            let num_rows = factors.x.len() / num_pairs;
            assert!(num_rows <= MAX_ROWS && num_rows * num_pairs == factors.x.len());
            if num_rows <= SIDE {
                // SAFETY: the instructions are there. x has a line for each row and pair, a pair has two
                // registers, sums have room for four; a prefetch reads nothing that the program sees.
                unsafe {
                    multiply!(
                        factors,
                        sums,
                        begin,
                        num_rows,
                        ["tilezero tmm0", "tilezero tmm1"],
                        [
                            "tileloadd tmm0, [{sums} + {line_of_weights}*1]",
                            "tileloadd tmm1, [{sums} + {line_of_weights}*1 + 64]"
                        ],
                        [
                            "tileloadd tmm4, [{x} + {line_of_x}*1]",
                            concat!($dot, " tmm0, tmm4, tmm6"),
                            concat!($dot, " tmm1, tmm4, tmm7")
                        ],
                        [
                            "tilestored [{sums} + {line_of_weights}*1], tmm0",
                            "tilestored [{sums} + {line_of_weights}*1 + 64], tmm1"
                        ]
                    );
                }
            } else {
                // SAFETY: as above.
                unsafe {
                    multiply!(
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
                        [
                            "tileloadd tmm4, [{x} + {line_of_x}*1]",
                            concat!($dot, " tmm0, tmm4, tmm6"),
                            concat!($dot, " tmm1, tmm4, tmm7"),
                            "tileloadd tmm5, [{x} + {line_of_x}*1 + 1024]",
                            concat!($dot, " tmm2, tmm5, tmm6"),
                            concat!($dot, " tmm3, tmm5, tmm7")
                        ],
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

multiply_with!(add_bf16, "tdpbf16ps", f32);
multiply_with!(add_i8, "tdpbssd", i32);

/// As many as `multiply` reads ahead.
const _: () = assert!(Ahead::LINES == 4);

impl Unit for Amx {
    type Lanes = simd::Avx512;

    fn run<M: InTiles<Unit = Self>, O: simd::Element>(job: &Job<'_, M, O>, part: &Part) {
        #[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
        fn enabled<M: InTiles, O: simd::Element>(job: &Job<'_, M, O>, part: &Part) {
            run_part(job, part);
        }
        // SAFETY: the features are there: see the head of the file.
        unsafe { enabled(job, part) }
    }

    fn configure(num_rows: usize) {
        let rows = [num_rows.min(SIDE) as u8, num_rows.saturating_sub(SIDE) as u8];
        let rows = [rows[0], rows[0], rows[1], rows[1], rows[0], rows[1], SIDE as u8, SIDE as u8];
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
    fn multiply_i8(factors: Factors<'_>, sums: &mut Sums<i32>) {
        add_i8(factors, sums, true);
    }
}
