//! What `config.json` says of BERT and what shares its mathematics.

use candle_core::DType;
use engine::Pooling;
use engine::architecture::{ConfigError, ConfigReader};
use engine::encoder::{EncoderSpec, HeadSpec};
use engine::model::ModelSpec;
use serde_json::Value;

/// What decides tensors and mathematics.
#[derive(Debug)]
pub(crate) struct BertConfig {
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) num_layers: usize,
    pub(crate) num_heads: usize,
    pub(crate) vocab_size: usize,
    pub(crate) num_types: usize,
    /// Rows of the table of positions.
    pub(crate) num_positions: usize,
    /// The row of the first token.
    pub(crate) first_position: usize,
    pub(crate) eps: f32,
    pub(crate) num_labels: usize,
    dtype: DType,
}

impl BertConfig {
    /// `first_position` rows of the table of positions come before those of tokens.
    pub(crate) fn parse(json: &Value, first_position: usize) -> Result<Self, ConfigError> {
        let config = ConfigReader::new(json)?;
        let count = |key: &str| config.required(key, config.count(key)?);
        let act = config.required("hidden_act", config.text("hidden_act")?)?;
        if act != "gelu" {
            return Err(config.unsupported("hidden_act", act, "gelu"));
        }
        let kind = config.text("position_embedding_type")?.unwrap_or("absolute");
        if kind != "absolute" {
            return Err(config.unsupported("position_embedding_type", kind, "absolute"));
        }
        if config.flag("is_decoder")? {
            return Err(config.unsupported("is_decoder", "true", "encoders"));
        }
        let (hidden, num_heads) = (count("hidden_size")?, count("num_attention_heads")?);
        if !hidden.is_multiple_of(num_heads) {
            let expected = format!("a multiple of num_attention_heads = {num_heads}");
            return Err(config.invalid("hidden_size", &expected));
        }
        let num_positions = count("max_position_embeddings")?;
        if num_positions <= first_position {
            let expected = format!("more than the {first_position} rows before the first token's");
            return Err(config.invalid("max_position_embeddings", &expected));
        }
        Ok(Self {
            hidden,
            intermediate: count("intermediate_size")?,
            num_layers: count("num_hidden_layers")?,
            num_heads,
            vocab_size: count("vocab_size")?,
            num_types: count("type_vocab_size")?,
            num_positions,
            first_position,
            eps: config.required("layer_norm_eps", config.number("layer_norm_eps")?)? as f32,
            num_labels: num_labels(&config)?,
            dtype: config.dtype()?,
        })
    }

    pub(crate) fn spec(&self, name: &str, has_head: bool) -> EncoderSpec {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let linear = |inputs: usize, outputs: usize| outputs * (inputs + 1);
        let layer =
            4 * linear(hidden, hidden) + linear(hidden, inner) + linear(inner, hidden) + 4 * hidden;
        let embeddings = (self.vocab_size + self.num_types + self.num_positions + 2) * hidden;
        let head =
            if has_head { linear(hidden, hidden) + linear(hidden, self.num_labels) } else { 0 };
        let head_spec = HeadSpec { num_labels: self.num_labels, pooling: Pooling::Cls };
        EncoderSpec {
            model: ModelSpec {
                architecture: name.to_owned(),
                num_layers: 0,
                num_heads: self.num_heads,
                num_kv_heads: self.num_heads,
                head_dim: hidden / self.num_heads,
                hidden_size: hidden,
                intermediate_size: inner,
                vocab_size: self.vocab_size,
                max_position_embeddings: self.num_positions - self.first_position,
                num_parameters: embeddings + self.num_layers * layer + head,
                num_gathered: embeddings,
                window: None,
                experts: None,
                num_rotary_tables: 0,
                fits_f16: true,
                dtype: self.dtype,
                quantized: None,
            },
            head: has_head.then_some(head_spec),
        }
    }
}

/// As transformers counts them: by the names, two if nothing is said.
pub(crate) fn num_labels(config: &ConfigReader) -> Result<usize, ConfigError> {
    match config.nested("id2label")? {
        Some(names) => Ok(names.keys().count()),
        None => Ok(config.count("num_labels")?.unwrap_or(2)),
    }
}
