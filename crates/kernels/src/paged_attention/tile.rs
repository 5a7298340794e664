//! Attention of one tile: some tokens' grouped query heads against one key head.
//!
//! Keys come in groups of [`GROUP`] that start at multiples of it. For each, the keys are transposed
//! to f32 columns once; then four query rows at a time take their scores (registers: 4 rows by 4
//! vectors of keys), update their running softmax, and add their part of the values (4 rows by 4
//! vectors of head elements). The number of rows taken together changes no row's arithmetic.

use super::softmax::{GROUP, Softmax, VECTORS, cap, mask};
use crate::disjoint::DisjointMut;
use crate::simd::{Element, Kernel, LANES, Lanes, load_at, store_at};
use std::cell::RefCell;

/// What all tiles read.
pub(super) struct Inputs<'a, E, C> {
    pub(super) q: &'a [E],     // [tokens, heads, head_dim]
    pub(super) key: &'a [C],   // [num_blocks, kv_heads, block_size, head_dim]
    pub(super) value: &'a [C], // as key
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) block_size: usize,
    pub(super) scale: f32,
    /// Keys that a row sees at most, itself included.
    pub(super) window: usize,
    pub(super) soft_cap: Option<f32>,
    pub(super) sinks: Option<&'a [f32]>, // [heads]
}

/// Consecutive tokens of one sequence with the query heads of one key head.
pub(super) struct Tile<'a> {
    pub(super) first_row: usize,
    pub(super) num_tokens: usize,
    /// Keys that the first token sees; each further one sees one more.
    pub(super) visible: usize,
    pub(super) kv_head: usize,
    pub(super) table: &'a [u32],
}

/// A tile to be computed.
pub(super) struct AttendTile<'a, E, C> {
    pub(super) inputs: &'a Inputs<'a, E, C>,
    pub(super) tile: &'a Tile<'a>,
    pub(super) out: &'a DisjointMut<'a, E>, // [tokens, heads, head_dim]
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Working memory of a thread, kept from tile to tile.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,                           // [rows, head_dim], scaled
    keys: Vec<[[f32; LANES]; VECTORS]>,    // [padded head_dim][GROUP]
    weights: Vec<[[f32; LANES]; VECTORS]>, // [rows][GROUP]: exp(score - max)
    acc: Vec<f32>,                         // [rows, padded head_dim]
    softmax: Vec<Softmax>,                 // [rows]
}

impl<E: Element, C: Element> Kernel for AttendTile<'_, E, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        // No closure may stand between this and what it calls: the body of another function, were
        // it not inlined, would be compiled without vectors.
        let mut scratch = SCRATCH.take();
        let Inputs { head_dim, .. } = *self.inputs;
        let num_rows = self.tile.num_tokens * self.group_size();
        self.load_queries::<V>(&mut scratch);
        scratch.keys.resize(head_dim.next_multiple_of(LANES), [[0.0; LANES]; VECTORS]);
        scratch.weights.resize(num_rows, [[0.0; LANES]; VECTORS]);
        scratch.acc.clear();
        scratch.acc.resize(num_rows * head_dim.next_multiple_of(LANES), 0.0);
        scratch.softmax.clear();
        scratch.softmax.resize(num_rows, Softmax::new());
        let mut start = self.first_seen(0) / GROUP * GROUP;
        while start < self.visible(num_rows - 1) {
            self.attend_group::<V>(start, &mut scratch);
            start += GROUP;
        }
        self.store::<V>(&scratch);
        SCRATCH.set(scratch);
    }
}

