//! Products in f32: what is narrower is widened as it is read.
//!
//! The keys of a group are transposed to columns once, then each score is summed in the order of the
//! head's elements. Registers: 4 rows by 4 vectors of keys, then 4 rows by 4 vectors of values.

use super::products::{ByRows, Group, Products};
use super::softmax::VECTORS;
use super::tile::{AttendTile, Queries, Rows, Scratch, padded};
use crate::simd::{Element, LANES, Lanes, load_at, store_at};
use std::marker::PhantomData;
use std::ops::Range;

/// Working memory.
#[derive(Default)]
pub(super) struct Memory {
    q: Vec<f32>,                           // [rows, head_dim], scaled
    keys: Vec<[[f32; LANES]; VECTORS]>,    // [padded head_dim][GROUP]
    weights: Vec<[[f32; LANES]; VECTORS]>, // [rows][GROUP]: exp(score - max)
    head_dim: usize,
}

impl Scratch {
    /// For the weights and the sums of so many rows.
    pub(super) fn make_room(&mut self, num_rows: usize, head_dim: usize) {
        self.widened.weights.resize(num_rows, [[0.0; LANES]; VECTORS]);
        self.widened.head_dim = head_dim;
        self.begin_sums(num_rows, head_dim);
    }
}

pub(super) struct Widened<V>(PhantomData<V>);

impl<V: Lanes, E: Element, C: Element> Products<E, C> for Widened<V> {
    type Lanes = V;

    #[inline(always)]
    fn load_queries(queries: &Queries<'_, E>, scratch: &mut Scratch) {
        let Queries { head_dim, scale, num_rows, .. } = *queries;
        scratch.make_room(num_rows, head_dim);
        let memory = &mut scratch.widened;
        memory.q.resize(num_rows * head_dim, 0.0);
        memory.keys.resize(padded(head_dim), [[0.0; LANES]; VECTORS]);
        for (row, out) in memory.q.chunks_exact_mut(head_dim).enumerate() {
            let x = queries.row(row);
            for i in (0..head_dim).step_by(LANES) {
                store_at(load_at::<V, E>(x, i).mul(V::splat(scale)), out, i);
            }
        }
    }

    #[inline(always)]
    fn load_keys(group: &Group<'_, C>, _rows: &Rows<'_>, scratch: &mut Scratch) {
        let Group { key, head_dim, ref offsets, .. } = *group;
        let keys = &mut scratch.widened.keys;
        let (vectors, _) = offsets.as_chunks::<LANES>();
        for (vector, offsets) in vectors.iter().enumerate() {
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

    #[inline(always)]
    fn scores<const R: usize>(
        group: &Group<'_, C>,
        row: usize,
        ahead: &[usize],
        scratch: &Scratch,
    ) -> [[V; VECTORS]; R] {
        let Group { key, head_dim, .. } = *group;
        for &next in ahead {
            V::prefetch(&key[next..][..head_dim]);
        }
        let Memory { q, keys, .. } = &scratch.widened;
        let keys = &keys[..head_dim];
        let q: [&[f32]; R] = std::array::from_fn(|r| &q[(row + r) * head_dim..][..keys.len()]);
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

    #[inline(always)]
    fn keep_weights(row: usize, weights: [V; VECTORS], scratch: &mut Scratch) {
        for (weights, out) in weights.into_iter().zip(&mut scratch.widened.weights[row]) {
            weights.store(out);
        }
    }

    #[inline(always)]
    fn add_values(
        tile: &AttendTile<'_, E, C>,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        scratch: &mut Scratch,
    ) {
        tile.add_by_rows::<Self>(group, rows, scratch);
    }

    #[inline(always)]
    fn sums(row: usize, i: usize, scratch: &Scratch) -> V {
        scratch.sums(row, i, scratch.widened.head_dim)
    }
}

impl<V: Lanes, E: Element, C: Element> ByRows<E, C> for Widened<V> {
    #[inline(always)]
    fn add_values_of<const R: usize>(
        group: &Group<'_, C>,
        row: usize,
        keys: Range<usize>,
        ahead: &[usize],
        scratch: &mut Scratch,
    ) {
        let Scratch { acc, widened, .. } = scratch;
        let head_dim = group.head_dim;
        let values = Values {
            value: group.value,
            offsets: &group.offsets[keys.clone()],
            ahead,
            head_dim,
            weights: std::array::from_fn::<_, R, _>(|r| {
                &widened.weights[row + r].as_flattened()[keys.clone()]
            }),
        };
        let acc = &mut acc[row * padded(head_dim)..];
        let mut i = 0;
        while i + 4 * LANES <= head_dim {
            values.add_columns::<V, 4>(i, acc);
            i += 4 * LANES;
        }
        while i < head_dim {
            values.add_columns::<V, 1>(i, acc);
            i += LANES;
        }
    }
}

/// Values of some keys and their weights in some rows.
struct Values<'a, C, const R: usize> {
    value: &'a [C],
    offsets: &'a [usize],
    ahead: &'a [usize],
    head_dim: usize,
    weights: [&'a [f32]; R],
}

impl<E: Element, const R: usize> Values<'_, E, R> {
    /// `acc += weights V` for `C` vectors of head elements from `i` on.
    #[inline(always)]
    fn add_columns<V: Lanes, const C: usize>(&self, i: usize, acc: &mut [f32]) {
        let stride = padded(self.head_dim);
        let weights = self.weights.map(|weights| &weights[..self.offsets.len()]);
        let mut sums = [[V::splat(0.0); C]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum = load_at::<V, f32>(acc, r * stride + i + c * LANES);
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
            for (c, sum) in sums.into_iter().enumerate() {
                store_at(sum, acc, r * stride + i + c * LANES);
            }
        }
    }
}
