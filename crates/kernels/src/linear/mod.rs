//! The linear layer: `y = x W^T + b`. On the CPU the weight is packed once for this processor.
//!
//! There an output element is one sum over `in`, in ascending order, in one accumulator, whatever the
//! number of rows, the tile it falls into and the thread that computes it: a row's result is the
//! same bits alone and in any batch. On a CUDA device that holds among calls with few rows, which have
//! a kernel of their own, and not for more, which are cuBLAS's; unless
//! [asked for](Matrix::batch_invariant).
//!
//! A weight of e4m3 has a scale for each output feature, by which the sum is multiplied; its numbers are
//! multiplied exactly, with x as it is. Only cuBLAS, which multiplies e4m3 with e4m3, gets x rounded to
//! it, each row with a scale of its own. A weight [of integers](Matrix::rounded) is multiplied with x
//! rounded to integers, too.

mod cpu;
#[cfg(feature = "cuda")]
mod cublas;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod cuda;
#[cfg(test)]
mod cuda_tests;
mod element;
mod gather;
mod integers;
mod multiply;
mod pack;
mod portable;
mod quantize;
#[cfg(test)]
mod tests;
#[cfg(any(target_arch = "x86_64", test))]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use integers::Integers;
pub use quantize::{quantize_rows, zeroed_e4m3};

#[cfg(feature = "cuda")]
use crate::gather_rows::{gather_rows, gather_rows_of_part};
use crate::simd::Path;
use crate::views::{cpu_slice, match_element, slice};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};
use gather::Gather;
use half::bf16;
use pack::Packed;

/// The weight of a linear layer or of an embedding, `[out, in]`, in the form that the processor
/// multiplies fastest.
///
/// It is the only copy that is needed: [`Matrix::gather`] reads embedding rows back out of it.
pub struct Matrix {
    form: Form,
    /// Of inputs and outputs.
    dtype: DType,
}

/// How a weight lies in memory.
enum Form {
    /// On the CPU.
    Packed(Packed),
    /// On a CUDA device, as it came.
    #[cfg(feature = "cuda")]
    Rows(Rows),
}

/// A weight on a CUDA device.
#[cfg(feature = "cuda")]
struct Rows {
    /// `[out, in]`
    weight: Tensor,
    /// Of an e4m3 weight. `[out]` f32
    scales: Option<Tensor>,
    /// Whether any number of rows is multiplied in the same way.
    is_batch_invariant: bool,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (out, inner) = (self.out_features(), self.in_features());
        write!(f, "Matrix([{out}, {inner}] {:?})", self.dtype)
    }
}

