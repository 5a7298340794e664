//! Rows by their ids on a CUDA device.

use crate::cuda::{Launch, WARP};

/// `GatherParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct GatherParams {
    /// `[num_rows, row_bytes]`
    pub(super) table: u64,
    /// `[ids]` u32; before `first_row`, or `num_rows` or more behind it: a row of zeros
    pub(super) ids: u64,
    /// `[ids, row_bytes]`
    pub(super) out: u64,
    pub(super) num_rows: u32,
    /// The id of the table's first row.
    pub(super) first_row: u32,
    pub(super) row_bytes: i32,
}

const MAX_THREADS: usize = 256;

/// A launch for at least one id and rows that are not empty. Rows are copied 16 bytes at a time if
/// all of them are aligned.
pub(super) fn plan(num_ids: usize, params: &GatherParams) -> Launch {
    let row_bytes = params.row_bytes as u64;
    let is_aligned = [params.table, params.out, row_bytes].iter().all(|x| x.is_multiple_of(16));
    let (function, unit) = if is_aligned { ("gather_16", 16) } else { ("gather_2", 2) };
    let units = row_bytes as usize / unit;
    let threads = units.next_multiple_of(WARP).min(MAX_THREADS);
    Launch::new(function, [num_ids, units.div_ceil(threads), 1], threads, 0)
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{GatherParams, plan};
    use crate::cuda::{Module, address, allocate, launch, module};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result};

    static MODULE: Module = module!("gather_rows");

    /// table `[rows, width]`, ids `[n]` from `first_row` on, to `[n, width]`.
    pub(crate) fn gather_rows(
        (table, table_layout): (&CudaStorage, &Layout),
        (ids, ids_layout): (&CudaStorage, &Layout),
        first_row: u32,
    ) -> Result<CudaStorage> {
        let (num_rows, width) = table_layout.shape().dims2()?;
        let num_ids = ids_layout.dims()[0];
        let (output, out) = allocate(table.device(), table.dtype(), num_ids * width)?;
        let params = GatherParams {
            table: address(table, table_layout, "the table")?,
            ids: address(ids, ids_layout, "ids")?,
            out,
            num_rows: num_rows as u32,
            first_row,
            row_bytes: (width * table.dtype().size_in_bytes()) as i32,
        };
        if num_ids * width > 0 {
            launch(table.device(), &MODULE, &plan(num_ids, &params), &params)?;
        }
        Ok(output)
    }
}
