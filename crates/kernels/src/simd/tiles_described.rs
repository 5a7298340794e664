//! Tile registers element by element, as their instructions are described: for tests on any processor.

use super::tiles::{Factors, Line, MAX_ROWS, PANEL, Pair, SIDE, Step, Sums, TileKernel, Unit};
use super::{Portable, widen_e4m3};
use float8::F8E4M3;
use half::bf16;
use std::cell::Cell;

pub(crate) struct Described;

thread_local! {
    /// Rows of x, if any are configured.
    static CONFIGURED: Cell<usize> = const { Cell::new(0) };
}

/// The sum of the products of a register's words; `sums = add(sums, register)` for each, from `begin` on if
/// there is one.
fn multiply<T: Copy>(
    factors: Factors<'_>,
    sums: &mut Sums<T>,
    begin: Option<T>,
    add: impl Fn(T, [u32; SIDE], [u32; SIDE]) -> T,
) {
    let num_rows = CONFIGURED.get();
    assert!((1..=MAX_ROWS).contains(&num_rows), "no tile is configured");
    let pairs: Vec<_> = factors.pairs.iter().chain(factors.rest).collect();
    assert_eq!(factors.x.len(), num_rows * pairs.len(), "x has another number of rows");
    for (row, sums) in sums.0.iter_mut().take(num_rows).enumerate() {
        for (feature, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
            *sum = begin.unwrap_or(*sum);
            for (x, pair) in factors.x.chunks(num_rows).zip(&pairs) {
                *sum = add(*sum, x[row].0, pair.map(|step| step.0[feature]));
            }
        }
    }
}

impl Unit for Described {
    type Lanes = Portable;

    fn enable<K: TileKernel<Self>>(kernel: K) {
        kernel.run();
    }

    fn configure(num_rows: usize) {
        CONFIGURED.set(num_rows);
    }

    fn release() {
        CONFIGURED.set(0);
    }

    fn multiply_bf16(factors: Factors<'_>, sums: &mut Sums<f32>, begin: bool) {
        multiply(factors, sums, begin.then_some(0.0), |sum, x, weights| {
            let mut both = [0f32; 2];
            for (x, weights) in x.into_iter().zip(weights) {
                let (x, weights) = (widen(x), widen(weights));
                for i in 0..2 {
                    both[i] = x[i].mul_add(weights[i], both[i]);
                }
            }
            sum + (both[0] + both[1])
        });
    }

    fn multiply_twice(x: &[Line], pairs: &[Pair], sums: &mut Sums<f32>) {
        let pairs: Vec<_> = pairs.iter().flat_map(|pair| [*pair; 2]).collect();
        Self::multiply_bf16(Factors::of(x, &pairs), sums, false);
    }

    fn multiply_rows(
        rows: [&[bf16]; 4],
        columns: &[[Line; SIDE]],
        sums: &mut [[[f32; SIDE]; SIDE]; 4],
    ) {
        let empty = Step([0; PANEL]);
        let mut pairs = vec![[empty; SIDE]; columns.len()];
        for (pair, columns) in pairs.iter_mut().zip(columns) {
            for (step, columns) in pair.iter_mut().zip(columns) {
                step.0[..SIDE].copy_from_slice(&columns.0);
            }
        }
        for (rows, sums) in rows.into_iter().zip(sums) {
            let len = rows.len() / SIDE;
            assert_eq!(len, columns.len() * PANEL, "rows have another number of lines");
            let mut x = Vec::new();
            for line in 0..columns.len() {
                for row in rows.chunks(len) {
                    let row: &[bf16; PANEL] =
                        row.as_chunks().0[line..].first().expect("in the row");
                    x.push(Line(Self::load(row).0.map(f32::to_bits)));
                }
            }
            let mut wide = Sums::default();
            Self::multiply_bf16(Factors::of(&x, &pairs), &mut wide, true);
            for (sums, wide) in sums.iter_mut().zip(wide.0) {
                *sums = wide[0];
            }
        }
    }

    fn multiply_i8(factors: Factors<'_>, sums: &mut Sums<i32>) {
        let bytes = |word: u32| word.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
        multiply(factors, sums, Some(0), |mut sum, x, weights| {
            for (x, weights) in x.into_iter().zip(weights) {
                for (x, weight) in bytes(x).into_iter().zip(bytes(weights)) {
                    sum += x * weight;
                }
            }
            sum
        });
    }

    fn load(row: &[bf16; 2 * SIDE]) -> Portable {
        let (pairs, _) = row.as_chunks::<2>();
        Portable(std::array::from_fn(|i| word(pairs[i].map(bf16::to_bits))))
    }

    fn load_e4m3(row: &[F8E4M3; 2 * SIDE]) -> Portable {
        Self::load(&row.map(|x| bf16::from_f32(widen_e4m3(x.to_bits()))))
    }

    fn round(x: Portable, y: Portable) -> Portable {
        let rounded = [x.0, y.0].map(|x| x.map(|x| bf16::from_f32(x).to_bits()));
        let elements = rounded.as_flattened();
        Portable(std::array::from_fn(|i| word([elements[2 * i], elements[2 * i + 1]])))
    }

    fn widen(row: Portable) -> [Portable; 2] {
        let wide = elements(row).map(|x| f32::from_bits(u32::from(x) << 16));
        [0, SIDE].map(|first| Portable(std::array::from_fn(|i| wide[first + i])))
    }

    fn interleave(x: Portable, y: Portable) -> [Portable; 2] {
        let (x, y) = (elements(x), elements(y));
        [0, SIDE].map(|first| Portable(std::array::from_fn(|i| word([x[first + i], y[first + i]]))))
    }

    fn is_finite(x: Portable) -> bool {
        elements(x).iter().all(|&x| bf16::from_bits(x).is_finite())
    }
}

/// Two elements, the first in the lowest bits.
fn word([low, high]: [u16; 2]) -> f32 {
    f32::from_bits(u32::from(low) | u32::from(high) << 16)
}

/// The bits of a row's elements.
fn elements(row: Portable) -> [u16; 2 * SIDE] {
    std::array::from_fn(|i| (row.0[i / 2].to_bits() >> (16 * (i % 2))) as u16)
}

/// The two elements of a word, as f32.
fn widen(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}
