//! The shape of a pre-norm decoder, as the architectures of Llama's family share it.

use candle_core::DType;
use half::{bf16, f16};
use kernels::gated_activation::Activation;
use kernels::rms_norm::Gain;

use super::experts::ExpertsConfig;
use super::quantization;
use super::rope_config::RopeConfig;
use crate::architecture::{ConfigError, ConfigReader};
use crate::model::{MixtureOfExperts, ModelSpec, SlidingWindow};
use crate::weights::Quantized;
use serde_json::Value;

/// Everything that decides the tensors and the mathematics of a [`Decoder`](super::Decoder).
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent traits of an architecture")]
pub struct DecoderConfig {
    /// Decoder layers.
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
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest context the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every RMSNorm.
    pub norm_eps: f32,
    /// What the weights of all norms mean.
    pub norm_gain: Gain,
    /// What attention and the MLP add to the stream is normalised, too (Gemma 2).
    pub branch_norms: bool,
    /// Experts in place of the MLP.
    pub experts: Option<ExpertsConfig>,
    /// Of the MLP's gate.
    pub activation: Activation,
    /// Rotary positions.
    pub rope: RopeConfig,
    /// Those of layers with a window, if they are others.
    pub window_rope: Option<RopeConfig>,
    /// Of each layer, whether it has rotary positions; else order alone tells it where tokens are (NoPE,
    /// arXiv:2305.19466).
    pub rope_layers: Vec<bool>,
    /// Factor on the embedding.
    pub embedding_scale: Option<f32>,
    /// It is rounded to the dtype of activations, with which the model was trained so.
    pub rounds_embedding_scale: bool,
    /// Factor on what attention and the MLP add to the stream.
    pub branch_scale: Option<f32>,
    /// Factor on logits.
    pub logits_scale: Option<f32>,
    /// Factor on the scores of attention.
    pub attention_scale: f32,
    /// Scores of attention become `cap tanh(score / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// So do logits.
    pub logits_soft_cap: Option<f32>,
    /// Heads have `sinks`: a score each that keys share with.
    pub has_sinks: bool,
    /// The output head is the embedding.
    pub tied_embeddings: bool,
    /// `q_proj`, `k_proj` and `v_proj` have biases.
    pub qkv_bias: bool,
    /// `o_proj` has a bias.
    pub out_bias: bool,
    /// The projections of the MLP have biases.
    pub mlp_bias: bool,
    /// `q_proj`, `k_proj` and `v_proj` are one `qkv_proj`, `gate_proj` and `up_proj` one `gate_up_proj`.
    pub merged_projections: bool,
    /// Each head of q and k goes through an RMSNorm before rotation.
    pub qk_norm: bool,
    /// Of each layer: keys that a token sees at most, the last ones, itself included; `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Whether what the model computes stays below 65,504.
    pub fits_f16: bool,
    /// Of the checkpoint.
    pub dtype: DType,
    /// What the checkpoint's linear layers are stored in, if not as they are.
    pub quantized: Option<Quantized>,
}

impl DecoderConfig {
    /// Reads the keys that the architectures share. What only some have, such as biases and q/k norms, is
    /// theirs to set: here there is none.
    pub fn parse(config: &ConfigReader) -> Result<Self, ConfigError> {
        let count = |key: &str| config.required(key, config.count(key)?);
        let num_layers = count("num_hidden_layers")?;
        let num_heads = count("num_attention_heads")?;
        let num_kv_heads = config.count("num_key_value_heads")?.unwrap_or(num_heads);
        if !num_heads.is_multiple_of(num_kv_heads) {
            let expected = format!("a divisor of num_attention_heads = {num_heads}");
            return Err(config.invalid("num_key_value_heads", &expected));
        }
        let hidden_size = count("hidden_size")?;
        let head_dim = match config.count("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                let expected = format!("a multiple of num_attention_heads = {num_heads}");
                return Err(config.invalid("hidden_size", &expected));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(config.invalid("head_dim", "even (RoPE turns pairs)"));
        }
        let rope = RopeConfig::parse(config)?;
        rope.check(config, head_dim)?;
        Ok(Self {
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            hidden_size,
            intermediate_size: count("intermediate_size")?,
            vocab_size: count("vocab_size")?,
            max_position_embeddings: rope.num_positions(count("max_position_embeddings")?),
            norm_eps: config.required("rms_norm_eps", config.number("rms_norm_eps")?)? as f32,
            norm_gain: Gain::Weight,
            branch_norms: false,
            experts: None,
            activation: activation(config)?,
            rope,
            window_rope: None,
            rope_layers: vec![true; num_layers],
            embedding_scale: None,
            rounds_embedding_scale: false,
            branch_scale: None,
            logits_scale: None,
            attention_scale: (head_dim as f32).sqrt().recip(),
            attention_soft_cap: None,
            logits_soft_cap: None,
            has_sinks: false,
            tied_embeddings: config.flag("tie_word_embeddings")?,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            merged_projections: false,
            qk_norm: false,
            windows: windows(config, num_layers)?,
            fits_f16: true,
            dtype: config.dtype()?,
            quantized: quantization::quantized(config)?,
        })
    }

