//! Every path against sums in f64, and a row's bits in every batch.

use super::{Integers, Linear, Matrix, quantize_rows};
use crate::simd::Path;
use crate::testing::{
    DTYPES, Tolerance, assert_close, devices, ids, message, tensor, to_bits, to_f64,
};
use candle_core::{DType, Device, Result, Tensor};

/// Sums of some hundred products of values below 1 in f32; in bf16 the result is rounded once.
pub(super) const TOLERANCE: Tolerance = Tolerance { f32: 2e-6, bf16: 1.0 / 256.0 };

/// `[out, in]`: neither a multiple of a panel, a pair, a vector or a block of packing; and both.
const SHAPES: [(usize, usize); 7] =
    [(1, 1), (3, 5), (31, 33), (33, 64), (70, 129), (64, 32), (300, 47)];

fn forward(
    path: Path,
    weight: &Matrix,
    x: &Tensor,
    bias: Option<&Tensor>,
    out: DType,
) -> Result<Tensor> {
    let op = Linear { weight, out_dtype: out, path };
    match bias {
        None => x.apply_op1_no_bwd(&op),
        Some(bias) => x.apply_op2_no_bwd(bias, &op),
    }
}

pub(super) fn reference(weight: &Tensor, x: &Tensor, bias: Option<&Tensor>) -> Result<Vec<f64>> {
    let inner = weight.dims()[1];
    let (weight, x) = (to_f64(weight)?, to_f64(x)?);
    let bias = bias.map(to_f64).transpose()?;
    let mut y = Vec::new();
    for x in x.chunks(inner) {
        for (o, row) in weight.chunks(inner).enumerate() {
            let sum: f64 = row.iter().zip(x).map(|(w, x)| w * x).sum();
            y.push(sum + bias.as_ref().map_or(0.0, |bias| bias[o]));
        }
    }
    Ok(y)
}

/// cuBLAS rounds before it adds a bias, and then again.
fn of_bias(device: &Device) -> Tolerance {
    if device.is_cpu() { TOLERANCE } else { Tolerance { bf16: 2.0 * TOLERANCE.bf16, ..TOLERANCE } }
}

#[test]
fn every_path_equals_the_reference() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for (out, inner) in SHAPES {
                let source = tensor(1, &[out, inner], dtype, &device)?;
                let bias = tensor(2, &[out], dtype, &device)?;
                let weight = Matrix::new(&source)?;
                for rows in [0, 1, 2, 5, 13, 40] {
                    let x = tensor(3, &[rows, inner], dtype, &device)?;
                    let expected = reference(&source, &x, None)?;
                    let with_bias = reference(&source, &x, Some(&bias))?;
                    // Paths are the CPU's; a GPU takes its own whichever is named.
                    let paths = if device.is_cpu() { usize::MAX } else { 1 };
                    for path in Path::available().take(paths) {
                        let y = forward(path, &weight, &x, None, dtype)?;
                        assert_eq!(y.dims(), [rows, out]);
                        assert_eq!(y.dtype(), dtype);
                        assert_close(&y, &expected, TOLERANCE);
                        let y = forward(path, &weight, &x, Some(&bias), dtype)?;
                        assert_close(&y, &with_bias, of_bias(&device));
                        let y = forward(path, &weight, &x, None, DType::F32)?;
                        assert_eq!(y.dtype(), DType::F32);
                        assert_close(&y, &expected, Tolerance { bf16: 0.0, ..TOLERANCE });
                    }
                }
            }
        }
    }
    Ok(())
}

/// On the CPU always, on a GPU if asked for: a row is the same with any number of rows beside it.
#[test]
fn a_row_is_the_same_in_any_batch() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for (out, inner) in [(96, 64), (1024, 4096)] {
                let source = tensor(1, &[out, inner], dtype, &device)?;
                let bias = tensor(2, &[out], dtype, &device)?;
                let x = tensor(3, &[300, inner], dtype, &device)?;
                for weight in [Matrix::new(&source)?, quantized(&source)?.0] {
                    let weight = weight.batch_invariant(true);
                    let together = weight.forward(&x, Some(&bias))?;
                    for (start, rows) in [(0, 1), (299, 1), (8, 7), (16, 17), (64, 128)] {
                        let alone = weight.forward(&x.narrow(0, start, rows)?, Some(&bias))?;
                        assert_eq!(to_bits(&alone)?, to_bits(&together.narrow(0, start, rows)?)?);
                    }
                }
            }
        }
    }
    Ok(())
}

