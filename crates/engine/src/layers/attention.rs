//! Grouped-query attention (arXiv:2305.13245) over the paged cache, with merged q, k and v.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use kernels::decode_step;
use kernels::paged_attention::{KvCacheLayer, OnDevice, PagedAttention, Variant, paged_attention};
use kernels::rms_norm::Gain;
use kernels::rope_kv_write::{HeadShape, RopeKvWrite, rope_kv_write};

use super::decoder_config::DecoderConfig;
use super::linear::{Linear, Projection};
use super::norm::RmsNorm;
use super::rope::RotaryEmbedding;
use crate::model::{ForwardBatch, kv_heads_of};
use crate::weights::{RowsOf, Weights, WeightsError};

/// Causal self-attention with rotary positions; optionally q and k are normalised per head.
#[derive(Debug)]
pub(super) struct Attention {
    qkv: Linear,
    out: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    norm_gain: Gain,
    norm_eps: f32,
    rope: Arc<RotaryEmbedding>,
    heads: HeadShape,
    scale: f32,
    window: Option<usize>,
    soft_cap: Option<f32>,
    /// Of each head, a score that takes its share and adds nothing (Xiao et al. 2023, arXiv:2309.17453).
    /// `[heads]` f32
    sinks: Option<Tensor>,
}

impl Attention {
    /// Loads `q_proj`, `k_proj`, `v_proj`, `o_proj` and, if the model has them, `q_norm`, `k_norm` and
    /// `sinks` under `prefix`. `window` bounds the keys that a token sees, `rope` says where it is.
    pub(super) fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &DecoderConfig,
        window: Option<usize>,
        rope: Arc<RotaryEmbedding>,
    ) -> std::result::Result<Self, WeightsError> {
        let (hidden, dim) = (config.hidden_size, config.head_dim);
        let (rank, num_ranks) = weights.rank();
        let heads = weights.part(config.num_heads);
        let kv_heads = kv_heads_of(rank, num_ranks, config.num_kv_heads);
        let order = config.rope.order_of_head(dim);
        let qkv = projections(config, &heads, &kv_heads, &order);
        let out = [config.num_heads * dim, hidden];
        let mut head_norm = |name: &str| {
            if !config.qk_norm {
                return Ok(None);
            }
            let name = format!("{prefix}.{name}.weight");
            let rows = |range: &Range<usize>| RowsOf::some(name.clone(), dim, range.clone());
            let weight = weights.stacked(&order.iter().map(rows).collect::<Vec<_>>(), &[])?;
            Ok::<_, WeightsError>(Some(RmsNorm::new(weight, config.norm_gain, config.norm_eps)))
        };
        let (q_norm, k_norm) = (head_norm("q_norm")?, head_norm("k_norm")?);
        let mut sinks = None;
        if config.has_sinks {
            let rows = RowsOf::some(format!("{prefix}.sinks"), config.num_heads, heads.clone());
            sinks = Some(weights.stacked(&[rows], &[])?.to_dtype(DType::F32)?);
        }
        Ok(Self {
            qkv: Linear::load_parts(weights, prefix, &qkv, hidden, config.qkv_bias)?,
            out: Linear::load_summed(weights, prefix, "o_proj", out, config.out_bias)?,
            q_norm,
            k_norm,
            norm_gain: config.norm_gain,
            norm_eps: config.norm_eps,
            rope,
            heads: HeadShape {
                num_heads: heads.len(),
                num_kv_heads: kv_heads.len(),
                head_dim: dim,
            },
            scale: config.attention_scale,
            window,
            soft_cap: config.attention_soft_cap,
            sinks,
        })
    }

    /// q with k and v, and the output, for kernels that multiply themselves.
    pub(super) fn operands(&self) -> [decode_step::Linear<'_>; 2] {
        [self.qkv.operands(), self.out.operands()]
    }

    /// Of query and key heads, if the model has them. `[head_dim]` each
    pub(super) fn norms(&self) -> [Option<&Tensor>; 2] {
        [&self.q_norm, &self.k_norm].map(|norm| norm.as_ref().map(RmsNorm::weight))
    }

    pub(super) fn heads(&self) -> HeadShape {
        self.heads
    }

    /// Whether a token may see less than all before it.
    pub(super) fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// Factor on the scores.
    pub(super) fn scale(&self) -> f32 {
        self.scale
    }

    /// Writes the step's keys and values into `cache` and attends. `[tokens, hidden]` to the same.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        batch: &ForwardBatch,
        cache: &KvCacheLayer,
    ) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?; // [tokens, (heads + 2 * kv_heads) * head_dim]
        let [q_norm, k_norm] = self.norms();
        let write = RopeKvWrite {
            heads: self.heads,
            q_norm,
            k_norm,
            norm_gain: self.norm_gain,
            norm_eps: self.norm_eps,
            cos: self.rope.cos(),
            sin: self.rope.sin(),
            q_scale: self.rope.q_scale(),
            positions: &batch.positions,
            slots: &batch.slots,
        };
        let q = rope_kv_write(&qkv, cache, &write)?; // [tokens, heads, head_dim]
        let attend = PagedAttention {
            scale: self.scale,
            q_starts: &batch.q_starts,
            context_lens: &batch.context_lens,
            block_tables: &batch.block_tables,
            variant: Variant {
                window: self.window,
                soft_cap: self.soft_cap,
                sinks: self.sinks.as_ref(),
            },
            on_device: batch
                .on_device
                .as_ref()
                .map(|(extents, workspace)| OnDevice { extents: *extents, workspace }),
        };
        self.out.forward(&paged_attention(&q, cache, &attend)?)
    }
}

/// Those of q, k and v, of the heads of a rank. Elements of q's and k's heads come in `order`, in which pairs that
/// are rotated lie half a head apart.
fn projections<'a>(
    config: &DecoderConfig,
    heads: &Range<usize>,
    kv_heads: &Range<usize>,
    order: &[Range<usize>],
) -> Vec<Projection<'a>> {
    let (num_heads, num_kv_heads) = (config.num_heads, config.num_kv_heads);
    let mut all = Vec::new();
    for (name, first, num_heads, of_rank, is_rotated) in [
        ("q_proj", 0, num_heads, heads, true),
        ("k_proj", num_heads, num_kv_heads, kv_heads, true),
        ("v_proj", num_heads + num_kv_heads, num_kv_heads, kv_heads, false),
    ] {
        // Merged, they lie one behind the other in one tensor.
        let (name, first, num_heads) = if config.merged_projections {
            ("qkv_proj", first, config.num_heads + 2 * num_kv_heads)
        } else {
            (name, 0, num_heads)
        };
        let mut push = |start: usize, end: usize| {
            let out_features = num_heads * config.head_dim;
            all.push(Projection { name, out_features, part: start..end });
        };
        let start_of = |head| (first + head) * config.head_dim;
        if order.len() == 1 || !is_rotated {
            push(start_of(of_rank.start), start_of(of_rank.end));
            continue;
        }
        for head in of_rank.clone() {
            for part in order {
                push(start_of(head) + part.start, start_of(head) + part.end);
            }
        }
    }
    all
}
