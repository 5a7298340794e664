//! Top-k and top-p without sorting the vocabulary.
//!
//! Tokens are ranked by falling logit, equal ones by rising id. Both filters keep the first of that
//! order: as many as reach a count, or a share of the probability. A histogram over the logits finds
//! the bin in which that happens; only the tokens of that bin are sorted.

use super::scan::Extremes;
use std::cmp::Ordering;

const NUM_BINS: usize = 2048;

/// Logits this far below the largest, in units of the temperature, share the last bin: their weight
/// is below 1e-13 of the largest.
const MAX_DEPTH: f32 = 30.0;

/// A row whose weights are to be thinned.
pub(super) struct Ranked<'a> {
    pub(super) logits: &'a [f32],
    /// 0 for tokens that are out already.
    pub(super) weights: &'a mut [f32],
    pub(super) extremes: Extremes,
    pub(super) temperature: f32,
}

impl Ranked<'_> {
    /// Sets to 0 the weights of all but the first tokens whose measures add up to `target`.
    pub(super) fn keep(&mut self, target: f64, measure: impl Fn(f32) -> f64) {
        let mut bins = vec![0.0; NUM_BINS];
        let bin_of = self.binning();
        for (&logit, &weight) in self.logits.iter().zip(&*self.weights) {
            if weight > 0.0 {
                bins[bin_of(logit)] += measure(weight);
            }
        }
        let mut sum = 0.0;
        let Some(border_bin) = bins.iter().position(|bin| {
            sum += bin;
            sum >= target
        }) else {
            return;
        };
        sum -= bins[border_bin];

        let mut in_bin: Vec<u32> = (0..self.logits.len() as u32)
            .filter(|&id| {
                self.weights[id as usize] > 0.0 && bin_of(self.logits[id as usize]) == border_bin
            })
            .collect();
        in_bin.sort_unstable_by(|&a, &b| rank(self.logits, a, b));
        let border = in_bin.iter().copied().find(|&id| {
            sum += measure(self.weights[id as usize]);
            sum >= target
        });
        // By rounding the bin's own sum may not be reached again: then all of the bin stays.
        if let Some(border) = border.or(in_bin.last().copied()) {
            self.drop_after(border);
        }
    }

    /// Falling logits to rising bins.
    fn binning(&self) -> impl Fn(f32) -> usize + use<> {
        let Extremes { max, min, .. } = self.extremes;
        let depth = (max - min).min(MAX_DEPTH * self.temperature);
        let scale = if depth > 0.0 { (NUM_BINS - 1) as f32 / depth } else { 0.0 };
        move |logit| (((max - logit) * scale) as usize).min(NUM_BINS - 1)
    }

    fn drop_after(&mut self, border: u32) {
        let logit = self.logits[border as usize];
        for (id, (&x, weight)) in (0..).zip(self.logits.iter().zip(&mut *self.weights)) {
            if x < logit || (x == logit && id > border) {
                *weight = 0.0;
            }
        }
    }
}

/// The order of tokens: falling logit, then rising id. No logit is NaN.
fn rank(logits: &[f32], a: u32, b: u32) -> Ordering {
    let (x, y) = (logits[a as usize], logits[b as usize]);
    y.partial_cmp(&x).unwrap_or(Ordering::Equal).then(a.cmp(&b))
}

/// Tokens before this one in the order, plus 1.
pub(super) fn rank_of(logits: &[f32], token: u32) -> u32 {
    let logit = logits[token as usize];
    let before = |(id, &x): (u32, &f32)| u32::from(x > logit || (x == logit && id < token));
    1 + (0..).zip(logits).map(before).sum::<u32>()
}

/// The first `num` possible tokens of the order.
pub(super) fn top(logits: &[f32], num: usize) -> Vec<u32> {
    let num = num.min(logits.len());
    if num == 0 {
        return Vec::new();
    }
    // Collect what beats the worst of the best so far; weed out whenever there are twice as many.
    let mut best: Vec<u32> = Vec::with_capacity(2 * num);
    let mut bound = f32::NEG_INFINITY;
    for (id, &x) in (0..).zip(logits) {
        if x > bound {
            best.push(id);
            if best.len() == 2 * num {
                best.select_nth_unstable_by(num - 1, |&a, &b| rank(logits, a, b));
                best.truncate(num);
                bound = logits[best[num - 1] as usize];
            }
        }
    }
    best.sort_unstable_by(|&a, &b| rank(logits, a, b));
    best.truncate(num);
    best
}
