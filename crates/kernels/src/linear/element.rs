//! How elements share the 32-bit words that weights are packed in.

use super::cpu::Product;
use super::pack::{NarrowStep, Step};
use super::portable::{PortableBf16, PortableF32};
#[cfg(any(target_arch = "x86_64", test))]
use super::tiles::TileBf16;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2Bf16, Avx2F32, Avx512Bf16, Avx512F32, Avx512WidenedBf16};
#[cfg(target_arch = "x86_64")]
use crate::simd::Amx;
#[cfg(test)]
use crate::simd::Described;
use crate::simd::{self, Path, widen_e4m3};
use half::bf16;

/// f32 fills a word; two bf16 or four i8 that follow each other along `in` share one, the first in the
/// lowest bits.
pub(super) trait Words: Copy + Send + Sync {
    const PER_WORD: usize;

    /// A word of so many elements, or of as many as there are.
    fn word(elements: &[Self]) -> u32;

    /// One narrow step for each element of a word, or fewer at the end, as one of words.
    fn widen(narrow: &[NarrowStep], step: &mut Step);
}

/// What a weight holds where it is not rounded to integers.
pub(super) trait Element: simd::Element + Words {
    /// Element `index` of a word.
    fn from_word(word: u32, index: usize) -> Self;

    /// Computes the product on a path.
    fn multiply<O: simd::Element>(path: Path, product: Product<'_, Self>) -> Vec<O>;
}

impl Words for i8 {
    const PER_WORD: usize = 4;

    #[inline(always)]
    fn word(elements: &[Self]) -> u32 {
        let mut bytes = [0; 4];
        for (byte, x) in bytes.iter_mut().zip(elements) {
            *byte = x.cast_unsigned();
        }
        u32::from_le_bytes(bytes)
    }

    fn widen(_narrow: &[NarrowStep], _step: &mut Step) {
        unreachable!("e4m3 is not multiplied by integers")
    }
}

impl Words for f32 {
    const PER_WORD: usize = 1;

    #[inline(always)]
    fn word(elements: &[Self]) -> u32 {
        elements[0].to_bits()
    }

    #[inline(always)]
    fn widen(narrow: &[NarrowStep], step: &mut Step) {
        for (word, &bits) in step.0.iter_mut().zip(&narrow[0].0) {
            *word = widen_e4m3(bits).to_bits();
        }
    }
}

impl Element for f32 {
    #[inline(always)]
    fn from_word(word: u32, _index: usize) -> Self {
        Self::from_bits(word)
    }

    fn multiply<O: simd::Element>(path: Path, product: Product<'_, Self>) -> Vec<O> {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Amx | Path::Avx512Bf16 | Path::Avx512 => product.compute::<Avx512F32, O>(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => product.compute::<Avx2F32, O>(),
            Path::Portable => product.compute::<PortableF32, O>(),
            #[cfg(test)]
            Path::DescribedTiles => product.compute::<PortableF32, O>(),
        }
    }
}

impl Words for bf16 {
    const PER_WORD: usize = 2;

    #[inline(always)]
    fn word(elements: &[Self]) -> u32 {
        let second = elements.get(1).map_or(0, |x| x.to_bits());
        u32::from(elements[0].to_bits()) | u32::from(second) << 16
    }

    /// e4m3 has fewer bits, so that the upper half of an f32 holds it.
    #[inline(always)]
    fn widen(narrow: &[NarrowStep], step: &mut Step) {
        for (word, &bits) in step.0.iter_mut().zip(&narrow[0].0) {
            *word = widen_e4m3(bits).to_bits() >> 16;
        }
        if let Some(second) = narrow.get(1) {
            for (word, &bits) in step.0.iter_mut().zip(&second.0) {
                *word |= widen_e4m3(bits).to_bits();
            }
        }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn from_word(word: u32, index: usize) -> Self {
        Self::from_bits((word >> (16 * index)) as u16)
    }

    fn multiply<O: simd::Element>(path: Path, product: Product<'_, Self>) -> Vec<O> {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Amx => product.compute::<TileBf16<Amx>, O>(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Bf16 => product.compute::<Avx512Bf16, O>(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => product.compute::<Avx512WidenedBf16, O>(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => product.compute::<Avx2Bf16, O>(),
            Path::Portable => product.compute::<PortableBf16, O>(),
            #[cfg(test)]
            Path::DescribedTiles => product.compute::<TileBf16<Described>, O>(),
        }
    }
}
