//! Numbers of eight bits: sign, four bits of exponent, three of mantissa, no infinities (Micikevicius
//! et al. 2022, arXiv:2209.05433).

use super::{Element, LANES, Lanes};
use candle_core::CpuStorage;
use float8::F8E4M3;

/// The largest number.
pub(crate) const MAX: f32 = 448.0;

/// The exact value; what is no number becomes 480, as the CUDA kernels have it.
#[inline(always)]
pub(crate) const fn widen(bits: u8) -> f32 {
    /// Of the biases of the exponents: 127 - 7.
    const DIFFERENCE: f32 = (1u128 << 120) as f32;
    let bits = bits as u32;
    f32::from_bits((bits & 0x80) << 24 | (bits & 0x7f) << 20) * DIFFERENCE
}

/// To the nearest, ties to even; what is too large becomes the largest, as the CUDA kernels have it.
#[inline(always)]
fn narrow(x: f32) -> u8 {
    /// Below it steps have one size, 2^-9.
    const LEAST_NORMAL: f32 = 1.0 / 64.0;
    /// Added, it leaves no bits below 2^-9.
    const ROUND: f32 = 16384.0;
    let magnitude = x.abs();
    let bits = magnitude.to_bits();
    let normal = (bits.wrapping_add(0x7_ffff + ((bits >> 20) & 1)) >> 20).wrapping_sub(120 << 3);
    let subnormal = (magnitude + ROUND).to_bits() - ROUND.to_bits();
    let rounded = if magnitude < LEAST_NORMAL { subnormal } else { normal.min(0x7e) };
    let rounded = if x.is_nan() { 0x7f } else { rounded };
    (rounded | (x.to_bits() >> 24 & 0x80)) as u8
}

impl Element for F8E4M3 {
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F8E4M3(values) => Some(values),
            _ => None,
        }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        widen(self.to_bits())
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Self::from_bits(narrow(x))
    }
    #[inline(always)]
    fn load<V: Lanes>(x: &[Self; LANES]) -> V {
        let mut wide = [0.0; LANES];
        for (wide, x) in wide.iter_mut().zip(x) {
            *wide = widen(x.to_bits());
        }
        V::load(&wide)
    }
    #[inline(always)]
    fn store<V: Lanes>(x: V, out: &mut [Self; LANES]) {
        let mut values = [0.0; LANES];
        x.store(&mut values);
        for (out, value) in out.iter_mut().zip(values) {
            *out = Self::from_bits(narrow(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition.
    fn value(bits: u8) -> f64 {
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7) / 8.0);
        let (exponent, mantissa) =
            if exponent == 0 { (1, mantissa) } else { (exponent, 1.0 + mantissa) };
        let magnitude = mantissa * 2f64.powi(exponent - 7);
        if bits < 128 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_number_is_read_and_made_exactly() {
        for bits in (0..=255).filter(|bits| bits & 0x7f != 0x7f) {
            assert_eq!(f64::from(widen(bits)), value(bits));
            assert_eq!(narrow(widen(bits)), bits);
        }
        assert_eq!((narrow(f32::NAN), narrow(-f32::INFINITY)), (0x7f, 0xfe));
    }

    /// Between every two neighbours: below, at and above the middle, where the even one is taken.
    #[test]
    fn what_lies_between_becomes_the_nearest() {
        for bits in 0..0x7e {
            let middle = f32::midpoint(widen(bits), widen(bits + 1));
            let even = bits + (bits & 1);
            for (x, expected) in
                [(middle.next_down(), bits), (middle, even), (middle.next_up(), bits + 1)]
            {
                assert_eq!(narrow(x), expected, "{x:?}");
                assert_eq!(narrow(-x), expected | 0x80, "{x:?}");
            }
        }
        for large in [449.0, 464.0, 465.0, 1e30, f32::MAX] {
            assert_eq!(widen(narrow(large)), MAX);
        }
    }
}
