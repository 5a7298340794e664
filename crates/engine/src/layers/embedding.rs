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

impl Embedding {
    /// Loads `{name}.weight`. `[vocab, hidden]`
    pub fn load(
        weights: &mut Weights,
        name: &str,
        vocab_size: usize,
        hidden_size: usize,
    ) -> std::result::Result<Self, WeightsError> {
        let weight = weights.tensor(&format!("{name}.weight"), &[vocab_size, hidden_size])?;
        Ok(Self { table: Arc::new(weights.matrix(&weight)?) })
    }

    /// Loads an embedding that is the head, too.
    pub fn load_tied(
        weights: &mut Weights,
        name: &str,
        vocab_size: usize,
        hidden_size: usize,
    ) -> std::result::Result<(Self, LmHead), WeightsError> {
        let head = LmHead::load(weights, name, vocab_size, hidden_size)?;
        Ok((Self { table: Arc::clone(&head.weight) }, head))
    }

    /// For kernels that gather themselves. `[vocab, hidden]`
    pub(super) fn table(&self) -> &Matrix {
        &self.table
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
        let weight = weights.head(&format!("{name}.weight"), &[vocab_size, hidden_size])?;
        Ok(Self { weight: Arc::new(weight) })
    }

    /// For kernels that multiply themselves. `[vocab, hidden]`
    pub(super) fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// `[rows, hidden]` to logits. `[rows, vocab]` f32
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.forward_f32(x)
    }
}
