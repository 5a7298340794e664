//! What the operator asks for and what the engine runs with.

mod error;
mod ranks;
#[cfg(test)]
mod tests;

use candle_core::DType;
use kernels::CpuIsa;
use kernels::paged_attention::SPLIT_ROWS;

use crate::batch::PackLimits;
use crate::graphs::capture_sizes;
use crate::model::ModelSpec;
use crate::pooling::Pooling;
use crate::precision::{Quantization, check_encoder, resolve_dtype};

pub use error::OptionError;
pub(crate) use error::in_range;
pub(crate) use ranks::check_ranks;
use ranks::num_ranks_of;

/// Largest chunk of prompt a step takes beside its decodes. A chunk of this length already keeps a
/// CPU's arithmetic busy (weights are read once for all rows), and a longer one only makes the
/// other streams wait longer for their next token.
const DEFAULT_BATCHED_TOKENS: usize = 512;
/// Each may take `max_model_len` tokens of a cache that is held from the start.
const DEFAULT_NUM_SEQS: usize = 64;
/// Of a GPU, whose arithmetic larger chunks keep busy and whose memory holds more sequences.
const DEFAULT_GPU_BATCHED_TOKENS: usize = 8192;
const DEFAULT_GPU_NUM_SEQS: usize = 256;
const DEFAULT_GPU_MEMORY_UTILIZATION: f64 = 0.9;
const DEFAULT_BLOCK_SIZE: usize = 16;
const MAX_BLOCK_SIZE: usize = 1024;
const DEFAULT_QUEUED_REQS: usize = 1024;
/// How many of them pay is measured; this bounds what a wrong estimate can cost.
const DEFAULT_SPECULATIVE_TOKENS: usize = 16;
const MIN_LOGITS_ROWS: usize = 32;
const DEFAULT_CAPTURE_SIZES: &[usize] =
    &[1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512];
/// Steps of more sequences take so long that asking for their operations one by one is hidden.
const MAX_CAPTURED_SEQS: usize = 512;

/// The options as typed: `None` leaves the choice to [`EngineConfig::resolve`].
///
/// The names are vLLM's flags with `_` for `-`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineOptions {
    /// Whether the engine computes on a GPU, from which other defaults follow.
    pub on_gpu: bool,
    /// `--gpu-memory-utilization`: share of a GPU's memory, of 1. Default 0.9.
    pub gpu_memory_utilization: Option<f64>,
    /// `--dtype`: of weights, activations and cache. Default: the checkpoint's.
    pub dtype: Option<DType>,
    /// `--quantization`: of linear layers. Default: the checkpoint's.
    pub quantization: Option<Quantization>,
    /// `--kv-cache-dtype`: e4m3, or by default `dtype`.
    pub kv_cache_dtype: Option<DType>,
    /// `--block-size`: tokens of a cache block. Default 16.
    pub block_size: Option<usize>,
    /// `--max-num-seqs`: sequences in a step. Default 64, on a GPU 256, or the token budget if that is
    /// less.
    pub max_num_seqs: Option<usize>,
    /// `--max-num-batched-tokens`: tokens in a step. Default 512, on a GPU 8192, or `--max-num-seqs` if
    /// more.
    pub max_num_batched_tokens: Option<usize>,
    /// `--max-model-len`: longest prompt with its answer, in tokens. Default: the model's.
    pub max_model_len: Option<usize>,
    /// `--kv-cache-memory-bytes`: size of the cache. Default: see
    /// [`MemoryPlan::compute`](crate::memory::MemoryPlan::compute).
    pub kv_cache_memory_bytes: Option<usize>,
    /// `--num-gpu-blocks-override`: blocks of the cache, whatever its size in bytes.
    pub num_gpu_blocks_override: Option<usize>,
    /// `--no-enable-prefix-caching` turns it off. Default on.
    pub enable_prefix_caching: Option<bool>,
    /// `--max-num-queued-reqs`: requests that may wait to run. Default 1024.
    pub max_num_queued_reqs: Option<usize>,
    /// `--max-num-queued-tokens`: tokens that their prompts may have together. Default: no bound.
    pub max_num_queued_tokens: Option<usize>,
    /// `--num-speculative-tokens`: most tokens of a sequence guessed in a step; 0 for no speculative
    /// decoding. Default 16.
    pub num_speculative_tokens: Option<usize>,
    /// `--speculate-always`: guess whether it was measured to pay or not. Default off.
    pub speculate_always: Option<bool>,
    /// `--async-scheduling`: plan and ask for a step while the one before it is computed, and
    /// `--no-async-scheduling`. Default: on devices that compute by themselves.
    pub async_scheduling: Option<bool>,
    /// `--batch-invariant`: let no result depend on what is computed beside it. On the CPU none does.
    /// Default off.
    pub batch_invariant: Option<bool>,
    /// `--cudagraph-capture-sizes`: numbers of sequences whose decode steps are recorded and launched
    /// whole; none for no recording. Default: on a GPU a dozen up to `max_num_seqs`.
    pub cudagraph_capture_sizes: Option<Vec<usize>>,
    /// `--decode-megakernel`: let recorded steps of few sequences be one launch. Default: on a Hopper GPU, where
    /// there is a kernel for the model.
    pub decode_megakernel: Option<bool>,
    /// `--tensor-parallel-size`: GPUs that a model is shared out to, each of which holds a part of every
    /// layer. Default 1.
    pub tensor_parallel_size: Option<usize>,
    /// `--max-cpu-isa`: instructions that the processor computes with at most. Default: all it has.
    pub max_cpu_isa: Option<CpuIsa>,
    /// `--num-threads`: of the kernels' pool. Default: one a core.
    pub num_threads: Option<usize>,
    /// `--seed`: of random weights and of requests that bring none. Default 0.
    pub seed: Option<u64>,
    /// `--enable-mfu-metrics`: measure at the start what the device can do, and count what steps ask of
    /// it. Default off.
    pub enable_mfu_metrics: Option<bool>,
    /// How prompts become vectors, for a model that pools instead of generating.
    pub pooling: Option<Pooling>,
}

