//! Attention against a plain f64 reference, and the equalities it must keep bit for bit.

use super::{
    Attend, Extents, KvCacheLayer, OnDevice, PagedAttention, Path, Variant, Workspace, check,
};
use crate::testing::{
    DTYPES, Tolerance, assert_close, devices, ids, message, tensor, to_bits, to_e4m3, to_f64,
    values,
};
use candle_core::{DType, Device, Result, Tensor};

pub(super) const TOLERANCE: Tolerance = Tolerance { f32: 3e-6, bf16: 4e-3 };

/// Heads and blocks of a case.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) block_size: usize,
}

/// A cache of `num_keys` keys for each of some sequences: key `p` of sequence `s` is the same in every
/// layout, its block is not.
pub(super) struct Case {
    pub(super) shape: Shape,
    pub(super) cache: KvCacheLayer,
    pub(super) tables: Vec<Vec<u32>>,
}

impl Case {
    /// `shuffle` decides which blocks the sequences get.
    pub(super) fn new(
        shape: Shape,
        num_keys: &[usize],
        shuffle: u64,
        like: &Tensor,
    ) -> Result<Self> {
        let Shape { num_kv_heads, head_dim, block_size, .. } = shape;
        let needed: Vec<usize> = num_keys.iter().map(|n| n.div_ceil(block_size)).collect();
        let num_blocks = needed.iter().sum::<usize>() + 3;
        let order = values(shuffle, num_blocks);
        let mut free: Vec<u32> = (0..num_blocks as u32).collect();
        free.sort_by(|&a, &b| order[a as usize].total_cmp(&order[b as usize]));
        let mut tables: Vec<Vec<u32>> = Vec::new();
        for &needed in &needed {
            tables.push(free.split_off(free.len() - needed));
        }
        let dims = [num_blocks, num_kv_heads, block_size, head_dim];
        // What no sequence owns must not be seen.
        let mut caches = [(); 2].map(|()| vec![f32::NAN; dims.iter().product()]);
        for (s, table) in tables.iter().enumerate() {
            for p in 0..num_keys[s] {
                for head in 0..num_kv_heads {
                    let block = table[p / block_size] as usize;
                    let row = (block * num_kv_heads + head) * block_size + p % block_size;
                    for (which, cache) in caches.iter_mut().enumerate() {
                        let seed = ((s * 1000 + p) * 64 + head) * 2 + which;
                        let x = values(seed as u64, head_dim);
                        cache[row * head_dim..][..head_dim].copy_from_slice(&x);
                    }
                }
            }
        }
        let [key, value] = caches
            .map(|cache| Tensor::from_vec(cache, &dims, like.device())?.to_dtype(like.dtype()));
        Ok(Self { shape, cache: KvCacheLayer { key: key?, value: value? }, tables })
    }

    /// Attends to the rows `context - rows..context` of some sequences: (sequence, rows, context).
    fn run(&self, q: &Tensor, parts: &[(usize, usize, usize)]) -> Result<Tensor> {
        self.run_changed(q, parts, &Change::default())
    }

    fn run_changed(
        &self,
        q: &Tensor,
        parts: &[(usize, usize, usize)],
        change: &Change,
    ) -> Result<Tensor> {
        let mut q_starts = vec![0];
        let width = self.tables.iter().map(Vec::len).max().unwrap_or(0) + 1;
        let mut tables = Vec::new();
        for &(s, rows, _) in parts {
            q_starts.push(q_starts[q_starts.len() - 1] + rows as u32);
            let table = &self.tables[s];
            tables.extend(
                table.iter().copied().chain(std::iter::repeat_n(9999, width - table.len())),
            );
        }
        let contexts: Vec<u32> = parts.iter().map(|part| part.2 as u32).collect();
        let extents = Extents::of(parts.iter().map(|&(_, rows, context)| (rows, context)));
        let dims = (parts.len(), self.shape.num_heads, self.shape.head_dim);
        let workspace = Workspace::new(q.device(), &extents, dims)?;
        let sinks = Tensor::new(change.sinks.as_slice(), q.device())?;
        let args = PagedAttention {
            scale: self.scale(),
            variant: Variant {
                window: change.window,
                soft_cap: change.soft_cap.map(|cap| cap as f32),
                sinks: (!change.sinks.is_empty()).then_some(&sinks),
            },
            q_starts: &ids(&q_starts, q.device())?,
            context_lens: &ids(&contexts, q.device())?,
            block_tables: &ids(&tables, q.device())?.reshape((parts.len(), width))?,
            on_device: Some(OnDevice { extents, workspace: &workspace }),
        };
        check(q, &self.cache, &args)?;
        let attend = Attend { args: &args, path: change.path };
        q.apply_op3_no_bwd(&self.cache.key, &self.cache.value, &attend)
    }

