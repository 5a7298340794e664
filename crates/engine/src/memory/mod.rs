//! The memory plan: what a model will take before any of it is taken, from `config.json` and the
//! options alone.

mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use candle_core::DType;
use kernels::collectives::{Communicator, part};
use kernels::decode_step;

use crate::config::{EngineConfig, Megakernel, OptionError, check_ranks};
pub use crate::host_memory::available_bytes;
use crate::kv_cache::{AttentionShape, bytes_per_token};
use crate::model::ModelSpec;
use crate::precision::Quantization;
use crate::weights::Quantized;

/// Code, thread stacks, allocator slack: the resident size of a server of a 4 M parameter model,
/// less that model's own lines below (x86-64 Linux, 28 MiB of a debug and 20 of a release build).
const RUNTIME_BYTES: usize = 24 << 20;

/// Of a GPU, beside what its context takes before it is asked for its free memory: code of the
/// kernels, the workspace of cuBLASLt, and what the allocator keeps in pieces.
const GPU_RUNTIME_BYTES: usize = 256 << 20;

/// What `tokenizers` keeps for a token of a byte-level BPE vocabulary, merges and maps included:
/// 21 MiB for 32,000 tokens, 104 MiB for 152,000.
const TOKENIZER_BYTES_PER_TOKEN: usize = 700;

/// Most that the cache takes if no flag sets its size, and the share of the remaining memory: what
/// a machine's other work needs is not known.
const CACHE_BYTES: usize = 4 << 30;
const CACHE_PERCENT: usize = 50;

/// The share it may take if one sequence of full length needs that much.
const CACHE_PERCENT_MOST: usize = 90;

/// Where the bytes go. All sizes in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPlan {
    /// Parameters, in the dtype they are held in.
    pub weight_bytes: usize,
    /// Sines and cosines of every position.
    pub table_bytes: usize,
    /// Most that intermediate tensors of one step take together.
    pub activation_bytes: usize,
    /// Logits of the most rows that one forward pass asks for; hidden states, if it pools.
    pub logits_bytes: usize,
    /// The tokenizer of a text model; an engine without text takes less.
    pub tokenizer_bytes: usize,
    /// Everything of a draft model but its cache, which is in the blocks.
    pub draft_bytes: usize,
    /// What recorded decode steps write to, and what kernels work in.
    pub workspace_bytes: usize,
    /// The process itself, or what the libraries of a GPU take of its memory.
    pub runtime_bytes: usize,
    /// Keys and values of a block, all layers together; 0 of an encoder, which has no cache.
    pub block_bytes: usize,
    /// Blocks in the cache.
    pub num_blocks: usize,
    /// Memory the device can give.
    pub available_bytes: usize,
    /// The options that this follows from.
    pub config: EngineConfig,
    /// What linear layers are held in.
    quantization: Option<Quantization>,
    /// What they are stored in, if it is not what `quantization` says.
    stored_in: Option<Quantized>,
    model: String,
    pub(crate) is_encoder: bool,
    num_parameters: usize,
    active_parameters: usize,
}

impl MemoryPlan {
    /// Plans for a device that has `available_bytes` to give.
    ///
    /// The cache has the blocks or bytes that `config` says. If it says neither, it takes all that the
    /// rest leaves of a GPU. On the CPU it has room for `max_num_seqs` sequences of `max_model_len`
    /// tokens, but takes at most 4 GiB and half of what the rest leaves, or more, up to nine tenths, if
    /// one sequence needs that. An encoder has none.
    ///
    /// A plan that does not fit is computed, too, so that it can be shown; see
    /// [`check`](Self::check).
    ///
    /// Of several ranks it is what each of them takes, and `available_bytes` what each device can give.
    pub fn compute(whole: &ModelSpec, config: &EngineConfig, available_bytes: usize) -> Self {
        let spec = &whole.of_rank(config.tensor_parallel_size);
        let f32_bytes = DType::F32.size_in_bytes();
        let row_bytes = match config.pooling {
            // Ranks put their parts of a row together.
            None if config.tensor_parallel_size > 1 => {
                (spec.vocab_size + part(spec.vocab_size, 0, config.tensor_parallel_size).len())
                    * f32_bytes
            }
            None => spec.vocab_size * f32_bytes,
            Some(_) => spec.hidden_size * (config.dtype.size_in_bytes() + f32_bytes),
        };
        let mut plan = Self {
            weight_bytes: config.weight_bytes(whole),
            table_bytes: spec.num_rotary_tables * config.max_model_len * spec.head_dim * f32_bytes,
            activation_bytes: activation_bytes(spec, config),
            logits_bytes: num_rows(spec.is_encoder(), config) * row_bytes,
            tokenizer_bytes: if config.on_gpu {
                0
            } else {
                spec.vocab_size * TOKENIZER_BYTES_PER_TOKEN
            },
            draft_bytes: 0,
            workspace_bytes: workspace_bytes(spec, config),
            runtime_bytes: if config.on_gpu { GPU_RUNTIME_BYTES } else { RUNTIME_BYTES },
            block_bytes: bytes_per_token(spec, config.cache_dtype) * config.block_size,
            num_blocks: 0,
            available_bytes,
            config: config.clone(),
            quantization: config.quantization_of(whole),
            stored_in: spec.quantized.filter(|quantized| *quantized != Quantized::Fp8Rows),
            model: spec.architecture.clone(),
            is_encoder: spec.is_encoder(),
            num_parameters: whole.num_parameters,
            active_parameters: whole.active_parameters(),
        };
        plan.num_blocks = plan.choose_blocks();
        plan
    }

