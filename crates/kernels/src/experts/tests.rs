//! Layers of experts against a plain f64 reference.

use super::{Experts, Routing};
use crate::linear::Matrix;
use crate::testing::{DTYPES, Tolerance, assert_close, devices, message, tensor, to_bits, to_f64};
use candle_core::{DType, Device, Result, Tensor};

/// Sums of products, as long as the inputs are.
pub(super) const TOLERANCE: Tolerance = Tolerance { f32: 2e-5, bf16: 1.2e-2 };
const WEIGHT_TOLERANCE: f64 = 2e-6;

/// (tokens, experts, per_token), from the least to more than a sweep of a block.
pub(super) const CHOICES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 8, 2), (3, 40, 7), (2, 33, 33), (70, 8, 2), (300, 4, 1), (5, 512, 8)];

/// Experts of tokens and their weights as they should be.
pub(super) fn chosen(
    logits: &Tensor,
    per_token: usize,
    is_normalised: bool,
) -> Result<(Vec<u32>, Vec<f64>)> {
    let num_experts = logits.dims()[1];
    let (mut experts, mut weights) = (Vec::new(), Vec::new());
    for row in to_f64(logits)?.chunks(num_experts) {
        let mut order: Vec<usize> = (0..num_experts).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        let among = if is_normalised { &order[..per_token] } else { &order[..] };
        let total: f64 = among.iter().map(|expert| row[*expert].exp()).sum();
        for expert in &order[..per_token] {
            experts.push(*expert as u32);
            weights.push(row[*expert].exp() / total);
        }
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

/// Rows of x times the weights of their experts. weight `[experts, out, in]`
pub(super) fn products(
    x: &Tensor,
    sources: &[usize],
    weight: &Tensor,
    experts: &[u32],
) -> Result<Vec<f64>> {
    let (_, out_features, in_features) = weight.dims3()?;
    let (x, weight) = (to_f64(x)?, to_f64(weight)?);
    let mut y = Vec::new();
    for (source, expert) in sources.iter().zip(experts) {
        let x = &x[source * in_features..][..in_features];
        let weight = &weight[*expert as usize * out_features * in_features..];
        for out in weight.chunks(in_features).take(out_features) {
            y.push(x.iter().zip(out).map(|(x, w)| x * w).sum());
        }
    }
    Ok(y)
}

/// The weighted sum over each token's rows.
pub(super) fn combined(
    y: &Tensor,
    places: &[u32],
    weights: &[f64],
    per_token: usize,
) -> Result<Vec<f64>> {
    let (values, width) = (to_f64(y)?, y.dims()[1]);
    let sum = |token: usize, i: usize| -> f64 {
        let choices = token * per_token..(token + 1) * per_token;
        choices.map(|choice| weights[choice] * values[places[choice] as usize * width + i]).sum()
    };
    Ok((0..weights.len() / per_token)
        .flat_map(|token| (0..width).map(move |i| (token, i)))
        .map(|(token, i)| sum(token, i))
        .collect())
}

/// On any device. weight `[experts, out, in]`
fn experts(weight: &Tensor) -> Result<Experts> {
    if !weight.device().is_cpu() {
        return Ok(Experts::Stacked(weight.clone()));
    }
    let matrices = (0..weight.dims()[0]).map(|expert| Matrix::new(&weight.get(expert)?));
    Ok(Experts::Packed(matrices.collect::<Result<_>>()?))
}

#[test]
fn the_largest_logits_are_chosen() -> Result<()> {
    for device in devices() {
        for (tokens, num_experts, per_token) in CHOICES {
            for is_normalised in [false, true] {
                let logits = logits(tokens, num_experts, &device)?;
                let expected = chosen(&logits, per_token, is_normalised)?;
                assert_chosen(&Routing::new(&logits, per_token, is_normalised)?.choice, &expected);
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
                let (list, weights) = chosen(&logits, per_token, true)?;
                let routing = Routing::new(&logits, per_token, true)?;
                let up = tensor(2, &[num_experts, 24, 40], dtype, &device)?;
                let down = tensor(3, &[num_experts, 40, 24], dtype, &device)?;
                let x = tensor(4, &[tokens, 40], dtype, &device)?;
                let (order, places, _) = super::cpu::sort(&list, num_experts);
                let list: Vec<u32> = order.iter().map(|choice| list[*choice as usize]).collect();
                let sources: Vec<_> = order.iter().map(|c| *c as usize / per_token).collect();
                let inner = experts(&up)?.forward_tokens(&x, &routing)?;
                assert_eq!((inner.dims(), inner.dtype()), ([list.len(), 24].as_slice(), dtype));
                assert_close(&inner, &products(&x, &sources, &up, &list)?, TOLERANCE);
                let y = experts(&down)?.forward_rows(&inner, &routing)?;
                let rows: Vec<usize> = (0..list.len()).collect();
                assert_close(&y, &products(&inner, &rows, &down, &list)?, TOLERANCE);
                let sum = routing.combine(&y)?;
                assert_eq!(sum.dims(), [tokens, 40]);
                assert_close(&sum, &combined(&y, &places, &weights, per_token)?, TOLERANCE);
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
        let experts = experts(&tensor(3, &[8, 48, 64], DType::BF16, &device)?)?;
        let run = |first: usize, len: usize| {
            let routing = Routing::new(&logits.narrow(0, first, len)?, 2, true)?;
            routing.combine(&experts.forward_tokens(&x.narrow(0, first, len)?, &routing)?)
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
        let routing = Routing::new(&Tensor::new(&rows, &device)?, 2, true)?;
        let experts: Vec<Vec<u32>> = routing.choice.get(0)?.to_vec2()?;
        assert_eq!(experts, [[1, 0], [0, 1], [2, 1]]);
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let logits = logits(4, 6, &Device::Cpu)?;
    for per_token in [0, 7] {
        assert!(message(Routing::new(&logits, per_token, true)).contains("cannot be chosen"));
    }
    assert!(message(Routing::new(&logits.t()?, 2, true)).contains("must be contiguous"));
    let narrow = logits.to_dtype(DType::BF16)?;
    assert!(message(Routing::new(&narrow, 2, true)).contains("logits must be F32"));
    let routing = Routing::new(&logits, 2, true)?;
    let layer = experts(&tensor(1, &[6, 3, 5], DType::F32, &Device::Cpu)?)?;
    let x = |rows, width| tensor(1, &[rows, width], DType::F32, &Device::Cpu);
    assert!(message(layer.forward_tokens(&x(3, 5)?, &routing)).contains("must have shape [4, 5]"));
    assert!(message(layer.forward_rows(&x(4, 5)?, &routing)).contains("must have shape [8, 5]"));
    assert!(message(layer.forward_tokens(&x(4, 6)?, &routing)).contains("must be [tokens, 5]"));
    let fewer = experts(&tensor(1, &[5, 3, 5], DType::F32, &Device::Cpu)?)?;
    assert!(message(fewer.forward_tokens(&x(4, 5)?, &routing)).contains("5 experts, not 6"));
    assert!(message(routing.combine(&x(4, 5)?)).contains("y must have shape [8, 5]"));
    Ok(())
}
