//! The CUDA kernels of experts, on the host, against the references of the CPU op.

use super::Gate;
use super::cuda::{
    ChooseParams, CombineParams, Form, MultiplyParams, SortParams, plan_choose, plan_combine,
    plan_multiply, plan_sort,
};
use super::tests::{
    CHOICES, TOLERANCE, assert_chosen, chosen, combined, e2m1, e4m3, gates, logits, products,
};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device, to_bytes};
use crate::testing::{assert_close, ids, tensor};
use candle_core::{DType, Device, Error, Result, Tensor};

fn choose(logits: &Tensor, bias: Option<&Tensor>, gate: Gate) -> Result<Tensor> {
    let ((tokens, num_experts), per_token) = (logits.dims2()?, gate.per_token);
    let out = on_device(|device| {
        let logits = Input::new(device, logits, 1)?;
        let bias = bias.map(|bias| Input::new(device, bias, 1)).transpose()?;
        let choice = device.output::<u8>(2 * tokens * per_token * size_of::<u32>());
        let bias = bias.as_ref().map_or(0, Input::address);
        let addresses = [logits.address(), bias, choice.address()];
        let params = ChooseParams::new(addresses, [tokens, num_experts], gate);
        launch(device, &plan_choose(tokens), &params).map_err(Error::wrap)?;
        Ok(vec![choice.read()])
    })?;
    from_bytes(&out[0], &[2, tokens, per_token], DType::U32)
}

fn sort(experts: &[u32], num_experts: usize) -> Result<Vec<u32>> {
    let len = 2 * experts.len() + num_experts + 1;
    let out = on_device(|device| {
        let experts_on_device = Input::new(device, &ids(experts, &Device::Cpu)?, 0)?;
        let sorted = device.output::<u8>(len * size_of::<u32>());
        let params = SortParams {
            experts: experts_on_device.address(),
            sorted: sorted.address(),
            num_rows: experts.len() as i32,
        };
        launch(device, &plan_sort(num_experts), &params).map_err(Error::wrap)?;
        Ok(vec![sorted.read()])
    })?;
    from_bytes(&out[0], &[len], DType::U32)?.to_vec1()
}

/// Experts as kernels take them.
struct Layer<'a> {
    form: Form,
    weight: &'a Tensor,
    scales: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    /// `[experts, out, in]`
    dims: [usize; 3],
}

impl<'a> Layer<'a> {
    fn wide(weight: &'a Tensor) -> Result<Self> {
        let (num_experts, out_features, in_features) = weight.dims3()?;
        let dims = [num_experts, out_features, in_features];
        Ok(Self { form: Form::Wide, weight, scales: None, bias: None, dims })
    }
}

/// Of so many tokens' choices, that went to these experts; `rows_of_token` is 0 where x has their rows.
fn multiply(
    x: &Tensor,
    layer: &Layer,
    experts: &[u32],
    (tokens, rows_of_token): (usize, usize),
) -> Result<Tensor> {
    let [num_experts, out_features, in_features] = layer.dims;
    let (dtype, rows) = (x.dtype(), experts.len());
    let sorted = sort(experts, num_experts)?;
    let out = on_device(|device| {
        let (x, weight) = (Input::new(device, x, 0)?, Input::new(device, layer.weight, 0)?);
        let optional = |tensor: Option<&Tensor>, offset| {
            tensor.map(|tensor| Input::new(device, tensor, offset)).transpose()
        };
        let (scales, bias) = (optional(layer.scales, 0)?, optional(layer.bias, 1)?);
        let experts = Input::new(device, &ids(experts, &Device::Cpu)?, 0)?;
        let sorted = Input::new(device, &ids(&sorted, &Device::Cpu)?, 0)?;
        let y = device.output::<u8>(rows * out_features * dtype.size_in_bytes());
        let params = MultiplyParams {
            x: x.address(),
            weight: weight.address(),
            scales: scales.as_ref().map_or(0, Input::address),
            bias: bias.as_ref().map_or(0, Input::address),
            experts: experts.address(),
            sorted: sorted.address(),
            y: y.address(),
            num_rows: rows as i32,
            rows_of_token: rows_of_token as i32,
            in_features: in_features as i32,
            out_features: out_features as i32,
        };
        let plan = plan_multiply(&params, (num_experts, tokens), dtype, layer.form)?;
        launch(device, &plan, &params).map_err(Error::wrap)?;
        Ok(vec![y.read()])
    })?;
    from_bytes(&out[0], &[rows, out_features], dtype)
}

