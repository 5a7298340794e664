//! Products in the tile registers of x86-64, for a `Path` that has them: see `tiles.rs`. Registers 0 to 3 have
//! sums, 4 and 5 rows of x, 6 and 7 the halves of a panel.

use crate::simd::tiles::{Ahead, Factors, Line, MAX_ROWS, SIDE, Sums};
use half::bf16;
use std::arch::asm;

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
        pub(super) fn $name(factors: Factors<'_>, sums: &mut Sums<$sum>, begin: bool) {
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

/// See [`crate::simd::tiles::Unit::multiply_rows`].
#[inline(always)]
pub(super) fn multiply_rows(
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
