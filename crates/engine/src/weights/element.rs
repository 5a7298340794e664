//! Element types: what a checkpoint stores, what the model computes with, and the way between.

use float8::F8E4M3;
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use kernels::linear::zeroed_e4m3;
use safetensors::Dtype;

/// An element type of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    F32,
    F16,
    Bf16,
    /// Read as itself alone: it means nothing without its scale.
    E4m3,
    /// The same: parts of numbers.
    U8,
}

impl Stored {
    pub(super) fn from_dtype(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F8_E4M3 => Some(Self::E4m3),
            Dtype::U8 => Some(Self::U8),
            _ => None,
        }
    }

    pub(super) fn size_in_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::E4m3 | Self::U8 => 1,
        }
    }

    /// Whether it can be decoded as `T`.
    pub(super) fn becomes<T: Element>(self) -> bool {
        self == T::STORED || (self.is_number() && T::STORED.is_number())
    }

    fn is_number(self) -> bool {
        !matches!(self, Self::E4m3 | Self::U8)
    }

    /// Decodes little-endian `bytes`, rounding to nearest even where `T` is narrower.
    pub(super) fn decode<T: Element>(self, bytes: &[u8], dst: &mut [T]) {
        match self {
            stored if stored == T::STORED => T::copy(bytes, dst),
            Self::F32 => convert(bytes, dst, f32::from_le_bytes),
            Self::F16 => convert(bytes, dst, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => convert(bytes, dst, |b| bf16::from_le_bytes(b).to_f32()),
            Self::E4m3 | Self::U8 => unreachable!("bytes are decoded as themselves alone"),
        }
    }
}

fn convert<T: Element, const N: usize>(
    bytes: &[u8],
    dst: &mut [T],
    to_f32: impl Fn([u8; N]) -> f32,
) {
    let (src, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && src.len() == dst.len(), "byte and element counts differ");
    for (dst, &src) in dst.iter_mut().zip(src) {
        *dst = T::round(to_f32(src));
    }
}

/// An element type that weights can be loaded as.
pub(super) trait Element: kernels::device::Element {
    const STORED: Stored;

    /// A zeroed vector; the memory comes from the system untouched.
    fn zeroed(len: usize) -> Vec<Self>;

    fn round(value: f32) -> Self;

    /// What a generated weight is, of a sum of four random bytes that makes `value` near normal.
    fn generated(_sum: usize, value: f32) -> Self {
        Self::round(value)
    }

    /// Decodes elements that are stored as `Self` already.
    fn copy(bytes: &[u8], dst: &mut [Self]);
}

macro_rules! element {
    ($type:ty, $stored:ident, $zeroed:expr, $round:expr, $decode:expr $(, $generated:expr)?) => {
        impl Element for $type {
            const STORED: Stored = Stored::$stored;

            fn zeroed(len: usize) -> Vec<Self> {
                $zeroed(len)
            }

            fn round(value: f32) -> Self {
                $round(value)
            }

            $(fn generated(sum: usize, _: f32) -> Self {
                $generated(sum)
            })?

            fn copy(bytes: &[u8], dst: &mut [Self]) {
                let (src, rest) = bytes.as_chunks();
                assert!(
                    rest.is_empty() && src.len() == dst.len(),
                    "byte and element counts differ"
                );
                for (dst, &src) in dst.iter_mut().zip(src) {
                    *dst = $decode(src);
                }
            }
        }
    };
}

element!(f32, F32, |len| vec![0.0; len], |value| value, f32::from_le_bytes);
element!(bf16, Bf16, |len| vec![0u16; len].reinterpret_into(), bf16::from_f32, bf16::from_le_bytes);
element!(f16, F16, |len| vec![0u16; len].reinterpret_into(), f16::from_f32, f16::from_le_bytes);
element!(F8E4M3, E4m3, zeroed_e4m3, F8E4M3::from_f32, |[bits]: [u8; 1]| {
    F8E4M3::from_bits(bits)
});
element!(u8, U8, |len| vec![0; len], |value| value as u8, |[bits]: [u8; 1]| bits, |sum| sum as u8);