fn combine(
    (y, shared): (&Tensor, Option<&Tensor>),
    places: &[u32],
    weights: &[f32],
    per_token: usize,
    offset: usize,
) -> Result<Tensor> {
    let (dtype, width, tokens) = (y.dtype(), y.dims()[1], weights.len() / per_token);
    let out = on_device(|device| {
        let y = Input::new(device, y, offset)?;
        let weights = Input::new(device, &Tensor::new(weights, &Device::Cpu)?, 1)?;
        let places = Input::new(device, &ids(places, &Device::Cpu)?, 0)?;
        let shared = shared.map(|shared| Input::new(device, shared, offset)).transpose()?;
        let out = device.output::<u8>(tokens * width * dtype.size_in_bytes());
        let params = CombineParams {
            y: y.address(),
            places: places.address(),
            weights: weights.address(),
            shared: shared.as_ref().map_or(0, Input::address),
            out: out.address(),
            per_token: per_token as i32,
            width: width as i32,
        };
        launch(device, &plan_combine(tokens, width, dtype)?, &params).map_err(Error::wrap)?;
        Ok(vec![out.read()])
    })?;
    from_bytes(&out[0], &[tokens, width], dtype)
}

#[test]
fn the_largest_scores_are_chosen() -> Result<()> {
    for (tokens, num_experts, per_token) in CHOICES {
        let logits = logits(tokens, num_experts, &Device::Cpu)?;
        let bias = tensor(3, &[num_experts], DType::F32, &Device::Cpu)?;
        for gate in gates(per_token) {
            for bias in [None, Some(&bias)] {
                let expected = chosen(&logits, bias, gate)?;
                assert_chosen(&choose(&logits, bias, gate)?, &expected);
            }
        }
    }
    let rows = [[f32::NAN, 1.0, f32::NAN], [f32::NAN; 3], [f32::NEG_INFINITY, 2.0, 3.0]];
    for gate in gates(2) {
        let choice = choose(&Tensor::new(&rows, &Device::Cpu)?, None, gate)?;
        assert_eq!(choice.get(0)?.to_vec2::<u32>()?, [[1, 0], [0, 1], [2, 1]]);
    }
    let of_nothing = Tensor::new(&[[-200f32, -200.0, -300.0]], &Device::Cpu)?;
    let choice = choose(&of_nothing, None, gates(2)[2])?;
    assert_eq!(choice.get(1)?.to_vec2::<u32>()?, [[0, 0]], "0 of 0 is no number");
    Ok(())
}

#[test]
fn rows_are_sorted_as_the_host_does() -> Result<()> {
    for (num_rows, num_experts) in [(1, 1), (7, 3), (256, 5), (1_000, 64)] {
        let experts: Vec<u32> = (0..num_rows).map(|row| row * row % 37 % num_experts).collect();
        let (order, places, starts) = super::cpu::sort(&experts, num_experts as usize);
        let starts = starts.into_iter().map(|start| start as u32).collect();
        let expected = [order, places, starts].concat();
        assert_eq!(sort(&experts, num_experts as usize)?, expected);
    }
    Ok(())
}