    /// What the engine must know.
    pub fn spec(&self, architecture: &str) -> ModelSpec {
        ModelSpec {
            architecture: architecture.to_owned(),
            num_layers: self.num_layers,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            vocab_size: self.vocab_size,
            max_position_embeddings: self.max_position_embeddings,
            num_parameters: self.num_parameters(),
            num_gathered: if self.tied_embeddings { 0 } else { self.vocab_size * self.hidden_size },
            window: self.window(),
            experts: self.experts.as_ref().map(|experts| MixtureOfExperts {
                num_experts: experts.num_experts,
                per_token: experts.gate.per_token,
                intermediate_size: experts.intermediate_size,
                shared_size: experts.shared_size.unwrap_or(0),
                num_layers: experts.layers.iter().filter(|has_experts| **has_experts).count(),
            }),
            num_rotary_tables: 1
                + usize::from(self.window_rope.is_some())
                + usize::from(self.rope_layers.contains(&false)),
            fits_f16: self.fits_f16,
            dtype: self.dtype,
            quantized: self.quantized,
        }
    }

    /// What the layers with a window have in common.
    fn window(&self) -> Option<SlidingWindow> {
        let num_keys = self.windows.iter().flatten().copied().max()?;
        Some(SlidingWindow { num_keys, num_layers: self.windows.iter().flatten().count() })
    }

    /// What embeddings of this dtype are multiplied by.
    pub(super) fn embedding_scale_of(&self, dtype: DType) -> Option<f32> {
        let round = |scale: f32| match dtype {
            DType::BF16 => bf16::from_f32(scale).to_f32(),
            DType::F16 => f16::from_f32(scale).to_f32(),
            _ => scale,
        };
        self.embedding_scale
            .map(|scale| if self.rounds_embedding_scale { round(scale) } else { scale })
    }

    /// Whether it is no more than Llama's or Qwen3's mathematics, windows aside.
    pub(super) fn is_plain(&self) -> bool {
        let caps = [self.attention_soft_cap, self.logits_soft_cap];
        let scales = [self.embedding_scale, self.branch_scale, self.logits_scale];
        self.norm_gain == Gain::Weight
            && !self.branch_norms
            && self.window_rope.is_none()
            && !self.rope_layers.contains(&false)
            && scales == [None; 3]
            && caps == [None; 2]
            && !self.has_sinks
            && !matches!(self.activation, Activation::ClampedSwiglu { .. })
    }

    /// Parameters as loaded.
    fn num_parameters(&self) -> usize {
        let (hidden, inner, dim) = (self.hidden_size, self.intermediate_size, self.head_dim);
        let (q, kv) = (self.num_heads * dim, self.num_kv_heads * dim);
        let linear = |inputs: usize, outputs: usize, has_bias: bool| {
            outputs * (inputs + usize::from(has_bias))
        };
        let attention = linear(hidden, q + 2 * kv, self.qkv_bias)
            + linear(q, hidden, self.out_bias)
            + if self.qk_norm { 2 * dim } else { 0 }
            + if self.has_sinks { self.num_heads } else { 0 };
        let mlp = linear(hidden, 2 * inner, self.mlp_bias) + linear(inner, hidden, self.mlp_bias);
        let embeddings = if self.tied_embeddings { 1 } else { 2 } * self.vocab_size * hidden;
        let norms = if self.branch_norms { 4 } else { 2 } * hidden;
        let (mut with_experts, mut all_experts) = (0, 0);
        if let Some(experts) = &self.experts {
            with_experts = experts.layers.iter().filter(|has_experts| **has_experts).count();
            let (inner, has_bias) = (experts.intermediate_size, experts.has_bias);
            let router = linear(hidden, 1, experts.names.router_bias.is_some());
            let one = linear(hidden, 2 * inner, has_bias) + linear(inner, hidden, has_bias);
            let shared = 3 * hidden * experts.shared_size.unwrap_or(0);
            all_experts = with_experts * (experts.num_experts * (router + one) + shared);
        }
        let mlps = (self.num_layers - with_experts) * mlp;
        embeddings + self.num_layers * (attention + norms) + mlps + all_experts + hidden
    }
}

fn activation(config: &ConfigReader) -> Result<Activation, ConfigError> {
    match config.required("hidden_act", config.text("hidden_act")?)? {
        "silu" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(config.unsupported("hidden_act", other, "silu, gelu_pytorch_tanh, gelu_new")),
    }
}

/// transformers' where config.json does not say.
const DEFAULT_FULL_LAYERS: u64 = 28;

