//! Choice, order and sum on the CPU.

use super::{Choose, Routing};
use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, LANES, Lanes, dispatch, load_at, store_at};
use crate::views::{cpu_slice, slice};
use candle_core::{CpuStorage, Layout, Result};

/// logits `[tokens, experts]` f32 to experts and the bits of their weights. `[2, tokens, per_token]` u32
pub(super) fn choose(logits: &CpuStorage, layout: &Layout, op: &Choose) -> Result<CpuStorage> {
    let num_experts = layout.dims()[1];
    let logits: &[f32] = slice(logits, layout, "logits")?;
    let (mut experts, mut weights) = (Vec::new(), Vec::new());
    for row in logits.chunks_exact(num_experts) {
        // What is no number is chosen last, so that any row has as many experts.
        let row: Vec<f32> =
            row.iter().map(|x| if x.is_nan() { f32::NEG_INFINITY } else { *x }).collect();
        let mut left: Vec<usize> = (0..num_experts).collect();
        left.sort_by(|&a, &b| row[b].total_cmp(&row[a])); // Stable: of equal ones the first.
        let chosen = &left[..op.per_token];
        let power = |expert: &usize| (row[*expert] - row[chosen[0]]).exp();
        let among = if op.is_normalised { chosen } else { &left[..] };
        let total: f32 = among.iter().map(power).sum();
        experts.extend(chosen.iter().map(|expert| *expert as u32));
        weights.extend(chosen.iter().map(|expert| (power(expert) / total).to_bits()));
    }
    Ok(CpuStorage::U32([experts, weights].concat()))
}

/// Rows in the order of their experts, the place of each row in it, and where each expert's begin.
pub(super) fn sort(experts: &[u32], num_experts: usize) -> (Vec<u32>, Vec<u32>, Vec<usize>) {
    let mut starts = vec![0; num_experts + 1];
    for expert in experts {
        starts[*expert as usize + 1] += 1;
    }
    for expert in 0..num_experts {
        starts[expert + 1] += starts[expert];
    }
    let (mut next, mut order) = (starts.clone(), vec![0; experts.len()]);
    let place = |(row, expert): (usize, &u32)| {
        let place = next[*expert as usize];
        next[*expert as usize] += 1;
        order[place] = row as u32;
        place as u32
    };
    let places = experts.iter().enumerate().map(place).collect();
    (order, places, starts)
}

/// y `[tokens * per_token, width]` to `[tokens, width]`.
pub(super) fn combine<E: Element>(
    (y, layout): (&CpuStorage, &Layout),
    routing: &Routing,
) -> Result<CpuStorage> {
    let y: &[E] = slice(y, layout, "y")?;
    let (width, [tokens, per_token]) = (layout.dims()[1], routing.dims());
    let weights = routing.choice.get(1)?;
    let (weights, weights_layout) = weights.storage_and_layout();
    let weights: &[u32] = cpu_slice(&weights, weights_layout, "weights")?;
    let mut out = vec![E::default(); tokens * width];
    for_each_row(&mut out, width, 2 * y.len(), |token, out| {
        let y = &y[token * per_token * width..][..per_token * width];
        let weights = &weights[token * per_token..][..per_token];
        dispatch(SumRow { y, weights, out });
    });
    Ok(E::to_cpu_storage_owned(out))
}

/// `sum(weight * y)` over the rows of a token.
struct SumRow<'a, E> {
    y: &'a [E],
    weights: &'a [u32],
    out: &'a mut [E],
}

impl<E: Element> Kernel for SumRow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let width = self.out.len();
        for i in (0..width).step_by(LANES) {
            let mut sum = V::splat(0.0);
            for (y, weight) in self.y.chunks_exact(width).zip(self.weights) {
                sum = load_at::<V, E>(y, i).mul_add(V::splat(f32::from_bits(*weight)), sum);
            }
            store_at(sum, self.out, i);
        }
    }
}
