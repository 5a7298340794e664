//! Functions of each element on the CPU: one pass, in parallel.

use super::Unary;
use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, LANES, Lanes, PIECE, dispatch, load_at, store_at};
use crate::views::contiguous;
use candle_core::{CpuStorage, Layout, Result, bail};

/// Of an exponential and a polynomial, roughly.
const OPERATIONS_PER_ELEMENT: usize = 32;

pub(super) fn apply<E: Element>(
    x: &mut CpuStorage,
    layout: &Layout,
    function: Unary,
) -> Result<()> {
    let (start, end) = contiguous(layout, "x")?;
    let Some(x) = E::slice_mut(x) else { bail!("x must be {:?}", E::DTYPE) };
    let x = &mut x[start..end];
    let work = OPERATIONS_PER_ELEMENT * x.len();
    for_each_row(x, PIECE, work, |_, x| dispatch(Piece { x, function }));
    Ok(())
}

struct Piece<'a, E> {
    x: &'a mut [E],
    function: Unary,
}

impl<E: Element> Kernel for Piece<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        for i in (0..self.x.len()).step_by(LANES) {
            let x: V = load_at(self.x, i);
            let y = match self.function {
                Unary::Gelu => gelu_lanes(x),
                Unary::Scale(factor) => x.mul(V::splat(factor)),
                Unary::SoftCap(cap) => soft_cap_lanes(x, cap),
            };
            store_at(y, self.x, i);
        }
    }
}

/// `cap tanh(x / cap)`, with `tanh(z) = 1 - 2 / (exp(2 z) + 1)`.
#[inline(always)]
fn soft_cap_lanes<V: Lanes>(x: V, cap: f32) -> V {
    let (one, cap) = (V::splat(1.0), V::splat(cap));
    let power = x.add(x).div(cap).exp();
    cap.sub(cap.add(cap).div(power.add(one)))
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