impl EngineOptions {
    /// Share of a GPU's memory that the engine may take, of 1.
    ///
    /// # Errors
    /// [`OptionError::Utilization`]
    pub fn memory_share(&self) -> Result<f64, OptionError> {
        let share = self.gpu_memory_utilization.unwrap_or(DEFAULT_GPU_MEMORY_UTILIZATION);
        if share > 0.0 && share <= 1.0 { Ok(share) } else { Err(OptionError::Utilization(share)) }
    }

    /// Whether recorded steps of few sequences are one launch, which only a GPU has a kernel for, and
    /// none that multiplies any number of rows alike or in e4m3.
    fn decode_megakernel(&self) -> Result<Megakernel, OptionError> {
        let why_not = if !self.on_gpu {
            Some("needs a GPU")
        } else if self.batch_invariant == Some(true) {
            Some("goes with no --batch-invariant")
        } else if self.tensor_parallel_size.is_some_and(|ranks| ranks > 1) {
            Some("goes with no --tensor-parallel-size")
        } else if self.quantization.is_some() {
            Some("goes with no --quantization")
        } else if self.cudagraph_capture_sizes.as_ref().is_some_and(Vec::is_empty) {
            Some("records steps, --enforce-eager none")
        } else if self.pooling.is_some() {
            Some("is for models that generate")
        } else {
            None
        };
        match (self.decode_megakernel, why_not) {
            (Some(true), Some(why_not)) => Err(OptionError::Megakernel(why_not)),
            (Some(true), None) => Ok(Megakernel::Demanded),
            (None, None) => Ok(Megakernel::WhereMeasured),
            (Some(false), _) | (None, Some(_)) => Ok(Megakernel::Never),
        }
    }
}

/// Whether recorded steps of few sequences are one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Megakernel {
    /// Each of their operations is a launch.
    Never,
    /// If there is a kernel for the model, on a device of a kind that it was measured on.
    WhereMeasured,
    /// Anything else is an error.
    Demanded,
}