/// A weight that stands for about `source`, and what it stands for exactly.
fn quantized(source: &Tensor) -> Result<(Matrix, Tensor)> {
    let (rows, scales) = quantize_rows(&source.to_device(&Device::Cpu)?)?;
    let wide = rows.to_dtype(DType::F32)?.to_dtype(DType::F64)?;
    let exact = wide.broadcast_mul(&scales.to_dtype(DType::F64)?.unsqueeze(1)?)?;
    let weight = Matrix::from_e4m3(&rows, &scales, source.dtype(), source.device())?;
    Ok((weight, exact))
}

/// On a GPU of few rows: of many x is rounded, too.
#[test]
fn a_weight_of_e4m3_equals_the_reference() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for (out, inner) in SHAPES {
                let source = tensor(1, &[out, inner], dtype, &device)?;
                let bias = tensor(2, &[out], dtype, &device)?;
                let (weight, exact) = quantized(&source)?;
                assert_eq!((weight.out_features(), weight.in_features()), (out, inner));
                for rows in [1, 2, 5, 13] {
                    let x = tensor(3, &[rows, inner], dtype, &device)?;
                    let expected = reference(&exact, &x, None)?;
                    let with_bias = reference(&exact, &x, Some(&bias))?;
                    let paths = if device.is_cpu() { usize::MAX } else { 1 };
                    for path in Path::available().take(paths) {
                        let y = forward(path, &weight, &x, Some(&bias), dtype)?;
                        assert_eq!((y.dims(), y.dtype()), (&[rows, out][..], dtype));
                        assert_close(&y, &with_bias, TOLERANCE);
                        let y = forward(path, &weight, &x, None, DType::F32)?;
                        assert_close(&y, &expected, Tolerance { bf16: 0.0, ..TOLERANCE });
                    }
                }
            }
        }
    }
    Ok(())
}

/// What rows are rounded to, block by block: times its scale. Of two that are equally large the negative
/// one becomes the least number.
fn rounded(rows: &Tensor, least: f32, most: f32) -> Result<Vec<f64>> {
    let len = rows.dims()[1];
    let round_block = |x: &[f32]| -> Vec<f64> {
        let largest = x.iter().copied().fold(0f32, f32::max);
        let smallest = x.iter().copied().fold(0f32, f32::min);
        let extreme = if largest > -smallest { largest } else { smallest };
        let scale = extreme / least;
        let integer = |x: f32| (x * (1.0 / scale)).round_ties_even().min(most);
        let value = |x: f32| if scale == 0.0 { 0.0 } else { integer(x) };
        x.iter().map(|&x| f64::from(scale) * f64::from(value(x))).collect()
    };
    let rows: Vec<f32> = to_f64(rows)?.into_iter().map(|x| x as f32).collect();
    Ok(rows.chunks(len).flat_map(|row| row.chunks(128)).flat_map(round_block).collect())
}

/// A weight as it is held in these integers.
fn held(source: &Tensor, integers: Integers) -> Result<Vec<f64>> {
    if integers == Integers::Int8 {
        return rounded(source, -127.0, 127.0);
    }
    let ids = Tensor::arange(0, source.dims()[0] as u32, &Device::Cpu)?;
    to_f64(&Matrix::rounded(&source.to_dtype(DType::F32)?, integers)?.gather(&ids)?)
}

const INTEGERS: [Integers; 2] = [Integers::Int8, Integers::Int4];

/// Longer than a block, of whole blocks, and with a last one of one element.
const SHAPES_OF_BLOCKS: [(usize, usize); 5] = [(1, 1), (3, 5), (33, 256), (70, 129), (40, 391)];

