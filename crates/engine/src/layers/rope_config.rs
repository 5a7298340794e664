//! What `config.json` says of rotary positions, and the frequencies that follow from it, with the scalings for
//! longer contexts.

use std::f64::consts::PI;
use std::iter;
use std::ops::Range;

use serde_json::Value;

use crate::architecture::{ConfigError, ConfigReader};

const SUPPORTED: &str = "default, linear, llama3, longrope, yarn";

/// Base and scaling of the rotation frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
    /// The part of a head that is rotated, its first elements.
    pub rotated: f64,
    /// What queries are multiplied by, if they are.
    pub q_scale: Option<QueryScale>,
}

/// Queries of later positions are longer, which keeps attention to many keys sharp (Llama 4): by
/// `1 + beta ln(1 + floor(position / original_len))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScale {
    /// How much longer.
    pub beta: f64,
    /// Context length of pre-training, within which they are not.
    pub original_len: f64,
}

impl QueryScale {
    /// Of a position.
    pub(super) fn at(self, position: usize) -> f32 {
        let lengths = (position as f64 / self.original_len).floor();
        (1.0 + self.beta * lengths.ln_1p()) as f32
    }
}

/// How rotation frequencies are stretched beyond the context length of pre-training.
#[derive(Debug, Clone, PartialEq)]
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
    /// Each pair by a factor of its own (LongRoPE, arXiv:2402.13753); and all are made longer.
    Long {
        /// Frequencies of contexts up to the length of pre-training are divided by these. `[pairs]`
        short: Vec<f64>,
        /// Those of longer ones.
        long: Vec<f64>,
        /// Context length of pre-training.
        original_len: f64,
        /// Cosines and sines are multiplied by this.
        attention_factor: f64,
    },
}

impl RopeConfig {
    /// Of whole heads, not stretched.
    pub fn plain(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::None, rotated: 1.0, q_scale: None }
    }

    /// That turns nothing.
    pub fn unrotated() -> Self {
        Self { rotated: 0.0, ..Self::plain(1.0) }
    }

    /// Reads `rope_parameters` as transformers 5 writes it, or `rope_theta` and `rope_scaling`.
    pub fn parse(config: &ConfigReader) -> Result<Self, ConfigError> {
        let key = if config.get("rope_parameters").is_some() {
            "rope_parameters"
        } else {
            "rope_scaling"
        };
        let top_theta = config.number("rope_theta")?;
        let rope = config.nested(key)?;
        let rotated = rotated(config, rope.as_ref())?;
        let Some(rope) = rope else {
            let theta = top_theta.unwrap_or(1e4);
            return Ok(Self { rotated, ..Self::plain(theta) });
        };
        // Per-layer-type parameters (Gemma 3) are objects in this object.
        if let Some(name) = rope.keys().find(|name| rope.get(name).is_some_and(Value::is_object)) {
            return Err(rope.unsupported(name, "{..}", "the same rotation in every layer"));
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
            // Its first name, which Phi-3 was published with.
            "longrope" | "su" => long(config, &rope)?,
            other => return Err(rope.unsupported(key, other, SUPPORTED)),
        };
        let q_scale = match rope.number("llama_4_scaling_beta")? {
            Some(beta) => {
                Some(QueryScale { beta, original_len: number("original_max_position_embeddings")? })
            }
            None => None,
        };
        Ok(Self { theta, scaling, rotated, q_scale })
    }

    /// Elements of a head that are rotated, those of its pairs behind each other.
    pub fn num_rotated(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.rotated) as usize
    }

    /// Where the elements of a head go so that the pairs that are rotated are half a head apart, as those of a
    /// head that is rotated whole are: ranges of elements, in the order in which they lie then. Queries and keys
    /// in the same order have the same products.
    pub fn order_of_head(&self, head_dim: usize) -> Vec<Range<usize>> {
        let (half, pairs) = (head_dim / 2, self.num_rotated(head_dim) / 2);
        if pairs == half {
            return iter::once(0..head_dim).collect();
        }
        let kept = 2 * pairs + half - pairs;
        vec![0..pairs, 2 * pairs..kept, pairs..2 * pairs, kept..head_dim]
    }

    /// Refuses parts of heads, and numbers of factors, that are not those of the pairs.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn check(&self, config: &ConfigReader, head_dim: usize) -> Result<(), ConfigError> {
        let rotated = self.num_rotated(head_dim);
        if rotated == 0 || !rotated.is_multiple_of(2) {
            let expected = format!("an even part of head_dim = {head_dim}");
            return Err(config.invalid("partial_rotary_factor", &expected));
        }
        if let RopeScaling::Long { short, long, .. } = &self.scaling {
            for (key, factors) in [("short_factor", short), ("long_factor", long)] {
                if factors.len() != rotated / 2 {
                    let expected = format!("{} factors, one for each pair", rotated / 2);
                    return Err(config.invalid(key, &expected));
                }
            }
        }
        Ok(())
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

    /// Radians per position of each pair of elements, in contexts of so many positions; 0 of those that are not
    /// rotated. `[head_dim / 2]`
    pub(super) fn frequencies(&self, head_dim: usize, num_positions: usize) -> Vec<f32> {
        let rotated = self.num_rotated(head_dim);
        let frequency = |pair| {
            let frequency = self.theta.powf(-2.0 * pair as f64 / rotated as f64);
            let ramp = self.place_in_ramp(pair, rotated);
            self.scaling.apply(frequency, pair, ramp, num_positions) as f32
        };
        let kept = head_dim / 2 - rotated / 2;
        (0..rotated / 2).map(frequency).chain(iter::repeat_n(0.0, kept)).collect()
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
    pub(super) fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. }
            | RopeScaling::Long { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }
}

