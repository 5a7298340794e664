//! Starting an engine: the scheduler, the cache and the thread.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::{io, thread};

use candle_core::Device;
use scheduler::{Limits, LimitsError, Scheduler};

use crate::ceilings::{Ceilings, Costs};
use crate::config::OptionError;
use crate::engine::Engine;
use crate::handle::{EngineHandle, Shared};
use crate::limits::RequestLimits;
use crate::memory::MemoryPlan;
use crate::model::{CausalLm, ModelSpec};
use crate::ranks::{Models, Rank, Ranks};
use crate::recovery::{Faults, Reload};
use crate::resident::Resident;
use crate::runner::{Runner, StepRunner};
use crate::speculation::{DraftModel, Speculation};

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The memory plan does not hold.
    #[error(transparent)]
    Plan(#[from] OptionError),
    /// The limits make no scheduler.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Memory that is not there, or a device that does not do as it should.
    #[error("cannot start on the device: {0}")]
    Device(#[from] candle_core::Error),
    /// The device could not be measured.
    #[error("--enable-mfu-metrics: the device cannot be measured: {0}")]
    Ceilings(candle_core::Error),
    /// The system gave no thread.
    #[error("cannot start the engine thread: {0}")]
    Thread(#[from] io::Error),
}

impl Engine {
    /// Allocates the cache on `device`, where the model's weights are, and starts the thread.
    /// Tokens of `eos_token_ids` end a sequence.
    pub fn start(
        model: Box<dyn CausalLm>,
        spec: &ModelSpec,
        plan: &MemoryPlan,
        device: &Device,
        eos_token_ids: &[u32],
    ) -> Result<EngineHandle, StartError> {
        let models = Models { model, draft: None };
        let rank = Rank { models, device: device.clone(), communicator: None };
        Self::start_ranks(vec![rank], (spec, None), plan, eos_token_ids, None)
    }

    /// The same of a model that is shared out to ranks, or of one that has a draft model, which `plan` must
    /// [know of](MemoryPlan::with_draft); with a way to load all again, should a fault have cost them.
    ///
    /// # Panics
    /// Without a rank, or with several of which one has no communicator.
    pub fn start_ranks(
        ranks: Vec<Rank>,
        (spec, draft): (&ModelSpec, Option<&ModelSpec>),
        plan: &MemoryPlan,
        eos_token_ids: &[u32],
        reload: Option<Reload>,
    ) -> Result<EngineHandle, StartError> {
        let device = ranks.first().expect("an engine has a rank").device.clone();
        let mut engine = Self::new(ranks, (spec, draft), plan, eos_token_ids)?;
        engine.reload = reload;
        if plan.config.enable_mfu_metrics {
            let quantization = plan.config.quantization_of(spec);
            let ceilings = Ceilings::measure(&device, plan.config.dtype, quantization);
            engine.shared.set_ceilings(ceilings.map_err(StartError::Ceilings)?);
            engine.costs = Some(Costs::of(spec, plan));
        }
        engine.spawn()
    }

    /// The state without its thread.
    pub(crate) fn new(
        ranks: Vec<Rank>,
        (spec, draft): (&ModelSpec, Option<&ModelSpec>),
        plan: &MemoryPlan,
        eos_token_ids: &[u32],
    ) -> Result<Self, StartError> {
        plan.check()?;
        let config = &plan.config;
        let speculation = Speculation::new(config, draft.is_some());
        let runner = |Rank { models, device, .. }: Rank| {
            let draft = models.draft.zip(draft);
            let draft = draft.map(|(model, spec)| Resident::new(model, spec, plan, &device));
            let draft = draft.transpose()?.map(DraftModel::new);
            let resident = Resident::new(models.model, spec, plan, &device)?;
            let runner = Runner::new(resident, spec.vocab_size, draft)?;
            Ok(Box::new(runner) as Box<dyn StepRunner>)
        };
        let runner = Ranks::start(ranks, runner)?;
        let runs_ahead = config.async_scheduling.unwrap_or(config.on_gpu);
        Self::with((runner, runs_ahead), speculation, spec, plan, eos_token_ids)
    }

    /// The state without its thread, of whatever runs the steps.
    pub(crate) fn with(
        (runner, runs_ahead): (Box<dyn StepRunner>, bool),
        speculation: Speculation,
        spec: &ModelSpec,
        plan: &MemoryPlan,
        eos_token_ids: &[u32],
    ) -> Result<Self, StartError> {
        let config = &plan.config;
        let scheduler = Scheduler::new(Limits {
            num_blocks: plan.num_blocks,
            block_size: config.block_size,
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            max_model_len: config.max_model_len,
            enable_prefix_caching: config.enable_prefix_caching,
        })?;
        let limits = RequestLimits {
            max_model_len: config.max_model_len,
            vocab_size: spec.vocab_size,
            max_num_queued_reqs: config.max_num_queued_reqs,
            max_num_queued_tokens: config.max_num_queued_tokens,
            pools: config.pooling.is_some(),
        };
        Ok(Self {
            shared: Arc::new(Shared::new(limits, eos_token_ids.to_vec(), config.clone())),
            scheduler,
            runner,
            speculation,
            arrived: VecDeque::new(),
            aborted: Vec::new(),
            sequences: HashMap::new(),
            deadlines: BTreeSet::new(),
            left_queue: Vec::new(),
            runs_ahead,
            flight: None,
            at_hand: Vec::new(),
            costs: None,
            faults: Faults::default(),
            reload: None,
        })
    }

    pub(crate) fn spawn(mut self) -> Result<EngineHandle, StartError> {
        self.publish();
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("engine".into()).spawn(move || self.run())?;
        Ok(EngineHandle::new(shared, thread))
    }
}
