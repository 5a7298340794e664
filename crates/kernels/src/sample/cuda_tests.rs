//! The CUDA kernel of the sampler, on the host, against the CPU op.
//!
//! Both draw the same token but where rounding decides: the kernel's weights are f32 exponentials of
//! another library, summed exactly in units of 2^-44, the CPU's are summed in f32 and f64. So the two
//! may differ if the uniform number lies within 1e-6 of the border between two tokens, or if the sum
//! that top-p or the weight that min-p asks for is met within that.

use super::cuda::{SampleParams, plan};
use super::philox::uniform;
use super::tests::{filters, logits, reference, stack};
use super::{
    Ragged, RaggedVec, RowFault, SampleBatch, SampleRow, SampledRow, Upload, read_records, sample,
    score,
};
use crate::cuda::testing::{Input, from_bytes, launch};
use candle_core::{DType, Device, Error, Result, Tensor};

/// Samples on the host; `offset` elements lie before the logits.
fn run(logits: &Tensor, upload: &Upload, offset: usize) -> Result<Vec<SampledRow>> {
    let (num_rows, vocab_size) = logits.dims2()?;
    let width = upload.record_width();
    let bytes = cuda_host::on_device(|device| {
        let logits = Input::writable(device, logits, offset)?;
        let words = device.input(upload.words());
        let records = device.output::<u8>(num_rows * width * 4);
        let params = SampleParams {
            logits: logits.address(),
            words: words.address(),
            records: records.address(),
            vocab_size: vocab_size as i32,
            width: width as i32,
        };
        launch(device, &plan(num_rows, vocab_size), &params).map_err(Error::wrap)?;
        Ok::<_, Error>(records.read())
    })?;
    read_records(&from_bytes(&bytes, &[num_rows, width], DType::U32)?)
}

fn sample_host(logits: &Tensor, batch: &SampleBatch) -> Result<Vec<SampledRow>> {
    let (_, vocab_size) = logits.dims2()?;
    let mut upload = Upload::default();
    upload.fill(batch, vocab_size)?;
    let sampled = run(logits, &upload, 0)?;
    assert_eq!(run(logits, &upload, 1)?, sampled, "logits that are not aligned");
    Ok(sampled)
}

fn score_host(logits: &Tensor, targets: &[u32], num_top: u32) -> Result<Vec<SampledRow>> {
    let mut upload = Upload::default();
    upload.fill_targets(targets, num_top, logits.dims()[1])?;
    run(logits, &upload, 0)
}

/// The same but for the last digits of the log-probabilities.
fn assert_same(kernel: &[SampledRow], cpu: &[SampledRow]) {
    assert_eq!(kernel.len(), cpu.len());
    for (kernel, cpu) in kernel.iter().zip(cpu) {
        let (Ok(kernel), Ok(cpu)) = (kernel, cpu) else {
            assert_eq!(kernel, cpu);
            continue;
        };
        assert_eq!(kernel.id, cpu.id);
        assert_eq!(kernel.logprobs.is_some(), cpu.logprobs.is_some());
        let (Some(kernel), Some(cpu)) = (&kernel.logprobs, &cpu.logprobs) else { continue };
        assert_eq!((kernel.rank, kernel.top.len()), (cpu.rank, cpu.top.len()));
        let pairs = kernel.top.iter().zip(&cpu.top).map(|(kernel, cpu)| {
            assert_eq!(kernel.0, cpu.0);
            (kernel.1, cpu.1)
        });
        for (kernel, cpu) in pairs.chain([(kernel.logprob, cpu.logprob)]) {
            assert!(kernel == cpu || (kernel - cpu).abs() < 2e-6, "{kernel} is not {cpu}");
        }
    }
}