/// Reads YaRN's numbers, with the defaults of transformers.
fn yarn(config: &ConfigReader, rope: &ConfigReader) -> Result<RopeScaling, ConfigError> {
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

/// The part of a head that is rotated.
fn rotated(config: &ConfigReader, rope: Option<&ConfigReader>) -> Result<f64, ConfigError> {
    for reader in rope.into_iter().chain([config]) {
        let key = "partial_rotary_factor";
        match reader.number(key)? {
            Some(factor) if factor > 0.0 && factor <= 1.0 => return Ok(factor),
            Some(_) => return Err(reader.invalid(key, "above 0 and at most 1")),
            None => {}
        }
    }
    Ok(1.0)
}

/// Reads LongRoPE's numbers, with the defaults of transformers.
fn long(config: &ConfigReader, rope: &ConfigReader) -> Result<RopeScaling, ConfigError> {
    let factors = |key: &str| {
        let invalid = || rope.invalid(key, "a list of positive numbers");
        let list = rope.required(key, rope.get(key))?.as_array().ok_or_else(invalid)?;
        let factor = |value: &Value| value.as_f64().filter(|factor| *factor > 0.0);
        list.iter().map(|value| factor(value).ok_or_else(invalid)).collect::<Result<Vec<_>, _>>()
    };
    let most = config.number("max_position_embeddings")?;
    let key = "original_max_position_embeddings";
    // Phi-3 has it beside the others.
    let original_len = match config.number(key)? {
        Some(len) => len,
        None => rope.required(key, rope.number(key)?.or(most))?,
    };
    let factor = rope.number("factor")?.unwrap_or(most.unwrap_or(original_len) / original_len);
    let lengthened =
        if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_len.ln()).sqrt() };
    Ok(RopeScaling::Long {
        short: factors("short_factor")?,
        long: factors("long_factor")?,
        original_len,
        attention_factor: rope.number("attention_factor")?.unwrap_or(lengthened),
    })
}

