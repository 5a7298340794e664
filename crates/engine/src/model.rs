//! The seam between the engine and the architectures: what a model must say and do.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
pub use kernels::collectives::Communicator;
use kernels::collectives::part;
use kernels::decode_step::DecodeStep;
pub use kernels::paged_attention::{Extents, KvCacheLayer, Workspace};
pub use kernels::rope_kv_write::NO_SLOT;

use crate::weights::Quantized;

/// What the engine must know of a model before it is loaded; all from `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Name in `architectures` of `config.json`.
    pub architecture: String,
    /// Decoder layers that hold keys and values.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Rows of the embedding and of the logits.
    pub vocab_size: usize,
    /// Longest context the positions allow.
    pub max_position_embeddings: usize,
    /// Parameters as loaded (a tied embedding counts once).
    pub num_parameters: usize,
    /// Those of them of which a step takes single rows: embeddings that the logits do not share.
    pub num_gathered: usize,
    /// Of the layers, if any, that have experts instead of an MLP.
    pub experts: Option<MixtureOfExperts>,
    /// Of the layers, if any, that do not attend to all of a context.
    pub window: Option<SlidingWindow>,
    /// Tables of rotary positions: one more each where layers with a window have others, and where some have none
    /// to turn by; 0 where there are none at all.
    pub num_rotary_tables: usize,
    /// Whether what it computes stays below 65,504.
    pub fits_f16: bool,
    /// `torch_dtype` of the checkpoint.
    pub dtype: DType,
    /// What the checkpoint's linear layers are stored in, if not as they are.
    pub quantized: Option<Quantized>,
}

/// Attention to the last tokens alone (Mistral 7B, arXiv:2310.06825).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Keys that a token sees at most, itself included.
    pub num_keys: usize,
    /// Layers in which that is so.
    pub num_layers: usize,
}

/// Gated MLPs of which a token goes to a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MixtureOfExperts {
    /// How many there are in a layer.
    pub num_experts: usize,
    /// How many a token goes to.
    pub per_token: usize,
    /// Width of each.
    pub intermediate_size: usize,
    /// Width of the one that all tokens go to, or 0.
    pub shared_size: usize,
    /// Layers that have them.
    pub num_layers: usize,
}

/// The key and value heads of a rank: as many as the others, or, where ranks are more than heads, one that
/// several have.
pub(crate) fn kv_heads_of(rank: usize, num_ranks: usize, num_kv_heads: usize) -> Range<usize> {
    if num_ranks <= num_kv_heads {
        return part(num_kv_heads, rank, num_ranks);
    }
    let head = rank * num_kv_heads / num_ranks;
    head..head + 1
}

impl ModelSpec {
    /// Whether prompts become vectors without a cache of keys and values.
    pub fn is_encoder(&self) -> bool {
        self.num_layers == 0
    }

    /// Parameters that a token goes through: of experts those that it goes to.
    pub fn active_parameters(&self) -> usize {
        let unused = self.experts.map_or(0, |experts| {
            let one = 3 * self.hidden_size * experts.intermediate_size;
            experts.num_layers * (experts.num_experts - experts.per_token) * one
        });
        self.num_parameters - unused
    }

    /// What the first of so many ranks holds, none of which holds more. The vocabulary stays that of the
    /// logits, which every rank gets.
    #[must_use]
    pub fn of_rank(&self, num_ranks: usize) -> Self {
        if num_ranks == 1 {
            return self.clone();
        }
        let mut spec = self.clone();
        spec.num_heads = part(self.num_heads, 0, num_ranks).len();
        spec.num_kv_heads = kv_heads_of(0, num_ranks, self.num_kv_heads).len();
        spec.intermediate_size = part(self.intermediate_size, 0, num_ranks).len();
        if let Some(experts) = &mut spec.experts {
            for size in [&mut experts.intermediate_size, &mut experts.shared_size] {
                *size = part(*size, 0, num_ranks).len();
            }
        }
        let vocabulary = part(self.vocab_size, 0, num_ranks).len();
        // Of biases all count, though a rank has a part.
        let head = (self.vocab_size - vocabulary) * self.hidden_size;
        spec.num_gathered = self.num_gathered / self.vocab_size * vocabulary;
        let tables = if self.num_gathered > 0 { 2 * head } else { head };
        let elements = |spec: &Self| -> usize {
            spec.linears().iter().chain(&spec.expert_linears()).map(Linears::elements).sum()
        };
        let layers = elements(self) - elements(&spec);
        spec.num_parameters -= layers + tables;
        spec
    }