#[test]
fn draws_what_the_cpu_draws() -> Result<()> {
    let mut num_differing = 0;
    for (vocab, scale) in [(1, 1.0), (5, 3.0), (50, 4.0), (1003, 8.0), (20_000, 12.0), (9000, 0.3)]
    {
        let row = logits(vocab as u64, vocab, scale);
        let params: Vec<SampleRow> = filters()
            .into_iter()
            .zip(0..)
            .map(|(filter, position)| SampleRow { seed: 5 << 33, position, ..filter })
            .collect();
        let tensor = stack(&vec![row.clone(); params.len()], &Device::Cpu)?;
        let batch = SampleBatch { rows: &params, ..Default::default() };
        let cpu = read_records(&sample(&tensor, &batch)?)?;
        for ((kernel, cpu), params) in sample_host(&tensor, &batch)?.iter().zip(cpu).zip(&params) {
            let (id, of_cpu) =
                (kernel.as_ref().expect("it can be sampled").id, cpu.expect("too").id);
            if id == of_cpu {
                continue;
            }
            num_differing += 1;
            let probabilities = reference(&row, params);
            let before: f64 = probabilities[..id as usize].iter().sum();
            let within = before - 1e-6..=before + probabilities[id as usize] + 1e-6;
            let target = uniform(params.seed, params.position);
            assert!(within.contains(&target), "{id}, not {of_cpu}: {params:?}");
        }
    }
    assert!(num_differing < 3, "{num_differing} rows differ");
    Ok(())
}

#[test]
fn equal_logits_are_ranked_by_id() -> Result<()> {
    let row = vec![1.0f32, 2.0, 2.0, -1.0, 2.0, 2.0, 0.0, -0.0];
    let tensor = stack(&vec![row.clone(); 8], &Device::Cpu)?;
    let targets = [0, 1, 2, 3, 4, 5, 6, 7];
    assert_same(&score_host(&tensor, &targets, 9)?, &read_records(&score(&tensor, &targets, 9)?)?);
    for (filter, possible) in [
        (SampleRow { temperature: 0.0, ..Default::default() }, &[1][..]),
        (SampleRow { top_k: 2, ..Default::default() }, &[1, 2]),
        (SampleRow { top_p: 0.4, temperature: 1e-3, ..Default::default() }, &[1, 2]),
        (SampleRow { top_p: 0.0, ..Default::default() }, &[1]),
        (SampleRow { min_p: 1.0, ..Default::default() }, &[1, 2, 4, 5]),
        (SampleRow { top_k: 6, ..Default::default() }, &[0, 1, 2, 4, 5, 6]),
    ] {
        let params: Vec<SampleRow> =
            (0..24).map(|position| SampleRow { position, ..filter }).collect();
        let batch = SampleBatch { rows: &params, ..Default::default() };
        let drawn = sample_host(&stack(&vec![row.clone(); 24], &Device::Cpu)?, &batch)?;
        let mut seen: Vec<u32> = drawn.iter().map(|row| row.as_ref().unwrap().id).collect();
        seen.sort_unstable();
        seen.dedup();
        // The least likely of them may not have come up.
        assert!(seen.iter().all(|id| possible.contains(id)), "{seen:?} of {possible:?}");
        assert!(seen.len() + 1 >= possible.len(), "{seen:?} of {possible:?}");
    }
    Ok(())
}

#[test]
fn ties_across_segments_keep_exactly_k() -> Result<()> {
    // All equal: the first k ids are in, whichever segment the border falls into.
    let row = vec![0.25f32; 5000];
    for top_k in [1, 1023, 1024, 1025, 3000] {
        let params: Vec<SampleRow> = (0..8)
            .map(|position| SampleRow { top_k, position, num_top: Some(3), ..Default::default() })
            .collect();
        let tensor = stack(&vec![row.clone(); 8], &Device::Cpu)?;
        let batch = SampleBatch { rows: &params, ..Default::default() };
        let drawn = sample_host(&tensor, &batch)?;
        assert_same(&drawn, &read_records(&sample(&tensor, &batch)?)?);
        let most = drawn.iter().map(|row| row.as_ref().unwrap().id).max().unwrap();
        assert!(most < top_k && most + 1 > top_k / 2, "{most} of {top_k}");
    }
    Ok(())
}

#[test]
fn logprobs_equal_the_cpu() -> Result<()> {
    for vocab in [3, 1003, 20_000] {
        let tensor = stack(&vec![logits(vocab as u64, vocab, 9.0); 3], &Device::Cpu)?;
        let targets = [0, vocab as u32 / 2, vocab as u32 - 1];
        for num_top in [0, 1, 20, 200] {
            let cpu = read_records(&score(&tensor, &targets, num_top)?)?;
            assert_same(&score_host(&tensor, &targets, num_top)?, &cpu);
        }
    }
    Ok(())
}

