//! RMSNorm on the CPU: two passes over a row, rows in parallel.

use super::{AddRmsNorm, Gain, RmsNorm};
use crate::add::AddRow;
use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, LANES, Lanes, dispatch, load_at, store_at};
use crate::views::{cpu_slice, slice};
use candle_core::{CpuStorage, Layout, Result};

/// x `[.., hidden]`, weight `[hidden]`
pub(super) fn rms_norm<E: Element>(
    (x, x_layout): (&CpuStorage, &Layout),
    (weight, weight_layout): (&CpuStorage, &Layout),
    &RmsNorm { gain, eps }: &RmsNorm,
) -> Result<CpuStorage> {
    let x: &[E] = slice(x, x_layout, "x")?;
    let weight: &[E] = slice(weight, weight_layout, "weight")?;
    let hidden = weight.len();
    let mut out = vec![E::default(); x.len()];
    for_each_row(&mut out, hidden, 2 * x.len(), |row, out| {
        let x = &x[row * hidden..][..hidden];
        dispatch(NormRow { x, scale: Scale { weight, gain }, eps, out });
    });
    Ok(E::to_cpu_storage_owned(out))
}

/// The normed rows, then the sums. `[2, .., hidden]`
pub(super) fn add_rms_norm<E: Element>(
    (x, x_layout): (&CpuStorage, &Layout),
    (residual, residual_layout): (&CpuStorage, &Layout),
    &AddRmsNorm { weight, gain, eps }: &AddRmsNorm,
) -> Result<CpuStorage> {
    let x: &[E] = slice(x, x_layout, "x")?;
    let residual: &[E] = slice(residual, residual_layout, "residual")?;
    let (weight, weight_layout) = weight.storage_and_layout();
    let weight: &[E] = cpu_slice(&weight, weight_layout, "weight")?;
    let hidden = weight.len();
    let mut out = vec![E::default(); 2 * x.len()];
    let (normed, sums) = out.split_at_mut(x.len());
    for_each_row(sums, hidden, x.len(), |row, sum| {
        let range = row * hidden..(row + 1) * hidden;
        dispatch(AddRow { x: &x[range.clone()], y: &residual[range], out: sum });
    });
    let sums = &*sums;
    for_each_row(normed, hidden, 2 * x.len(), |row, out| {
        let x = &sums[row * hidden..][..hidden];
        dispatch(NormRow { x, scale: Scale { weight, gain }, eps, out });
    });
    Ok(E::to_cpu_storage_owned(out))
}

struct NormRow<'a, E> {
    x: &'a [E],
    scale: Scale<'a, E>,
    eps: f32,
    out: &'a mut [E],
}

impl<E: Element> Kernel for NormRow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let factor = norm_factor::<V, E>(self.x, self.eps);
        self.scale.apply::<V>(self.x, factor, self.out);
    }
}

/// `1 / sqrt(mean(x^2) + eps)`
#[inline(always)]
pub(crate) fn norm_factor<V: Lanes, E: Element>(x: &[E], eps: f32) -> f32 {
    let mut sum = V::splat(0.0);
    for i in (0..x.len()).step_by(LANES) {
        let x: V = load_at(x, i);
        sum = x.mul_add(x, sum);
    }
    1.0 / (sum.reduce_add() / x.len() as f32 + eps).sqrt()
}

/// The weight of a norm, and what it means.
#[derive(Clone, Copy)]
pub(crate) struct Scale<'a, E> {
    pub(crate) weight: &'a [E],
    pub(crate) gain: Gain,
}

impl<E: Element> Scale<'_, E> {
    /// `round(x * factor) * weight`, or `x * factor * (1 + weight)`
    #[inline(always)]
    pub(crate) fn apply<V: Lanes>(self, x: &[E], factor: f32, out: &mut [E]) {
        let (factor, one) = (V::splat(factor), V::splat(1.0));
        for i in (0..out.len()).step_by(LANES) {
            let (normed, weight) = (load_at::<V, E>(x, i).mul(factor), load_at(self.weight, i));
            let scaled = match self.gain {
                Gain::Weight => E::round(normed).mul(weight),
                Gain::OnePlusWeight => normed.mul(weight.add(one)),
            };
            store_at(scaled, out, i);
        }
    }
}
