//! Gemma (arXiv:2403.08295), Gemma 2 (arXiv:2408.00118) and Gemma 3 (arXiv:2503.19786), of Gemma 3 also the
//! models that see: they are served as language models, and what they see with is not loaded.
//!
//! Llama's mathematics and tensor names (see `llama.rs`), but
//! ```text
//! h       = sqrt(hidden) embed_tokens[ids]
//! norm(x) = x / rms(x) * (1 + weight)
//! MLP     : GELU (tanh) instead of SiLU
//! ```
//! Gemma 2 and 3 also norm what a branch adds:
//! ```text
//! each layer:  h += post_attention_layernorm(o_proj(attention(input_layernorm(h))))
//!              h += post_feedforward_layernorm(mlp(pre_feedforward_layernorm(h)))
//! ```
//! scores of attention are `q k / sqrt(query_pre_attn_scalar)`, and some layers have a window of
//! `sliding_window` tokens: every other one in Gemma 2, five of six in Gemma 3. Gemma 2 caps scores and logits,
//! `cap tanh(x / cap)`; Gemma 3 norms each head of q and k instead, and its layers with a window have rotary
//! positions of their own.

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::{DecoderConfig, Gain, RopeConfig, layer_windows};
use serde_json::{Value, json};

use crate::text_config::of_text;
use crate::with_defaults;

const GEMMA_NAME: &str = "GemmaForCausalLM";
const GEMMA_2_NAME: &str = "Gemma2ForCausalLM";
const GEMMA_3_NAME: &str = "Gemma3ForCausalLM";
const GEMMA_3_WITH_VISION_NAME: &str = "Gemma3ForConditionalGeneration";

pub(crate) const GEMMA: Architecture = decoder!(GEMMA_NAME, gemma);
pub(crate) const GEMMA_2: Architecture = decoder!(GEMMA_2_NAME, gemma_2);
pub(crate) const GEMMA_3: Architecture = decoder!(GEMMA_3_NAME, gemma_3);
pub(crate) const GEMMA_3_WITH_VISION: Architecture =
    decoder!(GEMMA_3_WITH_VISION_NAME, gemma_3_beside_vision);

fn gemma(json: &Value) -> Result<DecoderConfig, ConfigError> {
    // Files from before `hidden_activation` say "gelu" and mean the approximation: the weights were trained
    // with it.
    let mut json = with_defaults(json, json!({"hidden_act": "gelu_pytorch_tanh"}));
    if json["hidden_activation"].is_null() && json["hidden_act"] == "gelu" {
        json["hidden_activation"] = "gelu_pytorch_tanh".into();
    }
    shared(&json)
}

fn gemma_2(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let json = with_defaults(json, json!({"sliding_window": 4096}));
    // Every other layer, beginning with the first.
    newer(&json, |layer| layer % 2 == 0)
}

fn gemma_3(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let mut json = with_defaults(json, defaults_of_gemma_3());
    let window_rope = split_ropes(&mut json)?;
    let pattern = ConfigReader::new(&json)?.count("sliding_window_pattern")?;
    let pattern = pattern.unwrap_or(GEMMA_3_PATTERN);
    let config = newer(&json, |layer| (layer + 1) % pattern != 0)?;
    Ok(DecoderConfig { qk_norm: true, window_rope: Some(window_rope), ..config })
}

fn gemma_3_beside_vision(json: &Value) -> Result<DecoderConfig, ConfigError> {
    gemma_3(&of_text(json)?)
}

/// Layers from one without a window to the next.
const GEMMA_3_PATTERN: usize = 6;

/// transformers', which files of models that see count on.
fn defaults_of_gemma_3() -> Value {
    json!({
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "query_pre_attn_scalar": 256, "sliding_window": 4096,
    })
}

/// What all three generations share.
fn shared(json: &Value) -> Result<DecoderConfig, ConfigError> {
    // The newer name; an older one beside it says nothing.
    let mut json = with_defaults(json, json!({"tie_word_embeddings": true}));
    if !json["hidden_activation"].is_null() {
        json["hidden_act"] = json["hidden_activation"].clone();
    }
    let reader = ConfigReader::new(&json)?;
    let attention_bias = reader.flag("attention_bias")?;
    if reader.flag("use_bidirectional_attention")? {
        return Err(reader.unsupported("use_bidirectional_attention", "true", "false"));
    }
    let config = DecoderConfig::parse(&reader)?;
    Ok(DecoderConfig {
        qkv_bias: attention_bias,
        out_bias: attention_bias,
        norm_gain: Gain::OnePlusWeight,
        embedding_scale: Some((config.hidden_size as f32).sqrt()),
        rounds_embedding_scale: true,
        ..config
    })
}

