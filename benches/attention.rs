//! Times attention of Qwen3-0.6B's shape over a paged cache, beside the bytes and operations it cannot
//! do without: `cargo bench -p benches --bench attention`.

use benches::median_seconds;
use candle_core::{DType, Device, Result, Tensor};
use kernels::paged_attention::{KvCacheLayer, PagedAttention, Variant, paged_attention};
use kernels::pool;
use std::io::Write;
use std::time::Duration;

const NUM_HEADS: usize = 16;
const NUM_KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const BLOCK_SIZE: usize = 16;

/// For each cell of the table.
const BUDGET: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} threads, median of runs within {BUDGET:?}", pool::num_threads())?;
    writeln!(
        out,
        "{:<6}{:>6}{:>9}{:>10}{:>8}{:>9}",
        "dtype", "rows", "context", "ms", "GB/s", "GFLOP/s"
    )?;
    for dtype in [DType::BF16, DType::F32] {
        for (rows, context) in [(1, 128), (1, 1024), (1, 4096), (512, 512), (512, 4096)] {
            let seconds = seconds(dtype, rows, context)?;
            let bytes = 2 * context * NUM_KV_HEADS * HEAD_DIM * dtype.size_in_bytes();
            // A row sees all keys but those of the rows after it.
            let pairs = rows * context - rows * (rows - 1) / 2;
            let flops = 4 * pairs * NUM_HEADS * HEAD_DIM;
            writeln!(
                out,
                "{:<6}{rows:>6}{context:>9}{:>10.3}{:>8.1}{:>9.0}",
                dtype.as_str(),
                seconds * 1e3,
                bytes as f64 / seconds / 1e9,
                flops as f64 / seconds / 1e9
            )?;
        }
    }
    Ok(())
}

fn seconds(dtype: DType, rows: usize, context: usize) -> Result<f64> {
    let normal = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?.to_dtype(dtype);
    let ids = |ids: Vec<u32>, shape: &[usize]| Tensor::from_vec(ids, shape, &Device::Cpu);
    let num_blocks = context.div_ceil(BLOCK_SIZE);
    // As many layers as are larger together than the caches.
    let num_layers = (256 << 20) / (2 * context * NUM_KV_HEADS * HEAD_DIM * 2) + 1;
    let shape = [num_blocks, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM];
    let layers = (0..num_layers.min(64))
        .map(|_| Ok(KvCacheLayer { key: normal(&shape)?, value: normal(&shape)? }))
        .collect::<Result<Vec<_>>>()?;
    let q = normal(&[rows, NUM_HEADS, HEAD_DIM])?;
    // Blocks in no order: odd factors permute a power of two.
    let table = (0..num_blocks as u32).map(|i| i.wrapping_mul(2_654_435_761) % num_blocks as u32);
    let args = PagedAttention {
        q_starts: &ids(vec![0, rows as u32], &[2])?,
        context_lens: &ids(vec![context as u32], &[1])?,
        block_tables: &ids(table.collect(), &[1, num_blocks])?,
        scale: (HEAD_DIM as f32).powf(-0.5),
        variant: Variant::default(),
        on_device: None,
    };
    let mut layers = layers.iter().cycle();
    median_seconds(BUDGET, || {
        let layer = layers.next().expect("there is a layer");
        paged_attention(&q, layer, &args).map(drop)
    })
}
