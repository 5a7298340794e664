//! What `config.json` says of ModernBERT.

use candle_core::DType;
use engine::Pooling;
use engine::architecture::{ConfigError, ConfigReader};
use engine::encoder::{EncoderSpec, HeadSpec};
use engine::model::ModelSpec;
use serde_json::Value;

use super::bert_config::num_labels;

/// What decides tensors and mathematics.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent traits of an architecture")]
pub(crate) struct Config {
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) num_heads: usize,
    pub(crate) vocab_size: usize,
    pub(crate) num_positions: usize,
    pub(crate) eps: f32,
    /// Of each layer: whether it sees the whole prompt.
    pub(crate) is_global: Vec<bool>,
    /// Of layers that see it, and of those that do not.
    pub(crate) thetas: [f64; 2],
    pub(crate) window: usize,
    pub(crate) norm_bias: bool,
    pub(crate) attention_bias: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) classifier_bias: bool,
    pub(crate) classifier_pooling: Pooling,
    pub(crate) num_labels: usize,
    pub(crate) dtype: DType,
}

impl Config {
    pub(crate) fn parse(json: &Value) -> Result<Self, ConfigError> {
        let config = ConfigReader::new(json)?;
        let count = |key: &str| config.required(key, config.count(key)?);
        for key in ["hidden_activation", "classifier_activation"] {
            if let Some(act) = config.text(key)?.filter(|act| *act != "gelu") {
                return Err(config.unsupported(key, act, "gelu"));
            }
        }
        let (hidden, num_heads) = (count("hidden_size")?, count("num_attention_heads")?);
        if !hidden.is_multiple_of(2 * num_heads) {
            let expected = format!("a multiple of twice num_attention_heads = {num_heads}");
            return Err(config.invalid("hidden_size", &expected));
        }
        let classifier_pooling = match config.text("classifier_pooling")?.unwrap_or("cls") {
            "cls" => Pooling::Cls,
            "mean" => Pooling::Mean,
            other => return Err(config.unsupported("classifier_pooling", other, "cls, mean")),
        };
        Ok(Self {
            hidden,
            intermediate: count("intermediate_size")?,
            num_heads,
            vocab_size: count("vocab_size")?,
            num_positions: count("max_position_embeddings")?,
            eps: config.number("norm_eps")?.unwrap_or(1e-5) as f32,
            is_global: layer_types(&config, count("num_hidden_layers")?)?,
            thetas: [
                theta(&config, "full_attention", "global_rope_theta", 160_000.0)?,
                theta(&config, "sliding_attention", "local_rope_theta", 10_000.0)?,
            ],
            window: config.count("local_attention")?.unwrap_or(128) / 2,
            norm_bias: config.flag("norm_bias")?,
            attention_bias: config.flag("attention_bias")?,
            mlp_bias: config.flag("mlp_bias")?,
            classifier_bias: config.flag("classifier_bias")?,
            classifier_pooling,
            num_labels: num_labels(&config)?,
            dtype: config.dtype()?,
        })
    }

    pub(crate) fn spec(&self, name: &str, has_head: bool) -> EncoderSpec {
        let (hidden, inner, num_layers) = (self.hidden, self.intermediate, self.is_global.len());
        let norm = hidden * (1 + usize::from(self.norm_bias));
        let linear = |inputs: usize, outputs: usize, bias| outputs * (inputs + usize::from(bias));
        let attention = linear(hidden, 3 * hidden, self.attention_bias)
            + linear(hidden, hidden, self.attention_bias);
        let mlp = linear(hidden, 2 * inner, self.mlp_bias) + linear(inner, hidden, self.mlp_bias);
        // Two norms a layer but one in the first, one behind the embeddings, one at the end.
        let layers = num_layers * (attention + mlp) + (2 * num_layers + 1) * norm;
        let head = linear(hidden, hidden, self.classifier_bias)
            + norm
            + linear(hidden, self.num_labels, true);
        let head_spec = HeadSpec { num_labels: self.num_labels, pooling: self.classifier_pooling };
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
                max_position_embeddings: self.num_positions,
                num_parameters: self.vocab_size * hidden + layers + if has_head { head } else { 0 },
                num_gathered: self.vocab_size * hidden,
                window: None,
                experts: None,
                num_rotary_tables: 2,
                fits_f16: true,
                dtype: self.dtype,
                quantized: None,
            },
            head: has_head.then_some(head_spec),
        }
    }
}

fn layer_types(config: &ConfigReader, num: usize) -> Result<Vec<bool>, ConfigError> {
    let Some(types) = config.get("layer_types").and_then(Value::as_array) else {
        let period = config.count("global_attn_every_n_layers")?.unwrap_or(3);
        return Ok((0..num).map(|layer| layer.is_multiple_of(period)).collect());
    };
    if types.len() != num {
        return Err(config.invalid("layer_types", &format!("an array of {num}")));
    }
    let is_global = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(true),
        Some("sliding_attention") => Ok(false),
        _ => {
            let known = "full_attention, sliding_attention";
            Err(config.unsupported("layer_types", &kind.to_string(), known))
        }
    };
    types.iter().map(is_global).collect()
}

/// Of one kind of layer, as transformers 5 writes it or as it was before.
fn theta(
    config: &ConfigReader,
    kind: &str,
    old_key: &str,
    default: f64,
) -> Result<f64, ConfigError> {
    let old = config.number(old_key)?.unwrap_or(default);
    let Some(all) = config.nested("rope_parameters")? else { return Ok(old) };
    let Some(own) = all.nested(kind)? else { return Ok(old) };
    match own.text("rope_type")? {
        None | Some("default") => Ok(own.number("rope_theta")?.unwrap_or(old)),
        Some(other) => Err(own.unsupported("rope_type", other, "default")),
    }
}
