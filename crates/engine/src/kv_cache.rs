//! The cache tensors: their shape, size and allocation.

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;
use half::vec::HalfBitsVecExt;
use kernels::paged_attention::KvCacheLayer;

use crate::model::{KvCache, ModelSpec};

/// Shape of the keys (and of the values) of every layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CacheShape {
    pub(crate) num_layers: usize,
    pub(crate) num_blocks: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) block_size: usize,
    pub(crate) head_dim: usize,
    pub(crate) dtype: DType,
}

/// Bytes that one token takes in the cache, keys and values of all layers.
pub(crate) fn bytes_per_token(spec: &ModelSpec, dtype: DType) -> usize {
    2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * dtype.size_in_bytes()
}

impl CacheShape {
    /// All zeros. On the CPU the memory is mapped now and takes room when first written.
    pub(crate) fn allocate(&self, device: &Device) -> Result<KvCache> {
        let layers = (0..self.num_layers)
            .map(|_| Ok(KvCacheLayer { key: self.zeros(device)?, value: self.zeros(device)? }))
            .collect::<Result<_>>()?;
        Ok(KvCache { layers })
    }

    fn zeros(&self, device: &Device) -> Result<Tensor> {
        let shape = (self.num_blocks, self.num_kv_heads, self.block_size, self.head_dim);
        if self.dtype == DType::BF16 && device.is_cpu() {
            // `Tensor::zeros` would write every bf16; integers come as untouched zero pages.
            let bits = vec![0_u16; shape.0 * shape.1 * shape.2 * shape.3];
            return Tensor::from_vec(bits.reinterpret_into::<bf16>(), shape, device);
        }
        Tensor::zeros(shape, self.dtype, device)
    }
}