    pub(super) fn scale(&self) -> f32 {
        (self.shape.head_dim as f32).powf(-0.5) * 4.0
    }

    pub(super) fn reference(
        &self,
        q: &Tensor,
        parts: &[(usize, usize, usize)],
        change: &Change,
    ) -> Result<Vec<f64>> {
        let Shape { num_heads, num_kv_heads, head_dim, block_size } = self.shape;
        let (q, key, value) = (to_f64(q)?, to_f64(&self.cache.key)?, to_f64(&self.cache.value)?);
        let scale = f64::from(self.scale());
        let mut out = Vec::new();
        for &(s, rows, context) in parts {
            for row in 0..rows {
                for head in 0..num_heads {
                    let q = &q[out.len()..][..head_dim];
                    let at = |p: usize| {
                        let block = self.tables[s][p / block_size] as usize;
                        let head = head / (num_heads / num_kv_heads);
                        ((block * num_kv_heads + head) * block_size + p % block_size) * head_dim
                    };
                    let visible = (context + row + 1).saturating_sub(rows);
                    let first = change.window.map_or(0, |window| visible.saturating_sub(window));
                    let weights: Vec<f64> = (first..visible)
                        .map(|p| {
                            let key = &key[at(p)..][..head_dim];
                            let score = q.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * scale;
                            change.soft_cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
                        })
                        .collect();
                    let sink = change.sinks.get(head).map_or(0.0, |&sink| f64::from(sink).exp());
                    let sum = weights.iter().sum::<f64>() + sink;
                    for i in 0..head_dim {
                        let value = |(p, weight): (usize, &f64)| weight / sum * value[at(p) + i];
                        out.push((first..visible).zip(&weights).map(value).sum());
                    }
                }
            }
        }
        Ok(out)
    }
}

/// What attention may do besides.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) path: Path,
    pub(super) window: Option<usize>,
    pub(super) soft_cap: Option<f64>,
    /// `[heads]` or empty
    pub(super) sinks: Vec<f32>,
}

impl Default for Change {
    fn default() -> Self {
        Self::on(Path::fastest())
    }
}

impl Change {
    pub(super) fn on(path: Path) -> Self {
        Self { path, window: None, soft_cap: None, sinks: Vec::new() }
    }
}

/// Every path of the CPU, and the other devices.
fn places() -> Vec<(Device, Change)> {
    let others = devices().into_iter().filter(|device| !device.is_cpu());
    let paths = Path::available().map(|path| (Device::Cpu, Change::on(path)));
    paths.chain(others.map(|device| (device, Change::default()))).collect()
}

pub(super) fn queries(shape: Shape, rows: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    tensor(77, &[rows, shape.num_heads, shape.head_dim], dtype, device)
}

const SHAPES: [Shape; 7] = [
    Shape { num_heads: 1, num_kv_heads: 1, head_dim: 8, block_size: 1 },
    Shape { num_heads: 4, num_kv_heads: 2, head_dim: 64, block_size: 16 },
    Shape { num_heads: 6, num_kv_heads: 2, head_dim: 24, block_size: 8 },
    Shape { num_heads: 8, num_kv_heads: 1, head_dim: 128, block_size: 32 },
    Shape { num_heads: 2, num_kv_heads: 2, head_dim: 80, block_size: 16 },
    Shape { num_heads: 7, num_kv_heads: 1, head_dim: 40, block_size: 3 },
    Shape { num_heads: 1, num_kv_heads: 1, head_dim: 256, block_size: 16 },
];

/// Whether a device takes blocks of this size: a GPU reads keys by eight.
fn fits(device: &Device, block_size: usize) -> bool {
    device.is_cpu() || block_size.is_multiple_of(8)
}

fn fitting(device: &Device) -> impl Iterator<Item = Shape> {
    SHAPES.into_iter().filter(|shape| fits(device, shape.block_size))
}

/// Prefill, chunk and decode mixed.
const PARTS: [(usize, usize, usize); 6] =
    [(0, 1, 1), (1, 1, 700), (2, 70, 70), (3, 17, 130), (4, 0, 5), (5, 1, 64)];
const NUM_KEYS: [usize; 6] = [1, 700, 70, 130, 5, 64];
const NUM_ROWS: usize = 90;

