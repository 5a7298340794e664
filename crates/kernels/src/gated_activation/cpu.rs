//! The gated activation on the CPU: one pass over a row, rows in parallel.

use super::Activation;
use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, Lanes, dispatch, map_row};
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
        match activation {
            Activation::Silu => dispatch(Silu(gate, up, out)),
            Activation::GeluTanh => dispatch(GeluTanh(gate, up, out)),
        }
    });
    Ok(E::to_cpu_storage_owned(out))
}

struct Silu<'a, E>(&'a [E], &'a [E], &'a mut [E]);

impl<E: Element> Kernel for Silu<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let Self(gate, up, out) = self;
        map_row([gate, up], out, |[gate, up]: [V; 2]| gate.mul(logistic(gate)).mul(up));
    }
}

struct GeluTanh<'a, E>(&'a [E], &'a [E], &'a mut [E]);

impl<E: Element> Kernel for GeluTanh<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        const SQRT_2_OVER_PI: f32 = 0.797_884_6;
        let Self(gate, up, out) = self;
        map_row([gate, up], out, |[gate, up]: [V; 2]| {
            // (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z))
            let cubic = gate.mul(gate).mul_add(V::splat(0.044_715), V::splat(1.0)).mul(gate);
            gate.mul(logistic(cubic.mul(V::splat(2.0 * SQRT_2_OVER_PI)))).mul(up)
        });
    }
}

/// `1 / (1 + exp(-x))`
#[inline(always)]
fn logistic<V: Lanes>(x: V) -> V {
    let one = V::splat(1.0);
    one.div(one.add(V::splat(0.0).sub(x).exp()))
}