impl RopeScaling {
    /// Of a pair; `ramp` is YaRN's.
    fn apply(&self, frequency: f64, pair: usize, ramp: f64, num_positions: usize) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Long { ref short, ref long, original_len, .. } => {
                let is_long = num_positions as f64 > original_len;
                frequency / if is_long { long } else { short }[pair]
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(config: &Value) -> Result<RopeConfig, ConfigError> {
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
        assert_eq!(old, RopeConfig { scaling, ..RopeConfig::plain(5e5) });
        let linear = parse(&json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
        let expected =
            RopeConfig { scaling: RopeScaling::Linear { factor: 2.0 }, ..RopeConfig::plain(1e4) };
        assert_eq!(linear, expected);
        let plain = RopeConfig::plain(1e6);
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
            (json!({"rope_parameters": {"rope_type": "longrope"}}), "max_position_embeddings` is"),
            (
                json!({"max_position_embeddings": 64, "rope_scaling": {"type": "su"}}),
                "`rope_scaling.short_factor` is missing",
            ),
            (
                json!({"max_position_embeddings": 64,
                       "rope_scaling": {"type": "longrope", "short_factor": [1, 0]}}),
                "`rope_scaling.short_factor` must be a list of positive numbers",
            ),
            (json!({"rope_scaling": {"rope_type": "linear"}}), "`rope_scaling.factor` is missing"),
            (json!({"rope_scaling": "llama3"}), "`rope_scaling` must be an object"),
            (json!({"rope_parameters": {"full_attention": {}}}), "rope_parameters.full_attention"),
            (json!({"rope_parameters": {"partial_rotary_factor": 1.5}}), "partial_rotary_factor"),
            (json!({"partial_rotary_factor": 0}), "partial_rotary_factor"),
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
        let apply = |turns| scaling.apply(frequency(turns), 0, 0.0, 1);
        assert_eq!(apply(4.5), frequency(4.5));
        assert_eq!(apply(0.5), frequency(0.5) / 8.0);
        let between = apply(2.5) / frequency(2.5);
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
        let plain = RopeConfig::plain(1e6);
        let (stretched, plain) = (config.frequencies(128, 1), plain.frequencies(128, 1));
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

    /// As published for Phi-4-mini, of fewer pairs.
    fn phi_4_mini() -> Value {
        json!({
            "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 0.75, "rope_theta": 10000.0,
            "rope_scaling": {"type": "longrope", "short_factor": [1, 1, 2], "long_factor": [1, 4, 8]},
        })
    }

    #[test]
    fn longer_contexts_than_of_pre_training_have_factors_of_their_own() {
        let config = parse(&phi_4_mini()).unwrap();
        assert!((config.attention_factor() - 1.190_238).abs() < 1e-6, "sqrt(1 + ln 32 / ln 4096)");
        let frequency = |pair: f64| 1e4f64.powf(-pair / 3.0);
        for (num_positions, factors) in [(4096, [1.0, 1.0, 2.0]), (4097, [1.0, 4.0, 8.0])] {
            let frequencies = config.frequencies(8, num_positions);
            assert_eq!(frequencies.len(), 4);
            for (pair, factor) in factors.into_iter().enumerate() {
                let expected = frequency(pair as f64) / factor;
                assert!((f64::from(frequencies[pair]) - expected).abs() < 1e-7);
            }
            assert_eq!(frequencies[3], 0.0, "it is not rotated");
        }
    }

    #[test]
    fn queries_are_longer_behind_the_length_of_pre_training() {
        let json = json!({"rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 16_384,
        }});
        let scale = parse(&json).unwrap().q_scale.unwrap();
        let of = [0, 16_383, 16_384, 32_767, 262_143].map(|position| scale.at(position));
        let [twice, all] = [2f32, 16.0].map(|lengths| 1.0 + 0.1 * lengths.ln());
        assert_eq!(of[..2], [1.0; 2]);
        for (scale, expected) in of[2..].iter().zip([twice, twice, all]) {
            assert!((scale - expected).abs() < 1e-6, "{scale} {expected}");
        }
        let json = json!({"rope_parameters": {"llama_4_scaling_beta": 0.1}});
        let error = parse(&json).unwrap_err().to_string();
        assert!(error.contains("original_max_position_embeddings` is missing"), "{error}");
    }

    #[test]
    fn pairs_that_are_rotated_come_to_lie_half_a_head_apart() {
        let config = parse(&phi_4_mini()).unwrap();
        let order: Vec<usize> = config.order_of_head(8).into_iter().flatten().collect();
        assert_eq!(order, [0, 1, 2, 6, 3, 4, 5, 7]);
        assert!(RopeConfig::plain(1e4).order_of_head(8).into_iter().flatten().eq(0..8));
        let reader = phi_4_mini();
        let reader = ConfigReader::new(&reader).unwrap();
        config.check(&reader, 8).unwrap();
        let error = config.check(&reader, 16).unwrap_err().to_string();
        assert!(error.contains("`short_factor` must be 6 factors"), "{error}");
        let error = config.check(&reader, 4).unwrap_err().to_string();
        assert!(error.contains("`partial_rotary_factor` must be an even part"), "{error}");
    }
}
