//! On a CUDA device: a thread an id.

use crate::cuda::{Launch, WARP};

/// `ResolveParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct ResolveParams {
    /// `[len]` u32, read and written
    pub(super) ids: u64,
    /// `[rows, width]` u32
    pub(super) records: u64,
    pub(super) len: i32,
    /// A stand-in for a row beyond them becomes id 0.
    pub(super) num_rows: u32,
    pub(super) width: i32,
}

const MAX_THREADS: usize = 256;

/// A launch for at least one id.
pub(super) fn plan(len: usize) -> Launch {
    let threads = len.next_multiple_of(WARP).min(MAX_THREADS);
    Launch::one_dimensional("resolve_ids", len.div_ceil(threads), threads)
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{ResolveParams, plan};
    use crate::cuda::{Module, address, launch, module};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result};

    static MODULE: Module = module!("resolve_ids");

    /// ids `[len]` in place, records `[rows, width]`.
    pub(crate) fn resolve_ids(
        (ids, ids_layout): (&CudaStorage, &Layout),
        (records, records_layout): (&CudaStorage, &Layout),
    ) -> Result<()> {
        let len = ids_layout.shape().elem_count();
        let (num_rows, width) = records_layout.shape().dims2()?;
        if len == 0 {
            return Ok(());
        }
        let params = ResolveParams {
            ids: address(ids, ids_layout, "ids")?,
            records: address(records, records_layout, "records")?,
            len: len as i32,
            num_rows: num_rows as u32,
            width: width as i32,
        };
        launch(ids.device(), &MODULE, &plan(len), &params)
    }
}
