//! Layers of experts against a plain f64 reference.

use super::{E2M1_BLOCK, Experts, Gate, Routing, Score, Weights};
use crate::linear::Matrix;
use crate::testing::{DTYPES, Tolerance, assert_close, devices, message, tensor, to_bits, to_f64};
use candle_core::{DType, Device, Result, Tensor};

/// Sums of products, as long as the inputs are.
pub(super) const TOLERANCE: Tolerance = Tolerance { f32: 2e-5, bf16: 1.2e-2 };
const WEIGHT_TOLERANCE: f64 = 2e-6;

/// (tokens, experts, per_token), from the least to more than a sweep of a block.
pub(super) const CHOICES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 8, 2), (3, 40, 7), (2, 33, 33), (70, 8, 2), (300, 4, 1), (5, 512, 8)];

/// All kinds.
pub(super) fn gates(per_token: usize) -> [Gate; 4] {
    let sigmoid = Gate { score: Score::Sigmoid, factor: 2.5, ..Gate::softmax(per_token) };
    let of_all = |gate| Gate { is_normalised: false, ..gate };
    [Gate::softmax(per_token), of_all(Gate::softmax(per_token)), sigmoid, of_all(sigmoid)]
}

/// Experts of tokens and their weights as they should be.
pub(super) fn chosen(
    logits: &Tensor,
    bias: Option<&Tensor>,
    gate: Gate,
) -> Result<(Vec<u32>, Vec<f64>)> {
    let (num_experts, is_softmax) = (logits.dims()[1], gate.score == Score::Softmax);
    let bias = bias.map_or(Ok(vec![0.0; num_experts]), to_f64)?;
    let (mut experts, mut weights) = (Vec::new(), Vec::new());
    for row in to_f64(logits)?.chunks(num_experts) {
        let scores: Vec<f64> =
            row.iter().map(|x| if is_softmax { *x } else { 1.0 / (1.0 + (-x).exp()) }).collect();
        let biased: Vec<f64> = scores.iter().zip(&bias).map(|(x, bias)| x + bias).collect();
        let mut order: Vec<usize> = (0..num_experts).collect();
        order.sort_by(|&a, &b| biased[b].total_cmp(&biased[a]).then(a.cmp(&b)));
        let part =
            |expert: &usize| if is_softmax { biased[*expert].exp() } else { scores[*expert] };
        let chosen = &order[..gate.per_token];
        let total: f64 = match (is_softmax, gate.is_normalised) {
            (_, true) => chosen.iter().map(part).sum(),
            (true, false) => order.iter().map(part).sum(),
            (false, false) => 1.0,
        };
        experts.extend(chosen.iter().map(|expert| *expert as u32));
        weights.extend(chosen.iter().map(|expert| part(expert) / total * f64::from(gate.factor)));
    }
    Ok((experts, weights))
}

/// Logits with ties.
pub(super) fn logits(tokens: usize, num_experts: usize, device: &Device) -> Result<Tensor> {
    let logits = (tensor(1, &[tokens, num_experts], DType::F32, device)? * 40.0)?;
    logits.round()? / 10.0
}

pub(super) fn assert_chosen(choice: &Tensor, (experts, weights): &(Vec<u32>, Vec<f64>)) {
    let [actual, bits] = [0, 1].map(|half| {
        let half = choice.get(half).and_then(|half| half.flatten_all());
        half.and_then(|half| half.to_vec1::<u32>()).expect("u32")
    });
    assert_eq!(&actual, experts);
    for (actual, expected) in bits.into_iter().map(f32::from_bits).zip(weights) {
        assert!((f64::from(actual) - expected).abs() < WEIGHT_TOLERANCE, "{actual} {expected}");
    }
}

/// Rows of x times the weights of their experts, and their biases. weight `[experts, out, in]`, bias
/// `[experts, out]`
pub(super) fn products(
    x: &Tensor,
    sources: &[usize],
    (weight, bias): (&Tensor, Option<&Tensor>),
    experts: &[u32],
) -> Result<Vec<f64>> {
    let (_, out_features, in_features) = weight.dims3()?;
    let (x, weight) = (to_f64(x)?, to_f64(weight)?);
    let bias = bias.map(to_f64).transpose()?;
    let mut y = Vec::new();
    for (source, expert) in sources.iter().zip(experts) {
        let x = &x[source * in_features..][..in_features];
        let weight = &weight[*expert as usize * out_features * in_features..];
        for (at, out) in weight.chunks(in_features).take(out_features).enumerate() {
            let bias = bias.as_ref().map_or(0.0, |bias| bias[*expert as usize * out_features + at]);
            y.push(bias + x.iter().zip(out).map(|(x, w)| x * w).sum::<f64>());
        }
    }
    Ok(y)
}

