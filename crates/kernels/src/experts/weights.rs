//! In what the weights of experts are held.

use crate::linear::Matrix;
use crate::views::expect_dims;
use candle_core::{DType, Result, Tensor, bail};

/// Inputs of an e2m1 weight that share a scale.
pub const E2M1_BLOCK: usize = 32;

/// The weights of experts.
#[derive(Debug)]
pub enum Weights {
    /// One by one, in the form the processor multiplies fastest.
    Packed(Vec<Matrix>),
    /// On a CUDA device. `[experts, out, in]` of the dtype of x
    Stacked(Tensor),
    /// On a CUDA device, where they are multiplied exactly.
    E4m3 {
        /// `[experts, out, in]` e4m3
        weight: Tensor,
        /// Of each output feature. `[experts, out]` f32
        scales: Tensor,
    },
    /// On a CUDA device, where they are multiplied exactly: two to a byte, the first in its lower half, with a scale
    /// of 8 bits of exponent for 32 inputs (MXFP4 of the OCP Microscaling Formats Specification 1.0).
    E2m1 {
        /// `[experts, out, in / 2]` u8
        weight: Tensor,
        /// `[experts, out, in / 32]` u8
        scales: Tensor,
    },
}

impl Weights {
    /// `[experts, out, in]`
    pub(super) fn dims(&self) -> Result<[usize; 3]> {
        let (tensor, per_element) = match self {
            Self::Packed(experts) => {
                let Some(first) = experts.first() else { bail!("there are no experts") };
                return Ok([experts.len(), first.out_features(), first.in_features()]);
            }
            Self::Stacked(weight) | Self::E4m3 { weight, .. } => (weight, 1),
            Self::E2m1 { weight, .. } => (weight, 2),
        };
        let (num_experts, out_features, len) = tensor.dims3()?;
        Ok([num_experts, out_features, len * per_element])
    }

    /// Refuses scales of another shape or dtype.
    pub(super) fn check_scales(
        &self,
        [num_experts, out_features, in_features]: [usize; 3],
    ) -> Result<()> {
        let (weight, dtype, scales, dims, of_scales) = match self {
            Self::Packed(_) | Self::Stacked(_) => return Ok(()),
            Self::E4m3 { weight, scales } => {
                (weight, DType::F8E4M3, scales, vec![num_experts, out_features], DType::F32)
            }
            Self::E2m1 { weight, scales } => {
                if !in_features.is_multiple_of(E2M1_BLOCK) {
                    bail!("inputs must be a multiple of {E2M1_BLOCK}, there are {in_features}");
                }
                let dims = vec![num_experts, out_features, in_features / E2M1_BLOCK];
                (weight, DType::U8, scales, dims, DType::U8)
            }
        };
        expect_dims(scales, &dims, "scales")?;
        if (weight.dtype(), scales.dtype()) != (dtype, of_scales) {
            let (weight, scales) = (weight.dtype(), scales.dtype());
            bail!(
                "weights must be {dtype:?} and scales {of_scales:?}: they are {weight:?} and {scales:?}"
            );
        }
        Ok(())
    }
}
