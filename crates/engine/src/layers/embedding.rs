//! Token embedding and output head; tied, they are one matrix in memory.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::linear::Matrix;

use crate::weights::{Weights, WeightsError};

/// Token ids to vectors.
#[derive(Debug)]
pub struct Embedding {
    table: Arc<Matrix>,
}

/// Hidden states to logits.
#[derive(Debug)]
pub struct LmHead {
    weight: Arc<Matrix>,
}

fn matrix(
    weights: &mut Weights,
    name: &str,
    vocab_size: usize,
    hidden_size: usize,
) -> std::result::Result<Arc<Matrix>, WeightsError> {
    let weight = weights.tensor(&format!("{name}.weight"), &[vocab_size, hidden_size])?;
    Ok(Arc::new(weights.matrix(&weight)?))
}

impl Embedding {
    /// Loads `{name}.weight`. `[vocab, hidden]`
    pub fn load(
        weights: &mut Weights,
        name: &str,
        vocab_size: usize,
        hidden_size: usize,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self { table: matrix(weights, name, vocab_size, hidden_size)? })
    }

    /// `[tokens]` u32 to `[tokens, hidden]`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.table.gather(ids)
    }
}

impl LmHead {
    /// Loads `{name}.weight`. `[vocab, hidden]`
    pub fn load(
        weights: &mut Weights,
        name: &str,
        vocab_size: usize,
        hidden_size: usize,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self { weight: matrix(weights, name, vocab_size, hidden_size)? })
    }

    /// Shares the embedding's matrix.
    pub fn tied(embedding: &Embedding) -> Self {
        Self { weight: Arc::clone(&embedding.table) }
    }

    /// `[rows, hidden]` to logits. `[rows, vocab]` f32
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.forward_f32(x)
    }
}
