//! Every architecture against transformers: logits, greedy tokens, and the same numbers (on the CPU bit
//! for bit) however the work is cut up. `scripts/golden.py` makes the checkpoints.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod paged;
mod ranks;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use engine::Quantization;
use engine::architecture::Architecture;
use engine::model::ModelSpec;
use engine::weights::{Quantized, Weights};
use paged::{Paged, Sequence, device};
use serde::Deserialize;
use serde_json::{Value, json};

const MAX_MODEL_LEN: usize = 200;

/// Largest difference of a float32 logit from transformers', whose deviation is about 8.
const F32_TOLERANCE: f32 = 1e-4;
/// What the root mean square error of bf16 logits may be, in that of transformers' own bf16 run.
const BF16_TOLERANCE: f32 = 1.25;

/// The same of linear layers and a cache in e4m3, which has four bits fewer.
const FP8_TOLERANCE: f32 = 16.0;
/// And of linear layers in integers, which have 8 bits or 4 to bf16's 8.
const INTEGER_TOLERANCES: [(Quantization, f32); 2] =
    [(Quantization::Int8, 6.0), (Quantization::Int4, 40.0)];

#[derive(Deserialize)]
struct Expected {
    cases: Vec<Case>,
    /// By which transformers' bf16 logits miss its float32 ones: root mean square, worst case.
    bf16_error: f32,
}

/// A prompt, the logits of its last position, and the greedy continuation.
#[derive(Deserialize)]
struct Case {
    prompt: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

struct Golden {
    folder: PathBuf,
    config: Value,
    row: &'static Architecture,
    cases: Vec<Case>,
    bf16_error: f32,
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Those that are not quantised yet.
fn wide_goldens() -> impl Iterator<Item = Golden> {
    goldens().into_iter().filter(|golden| golden.spec().quantized.is_none())
}

fn goldens() -> Vec<Golden> {
    // Cargo runs tests in the folder of their crate, the GPU check in one that has the same.
    let root = Path::new("golden");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let golden = |folder: PathBuf| {
        let config = json(&folder.join("config.json"));
        let row = Architecture::find(models::registry(), &config).unwrap();
        let Expected { cases, bf16_error } = json(&folder.join("expected.json"));
        Golden { folder, config, row, cases, bf16_error }
    };
    folders.into_iter().map(golden).collect()
}

impl Golden {
    fn name(&self) -> String {
        self.folder.file_name().unwrap().display().to_string()
    }

    fn spec(&self) -> ModelSpec {
        (self.row.spec)(&self.config).unwrap()
    }

    fn open(&self, device: &Device, dtype: DType) -> Weights {
        let weights = Weights::open(&self.folder, device, dtype).unwrap();
        weights.with_quantized(self.spec().quantized)
    }

    fn load(&self, dtype: DType, block_size: usize) -> Paged {
        let mut weights = self.open(&device(), dtype);
        let model = (self.row.load)(&self.config, &mut weights, MAX_MODEL_LEN).unwrap();
        Paged::new(model, &self.spec(), dtype, block_size, &device()).unwrap()
    }

    /// With linear layers in e4m3, from some folder.
    fn load_fp8(&self, folder: &Path, dtype: DType, cache_dtype: DType) -> Paged {
        self.load_quantized(Some(Quantization::Fp8), folder, dtype, cache_dtype)
    }

