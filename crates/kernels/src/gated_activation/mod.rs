//! The gated activation of a GLU feed-forward block (Shazeer 2020, arXiv:2002.05202).
//!
//! `y = activation(gate) * up`, or of those that clamp `activation(gate) * (up + 1)`, computed in f32 and rounded
//! once.

mod cpu;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::views::match_element;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// What the gate goes through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016,
    /// arXiv:1606.08415)
    GeluTanh,
    /// `g / (1 + exp(-1.702 g)) * (u + 1)` of `g = min(x, limit)` and `u`, the other half, between `-limit` and
    /// `limit` (gpt-oss, arXiv:2508.10925)
    ClampedSwiglu {
        /// Of both.
        limit: f32,
    },
}

/// Activates the first half of each row and multiplies it with the second.
///
/// gate_up `[.., 2 * intermediate]` f32 or bf16 (on a CUDA device f16, too), gate first. Returns
/// `[.., intermediate]` of its dtype.
///
/// # Errors
/// An odd last dimension, another dtype, or a strided input.
pub fn gated_activation(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    match gate_up.dims().last() {
        Some(width) if width % 2 == 0 => {}
        _ => bail!("gate_up must have an even last dimension, its shape is {:?}", gate_up.dims()),
    }
    gate_up.apply_op1_no_bwd(&GatedActivation { activation })
}

/// Returns the width of the output and its shape.
fn output_shape(gate_up: &Layout) -> (usize, Shape) {
    let mut dims = gate_up.dims().to_vec();
    let width = dims.last_mut().expect("checked: there is a last dimension");
    *width /= 2;
    (*width, dims.into())
}

struct GatedActivation {
    activation: Activation,
}

impl CustomOp1 for GatedActivation {
    fn name(&self) -> &'static str {
        "gated_activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (intermediate, shape) = output_shape(layout);
        let out = match_element!(storage.dtype(), "gate_up", E => {
            cpu::gated_activation::<E>(storage, layout, intermediate, self.activation)?
        });
        Ok((out, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (intermediate, shape) = output_shape(layout);
        let out = cuda::forward::gated_activation(storage, layout, intermediate, self.activation)?;
        Ok((out, shape))
    }
}