impl Matrix {
    /// Packs a weight `[out, in]`, f32 or bf16, on all threads of the pool. The tensor can be
    /// dropped afterwards. On a CUDA device, where it may be f16, too, it is kept as it is.
    ///
    /// # Errors
    /// Another number of dimensions or dtype, an empty or strided tensor, another device.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let in_features = weight_dims(weight)?[1];
        let (storage, layout) = weight.storage_and_layout();
        let dtype = weight.dtype();
        #[cfg(feature = "cuda")]
        if weight.device().is_cuda() {
            crate::views::contiguous(layout, "weight")?;
            let rows = Rows { weight: weight.clone(), scales: None, is_batch_invariant: false };
            return Ok(Self { form: Form::Rows(rows), dtype });
        }
        let packed = match_element!(dtype, "weight", E => {
            Packed::new::<E>(cpu_slice(&storage, layout, "weight")?, in_features)
        });
        Ok(Self { form: Form::Packed(packed), dtype })
    }

    /// Rounds a weight `[out, in]`, f32 or bf16 on the CPU, to integers with a scale for every 128 elements
    /// along `in`. Inputs, which stay of the weight's dtype, are rounded to 8 bits in the same way when
    /// they are multiplied.
    ///
    /// # Errors
    /// As [`Matrix::new`], and for every device but the CPU.
    pub fn rounded(weight: &Tensor, integers: Integers) -> Result<Self> {
        let in_features = weight_dims(weight)?[1];
        let (storage, layout) = weight.storage_and_layout();
        let dtype = weight.dtype();
        let packed = match_element!(dtype, "weight", E => {
            Packed::rounded::<E>(cpu_slice(&storage, layout, "weight")?, in_features, integers)
        });
        Ok(Self { form: Form::Packed(packed), dtype })
    }

    /// Lets a row's result be the same bits alone and in any batch on a CUDA device, too, or not: one
    /// algorithm then multiplies any number of rows, which few could do faster. On the CPU it always is.
    #[must_use]
    #[cfg_attr(not(feature = "cuda"), expect(unused_mut, unused_variables, reason = "for a GPU"))]
    pub fn batch_invariant(mut self, is_batch_invariant: bool) -> Self {
        #[cfg(feature = "cuda")]
        if let Form::Rows(rows) = &mut self.form {
            rows.is_batch_invariant = is_batch_invariant;
        }
        self
    }

    /// Rows of the weight: the width of an output.
    pub fn out_features(&self) -> usize {
        match &self.form {
            Form::Packed(packed) => packed.out_features(),
            #[cfg(feature = "cuda")]
            Form::Rows(rows) => rows.weight.dims()[0],
        }
    }

    /// Columns of the weight: the width of an input.
    pub fn in_features(&self) -> usize {
        match &self.form {
            Form::Packed(packed) => packed.in_features(),
            #[cfg(feature = "cuda")]
            Form::Rows(rows) => rows.weight.dims()[1],
        }
    }

    /// Of inputs and of outputs.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Memory held, padding included.
    pub fn size_in_bytes(&self) -> usize {
        match &self.form {
            Form::Packed(packed) => packed.size_in_bytes(),
            #[cfg(feature = "cuda")]
            Form::Rows(Rows { weight, scales, .. }) => {
                let scales = scales.as_ref().map_or(0, Tensor::elem_count);
                weight.elem_count() * weight.dtype().size_in_bytes() + scales * size_of::<f32>()
            }
        }
    }

    /// x `[tokens, in]` and bias `[out]`, both of the matrix' dtype, to `[tokens, out]` of that
    /// dtype, rounded once.
    ///
    /// # Errors
    /// Another shape, dtype or device, a strided input.
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

    /// x `[tokens, in]` of the matrix' dtype to `[tokens, out]` f32: logits, not rounded.
    ///
    /// # Errors
    /// As [`Matrix::forward`].
    pub fn forward_f32(&self, x: &Tensor) -> Result<Tensor> {
        self.check_input(x)?;
        x.apply_op1_no_bwd(&self.op(DType::F32))
    }

    /// Rows `ids` (`[tokens]` u32) of the weight, exactly, or of integers as they were rounded:
    /// `[tokens, in]`.
    ///
    /// # Errors
    /// Ids of another shape or dtype; a weight of e4m3; on the CPU an id that the weight has no row for,
    /// which gives zeros on a CUDA device.
    pub fn gather(&self, ids: &Tensor) -> Result<Tensor> {
        check_ids(ids)?;
        #[cfg(feature = "cuda")]
        if let Form::Rows(rows) = &self.form {
            return gather_rows(&rows.weight, ids);
        }
        ids.apply_op1_no_bwd(&Gather { weight: self, part_from: None })
    }

    /// As [`gather`](Self::gather), of a weight that has the rows from `first` on of a larger one: ids of other
    /// parts give zeros.
    ///
    /// # Errors
    /// As there, but for ids without a row.
    pub fn gather_part(&self, ids: &Tensor, first: u32) -> Result<Tensor> {
        check_ids(ids)?;
        #[cfg(feature = "cuda")]
        if let Form::Rows(rows) = &self.form {
            return gather_rows_of_part(&rows.weight, ids, first);
        }
        ids.apply_op1_no_bwd(&Gather { weight: self, part_from: Some(first) })
    }

    /// The weight on a CUDA device, `[out, in]`, if it is held as it came and any kernel may multiply it.
    #[cfg(feature = "cuda")]
    pub(crate) fn plain_rows(&self) -> Option<&Tensor> {
        match &self.form {
            Form::Rows(Rows { weight, scales: None, is_batch_invariant: false }) => Some(weight),
            _ => None,
        }
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

fn check_ids(ids: &Tensor) -> Result<()> {
    if ids.rank() != 1 || ids.dtype() != DType::U32 {
        bail!("ids must be [tokens] U32, they are {:?} {:?}", ids.dims(), ids.dtype());
    }
    Ok(())
}

/// `[out, in]` of a weight.
fn weight_dims(weight: &Tensor) -> Result<[usize; 2]> {
    let &[out_features, in_features] = weight.dims() else {
        bail!("weight must be [out, in], its shape is {:?}", weight.dims())
    };
    if out_features == 0 || in_features == 0 {
        bail!("weight must not be empty, its shape is {:?}", weight.dims());
    }
    Ok([out_features, in_features])
}

impl Matrix {
    /// For an input on the CPU.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unnecessary_wraps, reason = "with the feature it may be on a device")
    )]
    fn packed(&self) -> Result<&Packed> {
        match &self.form {
            Form::Packed(packed) => Ok(packed),
            #[cfg(feature = "cuda")]
            Form::Rows(_) => bail!("the weight is on a CUDA device, the input is not"),
        }
    }

    /// For an input on a CUDA device.
    #[cfg(feature = "cuda")]
    fn rows(&self) -> Result<&Rows> {
        match &self.form {
            Form::Packed(_) => bail!("the weight is on the CPU, the input is not"),
            Form::Rows(rows) => Ok(rows),
        }
    }
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
        let weight = self.weight.packed()?;
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::forward::linear(self.weight.rows()?, (x, layout), None, self.out_dtype)
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let bias = Some((bias, bias_layout));
        cuda::forward::linear(self.weight.rows()?, (x, x_layout), bias, self.out_dtype)
    }
}
