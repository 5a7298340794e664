//! The linear layer: `y = x W^T + b`, with the weight packed once for this processor.
//!
//! An output element is one sum over `in`, in ascending order, in one accumulator, whatever the
//! number of rows, the tile it falls into and the thread that computes it: a row's result is the
//! same bits alone and in any batch.

mod cpu;
mod element;
mod multiply;
mod pack;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::views::{cpu_slice, match_element, slice};
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};
use cpu::Path;
use half::bf16;
use pack::Packed;

/// The weight of a linear layer or of an embedding, `[out, in]` f32 or bf16, in the form that the
/// processor multiplies fastest.
///
/// It is the only copy that is needed: [`Matrix::gather`] reads embedding rows back out of it.
pub struct Matrix {
    packed: Packed,
    dtype: DType,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (out, inner) = (self.out_features(), self.in_features());
        write!(f, "Matrix([{out}, {inner}] {:?})", self.dtype)
    }
}

impl Matrix {
    /// Packs a weight `[out, in]`, f32 or bf16, on all threads of the pool. The tensor can be
    /// dropped afterwards.
    ///
    /// # Errors
    /// Another number of dimensions or dtype, an empty or strided tensor, one that is not on the
    /// CPU.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let &[out_features, in_features] = weight.dims() else {
            bail!("weight must be [out, in], its shape is {:?}", weight.dims())
        };
        if out_features == 0 || in_features == 0 {
            bail!("weight must not be empty, its shape is {:?}", weight.dims());
        }
        expect_cpu(weight, "weight")?;
        let (storage, layout) = weight.storage_and_layout();
        let dtype = weight.dtype();
        let packed = match_element!(dtype, "weight", E => {
            Packed::new::<E>(cpu_slice(&storage, layout, "weight")?, in_features)
        });
        Ok(Self { packed, dtype })
    }

    /// Rows of the weight: the width of an output.
    pub fn out_features(&self) -> usize {
        self.packed.out_features()
    }

    /// Columns of the weight: the width of an input.
    pub fn in_features(&self) -> usize {
        self.packed.in_features()
    }

    /// Of the weight, of inputs and of outputs.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Memory held, padding included.
    pub fn size_in_bytes(&self) -> usize {
        self.packed.size_in_bytes()
    }

    /// x `[tokens, in]` and bias `[out]`, both of the weight's dtype, to `[tokens, out]` of that
    /// dtype, rounded once.
    ///
    /// # Errors
    /// Another shape or dtype, a strided input, one that is not on the CPU.
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.check_input(x)?;
        let op = self.op(self.dtype);
        let Some(bias) = bias else {
            return x.apply_op1_no_bwd(&op);
        };
        if bias.dims() != [self.out_features()] || bias.dtype() != self.dtype {
            let out = self.out_features();
            bail!(
                "bias must be [{out}] {:?}, as the weight is, it is {:?} {:?}",
                self.dtype,
                bias.dims(),
                bias.dtype()
            );
        }
        x.apply_op2_no_bwd(bias, &op)
    }

    /// x `[tokens, in]` of the weight's dtype to `[tokens, out]` f32: logits, not rounded.
    ///
    /// # Errors
    /// As [`Matrix::forward`].
    pub fn forward_f32(&self, x: &Tensor) -> Result<Tensor> {
        self.check_input(x)?;
        x.apply_op1_no_bwd(&self.op(DType::F32))
    }

    /// Rows `ids` (`[tokens]` u32) of the weight, exactly: `[tokens, in]`.
    ///
    /// # Errors
    /// An id that the weight has no row for; ids of another shape or dtype.
    pub fn gather(&self, ids: &Tensor) -> Result<Tensor> {
        if ids.rank() != 1 || ids.dtype() != DType::U32 {
            bail!("ids must be [tokens] U32, they are {:?} {:?}", ids.dims(), ids.dtype());
        }
        ids.apply_op1_no_bwd(&Gather { weight: self })
    }

    fn op(&self, out_dtype: DType) -> Linear<'_> {
        Linear { weight: self, out_dtype, path: Path::fastest() }
    }

    fn check_input(&self, x: &Tensor) -> Result<()> {
        let inner = self.in_features();
        if x.rank() != 2 || x.dims()[1] != inner {
            bail!(
                "x must be [tokens, {inner}], as the weight has {inner} columns, its shape is {:?}",
                x.dims()
            );
        }
        if x.dtype() != self.dtype {
            bail!("x must be {:?}, as the weight is, it is {:?}", self.dtype, x.dtype());
        }
        Ok(())
    }
}

fn expect_cpu(tensor: &Tensor, name: &str) -> Result<()> {
    if !tensor.device().is_cpu() {
        bail!(
            "{name} must be on the CPU: linear layers have no form for {:?} yet",
            tensor.device()
        );
    }
    Ok(())
}

/// The op behind [`Matrix::forward`], of checked inputs.
struct Linear<'a> {
    weight: &'a Matrix,
    out_dtype: DType,
    path: Path,
}

impl Linear<'_> {
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let weight = &self.weight.packed;
        let y = match_element!(x.dtype(), "x", E => {
            let x: &[E] = slice(x, x_layout, "x")?;
            let bias = bias.map(|(bias, layout)| slice::<E>(bias, layout, "bias")).transpose()?;
            if self.out_dtype == DType::F32 {
                f32::to_cpu_storage_owned(cpu::forward::<E, f32>(self.path, weight, x, bias))
            } else {
                bf16::to_cpu_storage_owned(cpu::forward::<E, bf16>(self.path, weight, x, bias))
            }
        });
        Ok((y, (x_layout.dims()[0], weight.out_features()).into()))
    }
}

impl CustomOp1 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu_fwd(x, layout, None)
    }
}

impl CustomOp2 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu_fwd(x, x_layout, Some((bias, bias_layout)))
    }
}

/// The op behind [`Matrix::gather`].
struct Gather<'a> {
    weight: &'a Matrix,
}

impl CustomOp1 for Gather<'_> {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn cpu_fwd(&self, ids: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let weight = &self.weight.packed;
        let ids: &[u32] = slice(ids, layout, "ids")?;
        let num_rows = weight.out_features();
        if let Some(id) = ids.iter().find(|id| **id as usize >= num_rows) {
            bail!("token id {id} is outside the vocabulary of {num_rows}");
        }
        let rows = match_element!(self.weight.dtype, "weight", E => {
            E::to_cpu_storage_owned(weight.gather::<E>(ids))
        });
        Ok((rows, (ids.len(), weight.in_features()).into()))
    }
}
