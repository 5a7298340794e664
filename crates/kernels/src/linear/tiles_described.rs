//! Tile registers element by element, as their instructions are described: for tests on any processor.

use super::cpu::{Job, Part};
use super::portable::widen;
use super::tiles::{Factors, InTiles, MAX_ROWS, SIDE, Sums, Unit, run_part};
use crate::simd;
use std::cell::Cell;

pub(super) struct Described;

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
    type Lanes = simd::Portable;

    fn run<M: InTiles<Unit = Self>, O: simd::Element>(job: &Job<'_, M, O>, part: &Part) {
        run_part(job, part);
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
}
