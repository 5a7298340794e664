//! Models that are shared out to ranks: what they compute together, and what each of them reads and holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use candle_core::{DType, Device};
use engine::device::{DeviceKind, open};
use engine::model::{Communicator, ModelSpec};
use engine::{EngineConfig, EngineOptions, Quantization};

use super::paged::{Paged, device};
use super::{
    BF16_TOLERANCE, F32_TOLERANCE, FP8_TOLERANCE, Golden, MAX_MODEL_LEN, argmax, differences,
    error, generate, goldens, wide_goldens,
};

fn config(spec: &ModelSpec, num_ranks: usize) -> Result<EngineConfig, String> {
    let options =
        EngineOptions { tensor_parallel_size: Some(num_ranks), ..EngineOptions::default() };
    EngineConfig::resolve(&options, spec).map_err(|error| error.to_string())
}

/// Numbers of ranks that a model can be shared out to.
fn possible(spec: &ModelSpec) -> impl Iterator<Item = usize> {
    (2..=8).filter(|num_ranks| config(spec, *num_ranks).is_ok())
}

/// On a machine with one GPU all ranks are there, each with a stream of its own.
fn device_of_rank() -> Device {
    if device().is_cpu() { Device::Cpu } else { open(DeviceKind::Cuda(0)).unwrap() }
}