    fn load_quantized(
        &self,
        quantization: Option<Quantization>,
        folder: &Path,
        dtype: DType,
        cache_dtype: DType,
    ) -> Paged {
        let weights = Weights::open(folder, &device(), dtype).unwrap();
        let weights = weights.with_quantized(self.spec().quantized);
        let mut weights = weights.with_quantization(quantization);
        let model = (self.row.load)(&self.config, &mut weights, MAX_MODEL_LEN).unwrap();
        assert_eq!(weights.unused(), [""; 0], "{}", self.name());
        assert_eq!(weights.num_parameters(), self.spec().num_parameters, "{}", self.name());
        Paged::new(model, &self.spec(), cache_dtype, 16, &device()).unwrap()
    }
}

/// Root mean square error of the logits of a prompt's last position.
fn error(paged: &mut Paged, case: &Case) -> f32 {
    let mut sequence = Sequence::new(&case.prompt);
    let logits = paged.step(&mut [(&mut sequence, case.prompt.len())]).unwrap();
    let squares: f32 = differences(case, &logits[0]).map(|d| d * d).sum();
    (squares / case.logits.len() as f32).sqrt()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.expect("a vocabulary is not empty") as u32
}

/// The prompt in chunks of at most `chunk` tokens, then greedy tokens one at a time: the logits of
/// the prompt's last position and of each step.
fn generate(paged: &mut Paged, case: &Case, chunk: usize) -> Vec<Vec<f32>> {
    let mut sequence = Sequence::new(&case.prompt);
    let mut all = Vec::new();
    while all.len() <= case.greedy.len() {
        let len = chunk.min(sequence.num_pending());
        let logits = paged.step(&mut [(&mut sequence, len)]).unwrap().remove(0);
        if sequence.num_pending() == 0 {
            sequence.tokens.push(argmax(&logits));
            all.push(logits);
        }
    }
    all
}

/// Differences of each logit from transformers'.
fn differences(case: &Case, logits: &[f32]) -> impl Iterator<Item = f32> {
    assert_eq!(logits.len(), case.logits.len());
    logits.iter().zip(&case.logits).map(|(a, b)| (a - b).abs())
}

/// Logits of the same tokens, computed in two ways: the same bits on the CPU (ADR 4). On a GPU products
/// of different shapes are summed in different orders, so there the logits are near, up to where
/// another token became the likeliest.
fn assert_same(golden: &Golden, dtype: DType, what: &str, a: &[Vec<f32>], b: &[Vec<f32>]) {
    let name = golden.name();
    if device().is_cpu() {
        assert_eq!(a, b, "{name}, {dtype:?}, {what}");
        return;
    }
    let allowed = if dtype == DType::F32 { 10.0 * F32_TOLERANCE } else { 8.0 * golden.bf16_error };
    for (a, b) in a.iter().zip(b) {
        let error = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= allowed, "{name}, {dtype:?}, {what}: off by {error}, {allowed} allowed");
        if argmax(a) != argmax(b) {
            return;
        }
    }
}

#[test]
fn every_registry_row_has_a_golden() {
    let goldens = goldens();
    for row in models::registry() {
        assert!(goldens.iter().any(|golden| golden.row.name == row.name), "{} has none", row.name);
    }
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    for golden in goldens() {
        let mut paged = golden.load(DType::F32, 16);
        for case in &golden.cases {
            let logits = generate(&mut paged, case, usize::MAX);
            let error = differences(case, &logits[0]).fold(0.0, f32::max);
            let (name, len) = (golden.name(), case.prompt.len());
            assert!(error <= F32_TOLERANCE, "{name}, prompt of {len}: off by {error}");
            let tokens: Vec<u32> = logits.iter().map(|logits| argmax(logits)).collect();
            assert_eq!(tokens[..case.greedy.len()], case.greedy, "{name}, prompt of {len}");
        }
    }
}

/// f16 has three bits more, and only a GPU computes in it.
#[test]
fn logits_in_16_bits_are_near_those_of_transformers() {
    let of_f16 = (DType::F16, BF16_TOLERANCE / 4.0);
    let kinds = [Some((DType::BF16, BF16_TOLERANCE)), device().is_cuda().then_some(of_f16)];
    for golden in goldens() {
        for (dtype, tolerance) in kinds.into_iter().flatten() {
            // Its experts have no kernel for f16, and the server refuses it.
            if dtype == DType::F16 && golden.spec().quantized == Some(Quantized::Mxfp4) {
                continue;
            }
            let mut paged = golden.load(dtype, 16);
            for case in &golden.cases {
                let error = error(&mut paged, case);
                let (name, len) = (golden.name(), case.prompt.len());
                let bound = tolerance * golden.bf16_error;
                assert!(error <= bound, "{name}, prompt of {len}: off by {error}, {bound} allowed");
            }
        }
    }
}

#[test]
fn fp8_logits_are_near_those_of_transformers() {
    for golden in goldens() {
        for cache_dtype in [DType::BF16, DType::F8E4M3] {
            let mut paged = golden.load_fp8(&golden.folder, DType::BF16, cache_dtype);
            for case in &golden.cases {
                let error = error(&mut paged, case);
                let (name, len) = (golden.name(), case.prompt.len());
                let bound = FP8_TOLERANCE * golden.bf16_error;
                assert!(error <= bound, "{name}, prompt of {len}: off by {error}, {bound} allowed");
            }
        }
    }
}

/// On the CPU alone: a GPU has no products of integers.
#[test]
fn logits_of_integers_are_near_those_of_transformers() {
    if !device().is_cpu() {
        return;
    }
    for golden in goldens() {
        for (quantization, tolerance) in INTEGER_TOLERANCES {
            let dtype = DType::BF16;
            let mut paged = golden.load_quantized(Some(quantization), &golden.folder, dtype, dtype);
            for case in &golden.cases {
                let error = error(&mut paged, case);
                let (name, bound) = (golden.name(), tolerance * golden.bf16_error);
                assert!(
                    error <= bound,
                    "{name}, {quantization:?}: off by {error}, {bound} allowed"
                );
            }
        }
    }
}

/// All tensors of the checkpoint, and the names of the linear layers' weights.
fn tensors_of(golden: &Golden) -> (HashMap<String, Tensor>, Vec<String>) {
    let mut tensors = HashMap::new();
    for entry in fs::read_dir(&golden.folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            tensors.extend(candle_core::safetensors::load(path, &Device::Cpu).unwrap());
        }
    }
    let linears = tensors.keys().filter(|name| name.ends_with("_proj.weight")).cloned().collect();
    (tensors, linears)
}