/// The weighted sum over each token's rows, and what is shared.
pub(super) fn combined(
    (y, shared): (&Tensor, Option<&Tensor>),
    places: &[u32],
    weights: &[f64],
    per_token: usize,
) -> Result<Vec<f64>> {
    let (values, width) = (to_f64(y)?, y.dims()[1]);
    let shared = shared.map(to_f64).transpose()?;
    let sum = |token: usize, i: usize| -> f64 {
        let choices = token * per_token..(token + 1) * per_token;
        let of_choice =
            |choice: usize| weights[choice] * values[places[choice] as usize * width + i];
        shared.as_ref().map_or(0.0, |shared| shared[token * width + i])
            + choices.map(of_choice).sum::<f64>()
    };
    Ok((0..weights.len() / per_token)
        .flat_map(|token| (0..width).map(move |i| (token, i)))
        .map(|(token, i)| sum(token, i))
        .collect())
}

/// On any device. weight `[experts, out, in]`
fn experts(weight: &Tensor, bias: Option<&Tensor>) -> Result<Experts> {
    if !weight.device().is_cpu() {
        return Experts::new(Weights::Stacked(weight.clone()), bias.cloned());
    }
    let matrices = (0..weight.dims()[0]).map(|expert| Matrix::new(&weight.get(expert)?));
    Experts::new(Weights::Packed(matrices.collect::<Result<_>>()?), bias.cloned())
}

/// Weights of 4 bits as they are held, and as they are. `[experts, out, in / 2]` u8, `[experts, out, in / 32]` u8,
/// `[experts, out, in]` f32
pub(super) fn e2m1(dims: [usize; 3], device: &Device) -> Result<[Tensor; 3]> {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let [num_experts, out_features, in_features] = dims;
    let len = num_experts * out_features * in_features;
    // Every value, beside every other.
    let fours: Vec<u8> = (0..len).map(|i| ((i * i / 3 + i * 7) % 16) as u8).collect();
    let bytes: Vec<u8> = fours.chunks(2).map(|two| two[0] | two[1] << 4).collect();
    let scales: Vec<u8> = (0..len / E2M1_BLOCK).map(|i| 119 + (i * 5 % 9) as u8).collect();
    let value = |(i, four): (usize, &u8)| {
        let magnitude = MAGNITUDES[usize::from(four & 7)];
        let value = if four & 8 == 0 { magnitude } else { -magnitude };
        value * 2f32.powi(i32::from(scales[i / E2M1_BLOCK]) - 127)
    };
    let values: Vec<f32> = fours.iter().enumerate().map(value).collect();
    Ok([
        Tensor::from_vec(bytes, (num_experts, out_features, in_features / 2), device)?,
        Tensor::from_vec(scales, (num_experts, out_features, in_features / E2M1_BLOCK), device)?,
        Tensor::from_vec(values, (num_experts, out_features, in_features), device)?,
    ])
}

/// Weights of a byte, their scales, and what they are. `[experts, out, in]` e4m3, `[experts, out]` f32,
/// `[experts, out, in]` f32
pub(super) fn e4m3(dims: [usize; 3], device: &Device) -> Result<[Tensor; 3]> {
    let [num_experts, out_features, _] = dims;
    let weight = (tensor(5, &dims, DType::F32, device)? * 100.0)?.to_dtype(DType::F8E4M3)?;
    let scales = (tensor(6, &[num_experts, out_features], DType::F32, device)?.abs()? / 100.0)?;
    let values = weight.to_dtype(DType::F32)?.broadcast_mul(&scales.unsqueeze(2)?)?;
    Ok([weight, scales, values])
}

#[test]
fn the_largest_scores_are_chosen() -> Result<()> {
    for device in devices() {
        for (tokens, num_experts, per_token) in CHOICES {
            for gate in gates(per_token) {
                let logits = logits(tokens, num_experts, &device)?;
                let expected = chosen(&logits, None, gate)?;
                assert_chosen(&Routing::new(&logits, None, gate)?.choice, &expected);
            }
        }
    }
    Ok(())
}