#[test]
fn edits_equal_the_cpu() -> Result<()> {
    let vocab = 2050;
    let words = vocab_words(vocab);
    let penalised = SampleRow {
        temperature: 0.0,
        repetition_penalty: 2.0,
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        num_top: Some(50),
        mask: Some(1),
        ..Default::default()
    };
    let rows = [
        SampleRow { num_top: Some(7), ..Default::default() },
        penalised,
        SampleRow { mask: None, ..penalised },
        SampleRow { mask: Some(0), temperature: 1.0, top_k: 9, ..penalised },
    ];
    let (mut prompt, mut output) = (RaggedVec::default(), RaggedVec::default());
    let (mut bias, mut banned) = (RaggedVec::default(), RaggedVec::default());
    for row in 0..4u32 {
        let some = row > 0;
        let every = |step: u32| (0..2050u32).filter(move |id| some && id % step == row % step);
        prompt.push_row(every(7).chain(every(35)));
        output.push_row(every(5).map(|id| (id, id % 3)));
        bias.push_row(every(11).map(|id| (id, id as f32 / 300.0 - 3.0)));
        banned.push_row(every(13));
    }
    let masks: Vec<u32> = (0..2 * words as u32).map(|i| i.wrapping_mul(0x9e37_79b9) | 1).collect();
    let batch = SampleBatch {
        rows: &rows,
        prompt_tokens: prompt.view(),
        output_counts: output.view(),
        bias: bias.view(),
        banned: banned.view(),
        masks: &masks,
    };
    let logits: Vec<_> = (0..4).map(|seed| logits(seed, vocab, 6.0)).collect();
    let tensor = stack(&logits, &Device::Cpu)?;
    assert_same(&sample_host(&tensor, &batch)?, &read_records(&sample(&tensor, &batch)?)?);
    Ok(())
}

fn vocab_words(vocab: usize) -> usize {
    vocab.div_ceil(32)
}

#[test]
fn rows_that_give_no_token_leave_their_neighbours() -> Result<()> {
    for (at, bad) in [(0, f32::NAN), (999, f32::NAN), (1002, f32::INFINITY)] {
        let mut rows = vec![logits(1, 1003, 4.0); 3];
        rows[1][at] = bad;
        let tensor = stack(&rows, &Device::Cpu)?;
        let params = [SampleRow { num_top: Some(2), ..Default::default() }; 3];
        let batch = SampleBatch { rows: &params, ..Default::default() };
        let drawn = sample_host(&tensor, &batch)?;
        assert_eq!(drawn[1], Err(RowFault::NotFinite));
        assert_same(&drawn, &read_records(&sample(&tensor, &batch)?)?);
        assert_eq!(score_host(&tensor, &[0, 0, 0], 1)?[1], Err(RowFault::NotFinite));
    }
    let tensor = stack(&vec![logits(1, 40, 4.0); 2], &Device::Cpu)?;
    let params = [SampleRow::default(), SampleRow { mask: Some(0), ..Default::default() }];
    let banned = Ragged { starts: &[0, 1, 1], items: &[3] };
    let batch = SampleBatch { rows: &params, masks: &[0, 0], banned, ..Default::default() };
    let drawn = sample_host(&tensor, &batch)?;
    assert_eq!(drawn[1], Err(RowFault::NothingPossible));
    assert!(drawn[0].is_ok());
    Ok(())
}

#[test]
fn what_a_device_cannot_take_is_refused() {
    let mut upload = Upload::default();
    let rows = [SampleRow { num_top: Some(2000), ..Default::default() }];
    let batch = SampleBatch { rows: &rows, ..Default::default() };
    let error = upload.fill(&batch, 4000).expect_err("too many").to_string();
    assert!(error.contains("num_top is 2000, a CUDA device takes 1024"), "{error}");
    let error = upload.fill(&SampleBatch::default(), 1 << 20).expect_err("too large").to_string();
    assert!(error.contains("a CUDA device takes 524288"), "{error}");
}
