//! Rows of a matrix by their ids: embeddings, and the rows whose logits are wanted.

mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::views::match_element;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

/// Copies row `ids[i]` of the table to row `i`.
///
/// table `[rows, width]` f32 or bf16 (on a CUDA device f16, too), ids `[n]` u32. Returns `[n, width]`.
///
/// # Errors
/// A shape or dtype that does not fit, a strided input, an id beyond the table. On a CUDA device only
/// the device knows the ids: there such a row is zero.
pub fn gather_rows(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    if table.rank() != 2 {
        bail!("the table must be [rows, width], its shape is {:?}", table.dims());
    }
    if ids.rank() != 1 || ids.dtype() != DType::U32 {
        bail!("ids must be [n] U32, they are {:?} {:?}", ids.dims(), ids.dtype());
    }
    table.apply_op2_no_bwd(ids, &GatherRows { part_from: None })
}

/// As [`gather_rows`], of a table that has the rows from `first` on of a larger one: ids of other parts
/// give rows of zeros.
///
/// # Errors
/// As there, but for the ids.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn gather_rows_of_part(table: &Tensor, ids: &Tensor, first: u32) -> Result<Tensor> {
    ids.dims1()?;
    table.apply_op2_no_bwd(ids, &GatherRows { part_from: Some(first) })
}

struct GatherRows {
    part_from: Option<u32>,
}

impl CustomOp2 for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        table_layout: &Layout,
        ids: &CpuStorage,
        ids_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = match_element!(table.dtype(), "the table", E => {
            cpu::gather_rows::<E>((table, table_layout), (ids, ids_layout), self.part_from)?
        });
        Ok((out, (ids_layout.dims()[0], table_layout.dims()[1]).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        table: &CudaStorage,
        table_layout: &Layout,
        ids: &CudaStorage,
        ids_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let first = self.part_from.unwrap_or_default();
        let out = cuda::forward::gather_rows((table, table_layout), (ids, ids_layout), first)?;
        Ok((out, (ids_layout.dims()[0], table_layout.dims()[1]).into()))
    }
}
