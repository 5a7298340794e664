//! The CUDA kernels of linear layers, on the host, against sums in f64.

use super::cuda::{
    Dtypes, MAX_SKINNY_ROWS, QuantizeParams, Sizes, SkinnyParams, plan_plain, plan_quantize,
    plan_skinny,
};
use super::tests::{TOLERANCE, reference};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device, to_bytes};
use crate::testing::{Tolerance, assert_close, tensor, to_bits, to_f64, values};
use candle_core::{DType, Device, Error, Result, Tensor};

/// An e4m3 weight has a scale for each output feature.
struct Weight {
    matrix: Tensor,
    scales: Option<Tensor>,
}

impl Weight {
    fn of(matrix: Tensor) -> Self {
        Self { matrix, scales: None }
    }

    /// Through the kernel.
    fn quantized(matrix: &Tensor) -> Result<Self> {
        let (matrix, scales) = quantize(matrix, 0)?;
        Ok(Self { matrix, scales: Some(scales) })
    }

    /// What it stands for.
    fn wide(&self) -> Result<Tensor> {
        let matrix = self.matrix.to_dtype(DType::F32)?;
        match &self.scales {
            Some(scales) => matrix.broadcast_mul(&scales.unsqueeze(1)?),
            None => Ok(matrix),
        }
    }
}

/// Which kernel is to run.
#[derive(Clone, Copy)]
enum Kernel {
    /// On a device with so many multiprocessors.
    Skinny(usize),
    Plain,
}

fn forward(
    kernel: Kernel,
    weight: &Weight,
    x: &Tensor,
    bias: Option<&Tensor>,
    y: DType,
) -> Result<Tensor> {
    let (rows, in_features) = x.dims2()?;
    let out_features = weight.matrix.dims()[0];
    let sizes = Sizes { rows, in_features, out_features };
    let dtypes = Dtypes { x: x.dtype(), weight: weight.matrix.dtype(), y };
    let plan = match kernel {
        Kernel::Skinny(processors) => plan_skinny(sizes, dtypes, processors)?.expect("it fits"),
        Kernel::Plain => plan_plain(sizes, dtypes)?,
    };
    let out = on_device(|device| {
        let input = |tensor: &Tensor| Input::new(device, tensor, 0);
        let (x, matrix) = (input(x)?, input(&weight.matrix)?);
        let scales = weight.scales.as_ref().map(input).transpose()?;
        let bias = bias.map(input).transpose()?;
        let out = device.output::<u8>(rows * out_features * y.size_in_bytes());
        let params = SkinnyParams {
            x: x.address(),
            weight: matrix.address(),
            scales: scales.as_ref().map_or(0, Input::address),
            bias: bias.as_ref().map_or(0, Input::address),
            y: out.address(),
            num_rows: rows as i32,
            in_features: in_features as i32,
            out_features: out_features as i32,
        };
        launch(device, &plan, &params).map_err(Error::wrap)?;
        Ok(vec![out.read()])
    })?;
    from_bytes(&out[0], &[rows, out_features], y)
}

/// Rows of e4m3 and their scales. x lies `offset` elements into memory.
fn quantize(x: &Tensor, offset: usize) -> Result<(Tensor, Tensor)> {
    let (rows, len) = x.dims2()?;
    let out = on_device(|device| {
        let input = Input::new(device, x, offset)?;
        let (y, scales) = (device.output::<u8>(rows * len), device.output::<u8>(rows * 4));
        let params = QuantizeParams {
            x: input.address(),
            y: y.address(),
            scales: scales.address(),
            len: len as i32,
        };
        launch(device, &plan_quantize(rows, x.dtype())?, &params).map_err(Error::wrap)?;
        Ok(vec![y.read(), scales.read()])
    })?;
    let y = from_bytes(&out[0], x.dims(), DType::F8E4M3)?;
    Ok((y, from_bytes(&out[1], &[rows], DType::F32)?))
}

/// `[out, in]`: less than a tile, a step, a warp's turn; neither a multiple.
const SHAPES: [(usize, usize); 4] = [(1, 16), (33, 144), (16, 1040), (9, 2064)];

/// Rows, and multiprocessors: each form of the kernel, full and not.
const CALLS: [(usize, usize); 5] = [(1, 1), (8, 1000), (5, 0), (9, 1), (MAX_SKINNY_ROWS, 1)];

