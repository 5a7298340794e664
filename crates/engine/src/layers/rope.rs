//! Rotary position embedding (RoFormer, arXiv:2104.09864) and the scalings for longer contexts.

use std::f64::consts::PI;

use candle_core::{Device, Result, Tensor};
use serde_json::Value;

use crate::architecture::{ConfigError, ConfigReader};

const SUPPORTED: &str = "default, linear, llama3, yarn";

/// Base and scaling of the rotation frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

/// How rotation frequencies are stretched beyond the context length of pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by the same factor (arXiv:2306.15595).
    Linear {
        /// Frequencies are divided by this.
        factor: f64,
    },
    /// Long wavelengths by the factor, short ones not, those between smoothly (Llama 3.1).
    Llama3 {
        /// Low frequencies are divided by this.
        factor: f64,
        /// Wavelengths above `original_len / low_freq_factor` are stretched fully.
        low_freq_factor: f64,
        /// Wavelengths below `original_len / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of pre-training.
        original_len: f64,
    },
    /// Pairs that turn seldom by the factor, those that turn often not, those between smoothly by their
    /// number; and all are made longer (YaRN, arXiv:2309.00071).
    Yarn {
        /// Low frequencies are divided by this.
        factor: f64,
        /// Context length of pre-training.
        original_len: f64,
        /// Pairs that turn so often in it are kept.
        beta_fast: f64,
        /// Pairs that turn so often are stretched fully.
        beta_slow: f64,
        /// Whether the pairs between those two end at whole numbers.
        truncate: bool,
        /// Cosines and sines are multiplied by this.
        attention_factor: f64,
    },
}

impl RopeConfig {
    /// Reads `rope_parameters` as transformers 5 writes it, or `rope_theta` and `rope_scaling`.
    pub fn parse(config: &ConfigReader) -> std::result::Result<Self, ConfigError> {
        let key = if config.get("rope_parameters").is_some() {
            "rope_parameters"
        } else {
            "rope_scaling"
        };
        let top_theta = config.number("rope_theta")?;
        let Some(rope) = config.nested(key)? else {
            return Ok(Self { theta: top_theta.unwrap_or(1e4), scaling: RopeScaling::None });
        };
        // Per-layer-type parameters (Gemma 3) are objects in this object.
        if let Some(name) = rope.keys().find(|name| rope.get(name).is_some_and(Value::is_object)) {
            return Err(rope.unsupported(name, "{..}", "the same rotation in every layer"));
        }
        for reader in [config, &rope] {
            if reader.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
                return Err(reader.invalid("partial_rotary_factor", "1 (whole heads are rotated)"));
            }
        }
        let theta = rope.number("rope_theta")?.or(top_theta).unwrap_or(1e4);
        let key = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
        let number = |key: &str| rope.required(key, rope.number(key)?);
        let scaling = match rope.text(key)?.unwrap_or("default") {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: number("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_len: number("original_max_position_embeddings")?,
            },
            "yarn" => yarn(config, &rope)?,
            other => return Err(rope.unsupported(key, other, SUPPORTED)),
        };
        Ok(Self { theta, scaling })
    }

    /// Positions that a model has, of which `config.json` says so many: those of a model that is stretched
    /// by YaRN are said of the one it was made from.
    pub fn num_positions(&self, max_position_embeddings: usize) -> usize {
        match self.scaling {
            RopeScaling::Yarn { factor, original_len, .. } => {
                max_position_embeddings.max((factor * original_len) as usize)
            }
            _ => max_position_embeddings,
        }
    }

    /// Radians per position of each pair of elements. `[head_dim / 2]`
    fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let frequency = |pair| {
            let frequency = self.theta.powf(-2.0 * pair as f64 / head_dim as f64);
            self.scaling.apply(frequency, self.place_in_ramp(pair, head_dim)) as f32
        };
        (0..head_dim / 2).map(frequency).collect()
    }

    /// Where a pair is between those that YaRN keeps, at 0, and those that it stretches fully, at 1.
    fn place_in_ramp(&self, pair: usize, head_dim: usize) -> f64 {
        let RopeScaling::Yarn { original_len, beta_fast, beta_slow, truncate, .. } = self.scaling
        else {
            return 0.0;
        };
        // The pair, of any real number, that turns so often in the original length.
        let pair_of = |turns: f64| {
            let span = (original_len / (turns * 2.0 * PI)).ln() / self.theta.ln();
            span * head_dim as f64 / 2.0
        };
        let (mut first, mut last) = (pair_of(beta_fast), pair_of(beta_slow));
        if truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        let (first, mut last) = (first.max(0.0), last.min(head_dim as f64 - 1.0));
        if first == last {
            last += 0.001; // As transformers keeps from dividing by nothing.
        }
        ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0)
    }

    /// What cosines and sines are multiplied by.
    fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }
}

/// Reads YaRN's numbers, with the defaults of transformers.
fn yarn(
    config: &ConfigReader,
    rope: &ConfigReader,
) -> std::result::Result<RopeScaling, ConfigError> {
    let factor = rope.required("factor", rope.number("factor")?)?;
    let original_len = if let Some(len) = rope.number("original_max_position_embeddings")? {
        len
    } else {
        let key = "max_position_embeddings";
        config.required(key, config.number(key)?)?
    };
    let lengthened = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let scales = (rope.number("mscale")?, rope.number("mscale_all_dim")?);
    let attention_factor = match (rope.number("attention_factor")?, scales) {
        (Some(factor), _) => factor,
        (None, (Some(scale), Some(of_all))) => lengthened(scale) / lengthened(of_all),
        (None, _) => lengthened(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_len,
        beta_fast: rope.number("beta_fast")?.unwrap_or(32.0),
        beta_slow: rope.number("beta_slow")?.unwrap_or(1.0),
        truncate: rope.get("truncate").is_none() || rope.flag("truncate")?,
        attention_factor,
    })
}

