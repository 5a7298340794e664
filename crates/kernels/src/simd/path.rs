//! Which instructions are there, and may be used.

use super::{Kernel, Portable};
#[cfg(target_arch = "x86_64")]
use super::{PairKernel, x86};
use std::sync::OnceLock;

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

/// Instructions by which processors differ, each with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuIsa {
    /// What every processor has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 (F and BW), and its products of bytes.
    Avx512,
    /// AVX-512's products of bf16 pairs.
    Avx512Bf16,
    /// Tile registers.
    Amx,
}

/// What all ops are computed with, once one was or it was said.
static CHOSEN: OnceLock<Path> = OnceLock::new();

/// Lets no op use more than these instructions: with the same ones, unlike processors sum in the same
/// order and round in the same places. To be called before the first op.
///
/// # Errors
/// If others are in use already: their name.
pub fn limit_instructions(most: CpuIsa) -> Result<(), &'static str> {
    let path = Path::available().find(|path| path.isa() <= most).unwrap_or(Path::Portable);
    let chosen = *CHOSEN.get_or_init(|| path);
    if chosen == path { Ok(()) } else { Err(instructions()) }
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

    /// The first of those that is not beyond the limit, if there is one.
    #[inline]
    pub(crate) fn fastest() -> Self {
        let first = || Self::available().next().expect("the portable path is always there");
        *CHOSEN.get_or_init(first)
    }

    fn isa(self) -> CpuIsa {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => CpuIsa::Amx,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => CpuIsa::Avx512Bf16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => CpuIsa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => CpuIsa::Avx2,
            Self::Portable => CpuIsa::Portable,
            #[cfg(test)]
            Self::DescribedTiles => CpuIsa::Amx,
        }
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
