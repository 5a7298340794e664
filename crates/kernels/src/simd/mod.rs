//! Sixteen f32 lanes on every machine, so that one body serves AVX-512, AVX2 and the rest.
//!
//! A [`Kernel`] is written once over [`Lanes`] and compiled three times; [`dispatch`] picks the
//! widest form that the processor has. The number of lanes, and so the order of every sum, is the
//! same in all of them.

mod e4m3;
mod element;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod path;
#[cfg(test)]
mod tests;
pub(crate) mod tiles;
#[cfg(test)]
mod tiles_described;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use e4m3::{MAX as E4M3_MAX, widen as widen_e4m3};
pub(crate) use element::{Element, load_at, store_at};
#[cfg(target_arch = "x86_64")]
pub(crate) use pairs::{PAIRED, PairKernel, PairLanes, load_pairs_at};
pub(crate) use path::Path;
pub use path::{CpuIsa, instructions, limit_instructions};
#[cfg(test)]
pub(crate) use tiles_described::Described;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::Amx;

/// 1.5 * 2^23: adding it rounds a small number to an integer, which then is in the lowest bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// f32 values in one [`Lanes`].
pub(crate) const LANES: usize = 16;
/// Elements that are computed in one go, of a tensor whose rows do not matter.
pub(crate) const PIECE: usize = 64 * LANES;

/// Sixteen f32 values. Everything that uses it must be `#[inline(always)]` up to [`dispatch`]:
/// only there are the vector instructions enabled. A closure cannot be marked so; one that holds
/// lanes may stay a function of its own, in which every operation is then a call. So: loops.
pub(crate) trait Lanes: Copy {
    /// Rows that a register tile of a matrix product over four vectors a row may have.
    const TILE_ROWS: usize;

    fn splat(x: f32) -> Self;
    fn load(x: &[f32; LANES]) -> Self;
    fn store(self, out: &mut [f32; LANES]);
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    /// `self * b + c`, rounded once where the processor can.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The larger of the two; `self` if either is NaN.
    fn max(self, b: Self) -> Self;
    /// Lane by lane `yes` where `self < b`, else `no`.
    fn select_less(self, b: Self, yes: Self, no: Self) -> Self;
    /// `2^n` where `self` holds n + 1.5 * 2^23 and -127 < n < 128.
    fn exp2_biased(self) -> Self;

    /// Asks for the cache lines of `x`, which will be wanted soon.
    fn prefetch<T>(x: &[T]);

    /// As bits.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    fn store_words(self, out: &mut [u32; LANES]) {
        let mut x = [0.0; LANES];
        self.store(&mut x);
        *out = x.map(f32::to_bits);
    }

    /// Rounded to the nearest, ties to even.
    #[cfg(any(target_arch = "x86_64", test))]
    #[inline(always)]
    fn of_integers(x: &[i32; LANES]) -> Self {
        let mut wide = [0.0; LANES];
        for (wide, x) in wide.iter_mut().zip(x) {
            *wide = *x as f32;
        }
        Self::load(&wide)
    }

    /// Widens bf16, which is the upper half of an f32.
    #[inline(always)]
    fn load_bf16(x: &[half::bf16; LANES]) -> Self {
        let mut wide = [0.0; LANES];
        for (wide, x) in wide.iter_mut().zip(x) {
            *wide = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
        Self::load(&wide)
    }

    /// Rounds to bf16, to the nearest, ties to even.
    #[inline(always)]
    fn store_bf16(self, out: &mut [half::bf16; LANES]) {
        let mut wide = [0.0; LANES];
        self.store(&mut wide);
        for (out, wide) in out.iter_mut().zip(wide) {
            *out = Element::from_f32(wide);
        }
    }

    /// Turns sixteen rows into sixteen columns.
    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        let mut values = [[0.0; LANES]; LANES];
        for (row, values) in rows.iter().zip(&mut values) {
            row.store(values);
        }
        for (i, row) in rows.iter_mut().enumerate() {
            let mut column = [0.0; LANES];
            for (value, values) in column.iter_mut().zip(&values) {
                *value = values[i];
            }
            *row = Self::load(&column);
        }
    }

    /// Sum of the lanes, in a fixed order.
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        let mut x = [0.0; LANES];
        self.store(&mut x);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] += x[i + half];
            }
        }
        x[0]
    }

    /// Largest lane; NaN lanes may be ignored.
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        let mut x = [0.0; LANES];
        self.store(&mut x);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] = if x[i + half] > x[i] { x[i + half] } else { x[i] };
            }
        }
        x[0]
    }

    /// `e^self` within 2 ulp; 0 below -87.3, infinite above 88, NaN for NaN.
    ///
    /// `e^x = 2^n e^r` with n = round(x / ln 2), |r| <= ln 2 / 2 and the Taylor series of `e^r` to
    /// the seventh power; ln 2 is split in two so that r keeps its low bits (Cody and Waite 1980).
    #[inline(always)]
    fn exp(self) -> Self {
        const LN_2_HIGH: f32 = 0.693_359_4; // nine bits, so that n * LN_2_HIGH is exact
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        let one = Self::splat(1.0);
        let biased = self.mul_add(Self::splat(std::f32::consts::LOG2_E), Self::splat(ROUND));
        let n = biased.sub(Self::splat(ROUND));
        let r = n.mul_add(Self::splat(-LN_2_HIGH), self);
        let r = n.mul_add(Self::splat(-LN_2_LOW), r);
        let mut p = Self::splat(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
            p = p.mul_add(r, Self::splat(c));
        }
        let p = p.mul_add(r, one).mul_add(r, one);
        let y = p.mul(biased.exp2_biased());
        let y = self.select_less(Self::splat(-87.3), Self::splat(0.0), y);
        Self::splat(88.0).select_less(self, Self::splat(f32::INFINITY), y)
    }
}

/// A computation written over [`Lanes`].
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`.
    fn run<V: Lanes>(self) -> Self::Output;
}

/// Runs a kernel with the widest vectors of this processor.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    Path::fastest().run(kernel)
}

/// Plain arrays, for the compiler to do with what it can.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

impl Lanes for Portable {
    const TILE_ROWS: usize = 1;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        Self(*x)
    }
    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        *out = self.0;
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // Fused only where that is one instruction: elsewhere it is a call into libm.
        if cfg!(target_arch = "aarch64") {
            Self(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
        } else {
            self.mul(b).add(c)
        }
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    fn select_less(self, b: Self, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] < b.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn prefetch<T>(_x: &[T]) {}
    #[inline(always)]
    fn exp2_biased(self) -> Self {
        Self(self.0.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(0x3f80_0000))))
    }
}
