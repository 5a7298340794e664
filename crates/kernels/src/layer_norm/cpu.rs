//! Layer normalisation on the CPU: three passes over a row, rows in parallel.

use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, LANES, Lanes, dispatch, load_at, store_at};
use crate::views::{cpu_slice, slice};
use candle_core::{CpuStorage, Layout, Result, Tensor};

/// x `[.., hidden]`, weight and bias `[hidden]`
pub(super) fn layer_norm<E: Element>(
    (x, x_layout): (&CpuStorage, &Layout),
    (weight, weight_layout): (&CpuStorage, &Layout),
    bias: Option<&Tensor>,
    eps: f32,
) -> Result<CpuStorage> {
    let x: &[E] = slice(x, x_layout, "x")?;
    let weight: &[E] = slice(weight, weight_layout, "weight")?;
    let bias = bias.map(Tensor::storage_and_layout);
    let bias: Option<&[E]> = match &bias {
        Some((bias, layout)) => Some(cpu_slice(bias, layout, "bias")?),
        None => None,
    };
    let hidden = weight.len();
    let mut out = vec![E::default(); x.len()];
    for_each_row(&mut out, hidden, 4 * x.len(), |row, out| {
        let x = &x[row * hidden..][..hidden];
        dispatch(NormRow { x, weight, bias, eps, out });
    });
    Ok(E::to_cpu_storage_owned(out))
}

struct NormRow<'a, E> {
    x: &'a [E],
    weight: &'a [E],
    bias: Option<&'a [E]>,
    eps: f32,
    out: &'a mut [E],
}

impl<E: Element> Kernel for NormRow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Self { x, weight, bias, eps, out } = self;
        let mut sum = V::splat(0.0);
        for i in (0..x.len()).step_by(LANES) {
            sum = sum.add(load_at(x, i));
        }
        let mean = V::splat(sum.reduce_add() / x.len() as f32);
        // Past the end of the row lies nothing, not zero: there is no difference from the mean.
        let mut lane = [0.0; LANES];
        for (i, lane) in lane.iter_mut().enumerate() {
            *lane = i as f32;
        }
        let lane = V::load(&lane);
        let mut squares = V::splat(0.0);
        for i in (0..x.len()).step_by(LANES) {
            let difference = load_at::<V, E>(x, i).sub(mean);
            let left = V::splat((x.len() - i) as f32);
            let difference = lane.select_less(left, difference, V::splat(0.0));
            squares = difference.mul_add(difference, squares);
        }
        let factor = V::splat(1.0 / (squares.reduce_add() / x.len() as f32 + eps).sqrt());
        for i in (0..x.len()).step_by(LANES) {
            let normed = load_at::<V, E>(x, i).sub(mean).mul(factor);
            let weight = load_at(weight, i);
            let y = match bias {
                Some(bias) => normed.mul_add(weight, load_at(bias, i)),
                None => normed.mul(weight),
            };
            store_at(y, out, i);
        }
    }
}
