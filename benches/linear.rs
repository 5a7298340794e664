//! Times linear layers of Qwen3-0.6B's shapes, beside a plain streaming read of memory:
//! `cargo bench -p benches --bench linear -- [DTYPE | SHAPE | ROWS]..`, where words name the only
//! lines wanted.
//!
//! `benches/linear_vs_torch.py` prints torch's times in the same columns.

use benches::median_seconds;
use candle_core::{DType, Device, Result, Tensor};
use engine::ceilings::Ceilings;
use kernels::linear::{Integers, Matrix};
use kernels::pool;
use std::hint::black_box;
use std::io::Write;
use std::time::Duration;

/// Name, out, in.
const SHAPES: [(&str, usize, usize); 5] = [
    ("qkv", 4096, 1024),
    ("o", 1024, 2048),
    ("gate_up", 6144, 1024),
    ("down", 1024, 3072),
    ("lm_head", 151_936, 1024),
];
/// Of weights; inputs have the dtype.
const FORMS: [(&str, DType, Option<Integers>); 4] = [
    ("f32", DType::F32, None),
    ("bf16", DType::BF16, None),
    ("int8", DType::BF16, Some(Integers::Int8)),
    ("int4", DType::BF16, Some(Integers::Int4)),
];
const ROWS: [usize; 5] = [1, 4, 16, 32, 512];

/// Bytes that are larger together than the caches: in a model no layer finds its weight in one.
const COLD_BYTES: usize = 256 << 20;

/// For each cell of the table.
const BUDGET: Duration = Duration::from_millis(400);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |names: &[&str], name: &str| {
        words.iter().any(|w| w == name) || !words.iter().any(|w| names.contains(&w.as_str()))
    };
    let mut out = std::io::stdout().lock();
    let roof = Ceilings::measure(&Device::Cpu, DType::F32, None)?.bytes_per_second;
    writeln!(out, "sconce, {} threads, median of runs within {BUDGET:?}", pool::num_threads())?;
    writeln!(out, "streaming read of memory: {:.1} GB/s", roof / 1e9)?;
    writeln!(
        out,
        "{:<6}{:<9}{:>5}{:>10}{:>8}{:>9}{:>8}",
        "dtype", "shape", "rows", "ms", "GB/s", "GFLOP/s", "of roof"
    )?;
    for (form, dtype, integers) in FORMS {
        for (name, num_out, num_in) in SHAPES {
            if !wanted(&FORMS.map(|form| form.0), form) || !wanted(&SHAPES.map(|s| s.0), name) {
                continue;
            }
            let weight = || -> Result<Matrix> {
                let weight = normal(num_out, num_in, dtype)?;
                integers.map_or_else(|| Matrix::new(&weight), |kind| Matrix::rounded(&weight, kind))
            };
            let first = weight()?;
            let bytes = first.size_in_bytes();
            let others = (1..COLD_BYTES.div_ceil(bytes)).map(|_| weight());
            let weights = std::iter::once(Ok(first)).chain(others).collect::<Result<Vec<_>>>()?;
            for rows in ROWS {
                // Logits are computed for the last row of a sequence only.
                let all_rows = ["1", "4", "16", "32", "512"];
                if (name == "lm_head" && rows > 32) || !wanted(&all_rows, &rows.to_string()) {
                    continue;
                }
                let x = normal(rows, num_in, dtype)?;
                let mut turn = weights.iter().cycle();
                let seconds = median_seconds(BUDGET, || {
                    let weight = turn.next().expect("there is a weight");
                    black_box(weight.forward(black_box(&x), None)).map(drop)
                })?;
                let rate = bytes as f64 / seconds;
                let flops = 2.0 * (rows * num_out * num_in) as f64 / seconds;
                writeln!(
                    out,
                    "{form:<6}{name:<9}{rows:>5}{:>10.3}{:>8.1}{:>9.0}{:>7.0}%",
                    seconds * 1e3,
                    rate / 1e9,
                    flops / 1e9,
                    100.0 * rate / roof
                )?;
            }
        }
    }
    Ok(())
}

fn normal(rows: usize, columns: usize, dtype: DType) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu)?.to_dtype(dtype)
}
