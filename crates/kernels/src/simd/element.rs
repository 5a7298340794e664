//! What a tensor may hold, and rows of it as lanes.

use super::{LANES, Lanes};
use candle_core::{CpuStorage, WithDType};
use half::bf16;

/// A storage type: f32, or a narrower one that is widened to compute and rounded to store.
pub(crate) trait Element: WithDType + Default {
    fn to_f32(self) -> f32;
    /// To the nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    fn load<V: Lanes>(x: &[Self; LANES]) -> V;
    fn store<V: Lanes>(x: V, out: &mut [Self; LANES]);

    /// All elements of a storage, if it has this type.
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;

    /// The value that storing and loading again would give.
    #[inline(always)]
    fn round<V: Lanes>(x: V) -> V {
        let mut stored = [Self::default(); LANES];
        Self::store(x, &mut stored);
        Self::load(&stored)
    }
}

impl Element for f32 {
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F32(values) => Some(values),
            _ => None,
        }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn load<V: Lanes>(x: &[Self; LANES]) -> V {
        V::load(x)
    }
    #[inline(always)]
    fn store<V: Lanes>(x: V, out: &mut [Self; LANES]) {
        x.store(out);
    }
}

impl Element for bf16 {
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::BF16(values) => Some(values),
            _ => None,
        }
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding could carry a NaN into infinity: keep its head and make it quiet.
        let upper = if x.is_nan() { (bits >> 16) | 0x40 } else { rounded };
        bf16::from_bits(upper as u16)
    }
    #[inline(always)]
    fn load<V: Lanes>(x: &[Self; LANES]) -> V {
        V::load_bf16(x)
    }
    #[inline(always)]
    fn store<V: Lanes>(x: V, out: &mut [Self; LANES]) {
        x.store_bf16(out);
    }
}

/// Lanes `i..` of a row, zeros past its end.
#[inline(always)]
pub(crate) fn load_at<V: Lanes, E: Element>(row: &[E], i: usize) -> V {
    if let Some(chunk) = row.get(i..i + LANES) {
        return E::load(chunk.try_into().expect("the chunk has LANES elements"));
    }
    E::load(&tail(&row[i..]))
}

/// Apart, so that the loops around it stay small.
#[cold]
#[inline(never)]
fn tail<E: Element>(rest: &[E]) -> [E; LANES] {
    let mut chunk = [E::default(); LANES];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// Writes lanes to `i..` of a row, none past its end.
#[inline(always)]
pub(crate) fn store_at<V: Lanes, E: Element>(x: V, row: &mut [E], i: usize) {
    if let Some(chunk) = row.get_mut(i..i + LANES) {
        return E::store(x, chunk.try_into().expect("the chunk has LANES elements"));
    }
    let mut chunk = [E::default(); LANES];
    E::store(x, &mut chunk);
    let tail = &mut row[i..];
    tail.copy_from_slice(&chunk[..tail.len()]);
}