impl RopeScaling {
    /// `ramp` is YaRN's.
    fn apply(self, frequency: f64, ramp: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Yarn { factor, .. } => frequency / factor * ramp + frequency * (1.0 - ramp),
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_len } => {
                let turns = original_len * frequency / (2.0 * PI);
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0.0, 1.0);
                kept * frequency + (1.0 - kept) * frequency / factor
            }
        }
    }
}

/// Cosines and sines of every position a context can have.
#[derive(Debug)]
pub struct RotaryEmbedding {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryEmbedding {
    /// Tables for positions `0..num_positions`.
    pub fn new(
        config: &RopeConfig,
        head_dim: usize,
        num_positions: usize,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = config.frequencies(head_dim);
        // The angle is rounded to f32 as in transformers, whose rounding the models were trained on.
        let length = config.attention_factor();
        let table = |f: fn(f32) -> f32| {
            let angles = (0..num_positions).flat_map(|position| {
                frequencies.iter().map(move |x| length * f(position as f32 * x))
            });
            Tensor::from_vec(angles.collect(), (num_positions, frequencies.len()), device)
        };
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }

    /// `[positions, head_dim / 2]` f32
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// `[positions, head_dim / 2]` f32
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(config: &Value) -> std::result::Result<RopeConfig, ConfigError> {
        RopeConfig::parse(&ConfigReader::new(config).unwrap())
    }

    #[test]
    fn old_and_new_keys_mean_the_same() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_len: 8192.0,
        };
        let llama3 = json!({"factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"});
        let old = parse(&json!({"rope_theta": 5e5, "rope_scaling": llama3.clone()})).unwrap();
        let mut new = llama3;
        new["rope_theta"] = json!(5e5);
        assert_eq!(parse(&json!({"rope_parameters": new})).unwrap(), old);
        assert_eq!(old, RopeConfig { theta: 5e5, scaling });
        let linear = parse(&json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
        let expected = RopeConfig { theta: 1e4, scaling: RopeScaling::Linear { factor: 2.0 } };
        assert_eq!(linear, expected);
        let plain = RopeConfig { theta: 1e6, scaling: RopeScaling::None };
        assert_eq!(parse(&json!({"rope_theta": 1e6, "rope_scaling": null})).unwrap(), plain);
        let default = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}});
        assert_eq!(parse(&default).unwrap(), plain);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (config, needle) in [
            (json!({"rope_scaling": {"type": "ntk", "factor": 4.0}}), "rope_scaling.type` = ntk"),
            (json!({"rope_scaling": {"type": "yarn"}}), "`rope_scaling.factor` is missing"),
            (
                json!({"rope_scaling": {"type": "yarn", "factor": 2}}),
                "`max_position_embeddings` is",
            ),
            (json!({"rope_parameters": {"rope_type": "longrope"}}), "rope_type` = longrope"),
            (json!({"rope_scaling": {"rope_type": "linear"}}), "`rope_scaling.factor` is missing"),
            (json!({"rope_scaling": "llama3"}), "`rope_scaling` must be an object"),
            (json!({"rope_parameters": {"full_attention": {}}}), "rope_parameters.full_attention"),
            (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor"),
        ] {
            let error = parse(&config).unwrap_err().to_string();
            assert!(error.contains(needle), "{error} does not say {needle}");
        }
    }

    #[test]
    fn scaling_bends_only_long_wavelengths() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_len: 8192.0,
        };
        let frequency = |turns: f64| turns * 2.0 * PI / 8192.0;
        assert_eq!(scaling.apply(frequency(4.5), 0.0), frequency(4.5));
        assert_eq!(scaling.apply(frequency(0.5), 0.0), frequency(0.5) / 8.0);
        let between = scaling.apply(frequency(2.5), 0.0) / frequency(2.5);
        assert!((between - 0.5625).abs() < 1e-12, "half way: (1 + 1/8) / 2, got {between}");
    }

    #[test]
    fn yarn_has_the_numbers_that_qwen_publishes_it_with() {
        let json = json!({
            "max_position_embeddings": 40_960, "rope_theta": 1e6,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                             "original_max_position_embeddings": 32_768},
        });
        let config = parse(&json).unwrap();
        assert_eq!(config.num_positions(40_960), 131_072);
        assert!((config.attention_factor() - 1.138_629_4).abs() < 1e-6, "0.1 ln 4 + 1");
        // Of 64 pairs those to 23 turn 32 times and more, those from 40 on less than once.
        let plain = RopeConfig { theta: 1e6, scaling: RopeScaling::None };
        let (stretched, plain) = (config.frequencies(128), plain.frequencies(128));
        for pair in 0..64 {
            let ratio = f64::from(plain[pair] / stretched[pair]);
            let expected = match pair {
                0..=23 => 1.0,
                40.. => 4.0,
                _ => 1.0 / (1.0 - 0.75 * (pair as f64 - 23.0) / 17.0),
            };
            assert!((ratio - expected).abs() < 1e-5, "{pair}: {ratio}, not {expected}");
        }
        let plain = json!({"max_position_embeddings": 512});
        assert_eq!(parse(&plain).unwrap().num_positions(512), 512);
    }
}
