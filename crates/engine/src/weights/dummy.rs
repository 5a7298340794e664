//! Random weights for `--load-format dummy`: each value is a function of (seed, name, index).

use super::element::Element;

/// Standard deviation of the values, the usual initialisation of a language model.
const STD: f32 = 0.02;

/// A sum of four bytes: 0, 1, .., 1020.
const NUM_SUMS: usize = 4 * 255 + 1;

/// A generator without state: order, sharding and threads cannot change a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dummy {
    pub(super) seed: u64,
}

impl Dummy {
    /// The generator's face for one tensor: norm weights are 1, all else is near normal.
    pub(super) fn tensor<T: Element>(self, name: &str) -> DummyTensor<T> {
        let is_norm = name.rsplit('.').nth(1).is_some_and(|layer| layer.ends_with("norm"));
        let mut key = self.seed ^ 0x9e37_79b9_7f4a_7c15;
        for byte in name.bytes() {
            key = (key ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3); // FNV-1a
        }
        key = (key ^ (key >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        key ^= key >> 32;
        // The sum of four uniform bytes has variance 4 (256^2 - 1) / 12 and mean 510.
        let scale = STD / (4.0f32 * 65535.0 / 12.0).sqrt();
        let value = |sum: usize| {
            if is_norm { 1.0 } else { (sum as f32 - 510.0) * scale }
        };
        let table = std::array::from_fn(|sum| T::generated(sum, value(sum)));
        DummyTensor { key: (key as u32, (key >> 32) as u32), table }
    }
}

/// The values of one tensor.
pub(super) struct DummyTensor<T> {
    key: (u32, u32),
    /// The value for each sum of four random bytes: rounded once, looked up after.
    table: [T; NUM_SUMS],
}

impl<T: Element> DummyTensor<T> {
    /// The elements `first..first + dst.len()` of the flattened tensor (repeating after 2^32).
    pub(super) fn fill(&self, first: usize, dst: &mut [T]) {
        let mut index = first as u32;
        for dst in dst {
            let sum: u32 = self.hash(index).to_le_bytes().into_iter().map(u32::from).sum();
            *dst = self.table[sum as usize];
            index = index.wrapping_add(1);
        }
    }

    /// A mixer of two multiplications (constants found by T. Ettinger for C. Wellons' search),
    /// keyed before and between.
    fn hash(&self, index: u32) -> u32 {
        let mut x = index ^ self.key.0;
        x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad) ^ self.key.1;
        x = (x ^ (x >> 15)).wrapping_mul(0x735a_2d97);
        x ^ (x >> 15)
    }
}
