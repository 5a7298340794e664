//! What a device is told of a call's lengths, and the memory it works in.

use candle_core::{DType, Device, Result, Tensor};

/// What a device must be told of the lengths before it sees them, as bounds: a launch that was made for
/// these is right for all calls within them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extents {
    /// Sequences with up to [`SPLIT_ROWS`] rows, padding included.
    pub split_seqs: usize,
    /// Their rows together.
    pub split_rows: usize,
    /// Rows of the one that has most.
    pub max_split_rows: usize,
    /// The longest of their contexts.
    pub max_split_context: usize,
    /// Sequences with more rows.
    pub tile_seqs: usize,
    /// Their rows together.
    pub tile_rows: usize,
}

/// Up to so many rows a sequence is taken for a decode with drafts: its keys are cut into splits that
/// are computed side by side.
pub const SPLIT_ROWS: usize = 8;

/// Keys of a split, unless there would be more than [`MAX_SPLITS`]; as in `split.cuh`.
const KEYS_PER_SPLIT: usize = 256;
const MAX_SPLITS: usize = 64;
/// A window that begins and ends within splits touches two more.
const MAX_MERGED: usize = MAX_SPLITS + 2;

impl Extents {
    /// Of sequences with (rows, context).
    pub fn of(sequences: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut extents = Self::default();
        for (rows, context) in sequences {
            if rows > SPLIT_ROWS {
                extents.tile_seqs += 1;
                extents.tile_rows += rows;
            } else if rows > 0 {
                extents.split_seqs += 1;
                extents.split_rows += rows;
                extents.max_split_rows = extents.max_split_rows.max(rows);
                extents.max_split_context = extents.max_split_context.max(context);
            }
        }
        extents
    }

    /// The same sequences, all taken as those with many rows are: then a row's result does not depend on
    /// how many are computed with it.
    #[must_use]
    pub fn in_tiles(self) -> Self {
        Self {
            tile_seqs: self.tile_seqs + self.split_seqs,
            tile_rows: self.tile_rows + self.split_rows,
            ..Self::default()
        }
    }

    /// Up to how many rows a sequence is one with few.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn split_limit(&self) -> usize {
        if self.split_seqs > 0 { SPLIT_ROWS } else { 0 }
    }

    /// Splits that a sequence has at most.
    pub(crate) fn max_splits(&self) -> usize {
        let splits = self.max_split_context.div_ceil(KEYS_PER_SPLIT).clamp(1, MAX_SPLITS);
        splits + MAX_MERGED - MAX_SPLITS
    }

    /// Partial results that there may be of each head.
    pub(crate) fn num_partials(&self) -> usize {
        self.split_rows * self.max_splits()
    }
}

/// Where the blocks of a device leave parts of results for the one that merges them.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a device looks at it"))]
pub struct Workspace {
    /// `[partials, heads, head_dim]` f32
    pub(crate) partial_out: Tensor,
    /// `[partials, heads, 2]` f32
    pub(crate) partial_softmax: Tensor,
    /// Zero between calls. u32
    pub(crate) arrivals: Tensor,
}

impl Workspace {
    /// For all calls within the extents, of `[tokens, heads, head_dim]` queries with up to `num_seqs`
    /// sequences.
    ///
    /// # Errors
    /// The device has not as much memory.
    pub fn new(
        device: &Device,
        extents: &Extents,
        (num_seqs, num_heads, head_dim): (usize, usize, usize),
    ) -> Result<Self> {
        let partials = extents.num_partials();
        Ok(Self {
            partial_out: Tensor::zeros((partials, num_heads, head_dim), DType::F32, device)?,
            partial_softmax: Tensor::zeros((partials, num_heads, 2), DType::F32, device)?,
            arrivals: Tensor::zeros(num_arrivals(num_seqs, num_heads), DType::U32, device)?,
        })
    }

    /// Memory that [`Workspace::new`] takes.
    pub fn size_in_bytes(
        extents: &Extents,
        (num_seqs, num_heads, head_dim): (usize, usize, usize),
    ) -> usize {
        let words = extents.num_partials() * num_heads * (head_dim + 2);
        (words + num_arrivals(num_seqs, num_heads)) * size_of::<u32>()
    }
}

/// Counters: one for each key head of a sequence, of which there are no more than query heads, and for
/// each of up to four warps that take its rows.
pub(crate) fn num_arrivals(num_seqs: usize, num_heads: usize) -> usize {
    num_seqs * num_heads * 4
}
