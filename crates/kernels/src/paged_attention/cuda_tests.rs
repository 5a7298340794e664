//! The CUDA kernels of attention, on the host, against the reference of the CPU op.

use super::cuda::{Model, PagedAttentionParams, Processors, plan};
use super::extents::num_arrivals;
use super::tests::{Case, Change, Shape, TOLERANCE, queries};
use super::{Extents, KvCacheLayer, SPLIT_ROWS};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device, to_bytes};
use crate::testing::{assert_close, ids};
use candle_core::{DType, Device, Error, Result, Tensor};

/// (sequence, rows, context)
type Part = (usize, usize, usize);

const SMALL: Processors = Processors { count: 2, shared_bytes_per_processor: 1 << 17 };

/// A call of the kernels.
struct Call<'a> {
    case: &'a Case,
    change: Change,
    extents: Option<Extents>,
    processors: Processors,
    /// The case's cache in e4m3, and the scales of keys and values.
    narrow: Option<(KvCacheLayer, [f32; 2])>,
}

impl<'a> Call<'a> {
    fn new(case: &'a Case) -> Self {
        Self { case, change: Change::default(), extents: None, processors: SMALL, narrow: None }
    }

    /// q `[tokens, heads, head_dim]` to the same shape.
    fn run(&self, q: &Tensor, parts: &[Part]) -> Result<Tensor> {
        let Shape { num_heads, num_kv_heads, head_dim, block_size } = self.case.shape;
        let (cache, [key_scale, value_scale]) = match &self.narrow {
            Some((cache, scales)) => (cache, *scales),
            None => (&self.case.cache, [1.0; 2]),
        };
        let (dtype, cache_dtype) = (q.dtype(), cache.key.dtype());
        let heads = Model { num_heads, num_kv_heads, head_dim, dtype, cache_dtype };
        let [q_starts, contexts, tables] = self.indices(parts)?;
        let extents = self.extents.unwrap_or_else(|| {
            Extents::of(parts.iter().map(|&(_, rows, context)| (rows, context)))
        });
        let launches = plan(&heads, q.dims()[0], &extents, self.processors)?;
        let sinks = Tensor::new(self.change.sinks.as_slice(), &Device::Cpu)?;
        let out = on_device(|device| {
            let input = |tensor: &Tensor| Input::new(device, tensor, 0);
            let (q, key, value) = (input(q)?, input(&cache.key)?, input(&cache.value)?);
            let (starts, contexts) = (input(&q_starts)?, input(&contexts)?);
            let (tables, sinks) = (input(&tables)?, input(&sinks)?);
            let partials = extents.num_partials() * num_heads;
            let partial_out = device.output::<f32>(partials * head_dim);
            let partial_softmax = device.output::<[f32; 2]>(partials);
            let arrivals = device.filled(&vec![0u32; num_arrivals(parts.len(), num_heads)]);
            let out = device.output::<u8>(q.read().len());
            let params = PagedAttentionParams {
                q: q.address(),
                key: key.address(),
                value: value.address(),
                out: out.address(),
                q_starts: starts.address(),
                context_lens: contexts.address(),
                block_tables: tables.address(),
                sinks: if self.change.sinks.is_empty() { 0 } else { sinks.address() },
                partial_out: partial_out.address(),
                partial_softmax: partial_softmax.address(),
                arrivals: arrivals.address(),
                scale: self.case.scale() * key_scale,
                value_scale,
                soft_cap: self.change.soft_cap.unwrap_or(0.0) as f32,
                num_seqs: parts.len() as i32,
                num_heads: num_heads as i32,
                num_kv_heads: num_kv_heads as i32,
                head_dim: head_dim as i32,
                block_size: block_size as i32,
                table_width: self.table_width() as i32,
                window: self.change.window.unwrap_or(0) as i32,
                split_rows: extents.split_limit() as i32,
            };
            for one in &launches {
                launch(device, one, &params).map_err(Error::wrap)?;
            }
            assert!(arrivals.read().iter().all(|&arrived| arrived == 0), "counters are left");
            Ok(vec![out.read()])
        })?;
        from_bytes(&out[0], q.dims(), q.dtype())
    }

    fn table_width(&self) -> usize {
        self.case.tables.iter().map(Vec::len).max().unwrap_or(0) + 1
    }

