//! A model in a device's memory, with all that its forward passes need beside a batch.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use kernels::decode_step::DecodeStep;

use crate::batch::BatchLists;
use crate::config::EngineConfig;
use crate::device::check_device;
use crate::kv_cache::CacheShape;
use crate::memory::MemoryPlan;
use crate::model::{CausalLm, ForwardBatch, KvCache, ModelSpec, Workspace};

/// The weights, the cache, and what attention works in.
pub(crate) struct Resident {
    /// `None` after a reload that failed.
    model: Option<Box<dyn CausalLm>>,
    shape: CacheShape,
    cache: KvCache,
    /// Of attention on a GPU.
    workspace: Option<Arc<Workspace>>,
    device: Device,
    pub(crate) config: EngineConfig,
}

impl Resident {
    /// Allocates the cache beside a model that is on `device`.
    pub(crate) fn new(
        model: Box<dyn CausalLm>,
        spec: &ModelSpec,
        plan: &MemoryPlan,
        device: &Device,
    ) -> Result<Self> {
        let shape = CacheShape::of(spec, plan);
        let (cache, workspace) = (shape.allocate(device)?, shape.attention.workspace(device)?);
        let (model, device, config) = (Some(model), device.clone(), plan.config.clone());
        Ok(Self { model, shape, cache, workspace, device, config })
    }

    /// Frees the weights and the cache.
    pub(crate) fn unload(&mut self) {
        self.model = None;
        self.cache.layers.clear();
    }

    /// Takes the same model, loaded again. Its cache comes with the [`reset`](Self::reset).
    pub(crate) fn set(&mut self, model: Box<dyn CausalLm>) {
        self.model = Some(model);
    }

    /// Begins anew after a panic, in the memory that it has.
    ///
    /// # Errors
    /// A model that was lost, or a device that gives no memory.
    pub(crate) fn reset(&mut self) -> Result<()> {
        if self.model.is_none() {
            bail!("the model is not loaded");
        }
        if self.cache.layers.is_empty() {
            self.cache = self.shape.allocate(&self.device)?;
        }
        // It holds counters that a panic may have left anywhere.
        self.workspace = self.shape.attention.workspace(&self.device)?;
        Ok(())
    }

    /// As [`check_device`].
    pub(crate) fn check_device(&self) -> Result<()> {
        check_device(&self.device)
    }

    /// Runs the largest step there can be, on a device with memory of its own: what `run` allocates stays
    /// with the process, so that no later step can lack it.
    pub(crate) fn reserve_memory(
        &self,
        run: impl FnOnce(&Self, &ForwardBatch) -> Result<Tensor>,
    ) -> Result<()> {
        if self.device.is_cpu() {
            return Ok(());
        }
        let EngineConfig { max_num_batched_tokens, max_model_len, block_size, .. } = self.config;
        let num_rows = self.config.max_logits_rows();
        let lists =
            BatchLists::largest(max_num_batched_tokens, num_rows, max_model_len, block_size);
        run(self, &self.upload(&lists)?)?;
        self.device.synchronize()
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn workspace(&self) -> Option<&Arc<Workspace>> {
        self.workspace.as_ref()
    }

    pub(crate) fn upload(&self, lists: &BatchLists) -> Result<ForwardBatch> {
        lists.upload(&self.device, self.workspace(), self.config.batch_invariant)
    }

    /// The logits of the rows that the batch asks for. `[rows, vocab]` f32
    pub(crate) fn forward(&self, batch: &ForwardBatch) -> Result<Tensor> {
        self.model().forward(batch, &self.cache)
    }

    /// A step of so many sequences that decode as one launch, if there is a kernel for it.
    pub(crate) fn decode_step(&self, num_seqs: usize) -> Result<Option<DecodeStep>> {
        self.model().decode_step(num_seqs, &self.cache)
    }

    /// Their hidden states. `[rows, hidden]`, in the dtype of the weights
    pub(crate) fn hidden(&self, batch: &ForwardBatch) -> Result<Tensor> {
        self.model().hidden(batch, &self.cache)
    }

    fn model(&self) -> &dyn CausalLm {
        self.model.as_deref().expect("a model that is lost is loaded before a step")
    }
}
