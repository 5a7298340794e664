//! Embedding models and cross-encoders against sentence-transformers, and their vectors bit for bit
//! however the work is cut up. `scripts/golden_pooling.py` makes the checkpoints.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use candle_core::{DType, Device};
use engine::architecture::without_head;
use engine::device::{DeviceKind, HAS_CUDA, open};
use engine::model::ModelSpec;
use engine::weights::Weights;
use engine::{
    Engine, EngineConfig, EngineHandle, EngineOptions, Event, MemoryPlan, Models, Pooling, Rank,
    Request, SamplingParams,
};
use models::Found;
use serde::Deserialize;
use serde_json::Value;

/// Largest difference of an element of a vector of length 1 from sentence-transformers'; a GPU's products of f32
/// are summed in an order of its own.
const F32_TOLERANCE: f32 = if HAS_CUDA { 2e-5 } else { 5e-6 };
/// The same with bf16 arithmetic: transformers' own bf16 run misses its float32 one by up to 0.029 in
/// these goldens (ModernBERT, a prompt of 33).
const BF16_TOLERANCE: f32 = 0.04;
/// A head's numbers are sums of some that are larger than those of a vector of length 1.
const SCORE_FACTOR: f32 = 10.0;

#[derive(Deserialize)]
struct Expected {
    cases: Vec<Case>,
}

/// Token ids, special ones included, and the vector of their text or the number of their pair.
#[derive(Deserialize)]
struct Case {
    ids: Vec<u32>,
    second_text: Option<usize>,
    embedding: Option<Vec<f32>>,
    raw: Option<f32>,
}

