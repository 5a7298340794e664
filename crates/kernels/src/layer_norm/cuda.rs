//! Layer normalisation on a CUDA device: a block a row.

use crate::cuda::{Launch, WARP, of_dtype, pack_len};
use candle_core::{DType, Result};

/// `LayerNormParams` of `kernel.cu`; addresses of contiguous rows.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerNormParams {
    /// `[rows, hidden]`
    pub(super) x: u64,
    /// `[hidden]`
    pub(super) weight: u64,
    /// `[hidden]`, 0 without one
    pub(super) bias: u64,
    /// `[rows, hidden]`
    pub(super) y: u64,
    pub(super) hidden: i32,
    pub(super) eps: f32,
}

const MAX_THREADS: usize = 512;

/// Two packs a thread at most: they stay in registers between the passes.
const PACKS_PER_THREAD: usize = 2;

/// A launch for at least one row. The threads depend on `hidden` alone, and with them the order of
/// the sums.
pub(super) fn plan(rows: usize, hidden: usize, dtype: DType) -> Result<Launch> {
    let functions = ["layer_norm_f32", "layer_norm_f16", "layer_norm_bf16"];
    let packs = hidden.div_ceil(pack_len(dtype));
    let threads = packs.div_ceil(PACKS_PER_THREAD).next_multiple_of(WARP).min(MAX_THREADS);
    Ok(Launch::one_dimensional(of_dtype(dtype, functions, "x")?, rows, threads))
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{LayerNormParams, plan};
    use crate::cuda::{Module, address, allocate, launch, module, tensor_address};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result, Tensor};

    static MODULE: Module = module!("layer_norm");

    /// x `[.., hidden]`, weight and bias `[hidden]`
    pub(crate) fn layer_norm(
        (x, x_layout): (&CudaStorage, &Layout),
        (weight, weight_layout): (&CudaStorage, &Layout),
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Result<CudaStorage> {
        let hidden = weight_layout.shape().elem_count();
        let len = x_layout.shape().elem_count();
        let (output, y) = allocate(x.device(), x.dtype(), len)?;
        let params = LayerNormParams {
            x: address(x, x_layout, "x")?,
            weight: address(weight, weight_layout, "weight")?,
            bias: bias.map_or(Ok(0), |bias| tensor_address(bias, "bias"))?,
            y,
            hidden: hidden as i32,
            eps,
        };
        if len > 0 {
            launch(x.device(), &MODULE, &plan(len / hidden, hidden, x.dtype())?, &params)?;
        }
        Ok(output)
    }
}
