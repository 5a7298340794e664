//! Sums on a CUDA device: 16 bytes a thread.

use crate::cuda::Launch;
use candle_core::{DType, Result};

/// `AddParams` of `kernel.cu`; addresses of contiguous elements.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct AddParams {
    /// `[len]`
    pub(super) x: u64,
    /// `[len]`
    pub(super) y: u64,
    /// `[len]`
    pub(super) sums: u64,
    pub(super) len: u64,
}

/// A launch for at least one element.
pub(super) fn plan(len: usize, dtype: DType) -> Result<Launch> {
    Launch::elementwise(["add_f32", "add_f16", "add_bf16"], len, dtype)
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{AddParams, plan};
    use crate::cuda::{Module, address, allocate, launch, module};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result};

    static MODULE: Module = module!("add");

    /// `x + y`
    pub(crate) fn add(
        (x, x_layout): (&CudaStorage, &Layout),
        (y, y_layout): (&CudaStorage, &Layout),
    ) -> Result<CudaStorage> {
        let len = x_layout.shape().elem_count();
        let (output, sums) = allocate(x.device(), x.dtype(), len)?;
        let (x_at, y_at) = (address(x, x_layout, "x")?, address(y, y_layout, "y")?);
        let params = AddParams { x: x_at, y: y_at, sums, len: len as u64 };
        if len > 0 {
            launch(x.device(), &MODULE, &plan(len, x.dtype())?, &params)?;
        }
        Ok(output)
    }
}
