//! The sampler against a naive f64 reference that sorts, and its statistics.

use super::philox::uniform;
use super::{
    Ragged, RaggedVec, RowFault, SampleBatch, SampleRow, Sampled, TokenLogprobs, read_records,
    sample, score,
};
use crate::testing::{devices, message, values};
use candle_core::{Device, Result, Tensor};

/// Logits in [-scale, scale).
pub(super) fn logits(seed: u64, vocab: usize, scale: f32) -> Vec<f32> {
    values(seed, vocab).into_iter().map(|x| x * scale).collect()
}

/// `[rows, vocab]`, a view that starts inside its storage.
pub(super) fn stack(rows: &[Vec<f32>], device: &Device) -> Result<Tensor> {
    let vocab = rows[0].len();
    let all = [vec![f32::NAN; vocab], rows.concat()].concat();
    Tensor::from_vec(all, (rows.len() + 1, vocab), device)?.narrow(0, 1, rows.len())
}

fn sample_rows(rows: &[Vec<f32>], params: &[SampleRow], device: &Device) -> Result<Vec<Sampled>> {
    let batch = SampleBatch { rows: params, ..Default::default() };
    let rows = read_records(&sample(&stack(rows, device)?, &batch)?)?;
    Ok(rows.into_iter().map(|row| row.expect("a row that can be sampled")).collect())
}

fn score_rows(logits: &Tensor, targets: &[u32], num_top: u32) -> Result<Vec<TokenLogprobs>> {
    let scored = read_records(&score(logits, targets, num_top)?)?;
    let scored = scored.into_iter().map(|row| row.expect("a row that can be scored"));
    let (ids, logprobs): (Vec<_>, Vec<_>) =
        scored.map(|row| (row.id, row.logprobs.expect("asked for"))).unzip();
    assert_eq!(ids, targets);
    Ok(logprobs)
}

/// Ids by falling logit, then rising id.
pub(super) fn sorted(logits: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    ids
}

/// Probabilities of what is left after all filters.
pub(super) fn reference(logits: &[f32], params: &SampleRow) -> Vec<f64> {
    let order = sorted(logits);
    let max = f64::from(logits[order[0]]);
    let weight = |id: usize| ((f64::from(logits[id]) - max) / f64::from(params.temperature)).exp();
    let mut kept: Vec<usize> =
        order.into_iter().filter(|&id| weight(id) >= f64::from(params.min_p)).collect();
    if params.top_k > 0 {
        kept.truncate(params.top_k as usize);
    }
    let total: f64 = kept.iter().map(|&id| weight(id)).sum();
    let mut sum = 0.0;
    let enough = |&id: &usize| {
        sum += weight(id);
        sum >= (f64::from(params.top_p) - 1e-7) * total
    };
    if params.top_p < 1.0
        && let Some(last) = kept.iter().position(enough)
    {
        kept.truncate(last + 1);
    }
    let total: f64 = kept.iter().map(|&id| weight(id)).sum();
    let mut probabilities = vec![0.0; logits.len()];
    for id in kept {
        probabilities[id] = weight(id) / total;
    }
    probabilities
}

/// Every filter alone and all of them together.
pub(super) fn filters() -> Vec<SampleRow> {
    let mut rows = Vec::new();
    for temperature in [1.0, 0.6, 1.7] {
        for (top_k, top_p, min_p) in [
            (0, 1.0, 0.0),
            (1, 1.0, 0.0),
            (7, 1.0, 0.0),
            (0, 0.5, 0.0),
            (0, 0.97, 0.0),
            (0, 1.0, 0.2),
            (20, 0.9, 0.01),
        ] {
            rows.push(SampleRow { temperature, top_p, top_k, min_p, ..Default::default() });
        }
    }
    rows
}