    /// Plans for a draft model, too.
    ///
    /// # Errors
    /// One that has another vocabulary or is made for shorter contexts.
    pub fn with_draft(mut self, spec: &ModelSpec, draft: &ModelSpec) -> Result<Self, OptionError> {
        let config = &self.config;
        if draft.vocab_size != spec.vocab_size {
            let (theirs, ours) = (draft.vocab_size, spec.vocab_size);
            return Err(OptionError::Draft(format!(
                "its vocabulary has {theirs} tokens and the model's {ours}: they must be the same"
            )));
        }
        if draft.max_position_embeddings < config.max_model_len {
            return Err(OptionError::Draft(format!(
                "it is made for contexts of {} tokens: lower --max-model-len, which is {}",
                draft.max_position_embeddings, config.max_model_len
            )));
        }
        check_ranks(config.tensor_parallel_size, draft)
            .map_err(|error| OptionError::Draft(error.to_string()))?;
        let alone = Self::compute(draft, config, self.available_bytes);
        self.draft_bytes = alone.weight_bytes
            + alone.table_bytes
            + alone.activation_bytes
            + alone.logits_bytes
            + attention_bytes(&draft.of_rank(config.tensor_parallel_size), config);
        self.block_bytes += alone.block_bytes;
        self.num_blocks = self.choose_blocks();
        Ok(self)
    }

    /// The same beside other models that leave it `share_bytes`.
    pub(crate) fn within(&mut self, share_bytes: usize) {
        self.available_bytes = share_bytes;
        self.num_blocks = self.choose_blocks();
    }

    fn choose_blocks(&self) -> usize {
        let config = &self.config;
        if let Some(blocks) = config.num_gpu_blocks_override {
            return blocks;
        }
        if self.is_encoder {
            // An encoder's blocks are numbers that nothing stands behind.
            return self.blocks_of_longest() * config.max_num_seqs;
        }
        if let Some(bytes) = config.kv_cache_memory_bytes {
            return bytes / self.block_bytes;
        }
        let remaining = self.available_bytes.saturating_sub(self.fixed_bytes());
        if config.on_gpu {
            // The operator said how much of the GPU is ours, and nothing else could use the rest.
            return remaining / self.block_bytes;
        }
        let share = |percent| remaining / 100 * percent / self.block_bytes;
        let one = self.blocks_of_longest();
        let few = share(CACHE_PERCENT).min(CACHE_BYTES / self.block_bytes);
        let most = few.max(one.min(share(CACHE_PERCENT_MOST)));
        one.saturating_mul(config.max_num_seqs).min(most)
    }

    fn blocks_of_longest(&self) -> usize {
        self.config.max_model_len.div_ceil(self.config.block_size)
    }

    /// Everything but the cache.
    pub(crate) fn fixed_bytes(&self) -> usize {
        self.weight_bytes
            + self.table_bytes
            + self.activation_bytes
            + self.logits_bytes
            + self.tokenizer_bytes
            + self.draft_bytes
            + self.workspace_bytes
            + self.runtime_bytes
    }

    /// Size of the cache.
    pub fn kv_bytes(&self) -> usize {
        self.block_bytes * self.num_blocks
    }

    /// Peak memory of the process.
    pub fn total_bytes(&self) -> usize {
        self.fixed_bytes() + self.kv_bytes()
    }

    /// Tokens that the cache holds.
    pub fn cache_tokens(&self) -> usize {
        self.num_blocks * self.config.block_size
    }

    /// Refuses a plan that the device cannot hold, or whose cache cannot hold one sequence of
    /// `max_model_len` tokens. The error names the flag to change.
    pub fn check(&self) -> Result<(), OptionError> {
        let config = &self.config;
        if self.fixed_bytes() > self.available_bytes {
            return Err(OptionError::ModelTooLarge {
                needed: Size(self.fixed_bytes()),
                available: Size(self.available_bytes),
            });
        }
        if self.num_blocks < self.blocks_of_longest() {
            let flag = match (config.num_gpu_blocks_override, config.kv_cache_memory_bytes) {
                (Some(_), _) => "--num-gpu-blocks-override",
                (None, Some(_)) => "--kv-cache-memory-bytes",
                (None, None) if config.on_gpu => "--gpu-memory-utilization",
                (None, None) => "the memory of the machine",
            };
            let (cache_tokens, max_model_len) = (self.cache_tokens(), config.max_model_len);
            return Err(OptionError::CacheTooSmall { cache_tokens, max_model_len, flag });
        }
        if self.total_bytes() > self.available_bytes {
            return Err(OptionError::CacheTooLarge {
                cache: Size(self.kv_bytes()),
                remaining: Size(self.available_bytes - self.fixed_bytes()),
            });
        }
        Ok(())
    }
}