struct Golden {
    folder: PathBuf,
    config: Value,
    found: Found,
    pooling: Pooling,
    cases: Vec<Case>,
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn goldens() -> Vec<Golden> {
    // Cargo runs tests in the folder of their crate, the GPU check in one that has the same.
    let root = Path::new("golden_pooling");
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let golden = |folder: PathBuf| {
        let config: Value = json(&folder.join("config.json"));
        let found = models::find(&config).unwrap();
        let head = match found {
            Found::Encoder(row) => (row.spec)(&config).unwrap().head,
            Found::Generator(_) | Found::Trunk(_) => None,
        };
        let pooling = head.map_or_else(|| pooling(&folder), |head| head.pooling);
        let Expected { cases } = json(&folder.join("expected.json"));
        Golden { folder, config, found, pooling, cases }
    };
    folders.map(golden).collect()
}

/// Where the tests compute. Built with the feature `cuda` they need a GPU.
fn device() -> Device {
    let kind = if HAS_CUDA { DeviceKind::Cuda(0) } else { DeviceKind::Cpu };
    open(kind).expect("a build with the feature cuda is tested on a machine with a GPU")
}

fn pooling(folder: &Path) -> Pooling {
    let modes: Value = json(&folder.join("1_Pooling/config.json"));
    match modes["pooling_mode"].as_str() {
        Some("lasttoken") => Pooling::Last,
        Some("mean") => Pooling::Mean,
        Some("cls") => Pooling::Cls,
        other => panic!("{other:?}"),
    }
}

impl Golden {
    fn start(&self, dtype: DType, options: &EngineOptions) -> EngineHandle {
        let device = &device();
        let mut weights = Weights::open(&self.folder, device, dtype).unwrap();
        let plan = |spec: &ModelSpec| {
            let (dtype, pooling) = (Some(dtype), Some(self.pooling));
            let on_gpu = !device.is_cpu();
            let options = EngineOptions { on_gpu, dtype, pooling, ..options.clone() };
            let config = EngineConfig::resolve(&options, spec).unwrap();
            MemoryPlan::compute(spec, &config, 4 << 30)
        };
        let (engine, spec) = match self.found {
            Found::Encoder(row) => {
                let spec = (row.spec)(&self.config).unwrap().model;
                let plan = plan(&spec);
                let max_len = plan.config.max_model_len;
                let model = (row.load)(&self.config, &mut weights, max_len).unwrap();
                (Engine::start_encoder(model, &spec, &plan, device).unwrap(), spec)
            }
            Found::Generator(row) | Found::Trunk(row) => {
                let config = without_head(&self.config).unwrap();
                let spec = (row.spec)(&config).unwrap();
                let plan = plan(&spec);
                let max_len = plan.config.max_model_len;
                let model = (row.load)(&config, &mut weights, max_len).unwrap();
                let models = Models { model, draft: None };
                let rank = Rank { models, device: device.clone(), communicator: None };
                (Engine::start_pooling(vec![rank], &spec, &plan, None).unwrap(), spec)
            }
        };
        // sentence-transformers stores BERT's pooler, too, which only a head reads.
        let unused = weights.unused().into_iter().filter(|name| !name.starts_with("pooler."));
        assert_eq!(unused.collect::<Vec<_>>(), [""; 0], "{}", self.folder.display());
        assert_eq!(weights.num_parameters(), spec.num_parameters, "{}", self.folder.display());
        engine
    }
}

fn submit(engine: &EngineHandle, case: &Case) -> Receiver<Event> {
    let (sender, receiver) = channel();
    let request = Request {
        prompt: case.ids.clone(),
        params: SamplingParams {
            max_tokens: 0,
            second_text: case.second_text,
            ..SamplingParams::default()
        },
        priority: 0,
        share: None,
        deadline: None,
        cache_salt: None,
        constraint: None,
        sink: Box::new(move |event| sender.send(event).is_ok()),
    };
    engine.submit(request).unwrap();
    receiver
}

fn vector(events: &Receiver<Event>) -> Vec<f32> {
    let pooled = events.iter().find_map(|event| match event {
        Event::Pooled(vector) => Some(vector),
        _ => None,
    });
    pooled.expect("a vector")
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    for golden in goldens() {
        let kinds = [(DType::F32, F32_TOLERANCE), (DType::BF16, BF16_TOLERANCE)];
        // It has three bits more, and only a GPU computes in it.
        let of_f16 = HAS_CUDA.then_some((DType::F16, BF16_TOLERANCE / 4.0));
        for (dtype, tolerance) in kinds.into_iter().chain(of_f16) {
            let engine = golden.start(dtype, &EngineOptions::default());
            for case in &golden.cases {
                let vector = vector(&submit(&engine, case));
                let (vector, expected, tolerance) = match (&case.embedding, case.raw) {
                    (Some(embedding), _) => (unit(&vector), unit(embedding), tolerance),
                    (None, raw) => (vector, vec![raw.unwrap()], SCORE_FACTOR * tolerance),
                };
                assert_eq!(vector.len(), expected.len());
                let differences = vector.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                let error = differences.fold(0.0, f32::max);
                let (name, len) = (golden.folder.display(), case.ids.len());
                assert!(error <= tolerance, "{name}, {dtype:?}, prompt of {len}: off by {error}");
            }
        }
    }
}

#[test]
fn no_bit_depends_on_what_a_prompt_is_read_with() {
    if HAS_CUDA {
        return; // Products of other shapes are summed in another order there.
    }
    for golden in goldens() {
        for dtype in [DType::F32, DType::BF16] {
            let engine = golden.start(dtype, &EngineOptions::default());
            let alone: Vec<_> =
                golden.cases.iter().map(|case| vector(&submit(&engine, case))).collect();
            for (max_num_batched_tokens, block_size) in [(7, 4), (64, 16), (512, 32)] {
                let options = EngineOptions {
                    max_num_batched_tokens: Some(max_num_batched_tokens),
                    block_size: Some(block_size),
                    ..EngineOptions::default()
                };
                let engine = golden.start(dtype, &options);
                // Twice: the second time the prefix cache knows them, where there is one.
                for _ in 0..2 {
                    let cases = golden.cases.iter().rev();
                    let events: Vec<_> = cases.map(|case| submit(&engine, case)).collect();
                    let together: Vec<_> = events.iter().rev().map(vector).collect();
                    assert_eq!(together, alone, "{}, {dtype:?}", golden.folder.display());
                }
            }
        }
    }
}
