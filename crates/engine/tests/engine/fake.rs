//! A model whose next token depends on every token before it, read back through the paged cache: a
//! wrong block, slot, position or row gives other text.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use candle_core::{DType, Device, Result, Tensor, TensorId};
use engine::model::{CausalLm, ForwardBatch, KvCache, ModelSpec, NO_SLOT};
use engine::{Engine, EngineConfig, EngineHandle, EngineOptions, MemoryPlan, Models, Rank};

pub(crate) const VOCAB: usize = 64;
pub(crate) const EOS: u32 = 63;
/// Behind these tokens `Kind::Count` gives no numbers.
pub(crate) const BROKEN: [u64; 2] = [50, 40];

/// What the logits of a row are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A hash of the whole prefix.
    Hash,
    /// The successor of the last token is the most likely, then its successor, and so on.
    Count,
    /// As `Hash`, but what the last two tokens say is the most likely by far: texts go in circles.
    Circle,
    /// No numbers at all.
    Broken,
}

/// The test's grip on the model while the engine runs it.
#[derive(Debug, Default)]
pub(crate) struct Control {
    gate: Mutex<Gate>,
    changed: Condvar,
    /// Forward pass (from 1) that returns an error; 0 for none.
    pub(crate) err_at: AtomicUsize,
    /// Forward pass that panics.
    pub(crate) panic_at: AtomicUsize,
    /// Forward pass from which on all return an error.
    pub(crate) err_from: AtomicUsize,
    /// Forward pass from which on all panic.
    pub(crate) panic_from: AtomicUsize,
    /// Sequences in the pass that failed.
    pub(crate) num_failed: AtomicUsize,
    /// Most rows of logits in a pass.
    pub(crate) max_rows: AtomicUsize,
    /// Most rows in a pass of sequences with up to eight, whose keys a GPU's attention splits.
    pub(crate) max_split_rows: AtomicUsize,
    /// The caches that there were.
    pub(crate) caches: Mutex<HashSet<TensorId>>,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    num_entered: usize,
    num_allowed: usize,
}

impl Control {
    /// Passes wait from now on until [`Self::allow`] or [`Self::open`].
    pub(crate) fn close(&self) {
        let mut gate = self.gate.lock().unwrap();
        gate.closed = true;
        gate.num_allowed = gate.num_entered;
    }

    /// Lets that many more passes through.
    pub(crate) fn allow(&self, num_passes: usize) {
        self.gate.lock().unwrap().num_allowed += num_passes;
        self.changed.notify_all();
    }

    pub(crate) fn open(&self) {
        self.gate.lock().unwrap().closed = false;
        self.changed.notify_all();
    }

    /// Whether a pass waits at the closed gate.
    pub(crate) fn is_stuck(&self) -> bool {
        let gate = self.gate.lock().unwrap();
        gate.closed && gate.num_entered > gate.num_allowed
    }

    /// Blocks until a pass waits at the closed gate.
    pub(crate) fn wait_until_stuck(&self) {
        let mut gate = self.gate.lock().unwrap();
        while gate.num_entered <= gate.num_allowed {
            gate = self.changed.wait(gate).unwrap();
        }
    }

    fn enter(&self) -> usize {
        let mut gate = self.gate.lock().unwrap();
        gate.num_entered += 1;
        let pass = gate.num_entered;
        self.changed.notify_all();
        while gate.closed && pass > gate.num_allowed {
            gate = self.changed.wait(gate).unwrap();
        }
        pass
    }
}

struct FakeLm {
    kind: Kind,
    control: Arc<Control>,
}

