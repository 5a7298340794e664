//! Attention on the CPU: which tiles there are. What one computes is in `tile.rs`.

use super::PagedAttention;
use super::tile::{AttendTile, Inputs, Tile};
use crate::disjoint::DisjointMut;
use crate::pool::{for_each_task, num_threads};
#[cfg(target_arch = "x86_64")]
use crate::simd::Amx;
#[cfg(test)]
use crate::simd::Described;
#[cfg(any(target_arch = "x86_64", test))]
use crate::simd::tiles::Unit;
use crate::simd::{Element, Path};
use crate::views::{cpu_slice, slice};
use candle_core::{CpuStorage, Layout, Result, Tensor, bail};
use float8::F8E4M3;
use half::bf16;

/// Query rows (tokens times grouped heads) that share each key loaded.
const ROWS_PER_TILE: usize = 64;

/// The same in tile registers, for which keys and values must be brought into another order.
const ROWS_IN_TILES: usize = 128;

/// Tiles that one task computes in a row at most: while it is busy with one it asks for the next one's keys.
const MAX_RUN: usize = 8;

/// What a cache may hold for queries of a type.
pub(super) trait CacheOf<E: Element>: Element {
    /// Whether there are products in tile registers.
    fn is_in_tiles(_path: Path) -> bool {
        false
    }

    /// Computes a tile.
    fn attend(path: Path, tile: AttendTile<'_, E, Self>) {
        path.run(tile);
    }
}

impl CacheOf<f32> for f32 {}

impl CacheOf<f32> for F8E4M3 {}

impl CacheOf<bf16> for F8E4M3 {
    fn is_in_tiles(path: Path) -> bool {
        path.has_tiles()
    }

    fn attend(path: Path, tile: AttendTile<'_, bf16, Self>) {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Amx => Amx::enable(tile),
            #[cfg(test)]
            Path::DescribedTiles => Described::enable(tile),
            _ => path.run(tile),
        }
    }
}

impl CacheOf<bf16> for bf16 {
    fn is_in_tiles(path: Path) -> bool {
        path.has_tiles()
    }

    fn attend(path: Path, tile: AttendTile<'_, bf16, Self>) {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Amx => Amx::enable(tile),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Bf16 => path.run_pairs(tile),
            #[cfg(test)]
            Path::DescribedTiles => Described::enable(tile),
            _ => path.run(tile),
        }
    }
}

/// q `[tokens, heads, head_dim]`, cache `[num_blocks, kv_heads, block_size, head_dim]` twice.
pub(super) fn paged_attention<E: Element, C: CacheOf<E>>(
    path: Path,
    (q, q_layout): (&CpuStorage, &Layout),
    [(key, key_layout), (value, value_layout)]: [(&CpuStorage, &Layout); 2],
    args: &PagedAttention,
) -> Result<CpuStorage> {
    let (tokens, num_heads, head_dim) = q_layout.shape().dims3()?;
    let (num_blocks, num_kv_heads, block_size, _) = key_layout.shape().dims4()?;
    let sinks = args.variant.sinks.map(Tensor::storage_and_layout);
    let sinks = sinks.as_ref().map(|(sinks, layout)| cpu_slice(sinks, layout, "sinks"));
    let inputs = Inputs::<E, C> {
        q: slice(q, q_layout, "q")?,
        key: slice(key, key_layout, "cache.key")?,
        value: slice(value, value_layout, "cache.value")?,
        num_heads,
        num_kv_heads,
        head_dim,
        block_size,
        scale: args.scale,
        window: args.variant.window.unwrap_or(usize::MAX),
        soft_cap: args.variant.soft_cap,
        sinks: sinks.transpose()?,
    };
    let (q_starts, q_starts_layout) = args.q_starts.storage_and_layout();
    let (context_lens, context_lens_layout) = args.context_lens.storage_and_layout();
    let (tables, tables_layout) = args.block_tables.storage_and_layout();
    let sequences = sequences(
        cpu_slice(&q_starts, q_starts_layout, "q_starts")?,
        cpu_slice(&context_lens, context_lens_layout, "context_lens")?,
        cpu_slice(&tables, tables_layout, "block_tables")?,
        tokens,
    )?;
    for (i, sequence) in sequences.iter().enumerate() {
        sequence.check(i, num_blocks, block_size)?;
    }

    let group_size = num_heads / num_kv_heads;
    let rows = if C::is_in_tiles(path) { ROWS_IN_TILES } else { ROWS_PER_TILE };
    let tiles = tiles(&sequences, num_kv_heads, (rows / group_size).max(1));
    let mut out = vec![E::default(); inputs.q.len()];
    let shared = DisjointMut::new(&mut out);
    let pairs: usize = sequences.iter().map(|s| s.num_rows * s.context_len).sum();
    let run = (tiles.len() / (8 * num_threads())).clamp(1, MAX_RUN);
    for_each_task(tiles.len().div_ceil(run), pairs * num_heads * head_dim, |i| {
        let run = &tiles[i * run..tiles.len().min((i + 1) * run)];
        for (i, tile) in run.iter().enumerate() {
            let (inputs, next, out) = (&inputs, run.get(i + 1), &shared);
            C::attend(path, AttendTile { inputs, tile, next, out });
        }
    });
    Ok(E::to_cpu_storage_owned(out))
}