    /// q_starts, context_lens, block_tables
    fn indices(&self, parts: &[Part]) -> Result<[Tensor; 3]> {
        let mut starts = vec![0];
        let mut tables = Vec::new();
        for &(s, rows, _) in parts {
            starts.push(starts[starts.len() - 1] + rows as u32);
            let mut table = self.case.tables[s].clone();
            table.resize(self.table_width(), u32::MAX);
            tables.extend(table);
        }
        let contexts: Vec<u32> = parts.iter().map(|part| part.2 as u32).collect();
        let device = &Device::Cpu;
        Ok([ids(&starts, device)?, ids(&contexts, device)?, ids(&tables, device)?])
    }

    fn assert_equals_reference(&self, q: &Tensor, parts: &[Part]) -> Result<()> {
        let out = self.run(q, parts)?;
        assert_close(&out, &self.case.reference(q, parts, &self.change)?, TOLERANCE);
        Ok(())
    }
}

fn num_rows(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.1).sum()
}

fn num_keys(parts: &[Part]) -> Vec<usize> {
    parts.iter().map(|part| part.2).collect()
}

fn shape(num_heads: usize, num_kv_heads: usize, head_dim: usize, block_size: usize) -> Shape {
    Shape { num_heads, num_kv_heads, head_dim, block_size }
}

/// Decodes, drafts, chunks, a padded row and a sequence without rows, mixed.
const PARTS: [Part; 9] = [
    (0, 1, 1),
    (1, 1, 257),
    (2, 70, 70),
    (3, 5, 300),
    (4, 0, 5),
    (5, 1, 0),
    (6, 17, 130),
    (7, 8, 8),
    (8, 1, 16),
];

#[test]
fn kernels_equal_the_reference() -> Result<()> {
    let shapes = [
        shape(4, 2, 64, 16),
        shape(6, 2, 96, 8),
        shape(4, 1, 128, 32),
        shape(2, 2, 256, 24),
        shape(3, 1, 40, 8),
    ];
    for dtype in CUDA_DTYPES {
        for shape in shapes {
            let q = queries(shape, num_rows(&PARTS), dtype, &Device::Cpu)?;
            let case = Case::new(shape, &num_keys(&PARTS), 1, &q)?;
            Call::new(&case).assert_equals_reference(&q, &PARTS)?;
        }
    }
    Ok(())
}

/// Keys and values of 8 bits with a scale each, to which the reference's are rounded.
#[test]
fn a_cache_of_e4m3_equals_the_reference() -> Result<()> {
    let parts = [(0, 1, 1), (1, 1, 257), (2, 40, 70), (3, 5, 40), (4, 17, 17), (5, 1, 0)];
    for shape in [
        shape(4, 2, 64, 16),
        shape(6, 2, 96, 8),
        shape(4, 1, 128, 32),
        shape(5, 1, 128, 16),
        shape(2, 2, 256, 24),
        shape(3, 1, 40, 8),
    ] {
        let like = queries(shape, num_rows(&parts), DType::F32, &Device::Cpu)?;
        let mut case = Case::new(shape, &num_keys(&parts), 12, &like)?;
        let key = (&case.cache.key * 0.5)?.to_dtype(DType::F8E4M3)?;
        let value = (&case.cache.value * 200.0)?.to_dtype(DType::F8E4M3)?;
        case.cache.key = (key.to_dtype(DType::F32)? * 2.0)?;
        case.cache.value = (value.to_dtype(DType::F32)? / 200.0)?;
        let mut call = Call::new(&case);
        call.narrow = Some((KvCacheLayer { key, value }, [2.0, 1.0 / 200.0]));
        call.assert_equals_reference(&like.to_dtype(DType::BF16)?, &parts)?;
        call.assert_equals_reference(&like, &parts)?;
    }
    Ok(())
}

#[test]
fn every_group_size_equals_the_reference() -> Result<()> {
    let parts = [(0, 1, 40), (1, 3, 19), (2, 11, 33)];
    for group_size in 1..=9 {
        let shape = shape(2 * group_size, 2, 64, 8);
        let q = queries(shape, num_rows(&parts), DType::BF16, &Device::Cpu)?;
        let case = Case::new(shape, &num_keys(&parts), 2, &q)?;
        Call::new(&case).assert_equals_reference(&q, &parts)?;
    }
    Ok(())
}

