//! The golden checkpoints through the whole engine: what surrounds a request, how its prompt is cut
//! and where its keys lie cannot change its tokens, bit for bit, in f32 and in bf16.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device};
use engine::architecture::Architecture;
use engine::model::Communicator;
use engine::weights::Weights;
use engine::{
    Engine, EngineConfig, EngineHandle, EngineOptions, EngineStats, Event, FinishReason,
    MemoryPlan, Models, Quantization, Rank, Request, SamplingParams, TokenLogprobs,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Expected {
    cases: Vec<Case>,
}

/// A prompt and transformers' greedy continuation.
#[derive(Deserialize)]
struct Case {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

/// All that a request was told, in order.
#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    logprobs: Vec<Option<TokenLogprobs>>,
    prompt_scores: Vec<Option<TokenLogprobs>>,
    reason: Option<FinishReason>,
}

type Ask = (Vec<u32>, SamplingParams);

fn goldens() -> Vec<PathBuf> {
    // Cargo runs tests in the folder of their crate, the GPU check in one that has the same.
    let root = Path::new("golden");
    let mut folders: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn cases(golden: &Path) -> Vec<Case> {
    let text = fs::read(golden.join("expected.json")).unwrap();
    serde_json::from_slice::<Expected>(&text).unwrap().cases
}

/// With `tensor_parallel_size` on the next number of ranks that fits, as no other fits all.
fn start(golden: &Path, dtype: DType, options: &EngineOptions) -> EngineHandle {
    let text = fs::read(golden.join("config.json")).unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    let row = Architecture::find(models::registry(), &json).unwrap();
    let spec = (row.spec)(&json).unwrap();
    let options = EngineOptions { dtype: Some(dtype), ..options.clone() };
    let numbers = options.tensor_parallel_size.map_or(1..=1, |least| least..=8);
    let mut configs = numbers.map(|num_ranks| {
        let options = EngineOptions { tensor_parallel_size: Some(num_ranks), ..options.clone() };
        EngineConfig::resolve(&options, &spec)
    });
    let config = configs.find_map(Result::ok).unwrap();
    let plan = MemoryPlan::compute(&spec, &config, 4 << 30);
    let devices = vec![Device::Cpu; config.tensor_parallel_size];
    let group = match devices.len() {
        1 => vec![None],
        _ => Communicator::group(&devices)
            .unwrap()
            .into_iter()
            .map(|end| Some(Arc::new(end)))
            .collect(),
    };
    let rank = |communicator: Option<Arc<Communicator>>| {
        let weights = Weights::open(golden, &Device::Cpu, dtype).unwrap();
        let weights = weights.with_quantized(spec.quantized);
        let weights = weights.with_communicator(communicator.clone());
        let mut weights = weights.with_quantization(config.quantization_of(&spec));
        let model = (row.load)(&json, &mut weights, config.max_model_len).unwrap();
        let models = Models { model, draft: None };
        Rank { models, device: Device::Cpu, communicator }
    };
    let ranks = group.into_iter().map(rank).collect();
    Engine::start_ranks(ranks, (&spec, None), &plan, &[2], None).unwrap()
}

/// Room for everything, whole prompts, nothing shared.
fn roomy() -> EngineOptions {
    EngineOptions {
        max_model_len: Some(200),
        num_gpu_blocks_override: Some(1000),
        enable_prefix_caching: Some(false),
        ..EngineOptions::default()
    }
}

fn request(ask: &Ask) -> (Request, Receiver<Event>) {
    let (sender, receiver) = channel();
    let request = Request {
        prompt: ask.0.clone(),
        params: ask.1.clone(),
        priority: 0,
        share: None,
        deadline: None,
        cache_salt: None,
        constraint: None,
        sink: Box::new(move |event| sender.send(event).is_ok()),
    };
    (request, receiver)
}

fn collect(events: &Receiver<Event>) -> Answer {
    let mut answer = Answer::default();
    for event in events {
        match event {
            Event::Started { .. } => {}
            Event::PromptScored(scores) => answer.prompt_scores = scores,
            Event::Token { id, logprobs } => {
                answer.tokens.push(id);
                answer.logprobs.push(logprobs);
            }
            Event::Finished { reason, .. } => answer.reason = Some(reason),
            Event::Failed(error) => panic!("{error}"),
            Event::Pooled(_) => panic!("a vector"),
        }
    }
    assert!(answer.reason.is_some(), "every request ends");
    answer
}

fn alone(engine: &EngineHandle, asks: &[Ask]) -> Vec<Answer> {
    let one = |ask| {
        let (request, events) = request(ask);
        engine.submit(request).unwrap();
        collect(&events)
    };
    asks.iter().map(one).collect()
}

/// Half of the requests at once, the others when the first half is under way.
fn together(engine: &EngineHandle, asks: &[Ask]) -> Vec<Answer> {
    let (early, late) = asks.split_at(asks.len() / 2);
    let submit = |asks: &[Ask]| -> Vec<Receiver<Event>> {
        let (requests, events): (Vec<_>, Vec<_>) = asks.iter().map(request).unzip();
        engine.submit_all(requests).unwrap();
        events
    };
    let mut events = submit(early);
    while engine.stats().steps < 3 && !engine.is_idle() {
        thread::sleep(Duration::from_micros(50));
    }
    events.extend(submit(late));
    events.iter().map(collect).collect()
}

/// Every parameter in turn, prompts of 1 to 60 tokens, half of them with a common beginning.
fn asks() -> Vec<Ask> {
    (0..32_u32)
        .map(|n| {
            let pick = |salt: u32, bound: u32| (n * 7919 + salt * 104_729) % 1009 % bound;
            let common = if n % 2 == 0 { 0..33 } else { 0..0 };
            let own = (0..=pick(1, 27)).map(|at| 3 + (n * 31 + at * 17) % 128);
            let prompt = common.map(|at| 3 + at * 5 % 128).chain(own).collect();
            let params = SamplingParams {
                temperature: [0.0, 0.8, 1.5][pick(2, 3) as usize],
                top_p: if n % 3 == 0 { 0.9 } else { 1.0 },
                top_k: if n % 4 == 1 { 20 } else { 0 },
                min_p: if n % 5 == 2 { 0.02 } else { 0.0 },
                repetition_penalty: if n % 3 == 1 { 1.2 } else { 1.0 },
                presence_penalty: if n % 4 == 2 { 0.5 } else { 0.0 },
                frequency_penalty: if n % 4 == 3 { 0.3 } else { 0.0 },
                seed: u64::from(n),
                logit_bias: if n % 6 == 4 { [(7, 3.0), (9, -100.0)].into() } else { [].into() },
                allowed_token_ids: (n % 7 == 5).then(|| (0..90).collect()),
                logprobs: (n % 3 == 0).then_some(n % 5),
                prompt_logprobs: (n % 4 == 0).then_some(n % 3),
                second_text: None,
                max_tokens: 1 + pick(3, 30) as usize,
                min_tokens: if n % 5 == 3 { 4 } else { 0 },
                ignore_eos: n % 3 != 2,
                stop_token_ids: if n % 6 == 1 { vec![50, 51, 52] } else { vec![] },
            };
            (prompt, params)
        })
        .collect()
}

/// The same answers from an engine with other options, all requests at once.
fn assert_equal(options: &EngineOptions, enough: impl Fn(&EngineStats) -> bool) {
    let asks = asks();
    let roomy = EngineOptions {
        quantization: options.quantization,
        kv_cache_dtype: options.kv_cache_dtype,
        tensor_parallel_size: options.tensor_parallel_size,
        ..roomy()
    };
    for golden in goldens() {
        for dtype in [DType::F32, DType::BF16] {
            let expected = alone(&start(&golden, dtype, &roomy), &asks);
            let engine = start(&golden, dtype, options);
            let answers = together(&engine, &asks);
            for ((ask, expected), answer) in asks.iter().zip(&expected).zip(&answers) {
                assert_eq!(expected, answer, "{}, {dtype:?}, {ask:?}", golden.display());
            }
            let stats = engine.stats();
            assert!(enough(&stats), "the case did not occur: {stats:?}");
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for golden in goldens() {
        let cases = cases(&golden);
        let asks: Vec<Ask> = cases
            .iter()
            .map(|case| {
                let params = SamplingParams {
                    temperature: 0.0,
                    max_tokens: case.greedy.len(),
                    ignore_eos: true,
                    ..SamplingParams::default()
                };
                (case.prompt.clone(), params)
            })
            .collect();
        for options in [roomy(), shared_out()] {
            let answers = together(&start(&golden, DType::F32, &options), &asks);
            for (case, answer) in cases.iter().zip(answers) {
                assert_eq!(answer.tokens, case.greedy, "{}", golden.display());
            }
        }
    }
}

/// Of ranks that each have a part of the model.
fn shared_out() -> EngineOptions {
    EngineOptions { tensor_parallel_size: Some(2), ..roomy() }
}

/// Ranks run ahead as the device of one does, in chunks, with a cache that is too small.
#[test]
fn ranks_in_any_batch_equal_ranks_alone() {
    let options = EngineOptions {
        max_num_batched_tokens: Some(7),
        block_size: Some(4),
        max_model_len: Some(96),
        num_gpu_blocks_override: Some(24),
        enable_prefix_caching: Some(true),
        async_scheduling: Some(true),
        cudagraph_capture_sizes: Some(vec![1, 2, 4]),
        ..shared_out()
    };
    assert_equal(&options, |stats| stats.preemptions > 0 && stats.cached_prompt_tokens > 0);
}

#[test]
fn batched_equals_alone() {
    assert_equal(&roomy(), |stats| stats.batched_tokens > 2 * stats.steps);
}

#[test]
fn chunked_equals_whole() {
    let options = EngineOptions { max_num_batched_tokens: Some(7), ..roomy() };
    assert_equal(&options, |stats| stats.batched_tokens <= 7 * stats.steps);
}

#[test]
fn fp8_in_chunks_and_from_the_cache_equals_whole() {
    let options = EngineOptions {
        quantization: Some(Quantization::Fp8),
        kv_cache_dtype: Some(DType::F8E4M3),
        max_num_batched_tokens: Some(7),
        enable_prefix_caching: Some(true),
        ..roomy()
    };
    assert_equal(&options, |stats| stats.cached_prompt_tokens > 100);
}

/// A row's sums of integers do not depend on its batch either.
#[test]
fn integers_in_chunks_and_from_the_cache_equal_whole() {
    for quantization in [Quantization::Int8, Quantization::Int4] {
        let options = EngineOptions {
            quantization: Some(quantization),
            max_num_batched_tokens: Some(7),
            enable_prefix_caching: Some(true),
            ..roomy()
        };
        assert_equal(&options, |stats| stats.cached_prompt_tokens > 100);
    }
}

#[test]
fn prefix_cache_on_equals_off() {
    let options = EngineOptions { enable_prefix_caching: Some(true), ..roomy() };
    assert_equal(&options, |stats| stats.cached_prompt_tokens > 100);
}

#[test]
fn starved_cache_equals_roomy() {
    let options = EngineOptions {
        max_model_len: Some(96),
        block_size: Some(4),
        num_gpu_blocks_override: Some(24),
        enable_prefix_caching: Some(true),
        ..roomy()
    };
    assert_equal(&options, |stats| stats.preemptions > 0);
}

#[test]
fn choices_with_seeds_equal_single_requests() {
    let prompt: Vec<u32> = (10..50).collect();
    let asks: Vec<Ask> = (0..4)
        .map(|seed| {
            let params = SamplingParams {
                seed,
                max_tokens: 24,
                ignore_eos: true,
                ..SamplingParams::default()
            };
            (prompt.clone(), params)
        })
        .collect();
    for golden in goldens() {
        let expected = alone(&start(&golden, DType::F32, &roomy()), &asks);
        let options = EngineOptions { enable_prefix_caching: Some(true), ..roomy() };
        let (requests, events): (Vec<_>, Vec<_>) = asks.iter().map(request).unzip();
        let engine = start(&golden, DType::F32, &options);
        engine.submit_all(requests).unwrap();
        let answers: Vec<_> = events.iter().map(collect).collect();
        assert_eq!(answers, expected);
        assert!(answers.windows(2).all(|pair| pair[0].tokens != pair[1].tokens), "seeds matter");
    }
}