#[test]
fn weights_of_integers_are_multiplied_as_they_were_rounded() -> Result<()> {
    for (dtype, integers) in DTYPES.into_iter().flat_map(|d| INTEGERS.map(|i| (d, i))) {
        for (out, inner) in SHAPES_OF_BLOCKS {
            let source = tensor(1, &[out, inner], dtype, &Device::Cpu)?;
            let bias = tensor(2, &[out], dtype, &Device::Cpu)?;
            let weight = Matrix::rounded(&source, integers)?;
            assert_eq!(weight.size_in_bytes(), integers.size_in_bytes(out, inner));
            let exact = Tensor::from_vec(held(&source, integers)?, (out, inner), &Device::Cpu)?;
            for rows in [0, 1, 2, 5, 13, 40] {
                let x = tensor(3, &[rows, inner], dtype, &Device::Cpu)?;
                let exact_x = held(&x, Integers::Int8)?;
                let exact_x = Tensor::from_vec(exact_x, (rows, inner), &Device::Cpu)?;
                let expected = reference(&exact, &exact_x, None)?;
                let with_bias = reference(&exact, &exact_x, Some(&bias))?;
                for path in Path::available() {
                    let y = forward(path, &weight, &x, Some(&bias), dtype)?;
                    assert_eq!((y.dims(), y.dtype()), (&[rows, out][..], dtype));
                    assert_close(&y, &with_bias, TOLERANCE);
                    let y = forward(path, &weight, &x, None, DType::F32)?;
                    assert_close(&y, &expected, Tolerance { bf16: 0.0, ..TOLERANCE });
                }
            }
        }
    }
    Ok(())
}

#[test]
fn four_bits_come_nearer_than_with_the_largest_as_the_least_number() -> Result<()> {
    for (out, inner) in SHAPES_OF_BLOCKS {
        let source = tensor(1, &[out, inner], DType::F32, &Device::Cpu)?;
        let squares = |found: Vec<f64>| -> Result<Vec<f64>> {
            let errors = found.into_iter().zip(to_f64(&source)?).map(|(x, y)| (x - y) * (x - y));
            let errors: Vec<f64> = errors.collect();
            let blocks = errors.chunks(inner).flat_map(|row| row.chunks(128));
            Ok(blocks.map(|block| block.iter().sum()).collect())
        };
        let found = squares(held(&source, Integers::Int4)?)?;
        let plain = squares(rounded(&source, -8.0, 7.0)?)?;
        for (found, plain) in found.iter().zip(&plain) {
            assert!(*found <= plain * 1.0001 + 1e-12, "{found} where {plain} was to be had");
        }
        let (found, plain): (f64, f64) = (found.iter().sum(), plain.iter().sum());
        assert!(inner == 1 || found < 0.99 * plain, "{found} where {plain} was to be had");
    }
    Ok(())
}

/// As GPTQ and llm-compressor write symmetric groups, widened to bf16.
#[test]
fn numbers_that_were_of_four_bits_before_are_found_again() -> Result<()> {
    let (out, inner) = (64, 256);
    let random = to_f64(&tensor(9, &[out, inner], DType::F32, &Device::Cpu)?)?;
    let largest = random.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    for most in [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] {
        let numbers =
            random.iter().map(|x| (x / largest * 9.0).round().clamp(-most, most.min(7.0)));
        let scale = |at: usize| 0.001 * f64::from(1 + at as u32 / 128 % 37);
        let grid: Vec<f64> = numbers.enumerate().map(|(at, x)| x * scale(at)).collect();
        let source = Tensor::from_slice(&grid, (out, inner), &Device::Cpu)?;
        let source = source.to_dtype(DType::F32)?.to_dtype(DType::BF16)?;
        for (at, (found, value)) in held(&source, Integers::Int4)?.iter().zip(&grid).enumerate() {
            let error = (found - value).abs() / scale(at);
            assert!(error < 0.02, "{found} where {value} was, {error} of a step, up to {most}");
        }
    }
    Ok(())
}

/// The largest weights times the largest inputs, of one sign or of both: no sum of bytes overflows.
#[test]
fn the_largest_integers_fit() -> Result<()> {
    let (out, inner) = (16, 256);
    for signs in [[1f32, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]] {
        let filled = |rows: usize, sign: f32| Tensor::full(sign, (rows, inner), &Device::Cpu);
        let (source, x) = (filled(out, signs[0])?, filled(3, signs[1])?);
        for (integers, path) in
            INTEGERS.into_iter().flat_map(|i| Path::available().map(move |p| (i, p)))
        {
            let weight = Matrix::rounded(&source, integers)?;
            let y = to_f64(&forward(path, &weight, &x, None, DType::F32)?)?;
            let expected = f64::from(signs[0] * signs[1]) * inner as f64;
            assert!(y.iter().all(|y| (y - expected).abs() < 1e-3), "{path:?} {integers:?}: {y:?}");
        }
    }
    Ok(())
}

