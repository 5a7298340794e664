//! Attention over whole sequences on the CPU: a head of a sequence at a time.
//!
//! Keys are rotated and turned once into columns of [`LANES`] keys; then a few rows together take
//! their scores, their softmax and their values. How many are taken together changes no row's
//! arithmetic: keys come in groups that start at multiples of [`LANES`], and a group of which a row
//! sees nothing adds zeros to it.

use crate::disjoint::DisjointMut;
use crate::pool::for_each_task;
use crate::simd::{Element, Kernel, LANES, Lanes, dispatch, load_at, store_at};
use crate::views::{cpu_slice, slice};
use candle_core::{CpuStorage, Layout, Result, Tensor, bail};
use std::cell::RefCell;
use std::ops::Range;

use super::FullAttention;

/// Rows that share each key loaded.
const ROWS: usize = 4;

/// qkv `[tokens, 3 * heads * head_dim]`
pub(super) fn full_attention<E: Element>(
    (qkv, layout): (&CpuStorage, &Layout),
    args: &FullAttention,
) -> Result<CpuStorage> {
    let (tokens, width) = layout.shape().dims2()?;
    let (starts, starts_layout) = args.starts.storage_and_layout();
    let starts: &[u32] = cpu_slice(&starts, starts_layout, "starts")?;
    let rises = starts.first() == Some(&0) && starts.is_sorted();
    if !rises || starts.last().map(|end| *end as usize) != Some(tokens) {
        bail!("starts must rise from 0 to the {tokens} rows of qkv, they are {starts:?}");
    }
    let longest = starts.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
    if longest > args.max_len {
        bail!("a sequence has {longest} rows, max_len is {}", args.max_len);
    }
    let tables = args.rotary.map(|(cos, sin)| [cos, sin].map(Tensor::storage_and_layout));
    let rotary = match &tables {
        Some([(cos, cos_layout), (sin, sin_layout)]) => {
            Some([cpu_slice(cos, cos_layout, "cos")?, cpu_slice(sin, sin_layout, "sin")?])
        }
        None => None,
    };
    let mut out = vec![E::default(); tokens * width / 3];
    let shared = DisjointMut::new(&mut out);
    let head_dim = width / 3 / args.num_heads;
    let inputs = Inputs::<E> {
        qkv: slice(qkv, layout, "qkv")?,
        num_heads: args.num_heads,
        head_dim,
        scale: args.scale,
        window: args.window.unwrap_or(usize::MAX),
        rotary,
    };
    let pairs: usize = starts.windows(2).map(|pair| ((pair[1] - pair[0]) as usize).pow(2)).sum();
    let num_tasks = (starts.len() - 1) * args.num_heads;
    for_each_task(num_tasks, pairs * width, |task| {
        let (sequence, head) = (task / args.num_heads, task % args.num_heads);
        let rows = starts[sequence] as usize..starts[sequence + 1] as usize;
        dispatch(AttendHead { inputs: &inputs, rows, head, out: &shared });
    });
    Ok(E::to_cpu_storage_owned(out))
}

struct Inputs<'a, E> {
    qkv: &'a [E], // [tokens, 3, heads, head_dim]
    num_heads: usize,
    head_dim: usize,
    scale: f32,
    window: usize,
    rotary: Option<[&'a [f32]; 2]>, // [positions, head_dim / 2] each
}

/// One head of one sequence.
struct AttendHead<'a, E> {
    inputs: &'a Inputs<'a, E>,
    rows: Range<usize>,
    head: usize,
    out: &'a DisjointMut<'a, E>, // [tokens, heads, head_dim]
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Working memory of a thread, kept from head to head.
#[derive(Default)]
struct Scratch {
    keys: Vec<[f32; LANES]>, // [groups, head_dim], a lane a key
    values: Vec<f32>,        // [keys, padded head_dim]
    q: Vec<f32>,             // [ROWS, head_dim], scaled
    weights: Vec<f32>,       // [ROWS, padded keys]
    acc: Vec<f32>,           // [padded head_dim]
}

impl<E: Element> Kernel for AttendHead<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let mut scratch = SCRATCH.take();
        self.load::<V>(&mut scratch);
        let num_rows = self.rows.len();
        let mut row = 0;
        while row < num_rows {
            if row + ROWS <= num_rows {
                self.attend::<V, ROWS>(row, &mut scratch);
                row += ROWS;
            } else {
                self.attend::<V, 1>(row, &mut scratch);
                row += 1;
            }
        }
        SCRATCH.set(scratch);
    }
}