/// Sizes below, at and behind a block's, a stage's and a pass'.
#[test]
fn rows_are_multiplied_by_their_experts() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for (tokens, num_experts, per_token, out_features, in_features) in [
            (1, 4, 2, 8, 8),
            (9, 3, 1, 130, 64),
            (40, 2, 2, 17, 72),
            (3, 8, 2, 128, 264),
            (150, 2, 1, 40, 328),
            (5, 3, 2, 9, 12), // no whole 16 bytes
        ] {
            let logits = logits(tokens, num_experts, &Device::Cpu)?;
            let (experts, _) = chosen(&logits, None, Gate::softmax(per_token))?;
            let weight = tensor(2, &[num_experts, out_features, in_features], dtype, &Device::Cpu)?;
            let bias = tensor(4, &[num_experts, out_features], dtype, &Device::Cpu)?;
            let layer = Layer { bias: Some(&bias), ..Layer::wide(&weight)? };
            for rows_of_token in [per_token, 0] {
                assert_products(&layer, &weight, &experts, (tokens, rows_of_token), dtype)?;
            }
        }
    }
    Ok(())
}

/// Of `tokens` that each have `rows_of_token` rows; `values` are what the weights are.
fn assert_products(
    layer: &Layer,
    values: &Tensor,
    experts: &[u32],
    (tokens, rows_of_token): (usize, usize),
    dtype: DType,
) -> Result<()> {
    let [num_experts, _, in_features] = layer.dims;
    let (order, ..) = super::cpu::sort(experts, num_experts);
    let sorted: Vec<u32> = order.iter().map(|choice| experts[*choice as usize]).collect();
    let source = |row: usize| match rows_of_token {
        0 => row,
        rows => order[row] as usize / rows,
    };
    let sources: Vec<usize> = (0..order.len()).map(source).collect();
    let len = if rows_of_token == 0 { order.len() } else { tokens };
    let x = tensor(3, &[len, in_features], dtype, &Device::Cpu)?;
    let y = multiply(&x, layer, experts, (tokens, rows_of_token))?;
    assert_close(&y, &products(&x, &sources, (values, layer.bias), &sorted)?, TOLERANCE);
    Ok(())
}

/// Sizes as above, and scales that cannot be copied 16 at once.
#[test]
fn weights_of_fewer_bits_are_multiplied_exactly() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        for (tokens, num_experts, per_token, out_features, in_features) in [
            (1, 4, 2, 16, 32),
            (9, 3, 1, 144, 64),
            (40, 2, 2, 16, 96),
            (150, 2, 1, 32, 352),
            (3, 4, 2, 130, 288),
            (2, 3, 2, 5, 32),
        ] {
            let dims = [num_experts, out_features, in_features];
            let logits = logits(tokens, num_experts, &Device::Cpu)?;
            let (experts, _) = chosen(&logits, None, Gate::softmax(per_token))?;
            let bias = tensor(4, &[num_experts, out_features], dtype, &Device::Cpu)?;
            for (form, [weight, scales, values]) in
                [(Form::E2m1, e2m1(dims, &Device::Cpu)?), (Form::E4m3, e4m3(dims, &Device::Cpu)?)]
            {
                let (scales, bias) = (Some(&scales), Some(&bias));
                let layer = Layer { form, weight: &weight, scales, bias, dims };
                for rows_of_token in [per_token, 0] {
                    assert_products(&layer, &values, &experts, (tokens, rows_of_token), dtype)?;
                }
            }
        }
    }
    Ok(())
}

