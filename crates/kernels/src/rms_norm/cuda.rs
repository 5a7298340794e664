//! RMSNorm on a CUDA device: a block a row.

use crate::cuda::{Launch, WARP, of_dtype, pack_len};
use candle_core::{DType, Result};

/// `NormParams` of `kernel.cu`; addresses of contiguous rows.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormParams {
    /// `[rows, hidden]`
    pub(crate) x: u64,
    /// `[rows, hidden]`, 0 without addition
    pub(crate) residual: u64,
    /// `[hidden]`
    pub(crate) weight: u64,
    /// `[rows, hidden]`
    pub(crate) normed: u64,
    /// `[rows, hidden]`, 0 without addition
    pub(crate) sums: u64,
    pub(crate) hidden: i32,
    pub(crate) eps: f32,
    /// 1 where the weight is stored around zero.
    pub(crate) is_zero_centred: i32,
}

const MAX_THREADS: usize = 512;

/// Two packs a thread at most: they stay in registers between the passes.
const PACKS_PER_THREAD: usize = 2;

/// A launch for at least one row. The threads depend on `hidden` alone, and with them the order of
/// the sum.
pub(crate) fn plan(rows: usize, hidden: usize, dtype: DType, adds: bool) -> Result<Launch> {
    let functions = if adds {
        ["add_rms_norm_f32", "add_rms_norm_f16", "add_rms_norm_bf16"]
    } else {
        ["rms_norm_f32", "rms_norm_f16", "rms_norm_bf16"]
    };
    let packs = hidden.div_ceil(pack_len(dtype));
    let threads = packs.div_ceil(PACKS_PER_THREAD).next_multiple_of(WARP).min(MAX_THREADS);
    Ok(Launch::one_dimensional(of_dtype(dtype, functions, "x")?, rows, threads))
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{NormParams, plan};
    use crate::cuda::{Module, address, allocate, launch, module, tensor_address};
    use crate::rms_norm::{AddRmsNorm, Gain, RmsNorm};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result};

    static MODULE: Module = module!("rms_norm");

    /// x `[.., hidden]`, weight `[hidden]`
    pub(crate) fn rms_norm(
        (x, x_layout): (&CudaStorage, &Layout),
        (weight, weight_layout): (&CudaStorage, &Layout),
        op: &RmsNorm,
    ) -> Result<CudaStorage> {
        let hidden = weight_layout.shape().elem_count();
        let len = x_layout.shape().elem_count();
        let (out, normed) = allocate(x.device(), x.dtype(), len)?;
        let params = NormParams {
            x: address(x, x_layout, "x")?,
            residual: 0,
            weight: address(weight, weight_layout, "weight")?,
            normed,
            sums: 0,
            hidden: hidden as i32,
            eps: op.eps,
            is_zero_centred: (op.gain == Gain::OnePlusWeight).into(),
        };
        if len > 0 {
            launch(x.device(), &MODULE, &plan(len / hidden, hidden, x.dtype(), false)?, &params)?;
        }
        Ok(out)
    }

    /// The normed rows, then the sums. `[2, .., hidden]`
    pub(crate) fn add_rms_norm(
        (x, x_layout): (&CudaStorage, &Layout),
        (residual, residual_layout): (&CudaStorage, &Layout),
        op: &AddRmsNorm,
    ) -> Result<CudaStorage> {
        let hidden = op.weight.elem_count();
        let len = x_layout.shape().elem_count();
        let (out, normed) = allocate(x.device(), x.dtype(), 2 * len)?;
        let params = NormParams {
            x: address(x, x_layout, "x")?,
            residual: address(residual, residual_layout, "residual")?,
            weight: tensor_address(op.weight, "weight")?,
            normed,
            sums: normed + (len * x.dtype().size_in_bytes()) as u64,
            hidden: hidden as i32,
            eps: op.eps,
            is_zero_centred: (op.gain == Gain::OnePlusWeight).into(),
        };
        if len > 0 {
            launch(x.device(), &MODULE, &plan(len / hidden, hidden, x.dtype(), true)?, &params)?;
        }
        Ok(out)
    }
}
