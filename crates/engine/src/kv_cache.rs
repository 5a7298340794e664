//! The cache tensors: their shape, size and allocation.

use std::hint::black_box;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use float8::F8E4M3;
use half::bf16;
use half::vec::HalfBitsVecExt;
use kernels::paged_attention::{Extents, KvCacheLayer, SPLIT_ROWS, Workspace};
use kernels::pages::advise_huge_pages;
use kernels::pool::for_each_row;

use crate::config::EngineConfig;
use crate::memory::MemoryPlan;
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
    /// Of the workspace that attention on a GPU needs beside the cache.
    pub(crate) attention: AttentionShape,
}

/// What attention of one forward pass is bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    extents: Extents,
    /// Sequences, query heads, elements of a head.
    dims: (usize, usize, usize),
}

impl AttentionShape {
    pub(crate) fn of(spec: &ModelSpec, config: &EngineConfig) -> Self {
        let extents = Extents {
            split_seqs: config.max_num_seqs,
            split_rows: config.pack_limits().split_rows,
            max_split_rows: SPLIT_ROWS,
            max_split_context: config.max_model_len,
            ..Extents::default()
        };
        Self { extents, dims: (config.max_num_seqs, spec.num_heads, spec.head_dim) }
    }

    /// Memory of the workspace on a GPU.
    pub(crate) fn workspace_bytes(&self) -> usize {
        Workspace::size_in_bytes(&self.extents, self.dims)
    }

    /// None on the CPU, which needs none.
    pub(crate) fn workspace(&self, device: &Device) -> Result<Option<Arc<Workspace>>> {
        if device.is_cpu() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Workspace::new(device, &self.extents, self.dims)?)))
    }
}

/// Bytes that one token takes in the cache, keys and values of all layers.
pub(crate) fn bytes_per_token(spec: &ModelSpec, dtype: DType) -> usize {
    2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * dtype.size_in_bytes()
}

impl CacheShape {
    /// Of a rank's part of a model, in the blocks of a plan.
    pub(crate) fn of(spec: &ModelSpec, plan: &MemoryPlan) -> Self {
        let spec = &spec.of_rank(plan.config.tensor_parallel_size);
        Self {
            num_layers: spec.num_layers,
            num_blocks: plan.num_blocks,
            num_kv_heads: spec.num_kv_heads,
            block_size: plan.config.block_size,
            head_dim: spec.head_dim,
            dtype: plan.config.cache_dtype,
            attention: AttentionShape::of(spec, &plan.config),
        }
    }

    /// All zeros. On the CPU every page is written now, so that a machine that cannot give what the
    /// plan says refuses at the start instead of killing the server under load.
    pub(crate) fn allocate(&self, device: &Device) -> Result<KvCache> {
        let layers = (0..self.num_layers)
            .map(|_| Ok(KvCacheLayer { key: self.zeros(device)?, value: self.zeros(device)? }))
            .collect::<Result<_>>()?;
        Ok(KvCache { layers })
    }

    fn zeros(&self, device: &Device) -> Result<Tensor> {
        let shape = (self.num_blocks, self.num_kv_heads, self.block_size, self.head_dim);
        if !device.is_cpu() {
            return Tensor::zeros(shape, self.dtype, device);
        }
        let len = shape.0 * shape.1 * shape.2 * shape.3;
        match self.dtype {
            DType::BF16 => {
                Tensor::from_vec(resident::<u16>(len).reinterpret_into::<bf16>(), shape, device)
            }
            DType::F32 => Tensor::from_vec(resident::<f32>(len), shape, device),
            DType::F8E4M3 => Tensor::from_vec(resident::<F8E4M3>(len), shape, device),
            other => bail!("the cache must be f32, bf16 or e4m3, it is {other:?}"),
        }
    }
}

/// Zeros whose pages are there: fresh ones are only promised until they are written.
fn resident<T: Copy + Default + Send>(len: usize) -> Vec<T> {
    const PAGE_BYTES: usize = 4096;
    let mut zeros = vec![T::default(); len];
    advise_huge_pages(&zeros);
    for_each_row(&mut zeros, PAGE_BYTES / size_of::<T>(), len, |_, page| {
        page[0] = black_box(T::default());
    });
    zeros
}