/// The logits that recorded steps write to, their inputs, what attention works in on a GPU, and what ranks show
/// each other.
fn workspace_bytes(spec: &ModelSpec, config: &EngineConfig) -> usize {
    let sizes = config.capture_sizes();
    let table_width = config.max_model_len.div_ceil(config.block_size);
    let words: usize = sizes.iter().map(|size| size * (6 + table_width) + 1).sum();
    let largest = sizes.last().copied().unwrap_or(0);
    let recorded = (largest * spec.vocab_size + words) * DType::F32.size_in_bytes();
    let shown = if config.on_gpu && config.tensor_parallel_size > 1 {
        Communicator::MEMORY_BYTES
    } else {
        0
    };
    recorded + whole_steps_bytes(spec, config, &sizes) + attention_bytes(spec, config) + shown
}

/// What steps that are one launch work in: packed heads, attended values, branches and gated values.
fn whole_steps_bytes(spec: &ModelSpec, config: &EngineConfig, sizes: &[usize]) -> usize {
    if config.decode_megakernel == Megakernel::Never {
        return 0;
    }
    let heads = 2 * spec.num_heads + 2 * spec.num_kv_heads;
    let width = heads * spec.head_dim + 2 * spec.hidden_size + spec.intermediate_size;
    let whole = || sizes.iter().filter(|size| **size <= decode_step::MAX_ROWS);
    let rows: usize = whole().sum();
    let tables = whole().count() * spec.num_layers * decode_step::LAYER_BYTES;
    rows * width * config.dtype.size_in_bytes() + tables
}

/// What attention works in on a GPU.
fn attention_bytes(spec: &ModelSpec, config: &EngineConfig) -> usize {
    // An encoder's attention needs nothing beside its rows.
    if !config.on_gpu || spec.is_encoder() {
        return 0;
    }
    AttentionShape::of(spec, config).workspace_bytes()
}

/// Counts what `layers::Decoder::forward` holds at its two widest points, in elements of a token.
///
/// Through a layer live: the stream and the normalised input of its attention, both with the halves
/// they were computed beside (2 x 2 hidden). Attention adds qkv, q, the attended values and the
/// output projection. The MLP comes after that with the output projection, the next sum and its
/// norm (3 hidden), and adds gate and up, their product, and the down projection. On a GPU the input of
/// an e4m3 layer is brought to e4m3 beside all that. Where ranks add up their results, the sum comes beside the
/// rank's own.
fn activation_bytes(spec: &ModelSpec, config: &EngineConfig) -> usize {
    let hidden = spec.hidden_size;
    let q = spec.num_heads * spec.head_dim;
    let kv = spec.num_kv_heads * spec.head_dim;
    let sum = if config.tensor_parallel_size > 1 { hidden } else { 0 };
    let attention = (q + 2 * kv) + q + q + hidden + sum;
    let (mut inner, mut shared) = (3 * spec.intermediate_size + hidden, 0);
    if let Some(experts) = spec.experts {
        // On the CPU what experts give lies apart before it lies together, beside the rows that they got.
        let inner_of_one = experts.intermediate_size;
        let of_row = (hidden + 4 * inner_of_one).max(inner_of_one + 2 * hidden);
        inner = inner.max(experts.per_token * of_row + hidden);
        // Beside it comes what the one gives that all tokens go to.
        shared = experts.shared_size;
        inner = inner.max((experts.per_token + 1) * hidden + hidden.max(3 * shared));
    }
    let mlp = 3 * hidden + inner + sum;
    let per_token = 4 * hidden + attention.max(mlp);
    let is_narrow = config.on_gpu && config.quantization_of(spec) == Some(Quantization::Fp8);
    let inputs = q.max(hidden).max(spec.intermediate_size).max(shared) + DType::F32.size_in_bytes();
    step_tokens(spec.is_encoder(), config)
        * (per_token * config.dtype.size_in_bytes() + if is_narrow { inputs } else { 0 })
}

/// Tokens of the largest step. An encoder reads prompts whole: what one was dealt before comes on top
/// of the budget.
fn step_tokens(is_encoder: bool, config: &EngineConfig) -> usize {
    let dealt_before = if is_encoder { config.max_model_len } else { 0 };
    config.max_num_batched_tokens + dealt_before
}

/// Rows whose logits or hidden states are wanted at once; an encoder gives all.
fn num_rows(is_encoder: bool, config: &EngineConfig) -> usize {
    if is_encoder { step_tokens(is_encoder, config) } else { config.max_logits_rows() }
}

/// Bytes, shown in the unit that suits them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        let text = match self.0 {
            0..1024 => format!("{} B", self.0),
            1024..1_048_576 => format!("{:.1} KiB", bytes / 1024.0),
            1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes / 1_048_576.0),
            _ => format!("{:.2} GiB", bytes / 1_073_741_824.0),
        };
        f.pad(&text)
    }
}
