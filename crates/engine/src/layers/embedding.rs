//! Token embedding and output head; tied, they are one matrix in memory. Of several ranks each has some of
//! the vocabulary.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::collectives::Communicator;
use kernels::linear::Matrix;

use crate::weights::{RowsOf, Weights, WeightsError};

/// Token ids to vectors.
#[derive(Debug)]
pub struct Embedding {
    table: Arc<Matrix>,
    /// The first id of the rank's part, and what adds up the parts.
    part: Option<(u32, Arc<Communicator>)>,
}

/// Hidden states to logits.
#[derive(Debug)]
pub(super) struct LmHead {
    weight: Arc<Matrix>,
    vocab_size: usize,
    /// What puts the parts together.
    ranks: Option<Arc<Communicator>>,
}

/// The rank's part of a vocabulary.
fn rows_of(weights: &Weights, name: &str, vocab_size: usize) -> RowsOf {
    let rows = weights.part(vocab_size);
    RowsOf::some(format!("{name}.weight"), vocab_size, rows)
}

impl Embedding {
    /// Loads `{name}.weight`. `[vocab, hidden]`
    pub fn load(
        weights: &mut Weights,
        name: &str,
        vocab_size: usize,
        hidden_size: usize,
    ) -> std::result::Result<Self, WeightsError> {
        let rows = rows_of(weights, name, vocab_size);
        let weight = weights.stacked(&[rows], &[hidden_size])?;
        let table = Arc::new(weights.matrix(&weight)?);
        Ok(Self { table, part: Self::part(weights, vocab_size) })
    }

    /// Loads an embedding that is the head, too.
    pub(super) fn load_tied(
        weights: &mut Weights,
        name: &str,
        vocab_size: usize,
        hidden_size: usize,
    ) -> std::result::Result<(Self, LmHead), WeightsError> {
        let head = LmHead::load(weights, name, vocab_size, hidden_size)?;
        let table = Arc::clone(&head.weight);
        Ok((Self { table, part: Self::part(weights, vocab_size) }, head))
    }

    fn part(weights: &Weights, vocab_size: usize) -> Option<(u32, Arc<Communicator>)> {
        let ranks = weights.communicator()?;
        Some((weights.part(vocab_size).start as u32, Arc::clone(ranks)))
    }

    /// For kernels that gather themselves. `[vocab, hidden]`
    pub(super) fn table(&self) -> &Matrix {
        &self.table
    }

    /// `[tokens]` u32 to `[tokens, hidden]`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.part {
            None => self.table.gather(ids),
            // One rank has the row of an id, the others have zeros.
            Some((first, ranks)) => ranks.all_reduce(&self.table.gather_part(ids, *first)?),
        }
    }
}

impl LmHead {
    /// Loads `{name}.weight`. `[vocab, hidden]`
    pub(super) fn load(
        weights: &mut Weights,
        name: &str,
        vocab_size: usize,
        hidden_size: usize,
    ) -> std::result::Result<Self, WeightsError> {
        let rows = rows_of(weights, name, vocab_size);
        let weight = Arc::new(weights.head(&rows, hidden_size)?);
        Ok(Self { weight, vocab_size, ranks: weights.communicator().cloned() })
    }

    /// For kernels that multiply themselves. `[vocab, hidden]`
    pub(super) fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// Whether other ranks have more of it.
    pub(super) fn is_part(&self) -> bool {
        self.ranks.is_some()
    }

    /// `[rows, hidden]` to logits. `[rows, vocab]` f32
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let logits = self.weight.forward_f32(x)?;
        match &self.ranks {
            None => Ok(logits),
            Some(ranks) => ranks.all_gather(&logits, self.vocab_size),
        }
    }
}