#[test]
fn draws_what_the_inverse_cdf_of_the_reference_gives() -> Result<()> {
    for device in devices() {
        for (vocab, scale) in [(1, 1.0), (5, 3.0), (50, 4.0), (1003, 8.0), (40_000, 12.0)] {
            let row = logits(vocab as u64, vocab, scale);
            for filter in filters() {
                let params: Vec<SampleRow> =
                    (0..8).map(|position| SampleRow { seed: 5, position, ..filter }).collect();
                let drawn = sample_rows(&vec![row.clone(); 8], &params, &device)?;
                let probabilities = reference(&row, &filter);
                for (params, drawn) in params.iter().zip(drawn) {
                    let target = uniform(params.seed, params.position);
                    let id = drawn.id as usize;
                    let before: f64 = probabilities[..id].iter().sum();
                    let within = before - 1e-5..=before + probabilities[id] + 1e-5;
                    assert!(probabilities[id] > 0.0, "{id} is filtered out: {params:?}");
                    assert!(within.contains(&target), "{target} is not in {within:?}: {params:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn frequencies_match_probabilities() -> Result<()> {
    const DRAWS: usize = 20_000;
    for device in devices() {
        let row = logits(3, 40, 3.0);
        for filter in filters() {
            let params: Vec<SampleRow> = (0..DRAWS as u64)
                .map(|i| SampleRow { seed: 1 + i % 3, position: i / 3, ..filter })
                .collect();
            let mut counts = vec![0.0; row.len()];
            for drawn in sample_rows(&vec![row.clone(); DRAWS], &params, &device)? {
                counts[drawn.id as usize] += 1.0;
            }
            let expected = reference(&row, &filter).into_iter().map(|p| p * DRAWS as f64);
            let (mut chi_square, mut degrees) = (0.0, -1.0);
            for (count, expected) in counts.iter().zip(expected) {
                if expected == 0.0 {
                    assert_eq!(*count, 0.0);
                } else if expected >= 5.0 {
                    chi_square += (count - expected).powi(2) / expected;
                    degrees += 1.0;
                }
            }
            // Mean and four standard deviations; the seeds are fixed, so it passes or it does not.
            let limit = degrees + 4.0 * (2.0f64 * degrees).sqrt();
            assert!(chi_square <= limit, "chi square {chi_square} of {degrees}: {filter:?}");
        }
    }
    Ok(())
}

#[test]
fn equal_logits_are_ranked_by_id() -> Result<()> {
    for device in devices() {
        let row = vec![1.0f32, 2.0, 2.0, -1.0, 2.0, 2.0, 0.0, -0.0];
        let greedy = SampleRow { temperature: 0.0, num_top: Some(9), ..Default::default() };
        let drawn = &sample_rows(std::slice::from_ref(&row), &[greedy], &device)?[0];
        let logprobs = drawn.logprobs.as_ref().unwrap();
        let order: Vec<u32> = logprobs.top.iter().map(|top| top.0).collect();
        assert_eq!((drawn.id, logprobs.rank), (1, 1));
        assert_eq!(order, [1, 2, 4, 5, 0, 6, 7, 3]);
        let ranks: Vec<u32> =
            score_rows(&stack(&vec![row.clone(); 8], &device)?, &[0, 1, 2, 3, 4, 5, 6, 7], 0)?
                .iter()
                .map(|scored| scored.rank)
                .collect();
        assert_eq!(ranks, [5, 1, 2, 8, 3, 4, 6, 7]);
        for (filter, possible) in [
            (SampleRow { top_k: 2, ..Default::default() }, &[1, 2][..]),
            (SampleRow { top_p: 0.4, temperature: 1e-3, ..Default::default() }, &[1, 2]),
            (SampleRow { min_p: 1.0, ..Default::default() }, &[1, 2, 4, 5]),
        ] {
            let params: Vec<SampleRow> =
                (0..200).map(|position| SampleRow { position, ..filter }).collect();
            let mut seen: Vec<u32> = sample_rows(&vec![row.clone(); 200], &params, &device)?
                .iter()
                .map(|drawn| drawn.id)
                .collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, possible);
        }
    }
    Ok(())
}

#[test]
fn logprobs_equal_the_reference() -> Result<()> {
    for device in devices() {
        for vocab in [3, 1003, 40_000] {
            let row = logits(vocab as u64, vocab, 9.0);
            let order = sorted(&row);
            let max = f64::from(row[order[0]]);
            let total: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
            let logprob = |id: usize| f64::from(row[id]) - max - total.ln();
            let targets = [order[0], order[1], order[vocab / 2], order[vocab - 1]];
            let tensor = stack(&vec![row.clone(); 4], &device)?;
            for num_top in [0, 1, 20, 200] {
                let scored = score_rows(&tensor, &targets.map(|id| id as u32), num_top)?;
                for ((scored, id), rank) in
                    scored.iter().zip(targets).zip([1, 2, vocab / 2 + 1, vocab])
                {
                    assert!((f64::from(scored.logprob) - logprob(id)).abs() < 2e-6);
                    assert_eq!(scored.rank as usize, rank);
                    assert_eq!(scored.top.len(), vocab.min(num_top as usize));
                    for (top, &id) in scored.top.iter().zip(&order) {
                        assert_eq!(top.0 as usize, id);
                        assert!((f64::from(top.1) - logprob(id)).abs() < 2e-6);
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn edits_come_in_order_and_are_what_logprobs_show() -> Result<()> {
    for device in devices() {
        let row = vec![2.0f32, -2.0, 1.0, 3.0, 0.5, 4.0, -1.0];
        let params = SampleRow {
            temperature: 0.0,
            repetition_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            num_top: Some(7),
            mask: Some(1),
            ..Default::default()
        };
        let (mut prompt, mut output) = (RaggedVec::default(), RaggedVec::default());
        let (mut bias, mut banned) = (RaggedVec::default(), RaggedVec::default());
        prompt.push_row([]);
        output.push_row([]);
        bias.push_row([(4, -7.5)]);
        banned.push_row([]);
        prompt.push_row([0, 1, 1]); // 0 is halved, -2 doubled, once
        output.push_row([(1, 3), (2, 1)]); // -4 - 3 * 0.5 - 0.25, 0.5 - 0.5 - 0.25
        bias.push_row([(1, 10.0), (6, 1.5)]);
        banned.push_row([5]);
        let batch = SampleBatch {
            rows: &[SampleRow { num_top: Some(7), ..Default::default() }, params],
            prompt_tokens: prompt.view(),
            output_counts: output.view(),
            bias: bias.view(),
            banned: banned.view(),
            masks: &[0, 0b111_0111],
        };
        let drawn = read_records(&sample(&stack(&[row.clone(), row], &device)?, &batch)?)?;
        let drawn: Vec<_> = drawn.into_iter().map(|row| row.expect("it can be sampled")).collect();
        let expected: [f64; 7] = [1.0, 4.25, -0.25, f64::NEG_INFINITY, 0.5, f64::NEG_INFINITY, 0.5];
        let log_total = expected.iter().map(|x| x.exp()).sum::<f64>().ln();
        let logprobs = drawn[1].logprobs.as_ref().unwrap();
        assert_eq!(drawn[1].id, 1);
        assert_eq!(logprobs.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 0, 4, 6, 2]);
        for &(id, logprob) in &logprobs.top {
            assert!((f64::from(logprob) - (expected[id as usize] - log_total)).abs() < 1e-6);
        }
        let other = drawn[0].logprobs.as_ref().unwrap();
        assert_eq!(other.top.iter().map(|top| top.0).collect::<Vec<_>>(), [5, 3, 0, 2, 6, 1, 4]);
    }
    Ok(())
}

#[test]
fn a_row_is_the_same_in_any_batch() -> Result<()> {
    for device in devices() {
        let rows: Vec<Vec<f32>> = (0..24).map(|seed| logits(seed, 5000, 9.0)).collect();
        let params: Vec<SampleRow> = (0..24)
            .zip(filters().into_iter().cycle())
            .map(|(seed, filter)| SampleRow { seed, position: seed, num_top: Some(3), ..filter })
            .collect();
        let together = sample_rows(&rows, &params, &device)?;
        for (i, expected) in together.iter().enumerate() {
            let alone = sample_rows(&rows[i..=i], &params[i..=i], &device)?;
            assert_eq!(alone[0], *expected);
        }
    }
    Ok(())
}

#[test]
fn rows_that_cannot_be_sampled_say_so_and_leave_their_neighbours() -> Result<()> {
    let device = Device::Cpu;
    let params = [SampleRow::default(); 3];
    for (at, bad) in [(0, f32::NAN), (999, f32::NAN), (1002, f32::INFINITY)] {
        let mut rows = vec![logits(1, 1003, 4.0); 3];
        let sound = sample_rows(&rows, &params, &device)?;
        rows[1][at] = bad;
        let batch = SampleBatch { rows: &params, ..Default::default() };
        let stacked = stack(&rows, &device)?;
        let sampled = read_records(&sample(&stacked, &batch)?)?;
        let expected = [Ok(sound[0].clone()), Err(RowFault::NotFinite), Ok(sound[2].clone())];
        assert_eq!(sampled, expected);
        let scored = read_records(&score(&stacked, &[0, 0, 0], 1)?)?;
        assert_eq!(scored[1], Err(RowFault::NotFinite));
        assert!(scored[0].is_ok() && scored[0] == scored[2]);
    }
    let rows = stack(&vec![logits(1, 40, 4.0); 3], &device)?;
    let masked = [params[0], params[0], SampleRow { mask: Some(0), num_top: Some(2), ..params[0] }];
    let batch = SampleBatch { rows: &masked, masks: &[0, 0], ..Default::default() };
    let sampled = read_records(&sample(&rows, &batch)?)?;
    assert!(sampled[0].is_ok() && sampled[1].is_ok());
    assert_eq!(sampled[2], Err(RowFault::NothingPossible));
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let rows = stack(&vec![logits(1, 40, 4.0); 2], &Device::Cpu)?;
    let params = [SampleRow::default(); 2];
    let plain = SampleBatch { rows: &params, ..Default::default() };
    let error = |batch| message(sample(&rows, &batch));
    let one = SampleBatch { rows: &params[..1], ..plain };
    assert!(error(one).contains("the batch has 1 rows, the logits 2"));
    let hot = [params[0], SampleRow { temperature: -1.0, ..params[0] }];
    assert!(error(SampleBatch { rows: &hot, ..plain }).contains("temperature of row 1"));
    let beyond = Ragged { starts: &[0, 0, 1], items: &[(40, 1.0)] };
    assert!(error(SampleBatch { bias: beyond, ..plain }).contains("id 40 in bias is beyond"));
    let short = Ragged { starts: &[0, 1], items: &[1] };
    assert!(error(SampleBatch { banned: short, ..plain }).contains("banned.starts must rise"));
    let masked = [params[0], SampleRow { mask: Some(1), ..params[0] }];
    let batch = SampleBatch { rows: &masked, masks: &[!0, !0], ..plain };
    assert!(error(batch).contains("row 1 names mask"));
    assert!(error(SampleBatch { masks: &[1], ..plain }).contains("masks must have 2 words each"));
    let strided = rows.t()?.contiguous()?.t()?;
    assert!(message(sample(&strided, &plain)).contains("logits must be contiguous"));
    assert!(message(score(&rows, &[1, 40], 0)).contains("target 40 of row 1"));
    assert!(message(score(&rows, &[1], 0)).contains("targets must be one for each of 2 rows"));
    Ok(())
}
