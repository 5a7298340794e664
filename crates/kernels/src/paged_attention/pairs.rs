//! Scores of bf16 queries and keys, two elements at a time; values as in `widened.rs`.
//!
//! Keys are multiplied as they lie: a score is sixteen sums over every sixteenth pair of elements, which
//! are then added in a fixed order; four rows and four keys at a time. Weights are not rounded to bf16,
//! which values in pairs would need: logits would then be farther from those of transformers.

use super::products::{ByRows, Group, Products};
use super::softmax::VECTORS;
use super::tile::{AttendTile, Queries, Rows, Scratch};
use super::widened::Widened;
use crate::simd::{LANES, PAIRED, PairLanes, load_pairs_at};
use half::bf16;
use std::marker::PhantomData;
use std::ops::Range;

/// Keys that a tile of registers takes.
const KEYS: usize = 4;

/// Working memory.
#[derive(Default)]
pub(super) struct Memory {
    q: Vec<[bf16; PAIRED]>, // [rows][padded head_dim]
    scale: f32,             // of the scores
}

pub(super) struct Pairs<V>(PhantomData<V>);

impl<V: PairLanes> Products<bf16, bf16> for Pairs<V> {
    type Lanes = V;

    #[inline(always)]
    fn load_queries(queries: &Queries<'_, bf16>, scratch: &mut Scratch) {
        let Queries { head_dim, scale, num_rows, .. } = *queries;
        scratch.make_room(num_rows, head_dim);
        let memory = &mut scratch.pairs;
        let steps = head_dim.div_ceil(PAIRED);
        memory.scale = scale;
        memory.q.resize(num_rows * steps, [bf16::ZERO; PAIRED]);
        for (row, out) in memory.q.chunks_exact_mut(steps).enumerate() {
            let x = queries.row(row);
            for (i, out) in out.iter_mut().enumerate() {
                V::store_pairs(load_pairs_at::<V>(x, i * PAIRED), out);
            }
        }
    }

    #[inline(always)]
    fn load_keys(_group: &Group<'_, bf16>, _rows: &Rows<'_>, _scratch: &mut Scratch) {}

    #[inline(always)]
    fn scores<const R: usize>(
        group: &Group<'_, bf16>,
        row: usize,
        ahead: &[usize],
        scratch: &Scratch,
    ) -> [[V; VECTORS]; R] {
        let Group { key, head_dim, ref offsets, .. } = *group;
        let Memory { q, scale, .. } = &scratch.pairs;
        let steps = head_dim.div_ceil(PAIRED);
        let q: [_; R] = std::array::from_fn(|r| &q[(row + r) * steps..][..steps]);
        let mut scores = [[V::splat(0.0); VECTORS]; R];
        let (vectors, _) = offsets.as_chunks::<LANES>();
        for (vector, offsets) in vectors.iter().enumerate() {
            let mut quarters = [[V::splat(0.0); LANES / KEYS]; R];
            let (quads, _) = offsets.as_chunks::<KEYS>();
            for (quad, offsets) in quads.iter().enumerate() {
                for k in 0..KEYS {
                    if let Some(&next) = ahead.get(vector * LANES + quad * KEYS + k) {
                        V::prefetch(&key[next..][..head_dim]);
                    }
                }
                let mut keys = [&key[..0]; KEYS];
                for (key_row, &offset) in keys.iter_mut().zip(offsets) {
                    *key_row = &key[offset..][..head_dim];
                }
                let sums = tile_of::<V, R>(q, keys);
                for (sums, quarters) in sums.into_iter().zip(&mut quarters) {
                    quarters[quad] = V::sums_in_quarters(sums);
                }
            }
            for (quarters, scores) in quarters.into_iter().zip(&mut scores) {
                scores[vector] = V::sums_of_quarters(quarters).mul(V::splat(*scale));
            }
        }
        scores
    }

    #[inline(always)]
    fn keep_weights(row: usize, weights: [V; VECTORS], scratch: &mut Scratch) {
        <Widened<V> as Products<bf16, bf16>>::keep_weights(row, weights, scratch);
    }

    #[inline(always)]
    fn add_values(
        tile: &AttendTile<'_, bf16, bf16>,
        group: &Group<'_, bf16>,
        rows: &Rows<'_>,
        scratch: &mut Scratch,
    ) {
        tile.add_by_rows::<Self>(group, rows, scratch);
    }

    #[inline(always)]
    fn sums(row: usize, i: usize, scratch: &Scratch) -> V {
        <Widened<V> as Products<bf16, bf16>>::sums(row, i, scratch)
    }
}

impl<V: PairLanes> ByRows<bf16, bf16> for Pairs<V> {
    #[inline(always)]
    fn add_values_of<const R: usize>(
        group: &Group<'_, bf16>,
        row: usize,
        keys: Range<usize>,
        ahead: &[usize],
        scratch: &mut Scratch,
    ) {
        <Widened<V> as ByRows<bf16, bf16>>::add_values_of::<R>(group, row, keys, ahead, scratch);
    }
}

/// The sixteen sums of every row with every key.
#[inline(always)]
fn tile_of<V: PairLanes, const R: usize>(
    q: [&[[bf16; PAIRED]]; R],
    keys: [&[bf16]; KEYS],
) -> [[V; KEYS]; R] {
    let mut sums = [[V::splat(0.0); KEYS]; R];
    let mut columns = [V::load_some_pairs(&[]); KEYS];
    let whole = keys[0].len() / PAIRED;
    for step in 0..whole {
        for (column, key) in columns.iter_mut().zip(keys) {
            *column = V::load_pairs(&key.as_chunks().0[step]);
        }
        add_step::<V, R>(q, step, columns, &mut sums);
    }
    if whole * PAIRED < keys[0].len() {
        for (column, key) in columns.iter_mut().zip(keys) {
            *column = V::load_some_pairs(&key[whole * PAIRED..]);
        }
        add_step::<V, R>(q, whole, columns, &mut sums);
    }
    sums
}

#[inline(always)]
fn add_step<V: PairLanes, const R: usize>(
    q: [&[[bf16; PAIRED]]; R],
    step: usize,
    columns: [V::Pairs; KEYS],
    sums: &mut [[V; KEYS]; R],
) {
    for (q, sums) in q.iter().zip(sums) {
        let q = V::load_pairs(&q[step]);
        for (sum, column) in sums.iter_mut().zip(columns) {
            *sum = sum.add_products(q, column);
        }
    }
}