    /// The linear layers of all decoder layers, those of experts aside.
    pub(crate) fn linears(&self) -> Vec<Linears> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let (with_experts, shared) =
            self.experts.map_or((0, 0), |experts| (experts.num_layers, experts.shared_size));
        let with_mlp = self.num_layers - with_experts;
        let mut linears = vec![
            Linears { count: self.num_layers, inputs: hidden, outputs: q + 2 * kv },
            Linears { count: self.num_layers, inputs: q, outputs: hidden },
        ];
        for (count, inner) in [(with_mlp, inner), (with_experts, shared)] {
            if count * inner > 0 {
                linears.push(Linears { count, inputs: hidden, outputs: 2 * inner });
                linears.push(Linears { count, inputs: inner, outputs: hidden });
            }
        }
        linears
    }

    /// Those of experts that some tokens go to.
    pub(crate) fn expert_linears(&self) -> Vec<Linears> {
        let Some(experts) = self.experts else { return Vec::new() };
        let (hidden, inner) = (self.hidden_size, experts.intermediate_size);
        let count = experts.num_layers * experts.num_experts;
        vec![
            Linears { count, inputs: hidden, outputs: 2 * inner },
            Linears { count, inputs: inner, outputs: hidden },
        ]
    }
}

/// So many linear layers of one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linears {
    pub(crate) count: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl Linears {
    /// Of all weights.
    pub(crate) fn elements(&self) -> usize {
        self.count * self.inputs * self.outputs
    }
}

/// One step's input: tokens of several sequences back to back, prefill chunks and decodes mixed.
#[derive(Debug)]
pub struct ForwardBatch {
    /// Token ids. `[tokens]` u32
    pub ids: Tensor,
    /// Position of each token in its sequence. `[tokens]` u32
    pub positions: Tensor,
    /// Where each token's key and value go: block * block_size + offset, or [`NO_SLOT`]. `[tokens]` u32
    pub slots: Tensor,
    /// Rows of each sequence: `q_starts[i]..q_starts[i + 1]`. `[seqs + 1]` u32
    pub q_starts: Tensor,
    /// Keys each sequence's last row sees, itself included; 0 for padding. `[seqs]` u32
    pub context_lens: Tensor,
    /// Blocks of each sequence in order, padded with 0. `[seqs, max_blocks]` u32
    pub block_tables: Tensor,
    /// Rows whose logits are wanted, rising. `[rows]` u32
    pub logits_rows: Tensor,
    /// What attention needs on a device that cannot look at the lengths before it is asked.
    pub on_device: Option<(Extents, Arc<Workspace>)>,
}

/// Keys and values of every layer.
#[derive(Debug)]
pub struct KvCache {
    /// One entry a decoder layer.
    pub layers: Vec<KvCacheLayer>,
}

/// A decoder-only language model. Only the mathematics: no dtype, device, shard or cache decisions.
pub trait CausalLm: Send {
    /// Runs the step and returns the logits of `batch.logits_rows`. `[rows, vocab]` f32
    fn forward(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor>;
    /// Runs the step and returns what the head would make the logits of: the normalised last hidden
    /// states of `batch.logits_rows`. `[rows, hidden]`, in the dtype of the weights
    fn hidden(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor>;
    /// A step of so many sequences that decode, as one launch that does what `forward` does, if there is
    /// a kernel for it.
    fn decode_step(&self, _num_seqs: usize, _cache: &KvCache) -> Result<Option<DecodeStep>> {
        Ok(None)
    }
}
