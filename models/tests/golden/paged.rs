//! Runs a model over paged blocks that are dealt out in a scrambled order, without an engine.

use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device, Result, Tensor};
use engine::device::{DeviceKind, HAS_CUDA, open};
use engine::model::{CausalLm, Extents, ForwardBatch, KvCache, KvCacheLayer, ModelSpec, Workspace};

/// Where the tests compute. Built with the feature `cuda` they need a GPU.
pub(crate) fn device() -> Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| {
        let kind = if HAS_CUDA { DeviceKind::Cuda(0) } else { DeviceKind::Cpu };
        open(kind).expect("a build with the feature cuda is tested on a machine with a GPU")
    });
    DEVICE.clone()
}

/// Blocks in the cache, a prime: multiples of any number visit all of them.
const NUM_BLOCKS: usize = 211;

/// A model with a cache.
pub(crate) struct Paged {
    model: Box<dyn CausalLm>,
    device: Device,
    cache: KvCache,
    block_size: usize,
    /// Query heads and elements of each.
    heads: (usize, usize),
    /// Blocks dealt so far.
    dealt: usize,
}

/// A sequence: its tokens, how many of them are in the cache, and in which blocks.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    computed: usize,
    blocks: Vec<u32>,
}

impl Sequence {
    pub(crate) fn new(tokens: &[u32]) -> Self {
        Self { tokens: tokens.to_vec(), computed: 0, blocks: Vec::new() }
    }

    /// Tokens whose keys and values are not in the cache yet.
    pub(crate) fn num_pending(&self) -> usize {
        self.tokens.len() - self.computed
    }
}

impl Paged {
    pub(crate) fn new(
        model: Box<dyn CausalLm>,
        spec: &ModelSpec,
        dtype: DType,
        block_size: usize,
        device: &Device,
    ) -> Result<Self> {
        let shape = (NUM_BLOCKS, spec.num_kv_heads, block_size, spec.head_dim);
        // What was never written must never be read.
        let unwritten =
            || Tensor::full(f32::NAN, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device);
        let layers = (0..spec.num_layers)
            .map(|_| Ok(KvCacheLayer { key: unwritten()?, value: unwritten()? }))
            .collect::<Result<_>>()?;
        let heads = (spec.num_heads, spec.head_dim);
        let (cache, device) = (KvCache { layers }, device.clone());
        Ok(Self { model, device, cache, block_size, heads, dealt: 0 })
    }

    /// Computes the next `len` tokens of each sequence in one pass, and returns the logits of the
    /// last of them for each.
    pub(crate) fn step(&mut self, chunks: &mut [(&mut Sequence, usize)]) -> Result<Vec<Vec<f32>>> {
        let mut batch = Lists { q_starts: vec![0], ..Lists::default() };
        for (sequence, len) in &mut *chunks {
            let end = sequence.computed + *len;
            while sequence.blocks.len() * self.block_size < end {
                self.dealt += 1;
                sequence.blocks.push((self.dealt * 83 % NUM_BLOCKS) as u32);
            }
            for position in sequence.computed..end {
                let block = sequence.blocks[position / self.block_size] as usize;
                batch.ids.push(sequence.tokens[position]);
                batch.positions.push(position as u32);
                batch.slots.push((block * self.block_size + position % self.block_size) as u32);
            }
            sequence.computed = end;
            batch.q_starts.push(batch.ids.len() as u32);
            batch.context_lens.push(end as u32);
        }
        let width = chunks.iter().map(|(sequence, _)| sequence.blocks.len()).max().unwrap_or(0);
        let mut block_tables = Vec::new();
        for (sequence, _) in &*chunks {
            block_tables.extend(&sequence.blocks);
            block_tables.resize(block_tables.len().next_multiple_of(width), 0);
        }
        let block_tables = Tensor::from_vec(block_tables, (chunks.len(), width), &self.device)?;
        let batch = batch.tensors(block_tables, self.heads)?;
        self.model.forward(&batch, &self.cache)?.to_vec2()
    }
}

/// A batch as lists.
#[derive(Default)]
struct Lists {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    q_starts: Vec<u32>,
    context_lens: Vec<u32>,
}

impl Lists {
    fn tensors(self, block_tables: Tensor, heads: (usize, usize)) -> Result<ForwardBatch> {
        let rows = self.q_starts.windows(2).map(|ends| (ends[1] - ends[0]) as usize);
        let extents = Extents::of(rows.zip(self.context_lens.iter().map(|len| *len as usize)));
        let num_seqs = self.context_lens.len();
        let device = block_tables.device().clone();
        let on_device = if device.is_cpu() {
            None
        } else {
            let workspace = Workspace::new(&device, &extents, (num_seqs, heads.0, heads.1))?;
            Some((extents, Arc::new(workspace)))
        };
        let logits_rows: Vec<u32> = self.q_starts[1..].iter().map(|end| end - 1).collect();
        let vector = |values: Vec<u32>| {
            let len = values.len();
            Tensor::from_vec(values, len, &device)
        };
        Ok(ForwardBatch {
            ids: vector(self.ids)?,
            positions: vector(self.positions)?,
            slots: vector(self.slots)?,
            q_starts: vector(self.q_starts)?,
            context_lens: vector(self.context_lens)?,
            block_tables,
            logits_rows: vector(logits_rows)?,
            on_device,
        })
    }
}
