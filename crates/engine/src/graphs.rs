//! Decode steps of a few sizes, recorded once and launched whole.
//!
//! At small batches a device computes faster than a host can ask for one operation after the other.
//! A step that only decodes is padded to the next recorded size, copied into the tensors that the
//! recording reads, and launched with one call (CUDA graphs). On a device that records nothing the
//! padded step runs as any other, which is how it is tested.

use std::time::Instant;

use candle_core::{DType, Result, Tensor, bail};
use kernels::decode_step::{DecodeStep, MAX_ROWS, Rows};
use kernels::device::{Graph, upload, upload_into};

use crate::batch::BatchLists;
use crate::config::{EngineOptions, Megakernel, OptionError, in_range};
use crate::model::{Extents, ForwardBatch};
use crate::resident::Resident;

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
    /// All of it as one launch, if the operator wants that and there is a kernel.
    whole: Option<DecodeStep>,
    graph: Option<Graph>,
}

/// The sizes that were asked for: sorted, each once, no more than run together.
pub(crate) fn capture_sizes(
    options: &EngineOptions,
    max_num_seqs: usize,
) -> std::result::Result<Option<Vec<usize>>, OptionError> {
    let Some(sizes) = &options.cudagraph_capture_sizes else { return Ok(None) };
    let mut sizes = sizes.clone();
    for &size in &sizes {
        in_range(
            "--cudagraph-capture-sizes",
            size,
            (1, max_num_seqs),
            "--max-num-seqs run together",
        )?;
    }
    sizes.sort_unstable();
    sizes.dedup();
    Ok(Some(sizes))
}

impl DecodeGraphs {
    /// Records a step of each size that the configuration has, if it has any, with the model and the
    /// cache as they are now.
    pub(crate) fn record(resident: &Resident, vocab_size: usize) -> Result<Option<Self>> {
        let sizes = resident.config.capture_sizes();
        let Some(&largest) = sizes.last() else { return Ok(None) };
        let (begun, megakernel) = (Instant::now(), resident.config.decode_megakernel);
        let (device, max_model_len) = (resident.device(), resident.config.max_model_len);
        let table_width = max_model_len.div_ceil(resident.config.block_size);
        let logits = Tensor::zeros((largest, vocab_size), DType::F32, device)?;
        let mut graphs = Vec::with_capacity(sizes.len());
        // The largest first: what it allocates suffices for the others.
        for &num_seqs in sizes.iter().rev() {
            let mut padding = BatchLists::default();
            padding.pad(num_seqs, table_width);
            let words = upload(&padding.words(), device)?;
            let extents = Extents::of(std::iter::repeat_n((1, max_model_len), num_seqs));
            let is_batch_invariant = resident.config.batch_invariant;
            let batch =
                padding.divide(&words, extents, resident.workspace(), is_batch_invariant)?;
            let (whole, graph) = record_step(resident, num_seqs, &batch, &logits)?;
            graphs.push(DecodeGraph { num_seqs, words, batch, whole, graph });
        }
        graphs.reverse();
        let (num_sizes, seconds) = (graphs.len(), begun.elapsed().as_secs_f64());
        tracing::info!("{num_sizes} decode steps recorded in {seconds:.2} s");
        let whole = graphs.iter().filter(|graph| graph.whole.is_some());
        let whole: Vec<String> = whole.map(|graph| graph.num_seqs.to_string()).collect();
        if !whole.is_empty() {
            tracing::info!("decode steps of {} sequences are one launch each", whole.join(", "));
        } else if megakernel == Megakernel::Demanded {
            bail!(
                "--decode-megakernel has no kernel here: it wants weights of 16 bits, heads of 64 or \
                 128 elements, a step of at most {MAX_ROWS} sequences and a GPU of sm_90 or sm_100; \
                 leave it out"
            );
        }
        Ok(Some(Self { sizes: graphs, table_width, logits }))
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
        resident: &Resident,
        resolve: impl FnOnce(&Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let DecodeGraph { num_seqs, words, batch, whole, graph } = &self.sizes[size];
        lists.pad(*num_seqs, self.table_width);
        upload_into(&lists.words(), words)?;
        resolve(&batch.ids)?;
        match graph {
            Some(graph) => graph.launch()?,
            None => forward(resident, batch, whole.as_ref(), &self.logits)?,
        }
        self.logits.narrow(0, 0, *num_seqs)
    }
}

/// Records a step: as one launch, if it may be one and there is a kernel for it.
fn record_step(
    resident: &Resident,
    num_seqs: usize,
    batch: &ForwardBatch,
    logits: &Tensor, // [largest size, vocab]
) -> Result<(Option<DecodeStep>, Option<Graph>)> {
    let record = |whole: Option<&DecodeStep>| {
        Graph::record(resident.device(), || forward(resident, batch, whole, logits))
    };
    let megakernel = resident.config.decode_megakernel;
    let is_demanded = megakernel == Megakernel::Demanded;
    let may_be_whole = megakernel != Megakernel::Never && num_seqs <= MAX_ROWS;
    let step = if may_be_whole { resident.decode_step(num_seqs)? } else { None };
    if let Some(step) = step.filter(|step| is_demanded || step.is_measured()) {
        // All of its blocks must be there at once. A part of a GPU, as MPS gives, may have too few processors.
        match record(Some(&step)) {
            Err(error) if !is_demanded => tracing::warn!(
                "decode steps of {num_seqs} sequences cannot be one launch here: {error}"
            ),
            graph => return Ok((Some(step), graph?)),
        }
    }
    Ok((None, record(None)?))
}

/// The logits of all rows, to where they are expected.
fn forward(
    resident: &Resident,
    batch: &ForwardBatch,
    whole: Option<&DecodeStep>,
    logits: &Tensor, // [largest size, vocab]
) -> Result<()> {
    let own = match (whole, &batch.on_device) {
        (Some(step), Some((_, workspace))) => step.forward(&Rows {
            ids: &batch.ids,
            positions: &batch.positions,
            slots: &batch.slots,
            q_starts: &batch.q_starts,
            context_lens: &batch.context_lens,
            block_tables: &batch.block_tables,
            workspace,
        })?,
        _ => resident.forward(batch)?,
    };
    logits.slice_set(&own, 0, 0)
}
