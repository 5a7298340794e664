//! BERT (arXiv:1810.04805), and what shares its mathematics: RoBERTa and XLM-R (see `roberta.rs`).
//!
//! ```text
//! h = norm(word[ids] + type[segments] + position[positions])
//! each layer:  h = norm(h + out(attention(q, k, v)))    q, k, v = {query,key,value}(h)
//!              h = norm(h + down(gelu(up(h))))
//! ```
//!
//! Tensors, `N` counting layers, `bert.` before all of them where the model has a head:
//! ```text
//! embeddings.word_embeddings.weight                            [vocab, hidden]
//! embeddings.{position,token_type}_embeddings.weight           [positions or types, hidden]
//! embeddings.LayerNorm.{weight,bias}                           [hidden]
//! encoder.layer.N.attention.self.{query,key,value}.weight      [hidden, hidden]    and .bias
//! encoder.layer.N.attention.output.dense.weight                [hidden, hidden]    and .bias
//! encoder.layer.N.attention.output.LayerNorm.{weight,bias}     [hidden]
//! encoder.layer.N.intermediate.dense.weight                    [intermediate, hidden]  and .bias
//! encoder.layer.N.output.dense.weight                          [hidden, intermediate]  and .bias
//! encoder.layer.N.output.LayerNorm.{weight,bias}               [hidden]
//! ```
//! To score, `pooler.dense` with tanh reads the first token's state, and `classifier` its result.

use candle_core::{Result, Tensor};
use engine::architecture::LoadError;
use engine::encoder::{Encoder, EncoderArchitecture, EncoderBatch};
use engine::layers::{
    ClassificationHead, Embedding, FeedForward, FullAttention, HeadActivation, LayerNorm, Linear,
    add,
};
use engine::weights::{Weights, WeightsError};

use super::bert_config::BertConfig;

/// A row of the registry.
macro_rules! row {
    ($name:literal, $has_head:literal) => {
        EncoderArchitecture {
            name: $name,
            spec: |json| Ok(BertConfig::parse(json, 0)?.spec($name, $has_head)),
            load: |json, weights, _| {
                let config = BertConfig::parse(json, 0)?;
                let names =
                    HeadNames { root: "bert", dense: "bert.pooler.dense", out: "classifier" };
                Ok(Box::new(Bert::load(weights, &config, $has_head, names)?))
            },
        }
    };
}

pub(crate) const ROWS: [EncoderArchitecture; 2] =
    [row!("BertModel", false), row!("BertForSequenceClassification", true)];

/// What tensors are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadNames {
    /// Before all others of a model with a head.
    pub(crate) root: &'static str,
    pub(crate) dense: &'static str,
    pub(crate) out: &'static str,
}

/// The model, with or without a head.
#[derive(Debug)]
pub(crate) struct Bert {
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    num_types: usize,
    first_position: u32,
    norm: LayerNorm,
    layers: Vec<Layer>,
    head: Option<ClassificationHead>,
}

#[derive(Debug)]
struct Layer {
    attention: FullAttention,
    attention_norm: LayerNorm,
    mlp: FeedForward,
    mlp_norm: LayerNorm,
}

impl Bert {
    pub(crate) fn load(
        weights: &mut Weights,
        config: &BertConfig,
        has_head: bool,
        names: HeadNames,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = config.hidden;
        let is_bare = weights.contains("embeddings.word_embeddings.weight");
        let root = if has_head || !is_bare { format!("{}.", names.root) } else { String::new() };
        let mut table = |name: &str, rows: usize| {
            Embedding::load(weights, &format!("{root}embeddings.{name}_embeddings"), rows, hidden)
        };
        let words = table("word", config.vocab_size)?;
        let positions = table("position", config.num_positions)?;
        let types = table("token_type", config.num_types)?;
        let name = format!("{root}embeddings.LayerNorm");
        let norm = LayerNorm::load(weights, &name, hidden, true, config.eps)?;
        let layer = |n| Layer::load(weights, &format!("{root}encoder.layer.{n}"), config);
        let layers = (0..config.num_layers).map(layer).collect::<std::result::Result<_, _>>()?;
        let mut linear = |name, out| Linear::load(weights, "", &[(name, out)], hidden, true);
        let head = if has_head {
            Some(ClassificationHead {
                dense: linear(names.dense, hidden)?,
                activation: HeadActivation::Tanh,
                norm: None,
                out: linear(names.out, config.num_labels)?,
            })
        } else {
            None
        };
        let (num_types, first_position) = (config.num_types, config.first_position as u32);
        Ok(Self { words, positions, types, num_types, first_position, norm, layers, head })
    }
}

impl Layer {
    fn load(
        weights: &mut Weights,
        prefix: &str,
        config: &BertConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let mut linear = |name: &str, parts: &[(&str, usize)], inputs| {
            Linear::load(weights, &format!("{prefix}{name}"), parts, inputs, true)
        };
        let qkv = [("query", hidden), ("key", hidden), ("value", hidden)];
        let attention = FullAttention {
            qkv: linear(".attention.self", &qkv, hidden)?,
            out: linear(".attention.output", &[("dense", hidden)], hidden)?,
            num_heads: config.num_heads,
            window: None,
            rotary: None,
        };
        let mlp = FeedForward {
            up: linear(".intermediate", &[("dense", inner)], hidden)?,
            gate: None,
            down: linear(".output", &[("dense", hidden)], inner)?,
        };
        let mut norm = |name: &str| {
            LayerNorm::load(weights, &format!("{prefix}{name}.LayerNorm"), hidden, true, config.eps)
        };
        let (attention_norm, mlp_norm) = (norm(".attention.output")?, norm(".output")?);
        Ok(Self { attention, attention_norm, mlp, mlp_norm })
    }
}

impl Encoder for Bert {
    fn hidden(&self, batch: &EncoderBatch) -> Result<Tensor> {
        let segments = match self.num_types {
            1 => batch.segments.zeros_like()?,
            _ => batch.segments.clone(),
        };
        let first = Tensor::new(self.first_position, batch.ids.device())?;
        let positions = batch.positions.broadcast_add(&first)?;
        let x = add(&self.words.forward(&batch.ids)?, &self.types.forward(&segments)?)?;
        let mut x = self.norm.forward(&add(&x, &self.positions.forward(&positions)?)?)?;
        for layer in &self.layers {
            let attended = layer.attention.forward(&x, batch)?;
            x = layer.attention_norm.forward(&add(&attended, &x)?)?;
            x = layer.mlp_norm.forward(&add(&layer.mlp.forward(&x)?, &x)?)?;
        }
        Ok(x)
    }

    fn head(&self) -> Option<&ClassificationHead> {
        self.head.as_ref()
    }
}
