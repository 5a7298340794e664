//! Which instructions are there.

use super::{Kernel, Portable};
#[cfg(target_arch = "x86_64")]
use super::{PairKernel, x86};

/// The instructions that something is computed with. Sums in bf16 pairs round otherwise than fused
/// single ones: two paths give slightly different results, one path always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// The next one, and tile registers with products of bf16 pairs and of bytes.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 with products of bf16 pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
    /// The portable one, and tile registers as they are described.
    #[cfg(test)]
    DescribedTiles,
}

/// The instructions that the ops of this processor are computed with, for people.
pub fn instructions() -> &'static str {
    match Path::fastest() {
        #[cfg(target_arch = "x86_64")]
        Path::Amx => "AMX and AVX-512",
        #[cfg(target_arch = "x86_64")]
        Path::Avx512Bf16 => "AVX-512 and its products of bf16",
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => "AVX2",
        Path::Portable => "portable instructions",
        #[cfg(test)]
        Path::DescribedTiles => "tiles as they are described",
    }
}

impl Path {
    /// What this processor can do, the fastest first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vector = {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 =
                avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            let avx512_bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
            let amx = avx512_bf16 && x86::has_amx();
            [
                (amx, Self::Amx),
                (avx512_bf16, Self::Avx512Bf16),
                (avx512, Self::Avx512),
                (avx2, Self::Avx2),
            ]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let vector = [];
        vector
            .into_iter()
            .chain([(true, Self::Portable)])
            .chain(Self::described())
            .filter(|(there, _)| *there)
            .map(|(_, path)| path)
    }

    #[cfg(not(test))]
    fn described() -> [(bool, Self); 0] {
        []
    }

    #[cfg(test)]
    fn described() -> [(bool, Self); 1] {
        [(true, Self::DescribedTiles)]
    }

    #[inline]
    pub(crate) fn fastest() -> Self {
        Self::available().next().expect("the portable path is always there")
    }

    /// Whether there are tile registers.
    pub(crate) fn has_tiles(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => true,
            #[cfg(test)]
            Self::DescribedTiles => true,
            _ => false,
        }
    }

    /// Runs a kernel, which has no use for pairs.
    ///
    /// The path must be [available](Self::available).
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: the path is available.
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Bf16 | Self::Avx512 => unsafe { x86::avx512(kernel) },
            // SAFETY: the path is available.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(kernel) },
            Self::Portable => kernel.run::<Portable>(),
            #[cfg(test)]
            Self::DescribedTiles => kernel.run::<Portable>(),
        }
    }

    /// Runs a kernel, with pairs where there are some.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn run_pairs<K: PairKernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: the path is available.
            Self::Amx | Self::Avx512Bf16 => unsafe { x86::avx512_bf16(kernel) },
            _ => self.run(kernel),
        }
    }
}
