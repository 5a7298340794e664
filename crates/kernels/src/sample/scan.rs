//! Vectorised passes over a row of logits or weights.

use crate::simd::{Kernel, LANES, Lanes, dispatch, load_at, store_at};

/// Elements whose sum is taken in f32; sums of blocks are added in f64.
pub(super) const BLOCK: usize = 1024;

/// What a row holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extremes {
    pub(super) max: f32,
    /// Smallest of the possible (not minus infinity).
    pub(super) min: f32,
    /// Neither NaN nor infinity.
    pub(super) is_valid: bool,
}

/// One pass for all three.
pub(super) fn extremes(row: &[f32]) -> Extremes {
    dispatch(FindExtremes(row))
}

struct FindExtremes<'a>(&'a [f32]);

impl Kernel for FindExtremes<'_> {
    type Output = Extremes;

    #[inline(always)]
    fn run<V: Lanes>(self) -> Extremes {
        let (infinity, never) = (V::splat(f32::INFINITY), V::splat(f32::NEG_INFINITY));
        let (mut max, mut negative_min, mut invalid) = (never, never, V::splat(0.0));
        let (chunks, tail) = self.0.as_chunks::<LANES>();
        // What is missing in the last chunk is the row's first element, which changes nothing.
        let mut last = [self.0[0]; LANES];
        last[..tail.len()].copy_from_slice(tail);
        for chunk in chunks.iter().chain([&last]) {
            let x = V::load(chunk);
            max = max.max(x);
            let negative = V::splat(0.0).sub(x);
            negative_min = negative_min.max(negative.select_less(infinity, negative, never));
            invalid = x.select_less(infinity, invalid, V::splat(1.0));
        }
        Extremes {
            max: max.reduce_max(),
            min: -negative_min.reduce_max(),
            is_valid: invalid.reduce_max() == 0.0,
        }
    }
}

/// First index of a value that the row holds.
pub(super) fn first_index(row: &[f32], value: f32) -> usize {
    // Counting a whole block vectorises; a search that may stop anywhere does not.
    let holds = |block: &[f32]| block.iter().map(|&x| u32::from(x == value)).sum::<u32>() > 0;
    let block = row.chunks(BLOCK).position(holds).unwrap_or(0) * BLOCK;
    block + row[block..].iter().position(|&x| x == value).unwrap_or(0)
}

/// `weights = exp((row - max) / temperature)`, 0 where that is below `smallest`.
pub(super) fn fill_weights(
    row: &[f32],
    max: f32,
    temperature: f32,
    smallest: f32,
    weights: &mut Vec<f32>,
) {
    weights.resize(row.len(), 0.0);
    dispatch(FillWeights { row, max, temperature, smallest, weights });
}

struct FillWeights<'a> {
    row: &'a [f32],
    max: f32,
    temperature: f32,
    smallest: f32,
    weights: &'a mut [f32],
}

impl Kernel for FillWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let (max, temperature) = (V::splat(self.max), V::splat(self.temperature));
        for i in (0..self.row.len()).step_by(LANES) {
            let weight = load_at::<V, f32>(self.row, i).sub(max).div(temperature).exp();
            let weight = weight.select_less(V::splat(self.smallest), V::splat(0.0), weight);
            store_at(weight, self.weights, i);
        }
    }
}

/// Sum of the weights.
pub(super) fn total(weights: &[f32]) -> f64 {
    weights.chunks(BLOCK).map(block_sum).sum()
}

/// Sum of one block.
pub(super) fn block_sum(block: &[f32]) -> f64 {
    f64::from(dispatch(BlockSum(block)))
}

struct BlockSum<'a>(&'a [f32]);

impl Kernel for BlockSum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Lanes>(self) -> f32 {
        let mut sums = [V::splat(0.0); 4];
        for (i, start) in (0..self.0.len()).step_by(LANES).enumerate() {
            sums[i % 4] = sums[i % 4].add(load_at(self.0, start));
        }
        let [a, b, c, d] = sums;
        a.add(b).add(c.add(d)).reduce_add()
    }
}