#[test]
fn equals_the_reference() -> Result<()> {
    for (device, plain) in places() {
        for dtype in DTYPES {
            for shape in fitting(&device) {
                let q = queries(shape, NUM_ROWS, dtype, &device)?;
                let case = Case::new(shape, &NUM_KEYS, 1, &q)?;
                let out = case.run_changed(&q, &PARTS, &plain)?;
                assert_eq!(out.dims(), [NUM_ROWS, shape.num_heads * shape.head_dim]);
                assert_close(&out, &case.reference(&q, &PARTS, &Change::default())?, TOLERANCE);
            }
        }
    }
    Ok(())
}

#[test]
fn a_cache_of_e4m3_equals_the_reference() -> Result<()> {
    for (device, plain) in places() {
        for dtype in DTYPES {
            for shape in fitting(&device) {
                let q = queries(shape, NUM_ROWS, dtype, &device)?;
                let mut case = Case::new(shape, &NUM_KEYS, 1, &q)?;
                let wide = case.cache.clone();
                case.cache =
                    KvCacheLayer { key: to_e4m3(&wide.key)?, value: to_e4m3(&wide.value)? };
                let out = case.run_changed(&q, &PARTS, &plain)?;
                assert_eq!(out.dtype(), dtype);
                assert_close(&out, &case.reference(&q, &PARTS, &Change::default())?, TOLERANCE);
            }
        }
    }
    Ok(())
}

