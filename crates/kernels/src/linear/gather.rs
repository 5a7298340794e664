//! Rows of a weight on the CPU: embeddings.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, WithDType, bail};

use super::Matrix;
use crate::views::{match_element, slice};

/// The op behind [`Matrix::gather`] and [`Matrix::gather_part`].
pub(super) struct Gather<'a> {
    pub(super) weight: &'a Matrix,
    /// The id of the first row, if it is a part.
    pub(super) part_from: Option<u32>,
}

impl CustomOp1 for Gather<'_> {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn cpu_fwd(&self, ids: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let weight = self.weight.packed()?;
        let ids: &[u32] = slice(ids, layout, "ids")?;
        let num_rows = weight.out_features();
        let is_outside = |id: &&u32| self.part_from.is_none() && **id as usize >= num_rows;
        if let Some(id) = ids.iter().find(is_outside) {
            bail!("token id {id} is outside the vocabulary of {num_rows}");
        }
        let first = self.part_from.unwrap_or_default();
        let rows = match_element!(self.weight.dtype, "weight", E => {
            let Some(rows) = weight.gather::<E>(ids, first) else {
                bail!("a weight of e4m3 has no rows to gather");
            };
            E::to_cpu_storage_owned(rows)
        });
        Ok((rows, (ids.len(), weight.in_features()).into()))
    }
}