impl<E: Element, C: Element> AttendTile<'_, E, C> {
    /// Query heads that share the key head.
    #[inline(always)]
    fn group_size(&self) -> usize {
        self.inputs.num_heads / self.inputs.num_kv_heads
    }

    /// Keys that a row of the tile sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> usize {
        self.tile.visible + row / self.group_size()
    }

    /// The first of them.
    #[inline(always)]
    fn first_seen(&self, row: usize) -> usize {
        self.visible(row).saturating_sub(self.inputs.window)
    }

    /// Which keys of the group from `start` on a row sees.
    #[inline(always)]
    fn seen(&self, row: usize, start: usize) -> (usize, usize) {
        (self.first_seen(row).saturating_sub(start), (self.visible(row) - start).min(GROUP))
    }

    /// Query head of a row.
    #[inline(always)]
    fn head(&self, row: usize) -> usize {
        self.tile.kv_head * self.group_size() + row % self.group_size()
    }

    /// First element of a row's head in q and out.
    #[inline(always)]
    fn head_start(&self, row: usize) -> usize {
        let token = self.tile.first_row + row / self.group_size();
        (token * self.inputs.num_heads + self.head(row)) * self.inputs.head_dim
    }

    #[inline(always)]
    fn load_queries<V: Lanes>(&self, scratch: &mut Scratch) {
        let Inputs { q, head_dim, scale, .. } = *self.inputs;
        scratch.q.resize(self.tile.num_tokens * self.group_size() * head_dim, 0.0);
        for (row, out) in scratch.q.chunks_exact_mut(head_dim).enumerate() {
            let x = &q[self.head_start(row)..][..head_dim];
            for i in (0..head_dim).step_by(LANES) {
                store_at(load_at::<V, E>(x, i).mul(V::splat(scale)), out, i);
            }
        }
    }

    /// Adds what the keys `start..start + GROUP` give to every row that sees any of them.
    #[inline(always)]
    fn attend_group<V: Lanes>(&self, start: usize, scratch: &mut Scratch) {
        let head_dim = self.inputs.head_dim;
        let num_rows = scratch.softmax.len();
        let num_keys = GROUP.min(self.visible(num_rows - 1) - start);
        let offsets = self.key_offsets(start, num_keys);
        let num_next = GROUP.min(self.visible(num_rows - 1).saturating_sub(start + GROUP));
        let next = self.key_offsets(start + GROUP, num_next);
        let mut ahead = &next[..num_next];
        transpose_keys::<V, C>(self.inputs.key, [&offsets, &next], head_dim, &mut scratch.keys);
        // Rows of the first tokens may not see any key of the last group, and with a window those of
        // the last tokens none of the first.
        let mut row = (start + 1).saturating_sub(self.tile.visible) * self.group_size();
        let last_token = (start + GROUP).saturating_add(self.inputs.window) - self.tile.visible;
        let num_rows = num_rows.min(last_token.saturating_mul(self.group_size()));
        while row < num_rows {
            let block = Rows { row, start, offsets: &offsets, ahead };
            ahead = &[];
            if V::TILE_ROWS >= 4 && row + 4 <= num_rows {
                self.attend_rows::<V, 4>(block, scratch);
                row += 4;
            } else if V::TILE_ROWS >= 2 && row + 2 <= num_rows {
                self.attend_rows::<V, 2>(block, scratch);
                row += 2;
            } else {
                self.attend_rows::<V, 1>(block, scratch);
                row += 1;
            }
        }
    }

    /// Where the keys and values of a group begin; past the last key, where the first does.
    #[inline(always)]
    fn key_offsets(&self, start: usize, num_keys: usize) -> [usize; GROUP] {
        let Inputs { num_kv_heads, head_dim, block_size, .. } = *self.inputs;
        let mut offsets = [0; GROUP];
        let mut position = start;
        while position < start + num_keys {
            let block = self.tile.table[position / block_size] as usize;
            let row = (block * num_kv_heads + self.tile.kv_head) * block_size;
            let next = (position / block_size + 1) * block_size;
            for p in position..next.min(start + num_keys) {
                offsets[p - start] = (row + p % block_size) * head_dim;
            }
            position = next;
        }
        let first = offsets[0];
        offsets[num_keys..].fill(first);
        offsets
    }

    /// Scores, softmax and values of `R` rows.
    #[inline(always)]
    fn attend_rows<V: Lanes, const R: usize>(&self, rows: Rows, scratch: &mut Scratch) {
        let Inputs { value, head_dim, soft_cap, .. } = *self.inputs;
        let q = std::array::from_fn(|r| &scratch.q[(rows.row + r) * head_dim..][..head_dim]);
        let scores = scores::<V, R>(q, &scratch.keys[..head_dim]);
        for (r, mut scores) in scores.into_iter().enumerate() {
            let row = rows.row + r;
            if let Some(limit) = soft_cap {
                scores = cap(scores, limit);
            }
            let weights = scratch.softmax[row].add(mask(scores, self.seen(row, rows.start)));
            for (weights, out) in weights.into_iter().zip(&mut scratch.weights[row]) {
                weights.store(out);
            }
        }
        let padded = head_dim.next_multiple_of(LANES);
        let values = |row, (first, end): (usize, usize)| Values {
            value,
            head_dim,
            row,
            padded,
            first,
            offsets: &rows.offsets[first..end],
            ahead: rows.ahead,
        };
        let seen = self.seen(rows.row, rows.start);
        if seen == self.seen(rows.row + R - 1, rows.start) {
            values(rows.row, seen).add::<V, R>(scratch);
        } else {
            // No row may read a value it does not see: even times 0 it would show if not finite.
            for row in rows.row..rows.row + R {
                values(row, self.seen(row, rows.start)).add::<V, 1>(scratch);
            }
        }
    }

    /// Divides by the sums and rounds.
    #[inline(always)]
    fn store<V: Lanes>(&self, scratch: &Scratch) {
        let head_dim = self.inputs.head_dim;
        let rows = scratch.acc.chunks_exact(head_dim.next_multiple_of(LANES));
        for (row, (acc, softmax)) in rows.zip(&scratch.softmax).enumerate() {
            let start = self.head_start(row);
            // SAFETY: no other tile has this token and query head.
            let out = unsafe { self.out.slice(start..start + head_dim) };
            let sink = self.inputs.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[self.head(row)]);
            let sum = V::splat(softmax.total::<V>(sink));
            for i in (0..head_dim).step_by(LANES) {
                store_at(load_at::<V, f32>(acc, i).div(sum), out, i);
            }
        }
    }
}