/// Also those that bf16 has no normal number for.
#[test]
fn scales_may_be_any_power_of_two() -> Result<()> {
    let dims = [1, 16, 256];
    let [weight, _, _] = e2m1(dims, &Device::Cpu)?;
    let scales: Vec<u8> = (0..128).map(|i| [0, 1, 2, 64, 126, 127, 200, 250][i % 8]).collect();
    let scales = Tensor::from_vec(scales, (1, 16, 8), &Device::Cpu)?;
    let layer =
        Layer { form: Form::E2m1, weight: &weight, scales: Some(&scales), bias: None, dims };
    for dtype in [DType::F32, DType::BF16] {
        // A row sees one block of inputs.
        let x = Tensor::eye(8, dtype, &Device::Cpu)?.unsqueeze(2)?.broadcast_as((8, 8, 32))?;
        let y = multiply(&x.reshape((8, 256))?.contiguous()?, &layer, &[0; 8], (8, 1))?;
        for (block, row) in y.to_dtype(DType::F32)?.to_vec2::<f32>()?.iter().enumerate() {
            let sums = weight.narrow(2, block * 16, 16)?.squeeze(0)?.to_vec2::<u8>()?;
            for (y, bytes) in row.iter().zip(sums) {
                let value = |four: u8| {
                    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(four & 7)];
                    if four & 8 == 0 { magnitude } else { -magnitude }
                };
                let sum: f64 = bytes.iter().map(|byte| value(byte & 15) + value(byte >> 4)).sum();
                let exponent = [0, 1, 2, 64, 126, 127, 200, 250][block] - 127;
                let expected = sum * 2f64.powi(exponent);
                let error = (f64::from(*y) - expected).abs();
                assert!(error <= expected.abs() / 128.0, "{dtype:?} block {block}: {y} {expected}");
            }
        }
    }
    Ok(())
}

/// Few tokens and many have kernels of their own.
#[test]
fn a_row_is_the_same_in_any_batch() -> Result<()> {
    let experts: Vec<u32> = (0..80).map(|row| row * row % 7 % 2).collect();
    let (dims, dtype) = ([2, 80, 160], DType::BF16);
    let x = tensor(1, &[80, 160], dtype, &Device::Cpu)?;
    let wide = tensor(2, &dims, dtype, &Device::Cpu)?;
    let [of_e4m3, scales_of_e4m3, _] = e4m3(dims, &Device::Cpu)?;
    let [of_e2m1, scales_of_e2m1, _] = e2m1(dims, &Device::Cpu)?;
    for (form, weight, scales) in [
        (Form::Wide, &wide, None),
        (Form::E4m3, &of_e4m3, Some(&scales_of_e4m3)),
        (Form::E2m1, &of_e2m1, Some(&scales_of_e2m1)),
    ] {
        let layer = Layer { form, weight, scales, bias: None, dims };
        let all = multiply(&x, &layer, &experts, (80, 1))?;
        let (_, places, _) = super::cpu::sort(&experts, 2);
        for token in [0, 33, 79] {
            let x = x.narrow(0, token, 1)?.copy()?;
            let alone = multiply(&x, &layer, &experts[token..=token], (1, 1))?;
            let place = places[token] as usize;
            assert_eq!(to_bytes(&alone)?, to_bytes(&all.narrow(0, place, 1)?)?, "{form:?}");
        }
    }
    Ok(())
}

#[test]
fn sums_equal_the_reference() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for (tokens, per_token, width) in [(1, 1, 1), (3, 2, 7), (2, 8, 64), (5, 3, 2_060)] {
            for offset in [0, 1] {
                let y = tensor(1, &[tokens * per_token, width], dtype, &Device::Cpu)?;
                let weights: Vec<f32> =
                    tensor(2, &[tokens * per_token], DType::F32, &Device::Cpu)?.to_vec1()?;
                let wide: Vec<f64> = weights.iter().copied().map(f64::from).collect();
                let places: Vec<u32> = (0..weights.len() as u32).rev().collect();
                let shared = tensor(3, &[tokens, width], dtype, &Device::Cpu)?;
                for shared in [None, Some(&shared)] {
                    let sum = combine((&y, shared), &places, &weights, per_token, offset)?;
                    let expected = combined((&y, shared), &places, &wide, per_token)?;
                    assert_close(&sum, &expected, TOLERANCE);
                }
            }
        }
    }
    Ok(())
}
