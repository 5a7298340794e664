//! Rotary position embedding (RoFormer, arXiv:2104.09864): the tables that kernels read.

use candle_core::{Device, Result, Tensor};

use super::rope_config::RopeConfig;

/// Cosines and sines of every position a context can have.
#[derive(Debug)]
pub struct RotaryEmbedding {
    cos: Tensor,
    sin: Tensor,
    q_scale: Option<Tensor>,
}

impl RotaryEmbedding {
    /// Tables for positions `0..num_positions`, of heads in the [order](RopeConfig::order_of_head) of the
    /// configuration.
    pub fn new(
        config: &RopeConfig,
        head_dim: usize,
        num_positions: usize,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = config.frequencies(head_dim, num_positions);
        // The angle is rounded to f32 as in transformers, whose rounding the models were trained on.
        let lengths = (0..head_dim / 2).map(|pair| {
            // Pairs that are not rotated stay as they are.
            if 2 * pair < config.num_rotated(head_dim) { config.attention_factor() } else { 1.0 }
        });
        let pairs: Vec<(f32, f32)> = frequencies.into_iter().zip(lengths).collect();
        let table = |f: fn(f32) -> f32| {
            let angles = (0..num_positions).flat_map(|position| {
                pairs.iter().map(move |(x, length)| length * f(position as f32 * x))
            });
            Tensor::from_vec(angles.collect(), (num_positions, pairs.len()), device)
        };
        // Mostly contexts are too short for it.
        let q_scale = config.q_scale.filter(|scale| num_positions as f64 > scale.original_len);
        let q_scale = q_scale.map(|scale| {
            let scales = (0..num_positions).map(|position| scale.at(position)).collect();
            Tensor::from_vec(scales, num_positions, device)
        });
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)?, q_scale: q_scale.transpose()? })
    }

    /// `[positions, head_dim / 2]` f32
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// `[positions, head_dim / 2]` f32
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }

    /// Factor on queries, if there is one. `[positions]` f32
    pub fn q_scale(&self) -> Option<&Tensor> {
        self.q_scale.as_ref()
    }
}