/// Around tiles and splits, decoded, drafted and read as a chunk.
#[test]
fn borders_equal_the_reference() -> Result<()> {
    let contexts = [9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 256, 257, 511, 513];
    let shape = shape(2, 1, 64, 16);
    for rows in [1, 2, 9] {
        let parts: Vec<Part> = contexts.iter().enumerate().map(|(s, &c)| (s, rows, c)).collect();
        let q = queries(shape, num_rows(&parts), DType::F16, &Device::Cpu)?;
        let case = Case::new(shape, &contexts, 3, &q)?;
        Call::new(&case).assert_equals_reference(&q, &parts)?;
    }
    Ok(())
}

/// More keys than MAX_SPLITS splits of the usual length hold.
#[test]
fn a_long_context_equals_the_reference() -> Result<()> {
    let shape = shape(1, 1, 64, 32);
    for parts in [[(0, 1, 16_384)], [(0, 1, 16_500)]] {
        let q = queries(shape, 1, DType::BF16, &Device::Cpu)?;
        let case = Case::new(shape, &num_keys(&parts), 4, &q)?;
        Call::new(&case).assert_equals_reference(&q, &parts)?;
    }
    Ok(())
}

#[test]
fn variants_equal_the_reference() -> Result<()> {
    let parts = [(0, 1, 300), (1, 4, 600), (2, 40, 100), (3, 1, 3), (4, 1, 0)];
    for dtype in CUDA_DTYPES {
        for (window, soft_cap, has_sinks) in
            [(1, 0.0, false), (100, 0.0, true), (270, 2.0, false), (0, 1.5, true)]
        {
            let shape = shape(4, 2, 64, 16);
            let q = queries(shape, num_rows(&parts), dtype, &Device::Cpu)?;
            let case = Case::new(shape, &num_keys(&parts), 5, &q)?;
            let mut call = Call::new(&case);
            call.change = Change {
                window: (window > 0).then_some(window),
                soft_cap: (soft_cap > 0.0).then_some(soft_cap),
                sinks: if has_sinks { vec![-1.0, 0.5, 2.0, 7.0] } else { Vec::new() },
                ..Change::default()
            };
            call.assert_equals_reference(&q, &parts)?;
        }
    }
    Ok(())
}

/// With or without neighbours, drafts behind it, and other processors: the same bits.
#[test]
fn a_row_is_the_same_in_every_call() -> Result<()> {
    for (shape, window) in [
        (shape(4, 2, 64, 16), None),
        (shape(4, 2, 64, 16), Some(300)),
        (shape(16, 2, 128, 16), None),
    ] {
        let q = queries(shape, num_rows(&PARTS), DType::BF16, &Device::Cpu)?;
        let case = Case::new(shape, &num_keys(&PARTS), 6, &q)?;
        let mut call = Call::new(&case);
        call.change.window = window;
        let together = call.run(&q, &PARTS)?;
        let mut start = 0;
        for part in PARTS.into_iter().filter(|part| part.1 > 0) {
            let expected = together.narrow(0, start, part.1)?;
            let rows = q.narrow(0, start, part.1)?;
            call.processors = Processors { count: 100, ..SMALL };
            assert_eq!(to_bytes(&call.run(&rows, &[part])?)?, to_bytes(&expected)?);
            // As if the rows before had not been drafts of the same step.
            if (2..=SPLIT_ROWS).contains(&part.1) {
                for row in [0, part.1 - 1] {
                    let one = (part.0, 1, part.2 - part.1 + 1 + row);
                    let alone = call.run(&rows.narrow(0, row, 1)?, &[one])?;
                    assert_eq!(to_bytes(&alone)?, to_bytes(&expected.narrow(0, row, 1)?)?);
                }
            }
            start += part.1;
        }
    }
    Ok(())
}