impl CausalLm for FakeLm {
    fn forward(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor> {
        let pass = self.control.enter();
        let ids: Vec<u32> = batch.ids.to_vec1()?;
        let positions: Vec<u32> = batch.positions.to_vec1()?;
        let slots: Vec<u32> = batch.slots.to_vec1()?;
        let starts: Vec<u32> = batch.q_starts.to_vec1()?;
        let context_lens: Vec<u32> = batch.context_lens.to_vec1()?;
        let tables: Vec<Vec<u32>> = batch.block_tables.to_vec2()?;
        let rows: Vec<u32> = batch.logits_rows.to_vec1()?;
        self.control.max_rows.fetch_max(rows.len(), Ordering::Relaxed);
        let rows_of_each = starts.windows(2).map(|ends| ends[1] - ends[0]);
        let num_split_rows: u32 = rows_of_each.filter(|num_rows| *num_rows <= 8).sum();
        self.control.max_split_rows.fetch_max(num_split_rows as usize, Ordering::Relaxed);
        let layer = &cache.layers[0];
        self.control.caches.lock().unwrap().insert(layer.key.id());
        let block_size = layer.key.dim(2)?;
        let memory = layer.key.flatten_all()?;
        for (id, slot) in ids.iter().zip(&slots).filter(|(_, slot)| **slot != NO_SLOT) {
            memory.slice_set(
                &Tensor::new(&[*id as f32 + 1.0], &Device::Cpu)?,
                0,
                *slot as usize,
            )?;
        }
        for (at, failing) in [&self.control.err_at, &self.control.panic_at].iter().enumerate() {
            if failing.load(Ordering::Relaxed) == pass {
                let num_seqs = context_lens.iter().filter(|len| **len > 0).count();
                self.control.num_failed.store(num_seqs, Ordering::Relaxed);
                assert!(at == 0, "pass {pass} panics");
                candle_core::bail!("pass {pass} fails");
            }
        }
        let is_broken = |from: &AtomicUsize| (1..=pass).contains(&from.load(Ordering::Relaxed));
        assert!(!is_broken(&self.control.panic_from), "pass {pass} panics, as all do");
        if is_broken(&self.control.err_from) {
            candle_core::bail!("pass {pass} fails, as all do");
        }
        let memory: Vec<f32> = memory.to_vec1()?;
        let mut logits = Vec::with_capacity(rows.len() * VOCAB);
        for row in rows {
            let seq = starts.partition_point(|start| *start <= row) - 1;
            if context_lens[seq] == 0 {
                logits.extend([0.0; VOCAB]);
                continue;
            }
            let position = positions[row as usize];
            let last = context_lens[seq] - 1;
            assert_eq!(last - position, starts[seq + 1] - 1 - row, "rows count back from the end");
            let prefix = (0..=position as usize).map(|at| {
                let block = tables[seq][at / block_size] as usize;
                let stored = memory[block * block_size + at % block_size];
                assert!(stored > 0.0, "position {at} was never written");
                stored as u64 - 1
            });
            logits.extend(self.kind.logits(&prefix.collect::<Vec<_>>()));
        }
        let num_rows = logits.len() / VOCAB;
        Tensor::from_vec(logits, (num_rows, VOCAB), &Device::Cpu)
    }

    /// Without a head, logits are hidden states.
    fn hidden(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor> {
        self.forward(batch, cache)
    }
}

impl Kind {
    pub(crate) fn logits(self, prefix: &[u64]) -> Vec<f32> {
        match self {
            Self::Hash => {
                let mut state = prefix.iter().fold(1, |hash, id| mix(hash ^ id));
                (0..VOCAB)
                    .map(|_| {
                        state = mix(state);
                        (state >> 40) as f32 / (1 << 21) as f32 - 4.0
                    })
                    .collect()
            }
            Self::Circle => {
                let mut logits = Self::Hash.logits(prefix);
                let last = prefix.iter().rev().take(2).fold(0, |hash, id| mix(hash ^ id));
                logits[(last % 4) as usize] += 11.0;
                logits
            }
            Self::Broken => vec![f32::NAN; VOCAB],
            Self::Count if prefix.ends_with(&BROKEN) => Self::Broken.logits(prefix),
            Self::Count => {
                let first = prefix[prefix.len() - 1] as usize + 1;
                (0..VOCAB).map(|id| -((((id + VOCAB) - first % VOCAB) % VOCAB) as f32)).collect()
            }
        }
    }
}

/// SplitMix64's finaliser (Steele et al. 2014).
pub(crate) fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

pub(crate) fn spec() -> ModelSpec {
    ModelSpec {
        architecture: "FakeForCausalLM".into(),
        num_layers: 1,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 1,
        hidden_size: 1,
        intermediate_size: 1,
        vocab_size: VOCAB,
        max_position_embeddings: 128,
        num_parameters: 1,
        num_gathered: 0,
        window: None,
        experts: None,
        num_rotary_tables: 1,
        fits_f16: true,
        dtype: DType::F32,
        quantized: None,
    }
}

/// Small blocks and a roomy cache; the tests tighten what they are about.
pub(crate) fn options() -> EngineOptions {
    EngineOptions {
        block_size: Some(4),
        num_gpu_blocks_override: Some(512),
        speculate_always: Some(true),
        ..EngineOptions::default()
    }
}

pub(crate) fn start(kind: Kind, options: &EngineOptions) -> (EngineHandle, Arc<Control>) {
    start_with_draft(kind, None, options)
}

/// A model that pools as `options` say.
pub(crate) fn start_pooling(kind: Kind, options: &EngineOptions) -> (EngineHandle, Arc<Control>) {
    let spec = spec();
    let config = EngineConfig::resolve(options, &spec).unwrap();
    let plan = MemoryPlan::compute(&spec, &config, 1 << 30);
    let control = Arc::new(Control::default());
    let model = Box::new(FakeLm { kind, control: Arc::clone(&control) });
    let ranks = vec![only_rank(model, None)];
    (Engine::start_pooling(ranks, &spec, &plan, None).unwrap(), control)
}

fn only_rank(model: Box<dyn CausalLm>, draft: Option<Box<dyn CausalLm>>) -> Rank {
    Rank { models: Models { model, draft }, device: Device::Cpu, communicator: None }
}

/// The draft model has its own grip, which nobody holds.
pub(crate) fn start_with_draft(
    kind: Kind,
    draft: Option<Kind>,
    options: &EngineOptions,
) -> (EngineHandle, Arc<Control>) {
    let spec = spec();
    let mut options = options.clone();
    let bounds = [options.max_num_seqs, options.max_num_batched_tokens];
    let most = bounds.into_iter().flatten().min().unwrap_or(usize::MAX);
    options.cudagraph_capture_sizes.iter_mut().for_each(|sizes| sizes.retain(|size| *size <= most));
    let config = EngineConfig::resolve(&options, &spec).unwrap();
    let mut plan = MemoryPlan::compute(&spec, &config, 1 << 30);
    if draft.is_some() {
        plan = plan.with_draft(&spec, &spec).unwrap();
    }
    let control = Arc::new(Control::default());
    let fake = |kind, control| Box::new(FakeLm { kind, control }) as Box<dyn CausalLm>;
    let draft = draft.map(|kind| fake(kind, Arc::default()));
    let specs = (&spec, draft.is_some().then_some(&spec));
    let ranks = vec![only_rank(fake(kind, Arc::clone(&control)), draft)];
    let engine = Engine::start_ranks(ranks, specs, &plan, &[EOS], None);
    (engine.unwrap(), control)
}