/// What Gemma 2 and 3 share. Without `layer_types`, `has_window` says which layers have a window.
fn newer(json: &Value, has_window: impl Fn(usize) -> bool) -> Result<DecoderConfig, ConfigError> {
    let config = shared(json)?;
    let reader = ConfigReader::new(json)?;
    let number = |key: &str| Ok(reader.number(key)?.map(|number| number as f32));
    let window = reader.count("sliding_window")?;
    let scalar = reader.number("query_pre_attn_scalar")?;
    let scalar = reader.required("query_pre_attn_scalar", scalar)?;
    Ok(DecoderConfig {
        branch_norms: true,
        fits_f16: false,
        attention_scale: scalar.sqrt().recip() as f32,
        attention_soft_cap: number("attn_logit_softcapping")?,
        logits_soft_cap: number("final_logit_softcapping")?,
        windows: layer_windows(&reader, config.num_layers, window, has_window)?,
        ..config
    })
}

/// Leaves the rotation of layers without a window where other models have theirs, and returns that of layers
/// with one. Files of transformers 5 have an object for either.
fn split_ropes(json: &mut Value) -> Result<RopeConfig, ConfigError> {
    let local = json.get("rope_local_base_freq").cloned();
    let mut window_rope = json!({"rope_theta": local.unwrap_or(Value::Null)});
    let kinds = ["full_attention", "sliding_attention"];
    if let Some(Value::Object(both)) = json.get("rope_parameters")
        && kinds.iter().any(|kind| both.contains_key(*kind))
    {
        let [full, sliding] = kinds.map(|kind| both.get(kind).cloned().unwrap_or(Value::Null));
        window_rope["rope_parameters"] = sliding;
        json["rope_parameters"] = full;
    }
    RopeConfig::parse(&ConfigReader::new(&window_rope)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::layers::RopeScaling;

    /// As published for gemma-3-4b-it, without what it sees with.
    fn gemma_3_4b() -> Value {
        json!({
            "architectures": [GEMMA_3_WITH_VISION_NAME], "eos_token_id": [1, 106],
            "text_config": {
                "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
        })
    }

    #[test]
    fn a_file_that_leaves_much_out_has_the_defaults_of_transformers() {
        let config = gemma_3(&of_text(&gemma_3_4b()).unwrap()).unwrap();
        assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (8, 4, 256));
        assert_eq!((config.vocab_size, config.max_position_embeddings), (262_208, 131_072));
        let full: Vec<usize> = (0..34).filter(|layer| config.windows[*layer].is_none()).collect();
        assert_eq!(full, [5, 11, 17, 23, 29]);
        assert_eq!(config.windows[0], Some(1024));
        let stretched = RopeScaling::Linear { factor: 8.0 };
        assert_eq!(config.rope, RopeConfig { scaling: stretched, ..RopeConfig::plain(1e6) });
        let local = RopeConfig::plain(1e4);
        assert_eq!(config.window_rope, Some(local));
        let millions = config.spec(GEMMA_3_WITH_VISION_NAME).num_parameters / 1_000_000;
        assert_eq!(millions, 3880, "of the 4.3 B, what it sees with has 0.4");
    }

    #[test]
    fn gemma_2_has_a_window_in_every_other_layer_unless_it_says_otherwise() {
        let mut json = with_defaults(&json!({"num_hidden_layers": 4}), defaults_of_gemma_3());
        let window = Some(4096);
        assert_eq!(gemma_2(&json).unwrap().windows, [window, None, window, None]);
        json["layer_types"] = json!(["full_attention", "sliding_attention"].repeat(2));
        assert_eq!(gemma_2(&json).unwrap().windows, [None, window, None, window]);
    }

    #[test]
    fn an_old_gelu_is_the_approximation() {
        let mut json = with_defaults(&json!({"hidden_act": "gelu"}), defaults_of_gemma_3());
        json["hidden_activation"] = Value::Null;
        assert!(gemma(&json).is_ok());
        assert!(gemma_3(&json).is_ok(), "its default is the newer name");
        json["hidden_activation"] = "gelu".into();
        let error = gemma(&json).unwrap_err().to_string();
        assert!(error.contains("`hidden_act` = gelu"), "{error}");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value) in [
            ("use_bidirectional_attention", json!(true)),
            ("query_pre_attn_scalar", json!("256")),
            ("attn_logit_softcapping", json!(-1)),
            ("rope_parameters", json!({"sliding_attention": {"rope_type": "yarn"}})),
            ("layer_types", json!(["full_attention"])),
        ] {
            let mut json = gemma_3_4b();
            json["text_config"][key] = value;
            let error = gemma_3(&of_text(&json).unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.json: `{key}")), "{key}: {error}");
        }
        let error = of_text(&json!({})).unwrap_err().to_string();
        assert_eq!(error, "config.json: `text_config` is missing");
    }
}