impl<E: Element> AttendHead<'_, E> {
    /// The head's elements of a row: of its query (0), key (1) or value (2).
    #[inline(always)]
    fn part(&self, row: usize, part: usize) -> &[E] {
        let Inputs { qkv, num_heads, head_dim, .. } = *self.inputs;
        let start = (((self.rows.start + row) * 3 + part) * num_heads + self.head) * head_dim;
        &qkv[start..][..head_dim]
    }

    /// Widens a query or key and rotates it by its position, the row in its sequence.
    #[inline(always)]
    fn rotated(&self, row: usize, part: usize, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(self.part(row, part)) {
            *out = x.to_f32();
        }
        let Some([cos, sin]) = self.inputs.rotary else { return };
        let half = out.len() / 2;
        let (low, high) = out.split_at_mut(half);
        let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
        for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
        }
    }

    /// Turns the keys into columns and widens the values.
    #[inline(always)]
    fn load<V: Lanes>(&self, scratch: &mut Scratch) {
        let (num_keys, head_dim) = (self.rows.len(), self.inputs.head_dim);
        let padded_dim = head_dim.next_multiple_of(LANES);
        scratch.keys.clear();
        scratch.keys.resize(num_keys.div_ceil(LANES) * head_dim, [0.0; LANES]);
        scratch.values.clear();
        scratch.values.resize(num_keys * padded_dim, 0.0);
        scratch.q.resize(ROWS * head_dim, 0.0);
        scratch.weights.resize(ROWS * num_keys.next_multiple_of(LANES), 0.0);
        scratch.acc.resize(padded_dim, 0.0);
        for key in 0..num_keys {
            let Scratch { q, keys, values, .. } = &mut *scratch;
            let rotated = &mut q[..head_dim];
            self.rotated(key, 1, rotated);
            let columns = &mut keys[key / LANES * head_dim..][..head_dim];
            for (column, x) in columns.iter_mut().zip(rotated) {
                column[key % LANES] = *x;
            }
            let row = &mut values[key * padded_dim..][..head_dim];
            for i in (0..head_dim).step_by(LANES) {
                store_at(load_at::<V, E>(self.part(key, 2), i), row, i);
            }
        }
    }

    /// Keys that a row sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> Range<usize> {
        let window = self.inputs.window;
        row.saturating_sub(window)
            ..row.saturating_add(window).saturating_add(1).min(self.rows.len())
    }

    /// `R` rows from `first` on.
    #[inline(always)]
    fn attend<V: Lanes, const R: usize>(&self, first: usize, scratch: &mut Scratch) {
        let head_dim = self.inputs.head_dim;
        let width = self.rows.len().next_multiple_of(LANES);
        for r in 0..R {
            let q = &mut scratch.q[r * head_dim..][..head_dim];
            self.rotated(first + r, 0, q);
            for x in q {
                *x *= self.inputs.scale;
            }
        }
        let begin = self.visible(first).start / LANES * LANES;
        let end = self.visible(first + R - 1).end;
        for start in (begin..end).step_by(LANES) {
            let columns = &scratch.keys[start / LANES * head_dim..][..head_dim];
            let mut scores = [V::splat(0.0); R];
            for (i, column) in columns.iter().enumerate() {
                let column = V::load(column);
                for (r, scores) in scores.iter_mut().enumerate() {
                    *scores = V::splat(scratch.q[r * head_dim + i]).mul_add(column, *scores);
                }
            }
            for (r, scores) in scores.into_iter().enumerate() {
                store_at(scores, &mut scratch.weights[r * width..][..width], start);
            }
        }
        for r in 0..R {
            self.finish::<V>(first + r, r * width, scratch);
        }
    }

    /// From scores to the row's result.
    #[inline(always)]
    fn finish<V: Lanes>(&self, row: usize, offset: usize, scratch: &mut Scratch) {
        let head_dim = self.inputs.head_dim;
        let padded_dim = head_dim.next_multiple_of(LANES);
        let visible = self.visible(row);
        let width = self.rows.len().next_multiple_of(LANES);
        let Scratch { weights, values, acc, .. } = scratch;
        let weights = &mut weights[offset..][..width];
        let begin = visible.start / LANES * LANES;
        let end = visible.end.next_multiple_of(LANES);
        weights[begin..visible.start].fill(f32::NEG_INFINITY);
        weights[visible.end..end].fill(f32::NEG_INFINITY);
        let mut max = V::splat(f32::NEG_INFINITY);
        for i in (begin..end).step_by(LANES) {
            max = max.max(load_at::<V, f32>(weights, i));
        }
        let max = V::splat(max.reduce_max());
        let mut sum = V::splat(0.0);
        for i in (begin..end).step_by(LANES) {
            let weight = load_at::<V, f32>(weights, i).sub(max).exp();
            store_at(weight, weights, i);
            sum = sum.add(weight);
        }
        acc.fill(0.0);
        for key in visible {
            let weight = V::splat(weights[key]);
            let value = &values[key * padded_dim..][..padded_dim];
            for i in (0..padded_dim).step_by(LANES) {
                store_at(weight.mul_add(load_at(value, i), load_at(acc, i)), acc, i);
            }
        }
        let start = ((self.rows.start + row) * self.inputs.num_heads + self.head) * head_dim;
        // SAFETY: only this task writes this head of the rows of this sequence.
        let out = unsafe { self.out.slice(start..start + head_dim) };
        let factor = V::splat(1.0 / sum.reduce_add());
        for i in (0..head_dim).step_by(LANES) {
            store_at(load_at::<V, f32>(acc, i).mul(factor), out, i);
        }
    }
}