/// What `f` gives of each rank's part, all at once. On a GPU that they share, what is loaded may wait for what
/// another rank is at, so that all have their parts before one begins.
fn on_ranks<P: Send, T: Send>(
    num_ranks: usize,
    part: impl Fn(Arc<Communicator>, &Device) -> P,
    f: impl Fn(P) -> T + Sync,
) -> Vec<T> {
    let devices: Vec<Device> = (0..num_ranks).map(|_| device_of_rank()).collect();
    let group = Communicator::group(&devices).unwrap().into_iter().zip(&devices);
    let parts: Vec<P> = group.map(|(end, device)| part(Arc::new(end), device)).collect();
    thread::scope(|scope| {
        let ranks: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| f(part))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

impl Golden {
    fn part(
        &self,
        (end, device): (Arc<Communicator>, &Device),
        (dtype, cache_dtype): (DType, DType),
        quantization: Option<Quantization>,
    ) -> Paged {
        let num_ranks = end.num_ranks();
        let weights = self.open(device, dtype).with_quantization(quantization);
        let mut weights = weights.with_communicator(Some(end));
        let model = (self.row.load)(&self.config, &mut weights, MAX_MODEL_LEN).unwrap();
        let spec = self.spec().of_rank(num_ranks);
        Paged::new(model, &spec, cache_dtype, 16, device).unwrap()
    }
}

/// Whole heads, a key head that several ranks share, vocabularies that do not divide.
#[test]
fn ranks_together_compute_what_transformers_does() {
    let mut seen = Vec::new();
    for golden in goldens() {
        for num_ranks in possible(&golden.spec()) {
            seen.push(num_ranks);
            let f32 = (DType::F32, DType::F32);
            let part = |end, device: &_| golden.part((end, device), f32, None);
            let logits = on_ranks(num_ranks, part, |mut paged| {
                let cases = golden.cases.iter();
                cases.map(|case| generate(&mut paged, case, usize::MAX)).collect::<Vec<_>>()
            });
            let name = golden.name();
            for (case, logits) in golden.cases.iter().zip(&logits[0]) {
                let error = differences(case, &logits[0]).fold(0.0, f32::max);
                assert!(error <= F32_TOLERANCE, "{name}, {num_ranks} ranks: off by {error}");
                let tokens: Vec<u32> = logits.iter().map(|logits| argmax(logits)).collect();
                assert_eq!(tokens[..case.greedy.len()], case.greedy, "{name}, {num_ranks} ranks");
            }
            // Each rank samples by itself: on all of them the bits must be the same.
            assert!(logits.iter().all(|other| *other == logits[0]), "{name}: ranks differ");
        }
    }
    for num_ranks in [2, 3, 6] {
        assert!(seen.contains(&num_ranks), "no golden is shared out to {num_ranks} ranks");
    }
}

#[test]
fn chunks_change_no_bit_of_what_ranks_compute() {
    if !device().is_cpu() {
        return; // Products of other shapes are summed in another order there.
    }
    for golden in goldens() {
        let Some(num_ranks) = possible(&golden.spec()).next() else { continue };
        for dtype in [DType::F32, DType::BF16] {
            let case = golden.cases.iter().max_by_key(|case| case.prompt.len()).unwrap();
            let [whole, cut] = [usize::MAX, 7].map(|chunk| {
                let part = |end, device: &_| golden.part((end, device), (dtype, dtype), None);
                on_ranks(num_ranks, part, |mut paged| generate(&mut paged, case, chunk))
            });
            assert!(whole == cut, "{}, {dtype:?}", golden.name());
        }
    }
}

#[test]
fn ranks_in_16_and_8_bits_are_near_transformers() {
    let fp8 = Some(Quantization::Fp8);
    for golden in goldens() {
        let Some(num_ranks) = possible(&golden.spec()).next() else { continue };
        for (quantization, cache_dtype, tolerance) in [
            // Of two sums each is rounded, and so is that of both.
            (None, DType::BF16, 2.0 * BF16_TOLERANCE),
            (fp8, DType::F8E4M3, FP8_TOLERANCE),
        ] {
            let dtypes = (DType::BF16, cache_dtype);
            let part = |end, device: &_| golden.part((end, device), dtypes, quantization);
            let errors = on_ranks(num_ranks, part, |mut paged| {
                golden.cases.iter().map(|case| error(&mut paged, case)).fold(0.0, f32::max)
            });
            let bound = tolerance * golden.bf16_error;
            let name = golden.name();
            assert!(errors[0] <= bound, "{name}, {quantization:?}: off by {}", errors[0]);
        }
    }
}

/// And no more than the plan says that a rank holds.
#[test]
fn a_rank_reads_its_part_alone() {
    for golden in wide_goldens() {
        let spec = golden.spec();
        for num_ranks in possible(&spec) {
            let load = |end: Arc<Communicator>, device: &_| {
                let is_first = end.rank() == 0;
                let loaded_bytes = Arc::new(AtomicU64::new(0));
                let last = Arc::clone(&loaded_bytes);
                let weights = golden.open(device, DType::F32).with_communicator(Some(end));
                let mut weights = weights.with_progress(move |progress| {
                    last.store(progress.loaded_bytes, Ordering::Relaxed);
                });
                (golden.row.load)(&golden.config, &mut weights, MAX_MODEL_LEN).unwrap();
                // A bias of what is summed is one rank's.
                let mut unused = weights.unused().into_iter();
                assert!(
                    unused.all(|name| !is_first && name.ends_with("bias")),
                    "{}",
                    golden.name()
                );
                (weights.num_parameters(), loaded_bytes.load(Ordering::Relaxed))
            };
            let counts = on_ranks(num_ranks, load, |counts| counts);
            let (name, planned) = (golden.name(), spec.of_rank(num_ranks).num_parameters);
            let most = counts.iter().map(|(parameters, _)| *parameters).max().unwrap();
            // Biases are counted whole.
            assert!((most..=most + most / 20).contains(&planned), "{name}: {planned} for {most}");
            let stored = spec.dtype.size_in_bytes();
            // Biases of what chooses experts are stored in f32, whatever the others are.
            let experts = spec.experts.filter(|_| golden.config.get("n_routed_experts").is_some());
            let biases = experts.map_or(0, |experts| experts.num_layers * experts.num_experts);
            let wider = biases * (DType::F32.size_in_bytes() - stored);
            let bytes_of_one = spec.num_parameters / num_ranks * stored;
            let shared_heads = if num_ranks > spec.num_kv_heads { 2 } else { 1 };
            for (parameters, bytes) in counts {
                assert_eq!(bytes as usize, parameters * stored + wider, "{name}");
                assert!((bytes as usize) < bytes_of_one * 5 / 4 * shared_heads, "{name}: {bytes}");
            }
        }
    }
}

#[test]
fn numbers_of_ranks_that_do_not_fit_are_refused_with_those_that_do() {
    for golden in goldens() {
        let refused = config(&golden.spec(), 5).unwrap_err();
        assert!(
            refused.contains("--tensor-parallel-size 5: its") && refused.contains("use 1"),
            "{refused}"
        );
        let refused = config(&golden.spec(), 9).unwrap_err();
        assert!(
            refused.contains("--tensor-parallel-size is 9 but must be between 1 and 8"),
            "{refused}"
        );
    }
}
