//! Weights of e4m3, and rows to e4m3 with one scale each.

#[cfg(feature = "cuda")]
use super::Rows;
use super::pack::Packed;
use super::{Form, Matrix, weight_dims};
use crate::disjoint::DisjointMut;
use crate::pool::for_each_row;
use crate::simd::{E4M3_MAX, Element, Kernel, LANES, Lanes, dispatch, load_at, store_at};
use crate::views::{cpu_slice, expect_dims, match_element};
use candle_core::{DType, Device, Result, Tensor, WithDType, bail};
use float8::F8E4M3;
use std::mem::ManuallyDrop;

impl Matrix {
    /// Takes a weight `[out, in]` of e4m3 with the scales of its rows, `[out]` f32, as
    /// [`quantize_rows`] makes them; both on the CPU. It is packed for the CPU or copied to a CUDA
    /// device. Inputs and outputs are of `dtype`, f32 or bf16.
    ///
    /// # Errors
    /// Another shape or dtype, an empty or strided tensor.
    pub fn from_e4m3(
        weight: &Tensor,
        scales: &Tensor,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let [out_features, in_features] = weight_dims(weight)?;
        expect_dims(scales, &[out_features], "scales")?;
        match_element!(dtype, "dtype", E => E::DTYPE);
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let scales = Some(scales.to_device(device)?);
            let weight = weight.to_device(device)?;
            let rows = Rows { weight, scales, is_batch_invariant: false };
            return Ok(Self { form: Form::Rows(rows), dtype });
        }
        if !device.is_cpu() {
            bail!("weights of e4m3 have no form for {device:?}");
        }
        let (weight, weight_layout) = weight.storage_and_layout();
        let (scales, scales_layout) = scales.storage_and_layout();
        let rows: &[F8E4M3] = cpu_slice(&weight, weight_layout, "weight")?;
        let scales = cpu_slice(&scales, scales_layout, "scales")?;
        Ok(Self { form: Form::Packed(Packed::narrow(rows, scales, in_features)), dtype })
    }
}

/// As many zeros, in memory that comes from the system untouched.
pub fn zeroed_e4m3(len: usize) -> Vec<F8E4M3> {
    let mut bytes = ManuallyDrop::new(vec![0u8; len]);
    // SAFETY: they are bytes (transparent), of which 0 is the number 0; their vector is not dropped.
    unsafe { Vec::from_raw_parts(bytes.as_mut_ptr().cast(), bytes.len(), bytes.capacity()) }
}

/// Brings x `[rows, len]`, f32 or bf16 on the CPU, to e4m3 of the same shape and scales `[rows]` f32,
/// with `x = scale * y`: the largest of a row becomes the largest number of e4m3. A row of zeros has
/// the scale 1.
///
/// # Errors
/// Another number of dimensions or dtype, a strided tensor, another device.
pub fn quantize_rows(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let &[num_rows, len] = x.dims() else {
        bail!("x must be [rows, len], its shape is {:?}", x.dims())
    };
    let (storage, layout) = x.storage_and_layout();
    let mut y = vec![F8E4M3::default(); num_rows * len];
    let mut scales = vec![1.0f32; num_rows];
    let shared = DisjointMut::new(&mut scales);
    match_element!(x.dtype(), "x", E => {
        let x: &[E] = cpu_slice(&storage, layout, "x")?;
        for_each_row(&mut y, len, x.len(), |row, y| {
            // SAFETY: each row has its own scale.
            let scale = unsafe { shared.slice(row..row + 1) };
            scale[0] = dispatch(QuantizeRow { x: &x[row * len..][..len], y });
        });
    });
    let y = Tensor::from_vec(y, (num_rows, len), &Device::Cpu)?;
    Ok((y, Tensor::from_vec(scales, num_rows, &Device::Cpu)?))
}

/// Gives the scale.
struct QuantizeRow<'a, E> {
    x: &'a [E],
    y: &'a mut [F8E4M3],
}

impl<E: Element> Kernel for QuantizeRow<'_, E> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Lanes>(self) -> f32 {
        let Self { x, y } = self;
        let mut largest = V::splat(0.0);
        for i in (0..x.len()).step_by(LANES) {
            let x: V = load_at(x, i);
            largest = largest.max(x.max(V::splat(0.0).sub(x)));
        }
        let scale = largest.reduce_max() / E4M3_MAX;
        let scale = if scale > 0.0 { scale } else { 1.0 };
        for i in (0..x.len()).step_by(LANES) {
            store_at(load_at::<V, E>(x, i).div(V::splat(scale)), y, i);
        }
        scale
    }
}