/// One sequence of the call.
struct Sequence<'a> {
    first_row: usize,
    num_rows: usize,
    context_len: usize,
    table: &'a [u32],
}

/// Divides the index tensors by sequence.
fn sequences<'a>(
    q_starts: &[u32],
    context_lens: &[u32],
    tables: &'a [u32],
    tokens: usize,
) -> Result<Vec<Sequence<'a>>> {
    let num_seqs = context_lens.len();
    if !q_starts.is_sorted() || q_starts[0] != 0 || q_starts[num_seqs] as usize != tokens {
        bail!("q_starts must rise from 0 to the {tokens} rows of q, they are {q_starts:?}");
    }
    let width = tables.len() / num_seqs.max(1);
    let sequence = |i: usize| Sequence {
        first_row: q_starts[i] as usize,
        num_rows: (q_starts[i + 1] - q_starts[i]) as usize,
        context_len: context_lens[i] as usize,
        table: &tables[i * width..(i + 1) * width],
    };
    Ok((0..num_seqs).map(sequence).collect())
}

impl Sequence<'_> {
    /// Refuses keys that are not there.
    fn check(&self, index: usize, num_blocks: usize, block_size: usize) -> Result<()> {
        let Self { num_rows, context_len, table, .. } = self;
        // No keys at all: padding, whose rows stay zero.
        if context_len < num_rows && *context_len > 0 {
            bail!("sequence {index} has {num_rows} rows and only {context_len} keys");
        }
        if *num_rows > 0 && *context_len > table.len() * block_size {
            bail!(
                "sequence {index} has {context_len} keys, its {} blocks hold {}",
                table.len(),
                table.len() * block_size
            );
        }
        let used = context_len.div_ceil(block_size.max(1)).min(table.len());
        match table[..used].iter().find(|&&block| block as usize >= num_blocks) {
            Some(block) => bail!("block {block} of sequence {index} is beyond the {num_blocks}"),
            None => Ok(()),
        }
    }
}

/// Tiles of all sequences and key heads. Each has its own rows and heads of the output.
fn tiles<'a>(
    sequences: &[Sequence<'a>],
    num_kv_heads: usize,
    tokens_per_tile: usize,
) -> Vec<Tile<'a>> {
    let mut tiles = Vec::new();
    for sequence in sequences.iter().filter(|sequence| sequence.context_len > 0) {
        for kv_head in 0..num_kv_heads {
            for first in (0..sequence.num_rows).step_by(tokens_per_tile) {
                tiles.push(Tile {
                    first_row: sequence.first_row + first,
                    num_tokens: tokens_per_tile.min(sequence.num_rows - first),
                    visible: sequence.context_len - sequence.num_rows + first + 1,
                    kv_head,
                    table: sequence.table,
                });
            }
        }
    }
    tiles
}