/// The options checked and complete: what the engine runs with.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent options")]
pub struct EngineConfig {
    /// Whether the engine computes on a GPU.
    pub on_gpu: bool,
    /// Share of a GPU's memory that the engine may take, of 1.
    pub gpu_memory_utilization: f64,
    /// Of weights and activations.
    pub dtype: DType,
    /// What linear layers are brought to; see [`quantization_of`](EngineConfig::quantization_of).
    pub quantization: Option<Quantization>,
    /// Of keys and values: `dtype`, or e4m3.
    pub cache_dtype: DType,
    /// Tokens of a cache block.
    pub block_size: usize,
    /// Most sequences in a step.
    pub max_num_seqs: usize,
    /// Most tokens in a step.
    pub max_num_batched_tokens: usize,
    /// Most tokens of a sequence, prompt and answer together.
    pub max_model_len: usize,
    /// Bytes for the cache, if the operator gave a size.
    pub kv_cache_memory_bytes: Option<usize>,
    /// Blocks of the cache, if the operator gave a number.
    pub num_gpu_blocks_override: Option<usize>,
    /// Whether prompts share blocks.
    pub enable_prefix_caching: bool,
    /// Most requests that wait to run for the first time.
    pub max_num_queued_reqs: usize,
    /// Most prompt tokens of those, if bounded.
    pub max_num_queued_tokens: Option<usize>,
    /// Most tokens of a sequence guessed in a step.
    pub num_speculative_tokens: usize,
    /// Whether guesses are made even where they do not pay.
    pub speculate_always: bool,
    /// Whether a step is asked for before the one before it has been read, if the operator said so.
    pub async_scheduling: Option<bool>,
    /// Whether no result may depend on what is computed beside it.
    pub batch_invariant: bool,
    /// Numbers of sequences whose decode steps are recorded, if the operator gave them.
    pub cudagraph_capture_sizes: Option<Vec<usize>>,
    /// Whether recorded steps of few sequences are one launch.
    pub decode_megakernel: Megakernel,
    /// Ranks that the model is shared out to.
    pub tensor_parallel_size: usize,
    /// Instructions of a CPU at most; see [`start_pool`](EngineConfig::start_pool).
    pub max_cpu_isa: Option<CpuIsa>,
    /// Threads of the kernels' pool; see [`start_pool`](EngineConfig::start_pool).
    pub num_threads: Option<usize>,
    /// Of random weights and of requests that bring none.
    pub seed: u64,
    /// Whether the device is measured at the start and the work of steps counted.
    pub enable_mfu_metrics: bool,
    /// How prompts become vectors, if they do; then nothing is generated.
    pub pooling: Option<Pooling>,
}

impl EngineConfig {
    /// Most rows of logits that one forward pass computes. Each running sequence has one; prompts
    /// that are scored row by row go through in pieces of this length, not shorter than the
    /// arithmetic likes. An engine that pools asks for hidden states instead, of every token if it
    /// averages them.
    pub fn max_logits_rows(&self) -> usize {
        if self.pooling == Some(Pooling::Mean) {
            return self.max_num_batched_tokens;
        }
        self.rows_of_decodes()
    }

    /// A row for each running sequence, but not fewer than the arithmetic likes.
    fn rows_of_decodes(&self) -> usize {
        self.max_num_seqs.max(MIN_LOGITS_ROWS).min(self.max_num_batched_tokens)
    }

    /// Bounds of a forward pass.
    pub(crate) fn pack_limits(&self) -> PackLimits {
        // A GPU keeps a workspace for them; on the CPU they are rows like any other.
        let split_rows = if self.on_gpu { self.rows_of_decodes() + SPLIT_ROWS } else { usize::MAX };
        PackLimits { logits_rows: self.max_logits_rows(), split_rows }
    }

    /// Numbers of sequences whose decode steps are recorded, rising. By default on a GPU: small steps
    /// exactly, larger ones in strides that a step hardly takes longer for. None of an engine that
    /// pools, which never decodes.
    pub fn capture_sizes(&self) -> Vec<usize> {
        match &self.cudagraph_capture_sizes {
            _ if self.pooling.is_some() => Vec::new(),
            Some(sizes) => sizes.clone(),
            None if self.on_gpu => {
                let most = self.max_num_seqs.min(MAX_CAPTURED_SEQS);
                let sizes = DEFAULT_CAPTURE_SIZES.iter().copied().filter(|size| *size < most);
                sizes.chain([most]).collect()
            }
            None => Vec::new(),
        }
    }

    /// Starts the kernels' pool with `num_threads`, if given, and keeps it to `max_cpu_isa`. To be called
    /// once, before the weights are loaded: the first op starts the pool, too, with a thread for each core.
    pub fn start_pool(&self) -> Result<(), OptionError> {
        if let Some(most) = self.max_cpu_isa {
            kernels::limit_instructions(most).map_err(OptionError::Isa)?;
        }
        let Some(num_threads) = self.num_threads else { return Ok(()) };
        kernels::pool::init(num_threads).map_err(|error| OptionError::Threads(error.to_string()))
    }

