//! GELU on the CPU: one pass, in parallel.

use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, LANES, Lanes, PIECE, dispatch, load_at, store_at};
use crate::views::slice;
use candle_core::{CpuStorage, Layout, Result};

/// Of an exponential and a polynomial, roughly.
const OPERATIONS_PER_ELEMENT: usize = 32;

pub(super) fn gelu<E: Element>(x: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
    let x: &[E] = slice(x, layout, "x")?;
    let mut out = vec![E::default(); x.len()];
    let work = OPERATIONS_PER_ELEMENT * x.len();
    for_each_row(&mut out, PIECE, work, |piece, out| {
        dispatch(GeluPiece { x: &x[piece * PIECE..][..out.len()], out });
    });
    Ok(E::to_cpu_storage_owned(out))
}

struct GeluPiece<'a, E> {
    x: &'a [E],
    out: &'a mut [E],
}

impl<E: Element> Kernel for GeluPiece<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        for i in (0..self.out.len()).step_by(LANES) {
            store_at(gelu_lanes::<V>(load_at(self.x, i)), self.out, i);
        }
    }
}

/// `x * P(X <= x)`, X normal. With a = |x| / sqrt(2), `erfc(a) = t (a1 + t (a2 + ...)) exp(-a^2)` and
/// `t = 1 / (1 + p a)` within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26); below zero it is taken as
/// it is, so that it does not drown in the 1 beside it.
#[inline(always)]
fn gelu_lanes<V: Lanes>(x: V) -> V {
    const P: f32 = 0.327_591_1;
    const A: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let (zero, one) = (V::splat(0.0), V::splat(1.0));
    let a = x.max(zero.sub(x)).mul(V::splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = one.div(a.mul_add(V::splat(P), one));
    let mut series = V::splat(A[0]);
    for a in &A[1..] {
        series = series.mul_add(t, V::splat(*a));
    }
    let tail = series.mul(t).mul(zero.sub(a.mul(a)).exp()).mul(V::splat(0.5)); // erfc(a) / 2
    x.mul(x.select_less(zero, tail, one.sub(tail)))
}