#[test]
fn chunks_and_blocks_do_not_show() -> Result<()> {
    const LEN: usize = 150;
    for window in [None, Some(70)] {
        let shape = shape(6, 2, 64, 16);
        let q = queries(shape, LEN, DType::BF16, &Device::Cpu)?;
        let mut expected: Option<Tensor> = None;
        for (block_size, shuffle) in [(16, 7), (8, 8), (40, 9)] {
            let case = Case::new(Shape { block_size, ..shape }, &[LEN], shuffle, &q)?;
            let mut call = Call::new(&case);
            call.change.window = window;
            let whole = call.run(&q, &[(0, LEN, LEN)])?;
            let expected = expected.get_or_insert_with(|| whole.clone());
            assert_eq!(to_bytes(&whole)?, to_bytes(expected)?);
            for chunk in [9, 50, 100] {
                for start in (0..LEN).step_by(chunk) {
                    let rows = chunk.min(LEN - start);
                    if rows > SPLIT_ROWS {
                        let q = q.narrow(0, start, rows)?;
                        let part = call.run(&q, &[(0, rows, start + rows)])?;
                        assert_eq!(to_bytes(&part)?, to_bytes(&expected.narrow(0, start, rows)?)?);
                    }
                }
            }
        }
    }
    Ok(())
}

/// In tiles a row is the same with any number of rows beside it, of its own sequence or others.
#[test]
fn rows_in_tiles_are_the_same_in_every_call() -> Result<()> {
    const LEN: usize = 70;
    for (shape, dtype) in [
        (shape(6, 2, 64, 16), DType::BF16),
        (shape(4, 1, 128, 8), DType::F16),
        (shape(2, 1, 40, 8), DType::F32),
    ] {
        let q = queries(shape, LEN, dtype, &Device::Cpu)?;
        let case = Case::new(shape, &[LEN, 9], 13, &q)?;
        let mut call = Call::new(&case);
        let mut run = |q: &Tensor, parts: &[Part]| {
            let extents = Extents::of(parts.iter().map(|&(_, rows, context)| (rows, context)));
            call.extents = Some(extents.in_tiles());
            call.run(q, parts)
        };
        let whole = run(&q, &[(0, LEN, LEN)])?;
        assert_close(&whole, &case.reference(&q, &[(0, LEN, LEN)], &Change::default())?, TOLERANCE);
        for chunk in [1, 3, 8, 40] {
            for start in (0..LEN).step_by(chunk) {
                let rows = chunk.min(LEN - start);
                // A padded row and another sequence's besides.
                let others = Tensor::cat(&[&q.narrow(0, start, rows)?, &q.narrow(0, 0, 2)?], 0)?;
                let part = run(&others, &[(0, rows, start + rows), (1, 1, 9), (1, 1, 0)])?;
                let expected = whole.narrow(0, start, rows)?;
                assert_eq!(to_bytes(&part.narrow(0, 0, rows)?)?, to_bytes(&expected)?);
                assert!(to_bytes(&part.narrow(0, rows + 1, 1)?)?.iter().all(|&byte| byte == 0));
            }
        }
    }
    Ok(())
}

/// A graph is captured once, for the longest lengths; what it writes does not depend on them.
#[test]
fn launches_for_larger_calls_give_the_same() -> Result<()> {
    let shape = shape(4, 2, 64, 16);
    let q = queries(shape, num_rows(&PARTS), DType::BF16, &Device::Cpu)?;
    let case = Case::new(shape, &num_keys(&PARTS), 10, &q)?;
    let mut call = Call::new(&case);
    let expected = call.run(&q, &PARTS)?;
    call.processors.count = 1000;
    call.extents = Some(Extents {
        split_seqs: 20,
        split_rows: 160,
        max_split_rows: SPLIT_ROWS,
        max_split_context: 3000,
        tile_seqs: 9,
        tile_rows: 500,
    });
    assert_eq!(to_bytes(&call.run(&q, &PARTS)?)?, to_bytes(&expected)?);
    Ok(())
}

/// More sequences than a warp has lanes, more than one a lane in the first search.
#[test]
fn many_sequences_are_found() -> Result<()> {
    let shape = shape(2, 1, 64, 8);
    for num_seqs in [33, 70] {
        let parts: Vec<Part> = (0..num_seqs)
            .map(|s| match s % 5 {
                0 => (s, 0, 4),
                4 if s % 3 == 0 => (s, 10, 12),
                _ => (s, 1, s % 7),
            })
            .collect();
        let q = queries(shape, num_rows(&parts), DType::BF16, &Device::Cpu)?;
        let case = Case::new(shape, &num_keys(&parts), 11, &q)?;
        Call::new(&case).assert_equals_reference(&q, &parts)?;
    }
    Ok(())
}
