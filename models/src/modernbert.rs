//! ModernBERT (arXiv:2412.13663).
//!
//! ```text
//! h = norm(tok_embeddings[ids])
//! each layer:  h += Wo(attention(rope(q), rope(k), v))    q, k, v = Wqkv(norm(h)), in layer 0 Wqkv(h)
//!              h += Wo(gelu(a) * b)                       a, b = Wi(norm(h))
//! result = norm(h)
//! ```
//! Every third layer sees the whole prompt, the others what is near; each kind has a rotation of its
//! own.
//!
//! Tensors, `N` counting layers, `model.` before all of them where the model has a head; norms have a
//! `.bias` if `norm_bias`, the others by `attention_bias` and `mlp_bias`:
//! ```text
//! embeddings.tok_embeddings.weight     [vocab, hidden]
//! embeddings.norm.weight               [hidden]
//! layers.N.attn_norm.weight            [hidden]    not in layer 0
//! layers.N.attn.Wqkv.weight            [3 * hidden, hidden]
//! layers.N.attn.Wo.weight              [hidden, hidden]
//! layers.N.mlp_norm.weight             [hidden]
//! layers.N.mlp.Wi.weight               [2 * intermediate, hidden]
//! layers.N.mlp.Wo.weight               [hidden, intermediate]
//! final_norm.weight                    [hidden]
//! ```
//! To score, `head.dense`, gelu and `head.norm` read the first token's state or the average
//! (`classifier_pooling`), and `classifier` their result.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use engine::architecture::LoadError;
use engine::encoder::{Encoder, EncoderArchitecture, EncoderBatch};
use engine::layers::{
    ClassificationHead, Embedding, FeedForward, FullAttention, HeadActivation, LayerNorm, Linear,
    RopeConfig, RotaryEmbedding, add,
};
use engine::weights::{Weights, WeightsError};

use super::modernbert_config::Config;

/// A row of the registry.
macro_rules! row {
    ($name:literal, $has_head:literal) => {
        EncoderArchitecture {
            name: $name,
            spec: |json| Ok(Config::parse(json)?.spec($name, $has_head)),
            load: |json, weights, max_model_len| {
                let config = Config::parse(json)?;
                Ok(Box::new(ModernBert::load(weights, &config, $has_head, max_model_len)?))
            },
        }
    };
}

pub(crate) const ROWS: [EncoderArchitecture; 2] =
    [row!("ModernBertModel", false), row!("ModernBertForSequenceClassification", true)];

/// The model, with or without a head.
#[derive(Debug)]
struct ModernBert {
    words: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    head: Option<ClassificationHead>,
}

#[derive(Debug)]
struct Layer {
    /// Not in the first.
    attention_norm: Option<LayerNorm>,
    attention: FullAttention,
    mlp_norm: LayerNorm,
    mlp: FeedForward,
}

impl ModernBert {
    fn load(
        weights: &mut Weights,
        config: &Config,
        has_head: bool,
        max_model_len: usize,
    ) -> std::result::Result<Self, LoadError> {
        let (hidden, eps, bias) = (config.hidden, config.eps, config.norm_bias);
        let is_bare = weights.contains("embeddings.tok_embeddings.weight");
        let root = if has_head || !is_bare { "model." } else { "" };
        let name = format!("{root}embeddings.tok_embeddings");
        let words = Embedding::load(weights, &name, config.vocab_size, hidden)?;
        let rotary = |theta| {
            let rope = RopeConfig::plain(theta);
            let head_dim = hidden / config.num_heads;
            RotaryEmbedding::new(&rope, head_dim, max_model_len, weights.device()).map(Arc::new)
        };
        let [global, local] = config.thetas;
        let (global, local) = (rotary(global)?, rotary(local)?);
        let norm = |weights: &mut Weights, name: &str| {
            LayerNorm::load(weights, &format!("{root}{name}"), hidden, bias, eps)
        };
        let layer = |(n, is_global): (usize, &bool)| {
            let rotary = Arc::clone(if *is_global { &global } else { &local });
            Layer::load(weights, &format!("{root}layers.{n}"), config, (n, *is_global), rotary)
        };
        let layers = config.is_global.iter().enumerate().map(layer);
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        let (first, last) = (norm(weights, "embeddings.norm")?, norm(weights, "final_norm")?);
        let head = has_head.then(|| load_head(weights, config)).transpose()?;
        Ok(Self { words, norm: first, layers, final_norm: last, head })
    }
}

fn load_head(
    weights: &mut Weights,
    config: &Config,
) -> std::result::Result<ClassificationHead, WeightsError> {
    let (hidden, labels) = (config.hidden, config.num_labels);
    let dense = [("dense", hidden)];
    Ok(ClassificationHead {
        dense: Linear::load(weights, "head", &dense, hidden, config.classifier_bias)?,
        activation: HeadActivation::Gelu,
        norm: Some(LayerNorm::load(weights, "head.norm", hidden, config.norm_bias, config.eps)?),
        out: Linear::load(weights, "", &[("classifier", labels)], hidden, true)?,
    })
}

impl Layer {
    fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &Config,
        (number, is_global): (usize, bool),
        rotary: Arc<RotaryEmbedding>,
    ) -> std::result::Result<Self, WeightsError> {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let mut norm = |name: &str| {
            let name = format!("{prefix}.{name}");
            LayerNorm::load(weights, &name, hidden, config.norm_bias, config.eps)
        };
        let attention_norm = (number > 0).then(|| norm("attn_norm")).transpose()?;
        let mlp_norm = norm("mlp_norm")?;
        let mut linear = |name: &str, part, inputs, bias| {
            Linear::load(weights, &format!("{prefix}.{name}"), &[part], inputs, bias)
        };
        let attention = FullAttention {
            qkv: linear("attn", ("Wqkv", 3 * hidden), hidden, config.attention_bias)?,
            out: linear("attn", ("Wo", hidden), hidden, config.attention_bias)?,
            num_heads: config.num_heads,
            window: (!is_global).then_some(config.window),
            rotary: Some(rotary),
        };
        let down = linear("mlp", ("Wo", hidden), inner, config.mlp_bias)?;
        let name = format!("{prefix}.mlp.Wi");
        let [up, gate] = Linear::load_halves(weights, &name, inner, hidden, config.mlp_bias)?;
        Ok(Self {
            attention_norm,
            attention,
            mlp_norm,
            mlp: FeedForward { up, gate: Some(gate), down },
        })
    }
}

impl Encoder for ModernBert {
    fn hidden(&self, batch: &EncoderBatch) -> Result<Tensor> {
        let mut x = self.norm.forward(&self.words.forward(&batch.ids)?)?;
        for layer in &self.layers {
            let normed = layer.attention_norm.as_ref().map(|norm| norm.forward(&x)).transpose()?;
            let attended = layer.attention.forward(normed.as_ref().unwrap_or(&x), batch)?;
            x = add(&x, &attended)?;
            x = add(&x, &layer.mlp.forward(&layer.mlp_norm.forward(&x)?)?)?;
        }
        self.final_norm.forward(&x)
    }

    fn head(&self) -> Option<&ClassificationHead> {
        self.head.as_ref()
    }
}
