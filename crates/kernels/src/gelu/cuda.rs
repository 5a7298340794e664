//! GELU on a CUDA device: 16 bytes a thread.

use crate::cuda::Launch;
use candle_core::{DType, Result};

/// `GeluParams` of `kernel.cu`; addresses of contiguous elements.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct GeluParams {
    /// `[len]`
    pub(super) x: u64,
    /// `[len]`
    pub(super) y: u64,
    pub(super) len: u64,
}

/// A launch for at least one element.
pub(super) fn plan(len: usize, dtype: DType) -> Result<Launch> {
    Launch::elementwise(["gelu_f32", "gelu_f16", "gelu_bf16"], len, dtype)
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{GeluParams, plan};
    use crate::cuda::{Module, address, allocate, launch, module};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result};

    static MODULE: Module = module!("gelu");

    /// Each element.
    pub(crate) fn gelu(x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
        let len = layout.shape().elem_count();
        let (output, y) = allocate(x.device(), x.dtype(), len)?;
        let params = GeluParams { x: address(x, layout, "x")?, y, len: len as u64 };
        if len > 0 {
            launch(x.device(), &MODULE, &plan(len, x.dtype())?, &params)?;
        }
        Ok(output)
    }
}
