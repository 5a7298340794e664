//! The pre-norm decoder of Llama's family: embedding, layers, final norm, head.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use kernels::decode_step::{self, DecodeStep};
use kernels::gather_rows::gather_rows;
use kernels::paged_attention::KvCacheLayer;
use kernels::unary;

use super::attention::Attention;
use super::decoder_config::DecoderConfig;
use super::embedding::{Embedding, LmHead};
use super::experts::{ExpertsConfig, MixtureOfExperts};
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::RotaryEmbedding;
use super::rope_config::{RopeConfig, RopeScaling};
use crate::architecture::LoadError;
use crate::model::{CausalLm, ForwardBatch, KvCache};
use crate::weights::{Weights, WeightsError};

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`; with branch norms, `x + norm(attention(norm(x)))` and
/// the like.
///
/// Each sum is fused with the norm after it, so the last one is left to the decoder: it is fused
/// with the first norm of the next layer.
#[derive(Debug)]
struct DecoderLayer {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: MlpOrExperts,
    /// Of what attention and the MLP add.
    branch_norms: Option<[RmsNorm; 2]>,
    /// Factor on the same.
    branch_scale: Option<f32>,
}

/// What comes behind attention.
#[derive(Debug)]
enum MlpOrExperts {
    Mlp(Mlp),
    Experts(MixtureOfExperts),
}

impl DecoderLayer {
    /// Loads `input_layernorm`, `self_attn`, `post_attention_layernorm` and `mlp` under `prefix`. Where branches
    /// have norms, that of attention's is `post_attention_layernorm`, and the MLP lies between
    /// `pre_feedforward_layernorm` and `post_feedforward_layernorm`.
    fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &DecoderConfig,
        window: Option<usize>,
        rope: Arc<RotaryEmbedding>,
        experts: Option<&ExpertsConfig>,
    ) -> std::result::Result<Self, WeightsError> {
        let norm = |weights: &mut Weights, name: &str| {
            let (name, hidden) = (format!("{prefix}.{name}"), config.hidden_size);
            RmsNorm::load(weights, &name, hidden, config.norm_gain, config.norm_eps)
        };
        let (mlp_norm, branch_norms) = if config.branch_norms {
            let branches = ["post_attention_layernorm", "post_feedforward_layernorm"];
            let [attention, mlp] = branches.map(|name| norm(weights, name));
            ("pre_feedforward_layernorm", Some([attention?, mlp?]))
        } else {
            ("post_attention_layernorm", None)
        };
        let attention = format!("{prefix}.self_attn");
        Ok(Self {
            attention_norm: norm(weights, "input_layernorm")?,
            attention: Attention::load(weights, &attention, config, window, rope)?,
            mlp_norm: norm(weights, mlp_norm)?,
            mlp: match experts {
                None => {
                    let (prefix, inner) = (format!("{prefix}.mlp"), config.intermediate_size);
                    MlpOrExperts::Mlp(Mlp::load(weights, &prefix, config, inner)?)
                }
                Some(experts) => {
                    MlpOrExperts::Experts(MixtureOfExperts::load(weights, prefix, config, experts)?)
                }
            },
            branch_norms,
            branch_scale: config.branch_scale,
        })
    }

    /// Takes the normalised stream and the stream itself; returns the stream with attention added
    /// and the branch of the MLP, not yet added.
    fn forward(
        &self,
        x: &Tensor,      // [tokens, hidden]
        stream: &Tensor, // [tokens, hidden]
        batch: &ForwardBatch,
        cache: &KvCacheLayer,
    ) -> Result<(Tensor, Tensor)> {
        let norms = self.branch_norms.as_ref();
        let finished = |norm: Option<&RmsNorm>, branch: Tensor| {
            let branch = match norm {
                Some(norm) => norm.forward(&branch)?,
                None => branch,
            };
            scaled(branch, self.branch_scale)
        };
        let x = finished(norms.map(|[norm, _]| norm), self.attention.forward(x, batch, cache)?)?;
        let (x, stream) = self.mlp_norm.forward_add(&x, stream)?;
        let branch = match &self.mlp {
            MlpOrExperts::Mlp(mlp) => mlp.forward(&x)?,
            MlpOrExperts::Experts(experts) => experts.forward(&x)?,
        };
        Ok((finished(norms.map(|[_, norm]| norm), branch)?, stream))
    }

    /// For a kernel that is all of it, if it has an MLP.
    fn operands<'a>(&'a self, cache: &'a KvCacheLayer) -> Option<decode_step::Layer<'a>> {
        let MlpOrExperts::Mlp(mlp) = &self.mlp else { return None };
        let ([qkv, out], [gate_up, down]) = (self.attention.operands(), mlp.operands());
        let [q_norm, k_norm] = self.attention.norms();
        Some(decode_step::Layer {
            attention_norm: self.attention_norm.weight(),
            qkv,
            q_norm,
            k_norm,
            cache,
            out,
            mlp_norm: self.mlp_norm.weight(),
            gate_up,
            down,
        })
    }
}

fn scaled(x: Tensor, factor: Option<f32>) -> Result<Tensor> {
    match factor {
        Some(factor) => unary::scale(x, factor),
        None => Ok(x),
    }
}

/// What the names of a language model's tensors may begin with, and what its head is called then.
const ROOTS: [(&str, &str); 4] = [
    ("model.", "lm_head"),
    ("", "lm_head"),
    ("language_model.model.", "language_model.lm_head"),
    ("model.language_model.", "lm_head"),
];

/// A whole language model of pre-norm layers.
#[derive(Debug)]
pub struct Decoder {
    embedding: Embedding,
    embedding_scale: Option<f32>,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    head: LmHead,
    logits_scale: Option<f32>,
    logits_soft_cap: Option<f32>,
    rope: Arc<RotaryEmbedding>,
    vocab_size: usize,
    /// Whether a kernel that is a whole step knows all that it has.
    is_plain: bool,
}

impl Decoder {
    /// Loads `model.embed_tokens`, `model.layers.N`, `model.norm` and, unless tied, `lm_head`, for
    /// contexts of at most `max_model_len` tokens. Checkpoints that were saved without their head
    /// leave the `model.` out; those that also see have the language model beside the eyes.
    pub fn load(
        weights: &mut Weights,
        config: &DecoderConfig,
        max_model_len: usize,
    ) -> std::result::Result<Self, LoadError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        // The largest tensors first: while one is packed it takes its memory twice, which must not
        // come on top of all the others.
        let has_embedding =
            |(root, _): &&(&str, &str)| weights.contains(&format!("{root}embed_tokens.weight"));
        let (root, head) = ROOTS.iter().find(has_embedding).unwrap_or(&ROOTS[0]);
        let name = format!("{root}embed_tokens");
        let (embedding, head) = if config.tied_embeddings {
            Embedding::load_tied(weights, &name, vocab, hidden)?
        } else {
            let embedding = Embedding::load(weights, &name, vocab, hidden)?;
            (embedding, LmHead::load(weights, head, vocab, hidden)?)
        };
        let device = weights.device().clone();
        let rotary = |config: &RopeConfig, head_dim| {
            RotaryEmbedding::new(config, head_dim, max_model_len, &device).map(Arc::new)
        };
        if let RopeScaling::Long { original_len, .. } = config.rope.scaling
            && max_model_len as f64 > original_len
        {
            tracing::info!(
                "rotary factors are those for long contexts, also in short ones; up to \
                 --max-model-len {original_len} they are those for short ones"
            );
        }
        let rope = rotary(&config.rope, config.head_dim)?;
        let window_rope = match &config.window_rope {
            Some(window_rope) => rotary(window_rope, config.head_dim)?,
            None => Arc::clone(&rope),
        };
        let no_rope = if config.rope_layers.contains(&false) {
            rotary(&RopeConfig::unrotated(), config.head_dim)?
        } else {
            Arc::clone(&rope)
        };
        let load_layer = |(layer, window): (usize, &Option<usize>)| {
            let experts = config.experts.as_ref().filter(|experts| experts.layers[layer]);
            let rope = match (config.rope_layers[layer], window) {
                (false, _) => &no_rope,
                (true, Some(_)) => &window_rope,
                (true, None) => &rope,
            };
            let rope = Arc::clone(rope);
            // One that holds the longest context hides nothing.
            let window = window.filter(|window| *window < max_model_len);
            let prefix = format!("{root}layers.{layer}");
            DecoderLayer::load(weights, &prefix, config, window, rope, experts)
        };
        let layers = config.windows.iter().enumerate().map(load_layer);
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        let name = format!("{root}norm");
        Ok(Self {
            embedding,
            embedding_scale: config.embedding_scale_of(weights.dtype()),
            layers,
            norm: RmsNorm::load(weights, &name, hidden, config.norm_gain, config.norm_eps)?,
            head,
            logits_scale: config.logits_scale,
            logits_soft_cap: config.logits_soft_cap,
            rope,
            vocab_size: vocab,
            is_plain: config.is_plain(),
        })
    }
}

impl CausalLm for Decoder {
    fn forward(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor> {
        let x = self.hidden(batch, cache)?;
        // A step of prompt chunks alone wants keys and values, no logits.
        if x.dim(0)? == 0 {
            return Tensor::zeros((0, self.vocab_size), DType::F32, &Device::Cpu);
        }
        let logits = scaled(self.head.forward(&x)?, self.logits_scale)?;
        match self.logits_soft_cap {
            Some(cap) => unary::soft_cap(logits, cap),
            None => Ok(logits),
        }
    }

    fn hidden(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor> {
        assert_eq!(
            cache.layers.len(),
            self.layers.len(),
            "the cache has a layer per decoder layer"
        );
        // [tokens, hidden]
        let mut stream = scaled(self.embedding.forward(&batch.ids)?, self.embedding_scale)?;
        let mut x = self.layers[0].attention_norm.forward(&stream)?;
        for (i, (layer, cache)) in self.layers.iter().zip(&cache.layers).enumerate() {
            let (branch, sum) = layer.forward(&x, &stream, batch, cache)?;
            let next_norm = self.layers.get(i + 1).map_or(&self.norm, |next| &next.attention_norm);
            (x, stream) = next_norm.forward_add(&branch, &sum)?;
        }
        if batch.logits_rows.dim(0)? == 0 {
            // On the CPU, because a GPU has no memory of no bytes.
            return Tensor::zeros((0, x.dim(1)?), x.dtype(), &Device::Cpu);
        }
        gather_rows(&x, &batch.logits_rows)
    }

    fn decode_step(&self, num_seqs: usize, cache: &KvCache) -> Result<Option<DecodeStep>> {
        // Between its operations ranks add up what they have.
        let has_window = self.layers.iter().any(|layer| layer.attention.has_window());
        let scales_queries = self.rope.q_scale().is_some();
        if self.head.is_part() || has_window || scales_queries || !self.is_plain {
            return Ok(None);
        }
        let first = &self.layers[0];
        let layers = self.layers.iter().zip(&cache.layers);
        let layers: Option<Vec<_>> = layers.map(|(layer, cache)| layer.operands(cache)).collect();
        let (Some(layers), MlpOrExperts::Mlp(mlp)) = (layers, &first.mlp) else { return Ok(None) };
        let model = decode_step::Model {
            embedding: self.embedding.table(),
            layers,
            norm: self.norm.weight(),
            head: self.head.weight(),
            cos: self.rope.cos(),
            sin: self.rope.sin(),
            heads: first.attention.heads(),
            norm_eps: self.norm.eps(),
            activation: mlp.activation(),
            scale: first.attention.scale(),
        };
        DecodeStep::new(&model, num_seqs, self.rope.cos().device())
    }
}