    /// Checks `options` against the model and fills in what they leave open.
    pub fn resolve(options: &EngineOptions, spec: &ModelSpec) -> Result<Self, OptionError> {
        let max_model_len = in_range(
            "--max-model-len",
            options.max_model_len.unwrap_or(spec.max_position_embeddings),
            (1, spec.max_position_embeddings),
            "the model's positions",
        )?;
        let (max_num_seqs, max_num_batched_tokens) = step_limits(options)?;
        check_numbers(options)?;
        check_encoder(options, spec)?;
        let dtype = resolve_dtype(options, spec)?;
        Ok(Self {
            on_gpu: options.on_gpu,
            gpu_memory_utilization: options.memory_share()?,
            dtype,
            quantization: options.quantization,
            cache_dtype: options.kv_cache_dtype.unwrap_or(dtype),
            block_size: in_range(
                "--block-size",
                options.block_size.unwrap_or(DEFAULT_BLOCK_SIZE),
                (1, MAX_BLOCK_SIZE),
                "tokens of a block",
            )?,
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len,
            kv_cache_memory_bytes: options.kv_cache_memory_bytes,
            num_gpu_blocks_override: options.num_gpu_blocks_override,
            // What comes from the cache has no hidden states, which all but the last pooling need;
            // encoders have no cache.
            enable_prefix_caching: options.enable_prefix_caching.unwrap_or(true)
                && !spec.is_encoder()
                && options.pooling.is_none_or(|pooling| pooling == Pooling::Last),
            max_num_queued_reqs: in_range(
                "--max-num-queued-reqs",
                options.max_num_queued_reqs.unwrap_or(DEFAULT_QUEUED_REQS),
                (1, 1 << 20),
                "a request is queued before it runs",
            )?,
            max_num_queued_tokens: options
                .max_num_queued_tokens
                .map(|tokens| {
                    let why = "tokens of the prompts that wait";
                    in_range("--max-num-queued-tokens", tokens, (1, 1 << 40), why)
                })
                .transpose()?,
            num_speculative_tokens: in_range(
                "--num-speculative-tokens",
                options.num_speculative_tokens.unwrap_or(DEFAULT_SPECULATIVE_TOKENS),
                (0, 256),
                "guesses of a sequence in a step",
            )?,
            speculate_always: options.speculate_always.unwrap_or(false),
            async_scheduling: options.async_scheduling,
            batch_invariant: options.batch_invariant.unwrap_or(false),
            cudagraph_capture_sizes: capture_sizes(options, max_num_seqs)?,
            decode_megakernel: options.decode_megakernel()?,
            tensor_parallel_size: num_ranks_of(options, spec)?,
            max_cpu_isa: options.max_cpu_isa,
            num_threads: options.num_threads,
            seed: options.seed.unwrap_or(0),
            enable_mfu_metrics: options.enable_mfu_metrics.unwrap_or(false),
            pooling: options.pooling,
        })
    }
}

/// Refuses numbers that are of no use, of what has no default.
fn check_numbers(options: &EngineOptions) -> Result<(), OptionError> {
    if let Some(blocks) = options.num_gpu_blocks_override {
        let most = u32::MAX as usize;
        in_range("--num-gpu-blocks-override", blocks, (1, most), "block ids are 32 bits")?;
    }
    if let Some(threads) = options.num_threads {
        in_range("--num-threads", threads, (1, 4096), "threads of one machine")?;
    }
    Ok(())
}

/// Sequences and tokens of a step. A default gives way to the other flag's explicit value.
fn step_limits(options: &EngineOptions) -> Result<(usize, usize), OptionError> {
    let (default_seqs, default_tokens) = if options.on_gpu {
        (DEFAULT_GPU_NUM_SEQS, DEFAULT_GPU_BATCHED_TOKENS)
    } else {
        (DEFAULT_NUM_SEQS, DEFAULT_BATCHED_TOKENS)
    };
    let seqs = options.max_num_seqs.unwrap_or_else(|| {
        default_seqs.min(options.max_num_batched_tokens.unwrap_or(default_seqs))
    });
    let most = 1 << 20;
    let tokens = in_range(
        "--max-num-batched-tokens",
        options.max_num_batched_tokens.unwrap_or(default_tokens.max(seqs)),
        (1, most),
        "tokens of one step",
    )?;
    let why = "--max-num-batched-tokens gives every running sequence a token";
    Ok((in_range("--max-num-seqs", seqs, (1, tokens), why)?, tokens))
}