/// Rows of a tile against one group of keys.
#[derive(Clone, Copy)]
struct Rows<'a> {
    row: usize,
    start: usize,
    offsets: &'a [usize; GROUP],
    /// Values to ask for meanwhile.
    ahead: &'a [usize],
}

/// Turns the rows of a group's keys into f32 columns and asks for those of the next group: blocks lie
/// anywhere, where the processor does not look ahead by itself. keys `[padded head_dim][GROUP]`
#[inline(always)]
fn transpose_keys<V: Lanes, E: Element>(
    key: &[E],
    [offsets, next]: [&[usize; GROUP]; 2],
    head_dim: usize,
    keys: &mut [[[f32; LANES]; VECTORS]],
) {
    let (vectors, _) = offsets.as_chunks::<LANES>();
    for (vector, offsets) in vectors.iter().enumerate() {
        for &offset in &next[vector * LANES..][..LANES] {
            V::prefetch(&key[offset..][..head_dim]);
        }
        for i in (0..head_dim).step_by(LANES) {
            let mut square = [V::splat(0.0); LANES];
            for (row, &offset) in square.iter_mut().zip(offsets) {
                *row = load_at(&key[offset..][..head_dim], i);
            }
            V::transpose(&mut square);
            for (column, keys) in square.into_iter().zip(&mut keys[i..]) {
                column.store(&mut keys[vector]);
            }
        }
    }
}

/// `q K^T` of `R` rows, each product summed in the order of the head's elements.
#[inline(always)]
fn scores<V: Lanes, const R: usize>(
    q: [&[f32]; R],
    keys: &[[[f32; LANES]; VECTORS]],
) -> [[V; VECTORS]; R] {
    let q = q.map(|q| &q[..keys.len()]);
    let mut scores = [[V::splat(0.0); VECTORS]; R];
    for (i, keys) in keys.iter().enumerate() {
        let mut columns = [V::splat(0.0); VECTORS];
        for (column, key) in columns.iter_mut().zip(keys) {
            *column = V::load(key);
        }
        for (q, scores) in q.iter().zip(&mut scores) {
            let q = V::splat(q[i]);
            for (column, score) in columns.iter().zip(scores) {
                *score = q.mul_add(*column, *score);
            }
        }
    }
    scores
}

/// The values of some keys, to be added to some rows.
struct Values<'a, E> {
    value: &'a [E],
    /// Of the group's weights.
    first: usize,
    offsets: &'a [usize],
    ahead: &'a [usize],
    head_dim: usize,
    padded: usize,
    row: usize,
}

impl<E: Element> Values<'_, E> {
    /// `acc = acc * rescale + weights V` of `R` rows, keys in order.
    #[inline(always)]
    fn add<V: Lanes, const R: usize>(self, scratch: &mut Scratch) {
        let mut i = 0;
        while i + 4 * LANES <= self.head_dim {
            self.add_columns::<V, R, 4>(i, scratch);
            i += 4 * LANES;
        }
        while i < self.head_dim {
            self.add_columns::<V, R, 1>(i, scratch);
            i += LANES;
        }
    }

    /// The same for `C` vectors of head elements.
    #[inline(always)]
    fn add_columns<V: Lanes, const R: usize, const C: usize>(
        &self,
        i: usize,
        scratch: &mut Scratch,
    ) {
        let Scratch { acc, softmax, weights, .. } = scratch;
        let weights: [&[f32]; R] =
            std::array::from_fn(|r| &weights[self.row + r].as_flattened()[self.first..]);
        let weights = weights.map(|weights| &weights[..self.offsets.len()]);
        let mut sums = [[V::splat(0.0); C]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            let rescale = V::splat(softmax[self.row + r].rescale);
            let acc = &acc[(self.row + r) * self.padded + i..];
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum = load_at::<V, f32>(acc, c * LANES).mul(rescale);
            }
        }
        let width = (C * LANES).min(self.head_dim - i);
        for (k, &offset) in self.offsets.iter().enumerate() {
            if let Some(&next) = self.ahead.get(k) {
                V::prefetch(&self.value[next + i..][..width]);
            }
            let value = &self.value[offset + i..][..width];
            let mut values = [V::splat(0.0); C];
            for (c, values) in values.iter_mut().enumerate() {
                *values = load_at(value, c * LANES);
            }
            for (weights, sums) in weights.iter().zip(&mut sums) {
                let weight = V::splat(weights[k]);
                for (value, sum) in values.iter().zip(sums) {
                    *sum = weight.mul_add(*value, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let acc = &mut acc[(self.row + r) * self.padded + i..];
            for (c, sum) in sums.into_iter().enumerate() {
                store_at(sum, acc, c * LANES);
            }
        }
    }
}
