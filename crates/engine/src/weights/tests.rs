//! Checkpoints good and bad, written to a directory of their own, and generated weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{D, DType, Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

use kernels::collectives;
use kernels::linear::Matrix;

use super::dummy::Dummy;
use super::source::{Part, Source, fill};
use super::{CHUNK, Progress, Quantized, RowsOf, Weights};
use crate::Quantization;

const CPU: &Device = &Device::Cpu;

/// A directory that goes away with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sconce-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, bytes: &[u8]) -> &Self {
        fs::write(self.0.join(file), bytes).unwrap();
        self
    }

    fn open(&self, dtype: DType) -> super::Result<Weights> {
        Weights::open(&self.0, CPU, dtype)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file of f32 tensors, stored as `dtype`.
fn file(tensors: &[(&str, &Tensor)], dtype: Dtype) -> Vec<u8> {
    let bytes: Vec<(&str, Vec<u8>, Vec<usize>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let encode = |x: f32| match dtype {
                Dtype::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
                Dtype::BF16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
                _ => x.to_le_bytes().to_vec(),
            };
            (*name, values.into_iter().flat_map(encode).collect(), tensor.dims().to_vec())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, bytes, shape)| (*name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

/// Values that neither half type holds exactly.
fn numbers(shape: &[usize]) -> Tensor {
    let len: usize = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
    Tensor::from_vec(values, shape, CPU).unwrap()
}

fn assert_same(a: &Tensor, b: &Tensor) {
    assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()));
    let values = |x: &Tensor| {
        x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(values(a), values(b));
}

fn message(result: super::Result<impl Sized>) -> String {
    result.err().expect("an error").to_string()
}

fn assert_says(text: &str, needles: &[&str]) {
    for needle in needles {
        assert!(text.contains(needle), "{text:?} does not say {needle:?}");
    }
}

#[test]
fn every_stored_type_becomes_every_wanted_type() {
    let folder = Folder::new("dtypes");
    let tensor = numbers(&[7, 5]);
    for (stored, as_stored) in
        [(Dtype::F32, DType::F32), (Dtype::F16, DType::F16), (Dtype::BF16, DType::BF16)]
    {
        folder.write("model.safetensors", &file(&[("w", &tensor)], stored));
        for wanted in [DType::F32, DType::BF16, DType::F16] {
            let mut weights = folder.open(wanted).unwrap();
            let expected = tensor.to_dtype(as_stored).unwrap().to_dtype(wanted).unwrap();
            assert_same(&weights.tensor("w", &[7, 5]).unwrap(), &expected);
        }
    }
    let error = message(folder.open(DType::F64));
    assert_says(&error, &["f64", "choose f32, bf16 or f16"]);
}

#[test]
fn bytes_in_the_binary_are_a_checkpoint() {
    let tensor = numbers(&[3, 4]);
    let bytes: &'static [u8] = file(&[("w", &tensor)], Dtype::BF16).leak();
    let mut weights = Weights::embedded("spark", bytes, CPU, DType::F32).unwrap();
    let expected = tensor.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
    assert_same(&weights.tensor("w", &[3, 4]).unwrap(), &expected);
    let error = message(Weights::embedded("spark", &bytes[..bytes.len() - 1], CPU, DType::F32));
    assert_says(&error, &["spark", "truncated"]);
}

#[test]
fn shards_are_found_and_what_nobody_asked_for_is_reported() {
    let (a, b) = (numbers(&[2, 3]), numbers(&[4]));
    let folder = Folder::new("shards");
    folder
        .write("one.safetensors", &file(&[("a", &a)], Dtype::F32))
        .write("two.safetensors", &file(&[("b", &b), ("extra", &b)], Dtype::F32))
        .write(
            "model.safetensors.index.json",
            br#"{"metadata": {}, "weight_map":
                {"a": "one.safetensors", "b": "two.safetensors", "extra": "two.safetensors"}}"#,
        );
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let mut weights =
        folder.open(DType::F32).unwrap().with_progress(move |p| log.lock().unwrap().push(p));
    assert!(weights.contains("b") && !weights.contains("c"));
    assert_same(&weights.tensor("b", &[4]).unwrap(), &b);
    assert_same(&weights.tensor("a", &[2, 3]).unwrap(), &a);
    assert_eq!(weights.unused(), ["extra"]);
    assert_eq!(weights.num_parameters(), 10);
    let progress = |loaded_bytes| Progress { loaded_bytes, total_bytes: 56 };
    assert_eq!(*seen.lock().unwrap(), [progress(16), progress(40)]);
}

/// Whether parts together are the whole: rows and columns, shared out to several ranks.
fn assert_parts_make_the_whole(weights: &mut Weights, name: &str, [rows, columns]: [usize; 2]) {
    let whole = weights.tensor(name, &[rows, columns]).unwrap();
    for ranks in 1..=3 {
        let of_rank = |len, rank| collectives::part(len, rank, ranks);
        let some_rows = |rank| {
            let rows_of = RowsOf::some(name.to_owned(), rows, of_rank(rows, rank));
            weights.stacked(&[rows_of], &[columns]).unwrap()
        };
        let parts: Vec<Tensor> = (0..ranks).map(some_rows).collect();
        assert_same(&Tensor::cat(&parts, 0).unwrap(), &whole);
        let some_columns = |rank| {
            let (all, wanted) = (RowsOf::all(name.to_owned(), rows), of_rank(columns, rank));
            let shape = [rows, wanted.len()];
            weights.gather(&[Part::block(&all, columns, wanted)], &shape).unwrap()
        };
        let parts: Vec<Tensor> = (0..ranks).map(some_columns).collect();
        assert_same(&Tensor::cat(&parts, 1).unwrap(), &whole);
    }
}

#[test]
fn parts_concatenated_are_the_whole() {
    let folder = Folder::new("ranks");
    let big = [2 * (CHUNK / 1000 + 1), 1000];
    let (small, large) = (numbers(&[6, 36]), numbers(&big));
    folder.write("model.safetensors", &file(&[("s", &small), ("l", &large)], Dtype::BF16));
    let mut stored = folder.open(DType::BF16).unwrap();
    assert_same(&stored.tensor("l", &big).unwrap(), &large.to_dtype(DType::BF16).unwrap());
    for weights in [&mut stored, &mut Weights::dummy(3, CPU, DType::BF16).unwrap()] {
        assert_parts_make_the_whole(weights, "s", [6, 36]);
        assert_parts_make_the_whole(weights, "l", big);
    }
}

/// As a GPU's tensors are read: from the first element to the last, cut anywhere.
#[test]
fn pieces_are_the_whole() {
    let source = Source::Dummy(Dummy { seed: 3 });
    let rows_of_b = RowsOf::all("b".to_owned(), 4);
    let parts =
        [Part::whole("a", &[3, 50]), Part::block(&rows_of_b, 60, 30..60), Part::whole("c", &[7])];
    let sources: Vec<_> =
        parts.iter().map(|part| Arc::new(source.tensor::<f32>(part, None).unwrap())).collect();
    let mut whole = vec![f32::NAN; 150 + 120 + 7];
    fill(&parts, &sources, 0, &mut whole);
    assert!(whole.iter().all(|x| !x.is_nan()));
    for len in [1, 7, 64, 160, 1000] {
        let mut pieces = vec![f32::NAN; whole.len()];
        for (i, piece) in pieces.chunks_mut(len).enumerate() {
            fill(&parts, &sources, i * len, piece);
        }
        assert_eq!(pieces, whole, "in pieces of {len}");
    }
}

#[test]
fn stacked_projections_keep_their_order() {
    let (q, k) = (numbers(&[6, 4]), numbers(&[2, 4]).affine(1.0, 9.0).unwrap());
    let folder = Folder::new("stacked");
    folder.write("model.safetensors", &file(&[("q", &q), ("k", &k)], Dtype::F32));
    let mut weights = folder.open(DType::F32).unwrap();
    let stacked = weights.stacked(&parts(&[("q", 6), ("k", 2)]), &[4]).unwrap();
    assert_same(&stacked, &Tensor::cat(&[&q, &k], 0).unwrap());
    assert_eq!(weights.num_parameters(), 32);
}

#[test]
fn a_bad_directory_or_file_is_named() {
    let folder = Folder::new("bad");
    let path = folder.0.join("model.safetensors");
    let path = path.to_str().unwrap();
    assert_says(
        &message(Weights::open(Path::new("/no/such/model"), CPU, DType::F32)),
        &["/no/such/model", "No such file"],
    );
    assert_says(&message(folder.open(DType::F32)), &["bad-", "the directory is empty"]);
    folder.write("pytorch_model.bin", b"");
    assert_says(&message(folder.open(DType::F32)), &["pytorch_model.bin", "safetensors"]);

    let good = file(&[("w", &numbers(&[8, 8]))], Dtype::F32);
    for bad in [&b""[..], b"short", &[0xff; 64], &good[..20]] {
        folder.write("model.safetensors", bad);
        let error = message(folder.open(DType::F32));
        assert_says(&error, &[path, "not a valid safetensors file", "download it again"]);
    }
    folder.write("model.safetensors", &good[..good.len() - 4]);
    let length = format!("has {} bytes", good.len() - 4);
    assert_says(&message(folder.open(DType::F32)), &[path, "truncated", &length]);
}

#[test]
fn a_bad_index_is_named() {
    let folder = Folder::new("index");
    let refused = |index: &str, needles: &[&str]| {
        folder.write("model.safetensors.index.json", index.as_bytes());
        assert_says(&message(folder.open(DType::F32)), &["model.safetensors.index.json"]);
        assert_says(&message(folder.open(DType::F32)), needles);
    };
    refused("{", &["EOF", "download the file again"]);
    refused("{}", &["missing field `weight_map`"]);
    refused(r#"{"weight_map": {"w": "../x"}}"#, &["`../x` is not a plain file name"]);
    folder.write("one.safetensors", &file(&[("a", &numbers(&[2]))], Dtype::F32));
    refused(
        r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#,
        &["1 of 2 shards are missing: two.safetensors"],
    );
    folder.write("two.safetensors", &file(&[("a", &numbers(&[2]))], Dtype::F32));
    assert_says(
        &message(folder.open(DType::F32)),
        &["two.safetensors", "`a` is in", "one.safetensors"],
    );
}

#[test]
fn a_bad_tensor_is_named() {
    let folder = Folder::new("tensor");
    let bytes = 7i64.to_le_bytes();
    let count = TensorView::new(Dtype::I64, vec![1], &bytes).unwrap();
    folder.write("model.safetensors", &serialize([("count", count)], None).unwrap());
    let mut weights = folder.open(DType::F32).unwrap();
    assert_says(
        &message(weights.tensor("count", &[1])),
        &["model.safetensors", "`count`", "stored as I64"],
    );
    folder.write("model.safetensors", &file(&[("w", &numbers(&[2, 3]))], Dtype::F32));
    let mut weights = folder.open(DType::F32).unwrap();
    assert_says(&message(weights.tensor("v", &[2])), &["tensor-", "`v` is missing"]);
    assert_says(
        &message(weights.tensor("w", &[3, 2])),
        &["model.safetensors", "`w` has shape [2, 3]", "implies [3, 2]"],
    );
    assert_eq!((weights.unused(), weights.num_parameters()), (vec!["w"], 0));
}

/// A file of tensors that are stored in different types.
fn mixed(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

/// What a matrix multiplies with: rows of the identity give its columns. `[out, in]`
fn values(matrix: &Matrix) -> Tensor {
    let identity = Tensor::eye(matrix.in_features(), DType::F32, CPU).unwrap();
    matrix.forward_f32(&identity).unwrap().t().unwrap().contiguous().unwrap()
}

fn parts(parts: &[(&str, usize)]) -> Vec<RowsOf> {
    parts.iter().map(|(name, rows)| RowsOf::all((*name).to_owned(), *rows)).collect()
}

#[test]
fn e4m3_weights_have_a_scale_for_all_rows_or_for_each() {
    let rows = |len: u8| (0..len).map(|i| i * 5 % 120).collect::<Vec<u8>>();
    let floats = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let halves = |x: &[f32]| {
        x.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect::<Vec<u8>>()
    };
    let folder = Folder::new("e4m3");
    folder.write(
        "model.safetensors",
        &mixed(&[
            ("a.weight", Dtype::F8_E4M3, &[2, 3], rows(6)),
            ("a.weight_scale", Dtype::F32, &[], floats(&[0.5])),
            ("a.input_scale", Dtype::F32, &[], floats(&[0.25])),
            ("b.weight", Dtype::F8_E4M3, &[3, 3], rows(9)),
            ("b.activation_scale", Dtype::BF16, &[], halves(&[0.5])),
            ("b.weight_scale_inv", Dtype::BF16, &[3, 1], halves(&[1.0, 2.0, 0.25])),
            ("c.weight", Dtype::F8_E4M3, &[2, 3], rows(6)),
            ("c.weight_scale", Dtype::F32, &[2], floats(&[1.0, 0.0])),
            ("d.weight", Dtype::F8_E4M3, &[2, 3], rows(6)),
            ("d.weight_scale", Dtype::F32, &[3], floats(&[1.0; 3])),
            ("e.weight", Dtype::F8_E4M3, &[2, 3], rows(6)),
            ("f.weight", Dtype::F32, &[1, 3], floats(&[1.0, -2.0, 0.1])),
        ]),
    );
    let mut weights = folder.open(DType::F32).unwrap().with_quantization(Some(Quantization::Fp8));
    let matrix = weights.linear(&parts(&[("a.weight", 2), ("b.weight", 3)]), 3, 0..3).unwrap();
    let stored = [rows(6), rows(9)].concat();
    let stored = Tensor::from_raw_buffer(&stored, DType::F8E4M3, &[5, 3], CPU).unwrap();
    let scales = Tensor::new(&[[0.5f32], [0.5], [1.0], [2.0], [0.25]], CPU).unwrap();
    let wide = stored.to_dtype(DType::F32).unwrap();
    assert_same(&values(&matrix), &wide.broadcast_mul(&scales).unwrap());
    assert_eq!((weights.num_parameters(), matrix.size_in_bytes()), (15, 32 * 3 + 5 * 4));
    // A weight that is not stored so is brought to it.
    let matrix = weights.linear(&parts(&[("f.weight", 1)]), 3, 0..3).unwrap();
    let nearest = [1.0f32, -2.0, 0.1].map(|x| {
        let scale = 2.0f32 / 448.0;
        float8::F8E4M3::from_f32(x / scale).to_f32() * scale
    });
    assert_same(&values(&matrix), &Tensor::new(&[nearest], CPU).unwrap());
    assert!(!weights.unused().contains(&"a.input_scale"));

    let mut refused = |names: &[(&str, usize)], needles: &[&str]| {
        assert_says(&message(weights.linear(&parts(names), 3, 0..3)), needles);
    };
    refused(&[("c.weight", 2)], &["`c.weight_scale` has the scale 0"]);
    refused(&[("d.weight", 2)], &["`d.weight_scale` has shape [3]", "implies [2, 1]"]);
    refused(&[("e.weight", 2)], &["`e.weight_scale` is missing"]);
    refused(&[("a.weight", 2), ("f.weight", 1)], &["`a.weight` is stored as F8_E4M3"]);
    let mut wide = folder.open(DType::F32).unwrap();
    let error = message(wide.linear(&parts(&[("a.weight", 2)]), 3, 0..3));
    assert_says(&error, &["`a.weight` is stored as F8_E4M3", "quantization_config"]);
}

/// Layers of a checkpoint may be stored so, and others as they are.
#[test]
fn quantised_layers_are_stacked_with_others() {
    let folder = Folder::new("quantised");
    folder.write("model.safetensors", include_bytes!("golden/awq.safetensors"));
    let plain = numbers(&[3, 160]);
    folder.write("plain.safetensors", &file(&[("plain.weight", &plain)], Dtype::F32));
    let names = ["layer.qweight", "layer.qzeros", "layer.scales", "expected"];
    let of_layer = names.map(|name| format!("\"{name}\": \"layer.safetensors\"")).join(", ");
    let index =
        format!("{{\"weight_map\": {{{of_layer}, \"plain.weight\": \"plain.safetensors\"}}}}");
    fs::rename(folder.0.join("model.safetensors"), folder.0.join("layer.safetensors")).unwrap();
    folder.write("model.safetensors.index.json", index.as_bytes());

    let parts = parts(&[("plain.weight", 3), ("layer.weight", 24)]);
    let seen = Arc::new(Mutex::new(Progress::default()));
    let last = Arc::clone(&seen);
    let mut weights = folder
        .open(DType::F32)
        .unwrap()
        .with_quantized(Some(Quantized::Awq))
        .with_progress(move |progress| *last.lock().unwrap() = progress);
    let matrix = weights.linear(&parts, 160, 0..160).unwrap();
    assert_eq!(weights.unused(), ["expected"]);
    // In bytes: f32, then integers of half a byte, their zeros, and scales in f16.
    let bytes = 3 * 160 * 4 + 160 * 24 / 2 + 5 * 24 / 2 + 5 * 24 * 2;
    assert_eq!(seen.lock().unwrap().loaded_bytes, bytes);
    let expected = weights.tensor("expected", &[24, 160]).unwrap();
    assert_same(&values(&matrix), &Tensor::cat(&[&plain, &expected], 0).unwrap());

    let mut unaware = folder.open(DType::F32).unwrap();
    let needles = ["`layer.qweight` is packed", "quantization_config", "quantize_config.json"];
    assert_says(&message(unaware.linear(&parts, 160, 0..160)), &needles);
}

#[test]
fn generated_values_depend_on_seed_name_and_place_alone() {
    let dummy = |seed: u64| Weights::dummy(seed, CPU, DType::F32).unwrap();
    let mut weights = dummy(1);
    let first = weights.tensor("a.weight", &[300, 200]).unwrap();
    weights.tensor("b.weight", &[5]).unwrap();
    assert_same(&weights.tensor("a.weight", &[300, 200]).unwrap(), &first);
    assert_same(&first.flatten_all().unwrap(), &dummy(1).tensor("a.weight", &[60_000]).unwrap());
    let share_equal = |a: &Tensor, b: &Tensor| {
        let equal = a.eq(b).unwrap().to_dtype(DType::F32).unwrap();
        equal.mean_all().unwrap().to_scalar::<f32>().unwrap()
    };
    let other_name = weights.tensor("b.weight", &[300, 200]).unwrap();
    let other_seed = dummy(2).tensor("a.weight", &[300, 200]).unwrap();
    assert!(share_equal(&first, &other_name) < 0.01 && share_equal(&first, &other_seed) < 0.01);
}

#[test]
fn generated_values_look_like_initial_weights() {
    let mut weights = Weights::dummy(0, CPU, DType::F32).unwrap();
    let x = weights.tensor("model.layers.0.mlp.up_proj.weight", &[400, 500]).unwrap();
    let mean = |x: Tensor| x.mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(mean(x.clone()).abs() < 2e-4);
    assert!((mean(x.sqr().unwrap()).sqrt() - 0.02).abs() < 2e-4);
    // Neither rows nor columns are alike: their means spread as those of independent values.
    for dim in [0, 1] {
        let means = x.mean(dim).unwrap();
        let expected = 0.02 / (x.dim(dim).unwrap() as f32).sqrt();
        let spread = means.var(D::Minus1).unwrap().to_scalar::<f32>().unwrap().sqrt();
        assert!((spread / expected - 1.0).abs() < 0.15, "dim {dim}: {spread} for {expected}");
    }
    for norm in ["model.norm.weight", "x.input_layernorm.weight", "x.q_norm.weight"] {
        assert_same(
            &weights.tensor(norm, &[3]).unwrap(),
            &Tensor::ones(3, DType::F32, CPU).unwrap(),
        );
    }
    assert!(weights.contains("anything") && weights.unused().is_empty());
}

/// Kilobytes of this file's mapping that are in memory.
#[cfg(target_os = "linux")]
fn resident_kb(path: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).expect("the file is mapped");
    rss.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn pages_of_a_tensor_are_dropped_once_it_is_read() {
    let folder = Folder::new("pages");
    let shape = [4, CHUNK];
    folder.write("model.safetensors", &file(&[("w", &numbers(&shape))], Dtype::F32));
    let mut weights = folder.open(DType::F32).unwrap();
    let rows = RowsOf::all("w".to_owned(), shape[0]);
    for _ in 0..2 {
        weights.tensor("w", &shape).unwrap();
        let half = Part::block(&rows, CHUNK, CHUNK / 2..CHUNK);
        weights.gather(&[half], &[4, CHUNK / 2]).unwrap();
        let kb = resident_kb(&folder.0.join("model.safetensors"));
        assert!(kb < 256, "{kb} kB of 16 MB are still mapped in");
    }
}
