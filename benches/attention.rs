//! Times attention over a paged cache, beside the bytes and operations it cannot do without:
//! `cargo bench -p benches --bench attention [-- cuda]`. On the CPU with the heads of Qwen3-0.6B, on a GPU
//! with those of Llama-3.1-8B.

use benches::median_seconds;
use candle_core::{DType, Device, Result, Tensor};
use kernels::device::{Graph, Readback, Staging, open_cuda, upload};
use kernels::paged_attention::{
    Extents, KvCacheLayer, OnDevice, PagedAttention, Variant, Workspace, paged_attention,
};
use kernels::pool;
use std::io::Write;
use std::time::Duration;

const NUM_KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const BLOCK_SIZE: usize = 16;

/// For each cell of the table.
const BUDGET: Duration = Duration::from_millis(500);

/// Sequences, rows of each, and keys that the last of them sees.
type Case = (usize, usize, usize);

const CPU_CASES: [Case; 6] =
    [(1, 1, 128), (32, 1, 96), (1, 1, 1024), (1, 1, 4096), (1, 512, 512), (1, 512, 4096)];
const GPU_CASES: [Case; 8] = [
    (1, 1, 128),
    (1, 1, 4096),
    (32, 1, 1500),
    (256, 1, 34),
    (256, 1, 1500),
    (64, 1, 4096),
    (64, 5, 4096),
    (1, 4096, 4096),
];

/// As many calls are recorded together: launching them takes less time than they do.
const CALLS: usize = 16;

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    let on_gpu = std::env::args().any(|argument| argument == "cuda");
    let device = if on_gpu { open_cuda(0)? } else { Device::Cpu };
    let (cases, num_heads) = if on_gpu { (&GPU_CASES[..], 32) } else { (&CPU_CASES[..], 16) };
    let threads = pool::num_threads();
    writeln!(out, "{device:?}, {threads} threads, median of runs within {BUDGET:?}")?;
    writeln!(
        out,
        "{:<6}{:>10}{:>6}{:>9}{:>10}{:>8}{:>9}",
        "cache", "sequences", "rows", "context", "ms", "GB/s", "GFLOP/s"
    )?;
    let dtypes =
        [(DType::BF16, DType::BF16), (DType::BF16, DType::F8E4M3), (DType::F32, DType::F32)];
    for (dtype, cache_dtype) in dtypes {
        if on_gpu && dtype == DType::F32 {
            continue; // It has no kernel that is meant to be fast.
        }
        for &case in cases {
            let seconds = Bench { device: &device, num_heads, dtype, cache_dtype }.seconds(case)?;
            let (seqs, rows, context) = case;
            let width = NUM_KV_HEADS * HEAD_DIM;
            let bytes = 2 * seqs * context * width * cache_dtype.size_in_bytes();
            // A row sees all keys but those of the rows after it.
            let pairs = seqs * (rows * context - rows * (rows - 1) / 2);
            let flops = 4 * pairs * num_heads * HEAD_DIM;
            writeln!(
                out,
                "{:<6}{seqs:>10}{rows:>6}{context:>9}{:>10.3}{:>8.1}{:>9.0}",
                cache_dtype.as_str(),
                seconds * 1e3,
                bytes as f64 / seconds / 1e9,
                flops as f64 / seconds / 1e9
            )?;
        }
    }
    Ok(())
}

struct Bench<'a> {
    device: &'a Device,
    num_heads: usize,
    dtype: DType,
    cache_dtype: DType,
}

impl Bench<'_> {
    fn seconds(&self, (seqs, rows, context): Case) -> Result<f64> {
        let ids = |ids: Vec<u32>, shape: &[usize]| upload(&ids, self.device)?.reshape(shape);
        let blocks_of_one = context.div_ceil(BLOCK_SIZE);
        let num_blocks = seqs * blocks_of_one;
        // As many layers as are larger together than the caches.
        let layer_bytes =
            2 * seqs * context * NUM_KV_HEADS * HEAD_DIM * self.cache_dtype.size_in_bytes();
        let num_layers = ((256 << 20) / layer_bytes + 1).min(64);
        let shape = [num_blocks, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM];
        let layers = (0..num_layers)
            .map(|_| Ok(KvCacheLayer { key: self.random(&shape)?, value: self.random(&shape)? }))
            .collect::<Result<Vec<_>>>()?;
        let q = self.normal(&[seqs * rows, self.num_heads, HEAD_DIM])?;
        // Blocks in no order: a step that shares no factor with their number passes through all.
        let step =
            (num_blocks / 2..num_blocks).find(|step| gcd(*step, num_blocks) == 1).unwrap_or(1);
        let table = (0..num_blocks).map(|i| (i * step % num_blocks) as u32);
        let extents = Extents::of(std::iter::repeat_n((rows, context), seqs));
        let workspace = Workspace::new(self.device, &extents, (seqs, self.num_heads, HEAD_DIM))?;
        let args = PagedAttention {
            q_starts: &ids((0..=seqs).map(|s| (s * rows) as u32).collect(), &[seqs + 1])?,
            context_lens: &ids(vec![context as u32; seqs], &[seqs])?,
            block_tables: &ids(table.collect(), &[seqs, blocks_of_one])?,
            scale: (HEAD_DIM as f32).powf(-0.5),
            variant: Variant::default(),
            on_device: (!self.device.is_cpu())
                .then_some(OnDevice { extents, workspace: &workspace }),
        };
        let mut layers = layers.iter().cycle();
        let mut call = || {
            let layer = layers.next().expect("there is a layer");
            paged_attention(&q, layer, &args).map(drop)
        };
        let calls = || (0..CALLS).try_for_each(|_| call());
        if let Some(graph) = Graph::record(self.device, calls)? {
            let end = upload(&[0], self.device)?;
            let run = || {
                graph.launch()?;
                Readback::start(&end)?.wait().map(drop)
            };
            return Ok(median_seconds(BUDGET, run)? / CALLS as f64);
        }
        median_seconds(BUDGET, call)
    }

    fn normal(&self, shape: &[usize]) -> Result<Tensor> {
        let x = Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?;
        x.to_dtype(self.dtype)?.to_device(self.device)
    }

    /// Of the cache's dtype: a few thousand random numbers over and over.
    fn random(&self, shape: &[usize]) -> Result<Tensor> {
        let some = Tensor::randn(0f32, 1.0, 4093, &Device::Cpu)?.to_dtype(self.cache_dtype)?;
        match self.cache_dtype {
            DType::F32 => repeated::<f32>(&some.to_vec1()?, shape, self.device),
            DType::BF16 => repeated::<half::bf16>(&some.to_vec1()?, shape, self.device),
            _ => repeated::<float8::F8E4M3>(&some.to_vec1()?, shape, self.device),
        }
    }
}

fn repeated<T: kernels::device::Element>(
    some: &[T],
    shape: &[usize],
    device: &Device,
) -> Result<Tensor> {
    let value = |i: usize| some[i % some.len()];
    match Staging::new(device)? {
        Some(mut staging) => staging.tensor(shape, |first, piece: &mut [T]| {
            piece.iter_mut().enumerate().for_each(|(i, element)| *element = value(first + i));
        }),
        None => Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape, device),
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
