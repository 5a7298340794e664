//! Decode steps of a few sizes, recorded once and launched whole.
//!
//! At small batches a device computes faster than a host can ask for one operation after the other.
//! A step that only decodes is padded to the next recorded size, copied into the tensors that the
//! recording reads, and launched with one call (CUDA graphs). On a device that records nothing the
//! padded step runs as any other, which is how it is tested.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use kernels::device::{Graph, upload, upload_into};

use crate::batch::BatchLists;
use crate::model::{CausalLm, Extents, ForwardBatch, KvCache, Workspace};

/// Which steps are recorded, and for which model.
#[derive(Debug)]
pub(crate) struct Recording {
    /// Numbers of sequences, rising; none at all for no recording.
    pub(crate) sizes: Vec<usize>,
    pub(crate) max_model_len: usize,
    pub(crate) block_size: usize,
    pub(crate) vocab_size: usize,
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) logits_rows: usize,
}

impl Recording {
    /// Runs the largest step there can be, on a device with memory of its own: what it allocates stays
    /// with the process, so that no later step can lack it.
    pub(crate) fn reserve_memory(
        &self,
        (model, cache): (&dyn CausalLm, &KvCache),
        device: &Device,
        workspace: Option<&Arc<Workspace>>,
    ) -> Result<()> {
        if device.is_cpu() {
            return Ok(());
        }
        let tokens = self.max_num_batched_tokens;
        let lists =
            BatchLists::largest(tokens, self.logits_rows, self.max_model_len, self.block_size);
        model.forward(&lists.upload(device, workspace)?, cache)?;
        device.synchronize()
    }
}

/// The sizes, and the memory that all of them write to.
#[derive(Debug)]
pub(crate) struct DecodeGraphs {
    /// Rising.
    sizes: Vec<DecodeGraph>,
    table_width: usize,
    /// `[largest size, vocab]` f32
    logits: Tensor,
}

/// A step of one size.
#[derive(Debug)]
struct DecodeGraph {
    num_seqs: usize,
    /// What the step reads; the batch is a view of it.
    words: Tensor,
    batch: ForwardBatch,
    graph: Option<Graph>,
}

impl DecodeGraphs {
    /// Records a step of each size.
    pub(crate) fn record(
        recording: &Recording,
        (model, cache): (&dyn CausalLm, &KvCache),
        device: &Device,
        workspace: Option<&Arc<Workspace>>,
    ) -> Result<Self> {
        let Recording { sizes, max_model_len, block_size, vocab_size, .. } = recording;
        let table_width = max_model_len.div_ceil(*block_size);
        let largest = sizes.last().copied().unwrap_or(0);
        let logits = Tensor::zeros((largest, *vocab_size), DType::F32, device)?;
        let mut graphs = Vec::with_capacity(sizes.len());
        // The largest first: what it allocates suffices for the others.
        for &num_seqs in sizes.iter().rev() {
            let mut padding = BatchLists::default();
            padding.pad(num_seqs, table_width);
            let words = upload(&padding.words(), device)?;
            let extents = Extents::of(std::iter::repeat_n((1, *max_model_len), num_seqs));
            let batch = padding.divide(&words, extents, workspace)?;
            let graph = Graph::record(device, || forward(model, &batch, cache, &logits))?;
            graphs.push(DecodeGraph { num_seqs, words, batch, graph });
        }
        graphs.reverse();
        Ok(Self { sizes: graphs, table_width, logits })
    }

    /// The size that a step of `num_seqs` decodes is padded to, if there is one.
    pub(crate) fn size_for(&self, num_seqs: usize) -> Option<usize> {
        self.sizes.iter().position(|size| size.num_seqs >= num_seqs)
    }

    /// Asks for the logits of a step that is padded to a size, behind the call of `resolve` with its
    /// ids. They hold until the next step. `[size, vocab]` f32
    pub(crate) fn launch(
        &self,
        size: usize,
        mut lists: BatchLists,
        (model, cache): (&dyn CausalLm, &KvCache),
        resolve: impl FnOnce(&Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let DecodeGraph { num_seqs, words, batch, graph } = &self.sizes[size];
        lists.pad(*num_seqs, self.table_width);
        upload_into(&lists.words(), words)?;
        resolve(&batch.ids)?;
        match graph {
            Some(graph) => graph.launch()?,
            None => forward(model, batch, cache, &self.logits)?,
        }
        self.logits.narrow(0, 0, *num_seqs)
    }
}

/// The logits of all rows, to where they are expected.
fn forward(
    model: &dyn CausalLm,
    batch: &ForwardBatch,
    cache: &KvCache,
    logits: &Tensor, // [largest size, vocab]
) -> Result<()> {
    logits.slice_set(&model.forward(batch, cache)?, 0, 0)
}
