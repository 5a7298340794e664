//! Products of pairs of bf16, for processors that have them.

use super::{Kernel, LANES, Lanes};
use half::bf16;

/// bf16 values in as many pairs as there are lanes.
pub(crate) const PAIRED: usize = 2 * LANES;

/// Lanes that take in the products of two pairs each at once: `a.0 * b.0 + a.1 * b.1`, exact products
/// rounded as they are added.
pub(crate) trait PairLanes: Lanes {
    /// [`PAIRED`] bf16 values.
    type Pairs: Copy;

    fn load_pairs(x: &[bf16; PAIRED]) -> Self::Pairs;
    /// Fewer than [`PAIRED`], zeros behind them.
    fn load_some_pairs(x: &[bf16]) -> Self::Pairs;
    fn store_pairs(pairs: Self::Pairs, out: &mut [bf16; PAIRED]);
    /// `self` plus the products of `a` with `b`.
    fn add_products(self, a: Self::Pairs, b: Self::Pairs) -> Self;

    /// Lane `4 q + i` is the sum of quarter q of `x[i]`, in a fixed order.
    fn sums_in_quarters(x: [Self; 4]) -> Self;
    /// Quarter i is the sum of the quarters of `x[i]`, in a fixed order.
    fn sums_of_quarters(x: [Self; 4]) -> Self;
}

/// Elements `i..` of a row, zeros past its end.
#[inline(always)]
pub(crate) fn load_pairs_at<V: PairLanes>(row: &[bf16], i: usize) -> V::Pairs {
    match row.get(i..i + PAIRED) {
        Some(chunk) => V::load_pairs(chunk.try_into().expect("the chunk has PAIRED elements")),
        None => V::load_some_pairs(&row[i..]),
    }
}

/// A computation that can be done with pairs, too.
pub(crate) trait PairKernel: Kernel {
    /// Must be `#[inline(always)]`.
    fn run_pairs<V: PairLanes>(self) -> Self::Output;
}