/// The checkpoint with linear layers in e4m3, with a scale for each row or one for all.
fn write_fp8(golden: &Golden, folder: &Path, has_scale_of_rows: bool) {
    fs::create_dir_all(folder).unwrap();
    let (mut tensors, linears) = tensors_of(golden);
    for name in linears {
        let weight = tensors[&name].to_dtype(DType::F32).unwrap();
        let largest = weight.abs().unwrap().max_keepdim(1).unwrap();
        let largest = if has_scale_of_rows { largest } else { largest.max_keepdim(0).unwrap() };
        let most = Tensor::new(&[[448f32]], &Device::Cpu).unwrap();
        let scales = largest.broadcast_div(&most).unwrap();
        let narrow = weight.broadcast_div(&scales).unwrap().to_dtype(DType::F8E4M3).unwrap();
        tensors.insert(name.clone(), narrow);
        let scales = if has_scale_of_rows { scales } else { scales.reshape(()).unwrap() };
        tensors.insert(format!("{name}_scale"), scales);
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

/// A checkpoint with scales for rows holds what loading brings an unquantised one to.
#[test]
fn fp8_checkpoints_are_read() {
    let root = std::env::temp_dir().join(format!("sconce-fp8-{}", std::process::id()));
    for mut golden in wide_goldens() {
        let mut online = golden.load_fp8(&golden.folder, DType::F32, DType::F32);
        golden.config["quantization_config"] =
            json!({"quant_method": "fp8", "activation_scheme": "dynamic"});
        assert_eq!(golden.spec().quantized, Some(Quantized::Fp8Rows), "{}", golden.name());
        let [rows, whole] = ["rows", "whole"].map(|kind| root.join(golden.name()).join(kind));
        write_fp8(&golden, &rows, true);
        write_fp8(&golden, &whole, false);
        let mut stored = golden.load_fp8(&rows, DType::F32, DType::F32);
        let mut coarse = golden.load_fp8(&whole, DType::F32, DType::F32);
        let case = &golden.cases[0];
        let [stored, online] =
            [&mut stored, &mut online].map(|paged| generate(paged, case, usize::MAX));
        assert!(stored == online, "{}: other logits", golden.name());
        let (error, bound) = (error(&mut coarse, case), FP8_TOLERANCE * golden.bf16_error);
        assert!(error <= bound, "{}: off by {error}, {bound} allowed", golden.name());
    }
    fs::remove_dir_all(root).unwrap();
}

/// The checkpoint with linear layers as GPTQ packs them, in 8 bits with a scale for each output feature.
fn write_gptq(golden: &Golden, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let (mut tensors, linears) = tensors_of(golden);
    for name in linears {
        let weight = tensors.remove(&name).unwrap().to_dtype(DType::F32).unwrap();
        let (outputs, inputs) = weight.dims2().unwrap();
        let rows: Vec<Vec<f32>> = weight.to_vec2().unwrap();
        let largest = rows.iter().map(|row| row.iter().fold(0f32, |most, x| most.max(x.abs())));
        let scales: Vec<f32> = largest.map(|largest| largest / 127.0).collect();
        let mut words = vec![0i32; inputs / 4 * outputs];
        for (output, row) in rows.iter().enumerate() {
            for (input, x) in row.iter().enumerate() {
                let integer = (x / scales[output]).round() as i32 + 128;
                words[input / 4 * outputs + output] |= integer << (8 * (input % 4));
            }
        }
        let words = Tensor::from_vec(words, (inputs / 4, outputs), &Device::Cpu).unwrap();
        // Each of them is 128.
        let zeros = Tensor::new(vec![vec![0x7f7f_7f7fi32; outputs / 4]], &Device::Cpu).unwrap();
        let scales = Tensor::from_vec(scales, (1, outputs), &Device::Cpu).unwrap();
        let layer = name.strip_suffix(".weight").unwrap();
        for (kind, tensor) in [("qweight", words), ("qzeros", zeros), ("scales", scales)] {
            tensors.insert(format!("{layer}.{kind}"), tensor);
        }
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

/// As they are, and in the integers that weights are brought to here.
#[test]
fn checkpoints_of_integers_are_read() {
    let root = std::env::temp_dir().join(format!("sconce-gptq-{}", std::process::id()));
    for mut golden in wide_goldens() {
        golden.config["quantization_config"] = json!({"quant_method": "gptq", "bits": 8});
        let folder = root.join(golden.name());
        write_gptq(&golden, &folder);
        let ways = [None, Some(Quantization::Int8)];
        for quantization in ways.into_iter().filter(|way| way.is_none() || device().is_cpu()) {
            let mut paged = golden.load_quantized(quantization, &folder, DType::F32, DType::F32);
            let bound = INTEGER_TOLERANCES[0].1 * golden.bf16_error;
            for case in &golden.cases {
                let error = error(&mut paged, case);
                assert!(error <= bound, "{}: off by {error}, {bound} allowed", golden.name());
            }
        }
    }
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn chunks_and_block_sizes_change_no_bit() {
    for golden in goldens() {
        for dtype in [DType::F32, DType::BF16] {
            let case = golden.cases.iter().max_by_key(|case| case.prompt.len()).unwrap();
            let whole = generate(&mut golden.load(dtype, 16), case, usize::MAX);
            for (chunk, block_size) in [(1, 16), (7, 8), (64, 32)] {
                let cut = generate(&mut golden.load(dtype, block_size), case, chunk);
                let what = format!("chunks of {chunk}, blocks of {block_size}");
                assert_same(&golden, dtype, &what, &cut, &whole);
            }
        }
    }
}

#[test]
fn a_mixed_batch_changes_no_bit() {
    const CHUNK: usize = 40;
    for golden in goldens() {
        for dtype in [DType::F32, DType::BF16] {
            let mut paged = golden.load(dtype, 16);
            let alone: Vec<Vec<Vec<f32>>> =
                golden.cases.iter().map(|case| generate(&mut paged, case, usize::MAX)).collect();
            // All at once: short prompts decode while long ones are still being read.
            let mut paged = golden.load(dtype, 16);
            let mut sequences: Vec<Sequence> =
                golden.cases.iter().map(|case| Sequence::new(&case.prompt)).collect();
            let mut together = vec![Vec::new(); sequences.len()];
            while together.iter().zip(&alone).any(|(done, all)| done.len() < all.len()) {
                let mut chunks: Vec<(&mut Sequence, usize)> = sequences
                    .iter_mut()
                    .map(|sequence| {
                        let len = sequence.num_pending().min(CHUNK);
                        (sequence, len)
                    })
                    .collect();
                let logits = paged.step(&mut chunks).unwrap();
                for ((sequence, logits), done) in
                    sequences.iter_mut().zip(logits).zip(&mut together)
                {
                    if sequence.num_pending() == 0 {
                        sequence.tokens.push(argmax(&logits));
                        done.push(logits);
                    }
                }
            }
            for ((together, alone), case) in together.iter().zip(&alone).zip(&golden.cases) {
                let what = format!("prompt of {}", case.prompt.len());
                assert_same(&golden, dtype, &what, &together[..alone.len()], alone);
            }
        }
    }
}

#[test]
fn the_specification_counts_what_is_loaded() {
    for golden in goldens() {
        let spec = golden.spec();
        for mut weights in
            [golden.open(&device(), DType::F32), Weights::dummy(0, &device(), DType::BF16).unwrap()]
        {
            (golden.row.load)(&golden.config, &mut weights, MAX_MODEL_LEN).unwrap();
            assert_eq!(spec.num_parameters, weights.num_parameters(), "{}", golden.name());
            assert_eq!(weights.unused(), [""; 0], "{}", golden.name());
        }
    }
}

#[test]
fn a_configuration_of_another_size_is_refused_by_tensor() {
    for golden in goldens() {
        let mut config = golden.config.clone();
        let larger = (golden.spec().intermediate_size + 1).into();
        match config.get_mut("text_config") {
            Some(text) => text["intermediate_size"] = larger,
            None => config["intermediate_size"] = larger,
        }
        if golden.name() == "qwen3_moe" {
            config["moe_intermediate_size"] = 25.into();
        }
        let mut weights = golden.open(&device(), DType::F32);
        let error = (golden.row.load)(&config, &mut weights, MAX_MODEL_LEN).err();
        let error = error.expect("an error").to_string();
        let first = match golden.name().as_str() {
            "gpt_oss" | "gpt_oss_mxfp4" => "mlp.experts.gate_up_proj_bias",
            "mixtral" => "block_sparse_moe.experts.0.w1.weight",
            "phi3" | "phi3_long" => "mlp.gate_up_proj.weight",
            "qwen3_moe" => "mlp.experts.0.gate_proj.weight",
            _ => "mlp.gate_proj.weight",
        };
        let needle = format!("model.layers.0.{first}` has shape");
        assert!(error.contains(&needle), "{error}");
    }
}
