//! The gated activation on the CPU: one pass over a row, rows in parallel.

use super::Activation;
use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, LANES, Lanes, dispatch, load_at, store_at};
use crate::views::slice;
use candle_core::{CpuStorage, Layout, Result};

/// Of an exponential, roughly.
const OPERATIONS_PER_ELEMENT: usize = 16;

/// gate_up `[.., 2 * intermediate]` to `[.., intermediate]`.
pub(super) fn gated_activation<E: Element>(
    gate_up: &CpuStorage,
    layout: &Layout,
    intermediate: usize,
    activation: Activation,
) -> Result<CpuStorage> {
    let gate_up: &[E] = slice(gate_up, layout, "gate_up")?;
    let mut out = vec![E::default(); gate_up.len() / 2];
    let work = OPERATIONS_PER_ELEMENT * out.len();
    for_each_row(&mut out, intermediate, work, |row, out| {
        let (gate, up) =
            gate_up[2 * row * intermediate..][..2 * intermediate].split_at(intermediate);
        dispatch(GateRow { gate, up, activation, out });
    });
    Ok(E::to_cpu_storage_owned(out))
}

struct GateRow<'a, E> {
    gate: &'a [E],
    up: &'a [E],
    activation: Activation,
    out: &'a mut [E],
}

impl<E: Element> Kernel for GateRow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        for i in (0..self.out.len()).step_by(LANES) {
            let (gate, up): (V, V) = (load_at(self.gate, i), load_at(self.up, i));
            let gated = match self.activation {
                Activation::Silu => gate.mul(logistic(gate)).mul(up),
                Activation::GeluTanh => gelu_tanh(gate).mul(up),
                Activation::ClampedSwiglu { limit } => clamped_swiglu(gate, up, limit),
            };
            store_at(gated, self.out, i);
        }
    }
}

/// With `(1 + tanh(z)) / 2 = logistic(2 z)`.
#[inline(always)]
fn gelu_tanh<V: Lanes>(x: V) -> V {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let cubic = x.mul(x).mul_add(V::splat(0.044_715), V::splat(1.0)).mul(x);
    x.mul(logistic(cubic.mul(V::splat(2.0 * SQRT_2_OVER_PI))))
}

/// What is no number stays none.
#[inline(always)]
fn clamped_swiglu<V: Lanes>(gate: V, up: V, limit: f32) -> V {
    let (most, least) = (V::splat(limit), V::splat(-limit));
    let gate = most.select_less(gate, most, gate);
    let up = most.select_less(up, most, up);
    let up = up.select_less(least, least, up);
    gate.mul(logistic(gate.mul(V::splat(1.702)))).mul(up.add(V::splat(1.0)))
}

/// `1 / (1 + exp(-x))`
#[inline(always)]
fn logistic<V: Lanes>(x: V) -> V {
    let one = V::splat(1.0);
    one.div(one.add(V::splat(0.0).sub(x).exp()))
}