#[test]
fn an_input_that_is_not_finite_shows_in_its_row_alone() -> Result<()> {
    let weight =
        Matrix::rounded(&tensor(1, &[40, 300], DType::F32, &Device::Cpu)?, Integers::Int8)?;
    for spoiled in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![0.5f32; 3 * 300];
        x[300 + 7] = spoiled;
        let y = weight.forward_f32(&Tensor::from_vec(x, (3, 300), &Device::Cpu)?)?;
        let finite: Vec<bool> =
            y.to_vec2::<f32>()?.iter().map(|y| y.iter().all(|y| y.is_finite())).collect();
        assert_eq!(finite, [true, false, true]);
        assert!(y.get(1)?.to_vec1::<f32>()?.iter().all(|y| !y.is_finite()));
    }
    Ok(())
}

/// On the CPU as they are, on a GPU as they are or rounded to e4m3, too, by the library.
#[test]
fn many_rows_times_e4m3_are_near_the_reference() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            let source = tensor(1, &[48, 256], dtype, &device)?;
            let (weight, exact) = quantized(&source)?;
            let x = tensor(3, &[70, 256], dtype, &device)?;
            let (narrow, scales) = quantize_rows(&x.to_device(&Device::Cpu)?)?;
            let rounded = narrow.to_dtype(DType::F32)?.broadcast_mul(&scales.unsqueeze(1)?)?;
            let y = to_f64(&weight.forward_f32(&x)?)?;
            let error = |x: &Tensor| -> Result<f64> {
                let expected = reference(&exact, x, None)?;
                let errors = y.iter().zip(&expected).map(|(y, e)| (y - e).abs());
                Ok(errors.fold(0.0, f64::max))
            };
            let (error, of_rounded) = (error(&x)?, error(&rounded)?);
            if device.is_cpu() {
                assert!(error < 1e-4, "{dtype:?}: off by {error}");
            } else {
                // Hopper's sums of e4m3 keep 14 bits.
                let least = error.min(of_rounded);
                assert!(least < 0.02, "{dtype:?}: off by {error}, rounded {of_rounded}");
            }
        }
    }
    Ok(())
}

#[test]
fn rows_are_quantized_to_the_nearest() -> Result<()> {
    for dtype in DTYPES {
        for len in [1, 15, 16, 300] {
            let rows = tensor(6, &[3, len], DType::F32, &Device::Cpu)?;
            let factors = Tensor::new(&[[0f32], [1e-3], [-100.0]], &Device::Cpu)?;
            let x = rows.broadcast_mul(&factors)?.to_dtype(dtype)?;
            let (y, scales) = quantize_rows(&x)?;
            let wide = x.to_dtype(DType::F32)?;
            let largest = wide.abs()?.max(1)?.to_vec1::<f32>()?;
            let expected: Vec<f32> =
                largest.iter().map(|&x| if x > 0.0 { x / 448.0 } else { 1.0 }).collect();
            assert_eq!(scales.to_vec1::<f32>()?, expected);
            let expected = wide.broadcast_div(&scales.unsqueeze(1)?)?.to_dtype(DType::F8E4M3)?;
            assert_eq!(to_bits(&y)?, to_bits(&expected)?);
        }
    }
    let cube = Tensor::zeros((1, 2, 3), DType::F32, &Device::Cpu)?;
    assert!(message(quantize_rows(&cube)).contains("x must be [rows, len]"));
    let half = Tensor::zeros((1, 2), DType::F16, &Device::Cpu)?;
    assert!(message(quantize_rows(&half)).contains("x must be f32 or bf16"));
    Ok(())
}

