//! Token ids that are not known on the host yet: those that the step before is about to sample.
//!
//! An input id with the highest bit set stands for the id that a row of the sampler's records will
//! hold. So a step can be asked for before the one before it has been read back.

mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::views::{contiguous, slice};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, bail};

/// Marks an id as the number of a row.
const PENDING: u32 = 1 << 31;

/// The stand-in for the id in a row of the records.
pub fn pending(row: u32) -> u32 {
    row | PENDING
}

/// Puts ids for their stand-ins, in place. ids `[tokens]` u32, records `[rows, width]` u32 as
/// [`sample`](crate::sample::sample) gives them.
///
/// A row that gave no token stands for id 0: its sequence has failed, and what is computed for it is
/// thrown away.
///
/// # Errors
/// A shape or dtype that does not fit, a strided input, a row beyond the records. On a CUDA device
/// only the device knows the rows: there one beyond the records stands for id 0.
pub fn resolve_ids(ids: &Tensor, records: &Tensor) -> Result<()> {
    ids.dims1()?;
    let (_, width) = records.dims2()?;
    if width == 0 {
        bail!("records must have a column for the ids");
    }
    for (tensor, name) in [(ids, "ids"), (records, "records")] {
        if tensor.dtype() != DType::U32 {
            bail!("{name} must be U32, they are {:?}", tensor.dtype());
        }
        contiguous(tensor.layout(), name)?;
    }
    ids.inplace_op2(records, &ResolveIds)
}

struct ResolveIds;

impl InplaceOp2 for ResolveIds {
    fn name(&self) -> &'static str {
        "resolve_ids"
    }

    fn cpu_fwd(
        &self,
        ids: &mut CpuStorage,
        ids_layout: &Layout,
        records: &CpuStorage,
        records_layout: &Layout,
    ) -> Result<()> {
        let width = records_layout.dims()[1];
        let records = slice(records, records_layout, "records")?;
        let (start, end) = contiguous(ids_layout, "ids")?;
        let CpuStorage::U32(ids) = ids else { bail!("ids must be U32") };
        cpu::resolve(&mut ids[start..end], records, width)
    }
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        ids: &mut CudaStorage,
        ids_layout: &Layout,
        records: &CudaStorage,
        records_layout: &Layout,
    ) -> Result<()> {
        cuda::forward::resolve_ids((ids, ids_layout), (records, records_layout))
    }
}