#[test]
fn variants_equal_the_reference_and_do_not_know_the_chunk() -> Result<()> {
    for (device, plain) in places() {
        for (window, soft_cap, has_sinks) in [
            (Some(1), None, false),
            (Some(63), None, true),
            (Some(70), Some(2.0), false),
            (Some(10_000), None, false),
            (None, Some(1.5), true),
        ] {
            for dtype in DTYPES {
                let shape = SHAPES[1];
                let q = queries(shape, NUM_ROWS, dtype, &device)?;
                let case = Case::new(shape, &NUM_KEYS, 1, &q)?;
                let sinks = if has_sinks { vec![-1.0, 0.5, 2.0, 7.0] } else { Vec::new() };
                let change = Change { window, soft_cap, sinks, ..plain.clone() };
                let out = case.run_changed(&q, &PARTS, &change)?;
                assert_close(&out, &case.reference(&q, &PARTS, &change)?, TOLERANCE);
                if !device.is_cpu() {
                    continue; // It has another kernel for few rows.
                }
                // The third sequence's rows one by one.
                for row in 0..70 {
                    let part = (2, 1, row + 1);
                    let alone = case.run_changed(&q.narrow(0, 2 + row, 1)?, &[part], &change)?;
                    assert_eq!(to_bits(&alone)?, to_bits(&out.narrow(0, 2 + row, 1)?)?);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn batched_equals_alone() -> Result<()> {
    for (device, plain) in places() {
        for shape in fitting(&device) {
            let q = queries(shape, NUM_ROWS, DType::BF16, &device)?;
            let case = Case::new(shape, &NUM_KEYS, 1, &q)?;
            let together = case.run_changed(&q, &PARTS, &plain)?;
            let mut row = 0;
            for part in PARTS {
                let alone = case.run_changed(&q.narrow(0, row, part.1)?, &[part], &plain)?;
                assert_eq!(to_bits(&alone)?, to_bits(&together.narrow(0, row, part.1)?)?);
                row += part.1;
            }
        }
    }
    Ok(())
}

/// On the CPU. A GPU has kernels of two kinds, for few rows and for many.
#[test]
fn chunked_equals_whole() -> Result<()> {
    const LEN: usize = 150;
    for (path, dtype) in Path::available().flat_map(|path| DTYPES.map(|dtype| (path, dtype))) {
        let plain = Change::on(path);
        for shape in SHAPES {
            let q = queries(shape, LEN, dtype, &Device::Cpu)?;
            let case = Case::new(shape, &[LEN], 1, &q)?;
            let whole = case.run_changed(&q, &[(0, LEN, LEN)], &plain)?;
            for chunk in [1, 7, 64, 100] {
                for start in (0..LEN).step_by(chunk) {
                    let rows = chunk.min(LEN - start);
                    let part = (0, rows, start + rows);
                    let part = case.run_changed(&q.narrow(0, start, rows)?, &[part], &plain)?;
                    assert_eq!(to_bits(&part)?, to_bits(&whole.narrow(0, start, rows)?)?);
                }
            }
        }
    }
    Ok(())
}

/// On the CPU, by every path. A key and a value that are no numbers show in the rows that see them, be
/// they at an even place or an odd one, and in no others.
#[test]
fn what_a_row_does_not_see_does_not_show() -> Result<()> {
    const LEN: usize = 150;
    let shape = SHAPES[3];
    for (path, dtype) in Path::available().flat_map(|path| DTYPES.map(|dtype| (path, dtype))) {
        for window in [None, Some(21)] {
            let change = Change { window, ..Change::on(path) };
            let q = queries(shape, LEN, dtype, &Device::Cpu)?;
            let mut case = Case::new(shape, &[LEN], 1, &q)?;
            let whole = case.run_changed(&q, &[(0, LEN, LEN)], &change)?;
            let clean = case.cache.clone();
            for position in [0, 1, 62, 63, 64, 101, 148, 149] {
                let (block, place) = (position / shape.block_size, position % shape.block_size);
                let block = case.tables[0][block] as usize;
                let poisoned = |x: &Tensor| {
                    let nan = Tensor::full(f32::NAN, (1, 1, 1, shape.head_dim), &Device::Cpu)?;
                    let at = [block..block + 1, 0..1, place..place + 1, 0..shape.head_dim];
                    x.slice_assign(&at, &nan.to_dtype(x.dtype())?)
                };
                for cache in [
                    KvCacheLayer { key: poisoned(&clean.key)?, value: clean.value.clone() },
                    KvCacheLayer { key: clean.key.clone(), value: poisoned(&clean.value)? },
                ] {
                    case.cache = cache;
                    let out = case.run_changed(&q, &[(0, LEN, LEN)], &change)?;
                    for row in 0..LEN {
                        let sees = position <= row && row - position < window.unwrap_or(LEN);
                        let (out, clean) = (out.narrow(0, row, 1)?, whole.narrow(0, row, 1)?);
                        if sees {
                            assert!(to_f64(&out)?.iter().all(|x| x.is_nan()), "row {row}");
                        } else {
                            assert_eq!(to_bits(&out)?, to_bits(&clean)?, "row {row}");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn blocks_and_their_size_do_not_show() -> Result<()> {
    for (device, plain) in places() {
        for shape in fitting(&device) {
            let q = queries(shape, NUM_ROWS, DType::BF16, &device)?;
            let case = Case::new(shape, &NUM_KEYS, 1, &q)?;
            let expected = to_bits(&case.run_changed(&q, &PARTS, &plain)?)?;
            let sizes = [(1, 2), (8, 3), (16, 4), (32, 5), (100, 6)].into_iter();
            for (block_size, shuffle) in sizes.filter(|&(size, _)| fits(&device, size)) {
                let case = Case::new(Shape { block_size, ..shape }, &NUM_KEYS, shuffle, &q)?;
                assert_eq!(to_bits(&case.run_changed(&q, &PARTS, &plain)?)?, expected);
            }
        }
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let shape = SHAPES[1];
    let q = queries(shape, 4, DType::F32, &Device::Cpu)?;
    let case = Case::new(shape, &[20], 1, &q)?;
    let error = |q: &Tensor, part| message(case.run(q, &[part]));
    assert!(error(&q, (0, 3, 20)).contains("q_starts must rise from 0 to the 4 rows"));
    assert!(error(&q, (0, 4, 3)).contains("sequence 0 has 4 rows and only 3 keys"));
    assert!(error(&q, (0, 4, 49)).contains("sequence 0 has 49 keys, its 3 blocks hold 48"));
    assert!(error(&q, (0, 4, 33)).contains("block 9999 of sequence 0 is beyond the 5"));
    let narrow = q.to_dtype(DType::BF16)?;
    assert!(error(&narrow, (0, 4, 20)).contains("cache.key must be BF16 as q is"));
    let strided = q.transpose(1, 2)?.contiguous()?.transpose(1, 2)?;
    assert!(error(&strided, (0, 4, 20)).contains("q must be contiguous"));
    let refused = |change: &Change| message(case.run_changed(&q, &[(0, 4, 20)], change));
    let change = Change { window: Some(0), ..Change::default() };
    assert!(refused(&change).contains("window must be at least 1"));
    let change = Change { soft_cap: Some(-1.0), ..Change::default() };
    assert!(refused(&change).contains("soft_cap must be a number above 0, it is -1"));
    let change = Change { sinks: vec![0.0; 3], ..Change::default() };
    assert!(refused(&change).contains("sinks must have shape [4]"));
    let odd = queries(Shape { head_dim: 20, ..shape }, 4, DType::F32, &Device::Cpu)?;
    assert!(error(&odd, (0, 4, 20)).contains("head_dim must be a multiple of 8"));
    Ok(())
}
