//! The softmax on the way through the keys, a group of them at a time.

use crate::simd::{LANES, Lanes};

/// Keys per group, and vectors that hold as many scores.
pub(super) const GROUP: usize = VECTORS * LANES;
pub(super) const VECTORS: usize = 4;

/// The running softmax of a row.
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    max: f32,
    sum: [f32; LANES],
    /// What the sums so far are to be multiplied by, because the maximum has grown.
    pub(super) rescale: f32,
}

impl Softmax {
    /// Of no keys.
    pub(super) fn new() -> Self {
        Self { max: f32::NEG_INFINITY, sum: [0.0; LANES], rescale: 0.0 }
    }

    /// Takes in a group of scores, one of them finite, and returns their weights relative to the new
    /// maximum.
    #[inline(always)]
    pub(super) fn add<V: Lanes>(&mut self, scores: [V; VECTORS]) -> [V; VECTORS] {
        let [a, b, c, d] = scores;
        let max = a.max(b).max(c.max(d)).reduce_max();
        self.rescale = 1.0;
        if max > self.max {
            let mut rescale = [0.0; LANES];
            V::splat(self.max - max).exp().store(&mut rescale);
            self.rescale = rescale[0];
            self.max = max;
        }
        let mut weights = scores;
        for weight in &mut weights {
            *weight = weight.sub(V::splat(self.max)).exp();
        }
        let [a, b, c, d] = weights;
        let sum = V::load(&self.sum).mul_add(V::splat(self.rescale), a.add(b).add(c.add(d)));
        sum.store(&mut self.sum);
        weights
    }

    /// The sum of all weights with that of a sink, minus infinity for none.
    #[inline(always)]
    pub(super) fn total<V: Lanes>(&self, sink: f32) -> f32 {
        V::load(&self.sum).reduce_add() + (sink - self.max).exp()
    }
}

/// Minus infinity for all but the scores `first..end`.
#[inline(always)]
pub(super) fn mask<V: Lanes>(
    mut scores: [V; VECTORS],
    (first, end): (usize, usize),
) -> [V; VECTORS] {
    if first > 0 || end < GROUP {
        for (vector, scores) in scores.iter_mut().enumerate() {
            let mut index = [0.0; LANES];
            for (i, index) in index.iter_mut().enumerate() {
                *index = (vector * LANES + i) as f32;
            }
            let index = V::load(&index);
            let never = V::splat(f32::NEG_INFINITY);
            *scores = index.select_less(V::splat(end as f32), *scores, never);
            *scores = index.select_less(V::splat(first as f32), never, *scores);
        }
    }
    scores
}

/// `limit tanh(score / limit)`, where `tanh(y) = 1 - 2 / (e^2y + 1)`.
#[inline(always)]
pub(super) fn cap<V: Lanes>(mut scores: [V; VECTORS], limit: f32) -> [V; VECTORS] {
    for score in &mut scores {
        let e = score.mul(V::splat(2.0 / limit)).exp();
        *score = V::splat(-2.0 * limit).div(e.add(V::splat(1.0))).add(V::splat(limit));
    }
    scores
}
