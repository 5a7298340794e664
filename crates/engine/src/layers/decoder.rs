//! The pre-norm decoder of Llama's family: embedding, layers, final norm, head.

use candle_core::{DType, Device, Result, Tensor};
use kernels::decode_step::{self, DecodeStep};
use kernels::gather_rows::gather_rows;
use kernels::paged_attention::KvCacheLayer;

use super::attention::Attention;
use super::decoder_config::DecoderConfig;
use super::embedding::{Embedding, LmHead};
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::RotaryEmbedding;
use crate::architecture::LoadError;
use crate::model::{CausalLm, ForwardBatch, KvCache};
use crate::weights::{Weights, WeightsError};

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
///
/// Each sum is fused with the norm after it, so the last one is left to the decoder: it is fused
/// with the first norm of the next layer.
#[derive(Debug)]
struct DecoderLayer {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

impl DecoderLayer {
    /// Loads `input_layernorm`, `self_attn`, `post_attention_layernorm` and `mlp` under `prefix`.
    fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &DecoderConfig,
        window: Option<usize>,
    ) -> std::result::Result<Self, WeightsError> {
        let norm = |weights: &mut Weights, name: &str| {
            let name = format!("{prefix}.{name}");
            RmsNorm::load(weights, &name, config.hidden_size, config.norm_eps)
        };
        Ok(Self {
            attention_norm: norm(weights, "input_layernorm")?,
            attention: Attention::load(weights, &format!("{prefix}.self_attn"), config, window)?,
            mlp_norm: norm(weights, "post_attention_layernorm")?,
            mlp: Mlp::load(weights, &format!("{prefix}.mlp"), config)?,
        })
    }

    /// Takes the normalised stream and the stream itself; returns the stream with attention added
    /// and the branch of the MLP, not yet added.
    fn forward(
        &self,
        x: &Tensor,      // [tokens, hidden]
        stream: &Tensor, // [tokens, hidden]
        step: &Step,
        cache: &KvCacheLayer,
    ) -> Result<(Tensor, Tensor)> {
        let x = self.attention.forward(x, step.rope, step.batch, cache)?;
        let (x, stream) = self.mlp_norm.forward_add(&x, stream)?;
        Ok((self.mlp.forward(&x)?, stream))
    }

    /// For a kernel that is all of it.
    fn operands<'a>(&'a self, cache: &'a KvCacheLayer) -> decode_step::Layer<'a> {
        let ([qkv, out], [gate_up, down]) = (self.attention.operands(), self.mlp.operands());
        let [q_norm, k_norm] = self.attention.norms();
        decode_step::Layer {
            attention_norm: self.attention_norm.weight(),
            qkv,
            q_norm,
            k_norm,
            cache,
            out,
            mlp_norm: self.mlp_norm.weight(),
            gate_up,
            down,
        }
    }
}

/// What every layer of one step shares.
struct Step<'a> {
    rope: &'a RotaryEmbedding,
    batch: &'a ForwardBatch,
}

/// A whole language model of pre-norm layers.
#[derive(Debug)]
pub struct Decoder {
    embedding: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    head: LmHead,
    rope: RotaryEmbedding,
    vocab_size: usize,
}

impl Decoder {
    /// Loads `model.embed_tokens`, `model.layers.N`, `model.norm` and, unless tied, `lm_head`, for
    /// contexts of at most `max_model_len` tokens. Checkpoints that were saved without their head
    /// leave the `model.` out.
    pub fn load(
        weights: &mut Weights,
        config: &DecoderConfig,
        max_model_len: usize,
    ) -> std::result::Result<Self, LoadError> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        // The largest tensors first: while one is packed it takes its memory twice, which must not
        // come on top of all the others.
        let is_bare = !weights.contains("model.embed_tokens.weight")
            && weights.contains("embed_tokens.weight");
        let root = if is_bare { "" } else { "model." };
        let name = format!("{root}embed_tokens");
        let (embedding, head) = if config.tied_embeddings {
            Embedding::load_tied(weights, &name, vocab, hidden)?
        } else {
            let embedding = Embedding::load(weights, &name, vocab, hidden)?;
            (embedding, LmHead::load(weights, "lm_head", vocab, hidden)?)
        };
        let load_layer = |(layer, window): (usize, &Option<usize>)| {
            // One that holds the longest context hides nothing.
            let window = window.filter(|window| *window < max_model_len);
            DecoderLayer::load(weights, &format!("{root}layers.{layer}"), config, window)
        };
        let layers = config.windows.iter().enumerate().map(load_layer);
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        let norm = RmsNorm::load(weights, &format!("{root}norm"), hidden, config.norm_eps)?;
        let device = weights.device();
        let rope = RotaryEmbedding::new(&config.rope, config.head_dim, max_model_len, device)?;
        Ok(Self { embedding, layers, norm, head, rope, vocab_size: vocab })
    }
}

impl CausalLm for Decoder {
    fn forward(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor> {
        let x = self.hidden(batch, cache)?;
        // A step of prompt chunks alone wants keys and values, no logits.
        if x.dim(0)? == 0 {
            return Tensor::zeros((0, self.vocab_size), DType::F32, &Device::Cpu);
        }
        self.head.forward(&x)
    }

    fn hidden(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor> {
        assert_eq!(
            cache.layers.len(),
            self.layers.len(),
            "the cache has a layer per decoder layer"
        );
        let step = Step { rope: &self.rope, batch };
        let mut stream = self.embedding.forward(&batch.ids)?; // [tokens, hidden]
        let mut x = self.layers[0].attention_norm.forward(&stream)?;
        for (i, (layer, cache)) in self.layers.iter().zip(&cache.layers).enumerate() {
            let (branch, sum) = layer.forward(&x, &stream, &step, cache)?;
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
        // Between its operations ranks add up what they have, and it knows no window.
        if self.head.is_part() || self.layers.iter().any(|layer| layer.attention.has_window()) {
            return Ok(None);
        }
        let first = &self.layers[0];
        let model = decode_step::Model {
            embedding: self.embedding.table(),
            layers: self
                .layers
                .iter()
                .zip(&cache.layers)
                .map(|(l, cache)| l.operands(cache))
                .collect(),
            norm: self.norm.weight(),
            head: self.head.weight(),
            cos: self.rope.cos(),
            sin: self.rope.sin(),
            heads: first.attention.heads(),
            norm_eps: self.norm.eps(),
            activation: first.mlp.activation(),
            scale: first.attention.scale(),
        };
        DecodeStep::new(&model, num_seqs, self.rope.cos().device())
    }
}
