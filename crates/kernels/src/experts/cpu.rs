//! Choice, order and sum on the CPU.

use super::{Choose, Combine, Gate, Score};
use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, LANES, Lanes, dispatch, load_at, store_at};
use crate::views::{cpu_slice, slice};
use candle_core::{CpuStorage, Layout, Result, Tensor};

/// Of a selection and an exponential, roughly.
const OPERATIONS_PER_LOGIT: usize = 32;

/// logits `[tokens, experts]` f32 to experts and the bits of their weights. `[2, tokens, per_token]` u32
pub(super) fn choose(logits: &CpuStorage, layout: &Layout, op: &Choose) -> Result<CpuStorage> {
    let (tokens, num_experts) = layout.shape().dims2()?;
    let logits: &[f32] = slice(logits, layout, "logits")?;
    let bias = op.bias.map(Tensor::storage_and_layout);
    let bias = bias.as_ref().map(|(bias, layout)| cpu_slice(bias, layout, "the bias"));
    let bias: Option<&[f32]> = bias.transpose()?;
    let Gate { per_token, score, is_normalised, factor } = op.gate;
    let mut chosen = vec![(0, 0); tokens * per_token];
    let work = OPERATIONS_PER_LOGIT * logits.len();
    for_each_row(&mut chosen, per_token, work, |token, chosen| {
        let logits = &logits[token * num_experts..][..num_experts];
        // What is no number is chosen last, so that any row has as many experts.
        let number = |(expert, logit): (usize, &f32)| {
            let score = match score {
                Score::Softmax => *logit,
                Score::Sigmoid => sigmoid(*logit),
            };
            let score = bias.map_or(score, |bias| score + bias[expert]);
            (if score.is_nan() { f32::NEG_INFINITY } else { score }, expert as u32)
        };
        let mut row: Vec<(f32, u32)> = logits.iter().enumerate().map(number).collect();
        let first = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        row.select_nth_unstable_by(per_token - 1, first);
        row[..per_token].sort_unstable_by(first);
        let largest = row[0].0;
        let part = |(biased, expert): &(f32, u32)| match score {
            Score::Softmax => (biased - largest).exp(),
            Score::Sigmoid => sigmoid(logits[*expert as usize]).max(0.0),
        };
        // The others lie as the selection left them: their sum is taken in an order of its own.
        row[per_token..].sort_unstable_by_key(|(_, expert)| *expert);
        let total: f32 = match (score, is_normalised) {
            (_, true) => row[..per_token].iter().map(part).sum(),
            (Score::Softmax, false) => row.iter().map(part).sum(),
            (Score::Sigmoid, false) => 1.0,
        };
        // All sigmoids of a token may be 0.
        let total = total.max(f32::MIN_POSITIVE);
        for (chosen, one) in chosen.iter_mut().zip(&row) {
            *chosen = (one.1, (part(one) / total * factor).to_bits());
        }
    });
    let (experts, weights): (Vec<u32>, Vec<u32>) = chosen.into_iter().unzip();
    Ok(CpuStorage::U32([experts, weights].concat()))
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The choice of each row, in the order of their experts; the place of each choice's row in it; and where each
/// expert's begin.
pub(super) fn sort(experts: &[u32], num_experts: usize) -> (Vec<u32>, Vec<u32>, Vec<usize>) {
    let mut starts = vec![0; num_experts + 1];
    for expert in experts {
        starts[*expert as usize + 1] += 1;
    }
    for expert in 0..num_experts {
        starts[expert + 1] += starts[expert];
    }
    let (mut next, mut order) = (starts.clone(), vec![0; experts.len()]);
    let place = |(choice, expert): (usize, &u32)| {
        let place = next[*expert as usize];
        next[*expert as usize] += 1;
        order[place] = choice as u32;
        place as u32
    };
    let places = experts.iter().enumerate().map(place).collect();
    (order, places, starts)
}

/// y `[rows, width]` to `[tokens, width]`.
pub(super) fn combine<E: Element>(
    (y, layout): (&CpuStorage, &Layout),
    &Combine { routing, shared }: &Combine,
) -> Result<CpuStorage> {
    let y: &[E] = slice(y, layout, "y")?;
    let shared = shared.map(Tensor::storage_and_layout);
    let shared = shared.as_ref().map(|(part, layout)| cpu_slice(part, layout, "the shared part"));
    let shared: Option<&[E]> = shared.transpose()?;
    let (width, [tokens, per_token]) = (layout.dims()[1], routing.dims());
    let weights = routing.choice.get(1)?;
    let (weights, weights_layout) = weights.storage_and_layout();
    let weights: &[u32] = cpu_slice(&weights, weights_layout, "weights")?;
    let places = routing.places()?;
    let (places, places_layout) = places.storage_and_layout();
    let places: &[u32] = cpu_slice(&places, places_layout, "places")?;
    let mut out = vec![E::default(); tokens * width];
    for_each_row(&mut out, width, 2 * y.len(), |token, out| {
        let choices = token * per_token..(token + 1) * per_token;
        let (places, weights) = (&places[choices.clone()], &weights[choices]);
        let shared = shared.map(|shared| &shared[token * width..][..width]);
        dispatch(SumRows { y, places, weights, shared, out });
    });
    Ok(E::to_cpu_storage_owned(out))
}

/// `shared + sum(weight * y)` over the rows of a token.
struct SumRows<'a, E> {
    y: &'a [E],
    places: &'a [u32],
    weights: &'a [u32],
    shared: Option<&'a [E]>,
    out: &'a mut [E],
}

impl<E: Element> Kernel for SumRows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let width = self.out.len();
        for i in (0..width).step_by(LANES) {
            let mut sum = self.shared.map_or(V::splat(0.0), |shared| load_at::<V, E>(shared, i));
            for (place, weight) in self.places.iter().zip(self.weights) {
                let row = &self.y[*place as usize * width..][..width];
                sum = load_at::<V, E>(row, i).mul_add(V::splat(f32::from_bits(*weight)), sum);
            }
            store_at(sum, self.out, i);
        }
    }
}
