//! Functions of each element on a CUDA device: 16 bytes a thread.

use super::Unary;
use crate::cuda::Launch;
use candle_core::{DType, Result};

/// `UnaryParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct UnaryParams {
    /// Address of contiguous elements. `[len]`
    pub(super) x: u64,
    pub(super) len: u64,
    /// The factor of `scale`, the cap of `soft_cap`.
    pub(super) operand: f32,
}

/// A launch for at least one element.
pub(super) fn plan(
    function: Unary,
    x: u64,
    len: usize,
    dtype: DType,
) -> Result<(Launch, UnaryParams)> {
    let (functions, operand) = match function {
        Unary::Gelu => (["gelu_f32", "gelu_f16", "gelu_bf16"], 0.0),
        Unary::Scale(factor) => (["scale_f32", "scale_f16", "scale_bf16"], factor),
        Unary::SoftCap(cap) => (["soft_cap_f32", "soft_cap_f16", "soft_cap_bf16"], cap),
    };
    let params = UnaryParams { x, len: len as u64, operand };
    Ok((Launch::elementwise(functions, len, dtype)?, params))
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::plan;
    use crate::cuda::{Module, address, launch, module};
    use crate::unary::Unary;
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result};

    static MODULE: Module = module!("unary");

    /// Each element, in place.
    pub(crate) fn apply(x: &mut CudaStorage, layout: &Layout, function: Unary) -> Result<()> {
        let len = layout.shape().elem_count();
        if len > 0 {
            let (launch_plan, params) = plan(function, address(x, layout, "x")?, len, x.dtype())?;
            launch(x.device(), &MODULE, &launch_plan, &params)?;
        }
        Ok(())
    }
}