#[test]
fn skinny_kernels_equal_the_reference() -> Result<()> {
    for dtype in [DType::BF16, DType::F16] {
        for (out, inner) in SHAPES {
            let source = tensor(1, &[out, inner], dtype, &Device::Cpu)?;
            let bias = tensor(2, &[out], dtype, &Device::Cpu)?;
            for weight in [Weight::quantized(&source)?, Weight::of(source)] {
                // An e4m3 weight takes any number of rows.
                let many = weight.scales.is_some().then_some((2 * MAX_SKINNY_ROWS + 5, 1));
                for (rows, processors) in CALLS.into_iter().chain(many) {
                    let x = tensor(3, &[rows, inner], dtype, &Device::Cpu)?;
                    let wide = weight.wide()?;
                    let kernel = Kernel::Skinny(processors);
                    let y = forward(kernel, &weight, &x, Some(&bias), dtype)?;
                    assert_close(&y, &reference(&wide, &x, Some(&bias))?, TOLERANCE);
                    let y = forward(kernel, &weight, &x, None, DType::F32)?;
                    let tolerance = Tolerance { f32: 1e-5, bf16: 0.0 };
                    assert_close(&y, &reference(&wide, &x, None)?, tolerance);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn plain_kernels_equal_the_reference() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for (out, inner) in [(1, 1), (3, 5), (31, 33), (17, 300)] {
            let source = tensor(1, &[out, inner], dtype, &Device::Cpu)?;
            let bias = tensor(2, &[out], dtype, &Device::Cpu)?;
            for weight in [Weight::quantized(&source)?, Weight::of(source)] {
                let wide = weight.wide()?;
                for rows in [1, 8, 19] {
                    let x = tensor(3, &[rows, inner], dtype, &Device::Cpu)?;
                    let y = forward(Kernel::Plain, &weight, &x, Some(&bias), dtype)?;
                    let expected = reference(&wide, &x, Some(&bias))?;
                    assert_close(&y, &expected, Tolerance { f32: 1e-5, ..TOLERANCE });
                    let y = forward(Kernel::Plain, &weight, &x, None, DType::F32)?;
                    let tolerance = Tolerance { f32: 1e-5, bf16: 0.0 };
                    assert_close(&y, &reference(&wide, &x, None)?, tolerance);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_row_has_the_same_bits_whatever_the_rows() -> Result<()> {
    let source = tensor(4, &[40, 1040], DType::BF16, &Device::Cpu)?;
    let x = tensor(5, &[MAX_SKINNY_ROWS, 1040], DType::BF16, &Device::Cpu)?;
    for weight in [Weight::quantized(&source)?, Weight::of(source)] {
        let all = forward(Kernel::Skinny(0), &weight, &x, None, DType::F32)?;
        for rows in [1, 2, 7, 8, 9, 15] {
            for processors in [0, 1000] {
                let first = x.narrow(0, MAX_SKINNY_ROWS - rows, rows)?;
                let y = forward(Kernel::Skinny(processors), &weight, &first, None, DType::F32)?;
                assert_eq!(to_bits(&y)?, to_bits(&all.narrow(0, MAX_SKINNY_ROWS - rows, rows)?)?);
            }
        }
    }
    Ok(())
}

#[test]
fn other_lengths_and_dtypes_have_no_kernel() -> Result<()> {
    use DType::{BF16, F8E4M3, F16, F32};
    let sizes = Sizes { rows: MAX_SKINNY_ROWS, in_features: 24, out_features: 5 };
    let of = |x, weight, y| Dtypes { x, weight, y };
    assert!(plan_skinny(sizes, of(BF16, BF16, F32), 1)?.is_some());
    assert_eq!(plan_skinny(sizes, of(BF16, F8E4M3, F32), 1)?, None);
    assert_eq!(plan_skinny(sizes, of(F32, F32, F32), 1)?, None);
    let more = Sizes { rows: MAX_SKINNY_ROWS + 1, ..sizes };
    assert_eq!(plan_skinny(more, of(BF16, BF16, F32), 1)?, None);
    let more = Sizes { in_features: 32, ..more };
    assert!(plan_skinny(more, of(BF16, F8E4M3, F32), 1)?.is_some());
    let odd = Sizes { in_features: 20, ..sizes };
    assert_eq!(plan_skinny(odd, of(F16, F16, F16), 1)?, None);
    assert!(plan_skinny(sizes, of(F16, BF16, F32), 1).is_err());
    Ok(())
}

/// Every number of e4m3 survives the way to a wider type.
#[test]
fn e4m3_widens_exactly() -> Result<()> {
    let all: Vec<u8> = (0..=255).filter(|bits| bits & 0x7f != 0x7f).collect();
    let expected = all.iter().map(|&bits| {
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7) / 8.0);
        let (exponent, mantissa) =
            if exponent == 0 { (1, mantissa) } else { (exponent, 1.0 + mantissa) };
        let magnitude = mantissa * 2f64.powi(exponent - 7);
        if bits < 128 { magnitude } else { -magnitude }
    });
    let mut rows = vec![0; all.len() * 16];
    for (row, &bits) in rows.chunks_mut(16).zip(&all) {
        row[7] = bits;
    }
    let weight = Weight {
        matrix: from_bytes(&rows, &[all.len(), 16], DType::F8E4M3)?,
        scales: Some(Tensor::ones(all.len(), DType::F32, &Device::Cpu)?),
    };
    let expected: Vec<f64> = expected.collect();
    for dtype in [DType::BF16, DType::F16] {
        let x = Tensor::ones((1, 16), dtype, &Device::Cpu)?;
        let y = forward(Kernel::Skinny(0), &weight, &x, None, DType::F32)?;
        assert_eq!(to_f64(&y)?, expected);
    }
    Ok(())
}

#[test]
fn rows_are_quantized_to_the_nearest() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for len in [1, 15, 16, 300, 5000] {
            let rows = [vec![0.0; len], values(6, len), values(7, len)].concat();
            let x = Tensor::from_vec(rows, (3, len), &Device::Cpu)?;
            let x = x.broadcast_mul(&Tensor::new(&[[1f32], [1e-3], [100.0]], &Device::Cpu)?)?;
            let x = x.to_dtype(dtype)?;
            for offset in [0, 1] {
                let (y, scales) = quantize(&x, offset)?;
                let wide = x.to_dtype(DType::F32)?;
                let largest = wide.abs()?.max(1)?.to_vec1::<f32>()?;
                let expected: Vec<f32> = largest
                    .iter()
                    .map(|&largest| if largest > 0.0 { largest / 448.0 } else { 1.0 })
                    .collect();
                assert_eq!(scales.to_vec1::<f32>()?, expected);
                let expected =
                    wide.broadcast_div(&scales.unsqueeze(1)?)?.to_dtype(DType::F8E4M3)?;
                assert_eq!(to_bytes(&y)?, to_bytes(&expected)?);
            }
        }
    }
    Ok(())
}
