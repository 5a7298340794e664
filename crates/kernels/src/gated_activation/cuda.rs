//! The gated activation on a CUDA device: 16 bytes a thread.

use super::Activation;
use crate::cuda::{Launch, WARP, of_dtype, pack_len};
use candle_core::{DType, Result};

/// `GateParams` of `kernel.cu`; addresses of contiguous rows.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct GateParams {
    /// `[rows, 2 * intermediate]`
    pub(crate) gate_up: u64,
    /// `[rows, intermediate]`
    pub(crate) out: u64,
    pub(crate) intermediate: i32,
    /// Of what is clamped.
    pub(crate) limit: f32,
}

impl GateParams {
    pub(crate) fn new(
        [gate_up, out]: [u64; 2],
        intermediate: usize,
        activation: Activation,
    ) -> Self {
        let limit = match activation {
            Activation::ClampedSwiglu { limit } => limit,
            _ => f32::INFINITY,
        };
        Self { gate_up, out, intermediate: intermediate as i32, limit }
    }
}

const MAX_THREADS: usize = 128;

/// A launch for at least one element.
pub(crate) fn plan(
    rows: usize,
    intermediate: usize,
    dtype: DType,
    activation: Activation,
) -> Result<Launch> {
    let functions = match activation {
        Activation::Silu => ["silu_f32", "silu_f16", "silu_bf16"],
        Activation::GeluTanh => ["gelu_tanh_f32", "gelu_tanh_f16", "gelu_tanh_bf16"],
        Activation::ClampedSwiglu { .. } => {
            ["clamped_swiglu_f32", "clamped_swiglu_f16", "clamped_swiglu_bf16"]
        }
    };
    let packs = intermediate.div_ceil(pack_len(dtype));
    let threads = packs.next_multiple_of(WARP).min(MAX_THREADS);
    let parts = packs.div_ceil(threads) as u32;
    let function = of_dtype(dtype, functions, "gate_up")?;
    Ok(Launch { grid: [rows as u32, parts, 1], ..Launch::one_dimensional(function, rows, threads) })
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{Activation, GateParams, plan};
    use crate::cuda::{Module, address, allocate, launch, module};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, Layout, Result};

    static MODULE: Module = module!("gated_activation");

    /// gate_up `[.., 2 * intermediate]` to `[.., intermediate]`.
    pub(crate) fn gated_activation(
        gate_up: &CudaStorage,
        layout: &Layout,
        intermediate: usize,
        activation: Activation,
    ) -> Result<CudaStorage> {
        let len = layout.shape().elem_count() / 2;
        let (output, out) = allocate(gate_up.device(), gate_up.dtype(), len)?;
        let addresses = [address(gate_up, layout, "gate_up")?, out];
        let params = GateParams::new(addresses, intermediate, activation);
        if len > 0 {
            let plan = plan(len / intermediate, intermediate, gate_up.dtype(), activation)?;
            launch(gate_up.device(), &MODULE, &plan, &params)?;
        }
        Ok(output)
    }
}