/// As transformers reads what Qwen writes: with `use_sliding_window` the layers that `layer_types` names, or those
/// from `max_window_layers` on, have the `sliding_window`.
fn windows(config: &ConfigReader, num_layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    let window = config.count("sliding_window")?;
    let window = if config.flag("use_sliding_window")? { window } else { None };
    let full = config.get("max_window_layers").and_then(Value::as_u64);
    let full = full.unwrap_or(DEFAULT_FULL_LAYERS) as usize;
    layer_windows(config, num_layers, window, |layer| layer >= full)
}

/// Of each layer, the window that `layer_types` gives it, or where there is none `has_window`.
///
/// # Errors
/// A list that is not of so many known types.
pub fn layer_windows(
    config: &ConfigReader,
    num_layers: usize,
    window: Option<usize>,
    has_window: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let Some(types) = config.get("layer_types") else {
        return Ok((0..num_layers).map(|layer| window.filter(|_| has_window(layer))).collect());
    };
    let of_each = || config.invalid("layer_types", "a list of num_hidden_layers strings");
    let types = types.as_array().filter(|types| types.len() == num_layers).ok_or_else(of_each)?;
    let window_of = |kind: &Value| match kind.as_str().ok_or_else(of_each)? {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(window),
        other => Err(config.unsupported("layer_types", other, "full_attention, sliding_attention")),
    };
    types.iter().map(window_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({
            "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "intermediate_size": 80, "vocab_size": 131,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        })
    }

    fn parse(config: &Value) -> Result<DecoderConfig, ConfigError> {
        DecoderConfig::parse(&ConfigReader::new(config).unwrap())
    }

    #[test]
    fn what_is_absent_has_the_defaults_of_transformers() {
        let config = parse(&base()).unwrap();
        assert_eq!((config.head_dim, config.num_kv_heads), (8, 2));
        assert!(!config.tied_embeddings && config.dtype == DType::F32);
    }

    #[test]
    fn each_needed_key_is_named_when_it_is_missing() {
        for key in base().as_object().unwrap().keys().filter(|key| *key != "num_key_value_heads") {
            let mut config = base();
            config[key] = Value::Null;
            let error = parse(&config).unwrap_err().to_string();
            assert_eq!(error, format!("config.json: `{key}` is missing"));
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value) in [
            ("hidden_act", json!("relu2")),
            ("quantization_config", json!({"quant_method": "hqq"})),
            ("layer_types", json!(["full_attention", "chunked_attention", "full_attention"])),
            ("num_key_value_heads", json!(4)),
            ("head_dim", json!(7)),
            ("hidden_size", json!(50)),
            ("torch_dtype", json!("float8_e4m3fn")),
        ] {
            let mut config = base();
            config[key] = value;
            let error = parse(&config).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.json: `{key}")), "{key}: {error}");
        }
    }

    #[test]
    fn factors_on_embeddings_are_rounded_where_they_were_in_training() {
        let scaled = |rounds_embedding_scale| DecoderConfig {
            embedding_scale: Some(3072f32.sqrt()),
            rounds_embedding_scale,
            ..parse(&base()).unwrap()
        };
        assert_eq!(scaled(true).embedding_scale_of(DType::BF16), Some(55.5), "not 55.4256");
        assert_eq!(scaled(true).embedding_scale_of(DType::F32), Some(3072f32.sqrt()));
        assert_eq!(scaled(false).embedding_scale_of(DType::BF16), Some(3072f32.sqrt()));
    }

    #[test]
    fn layers_have_the_windows_that_transformers_gives_them() {
        let with = |used: bool, full_layers: Value, types: Value| {
            let mut config = base();
            config["sliding_window"] = json!(40);
            config["use_sliding_window"] = json!(used);
            config["max_window_layers"] = full_layers;
            config["layer_types"] = types;
            parse(&config)
        };
        let (none, full, sliding) = (Value::Null, "full_attention", "sliding_attention");
        let windows = |used, full, types| with(used, full, types).unwrap().windows;
        assert_eq!(windows(false, json!(0), none.clone()), [None; 3]);
        assert_eq!(windows(true, none.clone(), none.clone()), [None; 3], "28 layers have none");
        assert_eq!(windows(true, json!(2), none.clone()), [None, None, Some(40)]);
        let types = json!([sliding, full, sliding]);
        assert_eq!(windows(true, json!(3), types.clone()), [Some(40), None, Some(40)]);
        assert_eq!(windows(false, json!(0), types.clone()), [None; 3]);
        let spec = with(true, none.clone(), types).unwrap().spec("A");
        assert_eq!(spec.window, Some(SlidingWindow { num_keys: 40, num_layers: 2 }));
        for types in [
            json!([sliding, full]),
            json!([full, full, 3]),
            json!([full, full, "linear_attention"]),
        ] {
            let error = with(true, none.clone(), types).unwrap_err().to_string();
            assert!(error.contains("`layer_types`"), "{error}");
        }
    }
}