#[test]
fn rows_are_multiplied_by_their_experts() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for (tokens, num_experts, per_token) in CHOICES {
                let logits = logits(tokens, num_experts, &device)?;
                let (list, weights) = chosen(&logits, None, Gate::softmax(per_token))?;
                let routing = Routing::new(&logits, None, Gate::softmax(per_token))?;
                let up = tensor(2, &[num_experts, 24, 40], dtype, &device)?;
                let down = tensor(3, &[num_experts, 40, 24], dtype, &device)?;
                let x = tensor(4, &[tokens, 40], dtype, &device)?;
                let (order, places, _) = super::cpu::sort(&list, num_experts);
                let list: Vec<u32> = order.iter().map(|choice| list[*choice as usize]).collect();
                let sources: Vec<_> = order.iter().map(|c| *c as usize / per_token).collect();
                let bias = tensor(5, &[num_experts, 24], dtype, &device)?;
                let inner = experts(&up, Some(&bias))?.forward_tokens(&x, &routing)?;
                assert_eq!((inner.dims(), inner.dtype()), ([list.len(), 24].as_slice(), dtype));
                let expected = products(&x, &sources, (&up, Some(&bias)), &list)?;
                assert_close(&inner, &expected, TOLERANCE);
                let y = experts(&down, None)?.forward_rows(&inner, &routing)?;
                let rows: Vec<usize> = (0..list.len()).collect();
                assert_close(&y, &products(&inner, &rows, (&down, None), &list)?, TOLERANCE);
                let shared = tensor(6, &[tokens, 40], dtype, &device)?;
                for shared in [None, Some(&shared)] {
                    let sum = routing.combine(&y, shared)?;
                    assert_eq!(sum.dims(), [tokens, 40]);
                    let expected = combined((&y, shared), &places, &weights, per_token)?;
                    assert_close(&sum, &expected, TOLERANCE);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_bias_decides_with_the_scores() -> Result<()> {
    for device in devices() {
        let logits = logits(70, 8, &device)?;
        let bias = tensor(3, &[8], DType::F32, &device)?;
        for gate in gates(3) {
            let expected = chosen(&logits, Some(&bias), gate)?;
            assert_chosen(&Routing::new(&logits, Some(&bias), gate)?.choice, &expected);
        }
    }
    Ok(())
}

#[test]
fn weights_of_fewer_bits_are_multiplied_exactly() -> Result<()> {
    for device in devices().into_iter().filter(|device| !device.is_cpu()) {
        for dtype in [DType::F32, DType::BF16] {
            for (tokens, per_token, out, inner) in
                [(1, 2, 16, 32), (9, 3, 130, 96), (150, 2, 48, 320), (5, 2, 24, 4_096)]
            {
                let logits = logits(tokens, 5, &device)?;
                let (list, _) = chosen(&logits, None, Gate::softmax(per_token))?;
                let routing = Routing::new(&logits, None, Gate::softmax(per_token))?;
                let (order, ..) = super::cpu::sort(&list, 5);
                let list: Vec<u32> = order.iter().map(|choice| list[*choice as usize]).collect();
                let sources: Vec<_> = order.iter().map(|c| *c as usize / per_token).collect();
                let x = tensor(4, &[tokens, inner], dtype, &device)?;
                let bias = tensor(5, &[5, out], dtype, &device)?;
                let [weight, scales, of_e2m1] = e2m1([5, out, inner], &device)?;
                let four = Weights::E2m1 { weight, scales };
                let [weight, scales, of_e4m3] = e4m3([5, out, inner], &Device::Cpu)?;
                let [weight, scales] = [weight.to_device(&device)?, scales.to_device(&device)?];
                let eight = Weights::E4m3 { weight, scales };
                for (weights, values) in [(four, of_e2m1), (eight, of_e4m3)] {
                    let experts = Experts::new(weights, Some(bias.clone()))?;
                    let y = experts.forward_tokens(&x, &routing)?;
                    let expected = products(&x, &sources, (&values, Some(&bias)), &list)?;
                    assert_close(&y, &expected, TOLERANCE);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_token_is_the_same_in_any_batch() -> Result<()> {
    for device in devices() {
        let logits = logits(90, 8, &device)?;
        let x = tensor(2, &[90, 64], DType::BF16, &device)?;
        let experts = experts(&tensor(3, &[8, 48, 64], DType::BF16, &device)?, None)?;
        let run = |first: usize, len: usize| {
            let routing = Routing::new(&logits.narrow(0, first, len)?, None, Gate::softmax(2))?;
            routing.combine(&experts.forward_tokens(&x.narrow(0, first, len)?, &routing)?, None)
        };
        let all = run(0, 90)?;
        for (first, len) in [(0, 1), (17, 1), (80, 10)] {
            let bits = to_bits(&all.narrow(0, first, len)?)?;
            assert_eq!(to_bits(&run(first, len)?)?, bits);
        }
    }
    Ok(())
}

/// Every token gets experts, whatever its logits are.
#[test]
fn what_is_no_number_is_chosen_last() -> Result<()> {
    for device in devices() {
        let rows = [[f32::NAN, 1.0, f32::NAN], [f32::NAN; 3], [f32::NEG_INFINITY, 2.0, 3.0]];
        for gate in gates(2) {
            let routing = Routing::new(&Tensor::new(&rows, &device)?, None, gate)?;
            let experts: Vec<Vec<u32>> = routing.choice.get(0)?.to_vec2()?;
            assert_eq!(experts, [[1, 0], [0, 1], [2, 1]]);
        }
    }
    Ok(())
}

#[test]
fn sigmoids_of_nothing_give_no_weight() -> Result<()> {
    for device in devices() {
        let logits = Tensor::new(&[[-200f32, -200.0, -300.0]], &device)?;
        let bits: Vec<Vec<u32>> =
            Routing::new(&logits, None, gates(2)[2])?.choice.get(1)?.to_vec2()?;
        assert_eq!(bits, [[0, 0]], "0 of 0 is no number");
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let logits = logits(4, 6, &Device::Cpu)?;
    for per_token in [0, 7] {
        assert!(
            message(Routing::new(&logits, None, Gate::softmax(per_token)))
                .contains("cannot be chosen")
        );
    }
    assert!(
        message(Routing::new(&logits.t()?, None, Gate::softmax(2))).contains("must be contiguous")
    );
    let narrow = logits.to_dtype(DType::BF16)?;
    assert!(message(Routing::new(&narrow, None, Gate::softmax(2))).contains("logits must be F32"));
    let routing = Routing::new(&logits, None, Gate::softmax(2))?;
    let layer = experts(&tensor(1, &[6, 3, 5], DType::F32, &Device::Cpu)?, None)?;
    let x = |rows, width| tensor(1, &[rows, width], DType::F32, &Device::Cpu);
    assert!(message(layer.forward_tokens(&x(3, 5)?, &routing)).contains("must have shape [4, 5]"));
    assert!(message(layer.forward_rows(&x(4, 5)?, &routing)).contains("must have shape [8, 5]"));
    assert!(message(layer.forward_tokens(&x(4, 6)?, &routing)).contains("must be [tokens, 5]"));
    let fewer = experts(&tensor(1, &[5, 3, 5], DType::F32, &Device::Cpu)?, None)?;
    assert!(message(fewer.forward_tokens(&x(4, 5)?, &routing)).contains("5 experts, not 6"));
    assert!(message(routing.combine(&x(4, 5)?, None)).contains("y must have shape [8, 5]"));
    let shared = x(4, 6)?;
    let sum = routing.combine(&x(8, 5)?, Some(&shared));
    assert!(message(sum).contains("the shared part must have shape [4, 5]"));
    let biased = Routing::new(&logits, Some(&x(1, 6)?), Gate::softmax(2));
    assert!(message(biased).contains("the bias must have shape [6]"));
    let narrow = x(1, 6)?.flatten_all()?.to_dtype(DType::BF16)?;
    assert!(
        message(Routing::new(&logits, Some(&narrow), Gate::softmax(2)))
            .contains("bias must be F32")
    );
    let [weight, scales, values] = e2m1([6, 3, 64], &Device::Cpu)?;
    let odd = Weights::E2m1 { weight: weight.narrow(2, 0, 24)?, scales: scales.clone() };
    assert!(message(Experts::new(odd, None)).contains("multiple of 32, there are 48"));
    let of = |weights, bias: Option<&Tensor>| message(Experts::new(weights, bias.cloned()));
    let stacked = Weights::Stacked(values.clone());
    assert!(of(stacked, Some(&x(3, 6)?)).contains("biases must have shape [6, 3]"));
    let fewer = Weights::E2m1 { weight: weight.clone(), scales: scales.narrow(2, 0, 1)? };
    assert!(of(fewer, None).contains("scales must have shape [6, 3, 2]"));
    let wide = Weights::E2m1 { weight, scales: scales.to_dtype(DType::F32)? };
    assert!(of(wide, None).contains("scales U8"));
    assert!(of(Weights::Packed(Vec::new()), None).contains("no experts"));
    Ok(())
}