/// Large enough for several threads, with tiles of every size; longer than a run; more rows than a pass.
#[test]
fn a_row_has_the_same_bits_in_every_batch() -> Result<()> {
    let dtypes = [DType::F32, DType::BF16, DType::BF16, DType::F32, DType::BF16];
    for (out, inner, most) in [(523, 517, 129), (33, 2200, 97), (33, 33, 1030)] {
        for (form, dtype) in dtypes.into_iter().enumerate() {
            let source = tensor(4, &[out, inner], dtype, &Device::Cpu)?;
            let weight = match form {
                2 => quantized(&source)?.0,
                3 => Matrix::rounded(&source, Integers::Int8)?,
                4 => Matrix::rounded(&source, Integers::Int4)?,
                _ => Matrix::new(&source)?,
            };
            let x = tensor(5, &[most, inner], dtype, &Device::Cpu)?;
            for path in Path::available() {
                let mut alone = Vec::new();
                for row in 0..most {
                    let y = forward(path, &weight, &x.narrow(0, row, 1)?, None, DType::F32)?;
                    alone.extend(to_bits(&y)?);
                }
                for rows in (1..=40).chain([most]) {
                    let y = forward(path, &weight, &x.narrow(0, 0, rows)?, None, DType::F32)?;
                    assert!(to_bits(&y)? == alone[..rows * out], "{path:?} {weight:?} {rows} rows");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn forward_takes_the_fastest_path() -> Result<()> {
    for dtype in DTYPES {
        let weight = Matrix::new(&tensor(6, &[40, 70], dtype, &Device::Cpu)?)?;
        let bias = tensor(7, &[40], dtype, &Device::Cpu)?;
        let x = tensor(8, &[3, 70], dtype, &Device::Cpu)?;
        let fastest = Path::fastest();
        let y = forward(fastest, &weight, &x, Some(&bias), dtype)?;
        assert_eq!(to_bits(&weight.forward(&x, Some(&bias))?)?, to_bits(&y)?);
        let y = forward(fastest, &weight, &x, None, DType::F32)?;
        assert_eq!(to_bits(&weight.forward_f32(&x)?)?, to_bits(&y)?);
    }
    Ok(())
}

/// bf16 times bf16 is exact in f32, so that small integers show every lost or doubled element.
#[test]
fn sums_of_integers_are_exact() -> Result<()> {
    let (out, inner, rows) = (37, 101, 14);
    let integers = |len: usize, modulus: usize| (0..len).map(move |i| (i % modulus) as f32 - 3.0);
    for dtype in DTYPES {
        let source: Vec<f32> = integers(out * inner, 7).collect();
        let source = Tensor::from_vec(source, (out, inner), &Device::Cpu)?.to_dtype(dtype)?;
        let x: Vec<f32> = integers(rows * inner, 11).collect();
        let x = Tensor::from_vec(x, (rows, inner), &Device::Cpu)?.to_dtype(dtype)?;
        let weight = Matrix::new(&source)?;
        for path in Path::available() {
            let y = forward(path, &weight, &x, None, DType::F32)?;
            assert_eq!(to_f64(&y)?, reference(&source, &x, None)?, "{path:?} {dtype:?}");
        }
    }
    Ok(())
}

/// Of a part in any form: its own rows, and zeros for ids before and behind it.
#[test]
fn a_part_gives_zeros_for_the_rows_of_others() -> Result<()> {
    for device in devices() {
        let source = tensor(9, &[6, 16], DType::F32, &device)?;
        let matrices = if device.is_cpu() {
            let rounded = |integers| Matrix::rounded(&source, integers);
            vec![Matrix::new(&source)?, rounded(Integers::Int8)?, rounded(Integers::Int4)?]
        } else {
            vec![Matrix::new(&source)?]
        };
        for weight in matrices {
            let part = weight.gather_part(&ids(&[9, 10, 15, 16, 0], &device)?, 10)?;
            let whole = weight.gather(&ids(&[0, 5], &device)?)?;
            for (row, of_whole) in [(0, None), (1, Some(0)), (2, Some(1)), (3, None), (4, None)] {
                let expected = of_whole.map_or(Ok(vec![0; 16]), |i| to_bits(&whole.get(i)?))?;
                assert_eq!(to_bits(&part.get(row)?)?, expected);
            }
        }
    }
    Ok(())
}

#[test]
fn gather_returns_rows_as_they_were() -> Result<()> {
    for dtype in DTYPES {
        for (out, inner) in SHAPES {
            let source = tensor(9, &[out, inner], dtype, &Device::Cpu)?;
            let weight = Matrix::new(&source)?;
            let wanted: Vec<u32> = (0..out as u32).rev().chain([0, 0]).collect();
            let wanted = ids(&wanted, &Device::Cpu)?;
            let rows = weight.gather(&wanted)?;
            assert_eq!(rows.dtype(), dtype);
            let expected = source.contiguous()?.index_select(&wanted, 0)?;
            assert_eq!(to_bits(&rows)?, to_bits(&expected)?);
        }
        for (out, inner) in SHAPES_OF_BLOCKS {
            let source = tensor(9, &[out, inner], dtype, &Device::Cpu)?;
            let wanted: Vec<u32> = (0..out as u32).collect();
            for integers in INTEGERS {
                let weight = Matrix::rounded(&source, integers)?;
                let rows = weight.gather(&ids(&wanted, &Device::Cpu)?)?;
                assert_close(&rows, &held(&source, integers)?, TOLERANCE);
            }
        }
    }
    Ok(())
}

#[test]
fn its_size_is_that_of_whole_panels() -> Result<()> {
    let weight = Matrix::new(&tensor(1, &[33, 5], DType::BF16, &Device::Cpu)?)?;
    assert_eq!((weight.out_features(), weight.in_features()), (33, 5));
    assert_eq!(weight.dtype(), DType::BF16);
    assert_eq!(weight.size_in_bytes(), 64 * 6 * 2);
    Ok(())
}

#[test]
fn wrong_weights_are_refused() -> Result<()> {
    let cpu = Device::Cpu;
    let weight = |dims: &[usize], dtype| Matrix::new(&Tensor::zeros(dims, dtype, &cpu)?);
    assert!(message(weight(&[2, 3, 4], DType::F32)).contains("weight must be [out, in]"));
    assert!(message(weight(&[0, 4], DType::F32)).contains("weight must not be empty"));
    assert!(message(weight(&[4, 4], DType::F16)).contains("weight must be f32 or bf16"));
    let strided = Tensor::zeros((4, 6), DType::F32, &cpu)?.t()?;
    assert!(message(Matrix::new(&strided)).contains("weight must be contiguous"));
    let narrow = Tensor::zeros((4, 6), DType::F8E4M3, &cpu)?;
    let scales = |len: usize| Tensor::ones(len, DType::F32, &cpu);
    let short = Matrix::from_e4m3(&narrow, &scales(3)?, DType::BF16, &cpu);
    assert!(message(short).contains("scales must have shape [4]"));
    let half = Matrix::from_e4m3(&narrow, &scales(4)?, DType::F16, &cpu);
    assert!(message(half).contains("dtype must be f32 or bf16"));
    let wide = Matrix::from_e4m3(&strided.contiguous()?, &scales(6)?, DType::F32, &cpu);
    assert!(message(wide).contains("weight must be F8E4M3"));
    let weight = Matrix::from_e4m3(&narrow, &scales(4)?, DType::F32, &cpu)?;
    assert!(message(weight.gather(&ids(&[0], &cpu)?)).contains("no rows to gather"));
    Ok(())
}

#[test]
fn wrong_inputs_are_refused() -> Result<()> {
    let cpu = Device::Cpu;
    let weight = Matrix::new(&Tensor::zeros((4, 6), DType::BF16, &cpu)?)?;
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &cpu);
    let x = zeros(&[2, 6], DType::BF16)?;
    let x_of = |dims: &[usize], dtype| weight.forward(&zeros(dims, dtype)?, None);
    assert!(message(x_of(&[2, 5], DType::BF16)).contains("x must be [tokens, 6]"));
    assert!(message(x_of(&[6], DType::BF16)).contains("x must be [tokens, 6]"));
    assert!(message(x_of(&[2, 6], DType::F32)).contains("x must be BF16"));
    assert!(message(weight.forward_f32(&zeros(&[2, 7], DType::BF16)?)).contains("x must be"));
    let strided = zeros(&[6, 2], DType::BF16)?.t()?;
    assert!(message(weight.forward(&strided, None)).contains("x must be contiguous"));
    for (dims, dtype) in [(&[5][..], DType::BF16), (&[1, 4], DType::BF16), (&[4], DType::F32)] {
        let result = weight.forward(&x, Some(&zeros(dims, dtype)?));
        assert!(message(result).contains("bias must be [4] BF16"));
    }
    assert!(message(weight.gather(&ids(&[0, 4], &cpu)?)).contains("token id 4 is outside"));
    assert!(message(weight.gather(&zeros(&[2], DType::I64)?)).contains("ids must be [tokens] U32"));
    Ok(())
}
