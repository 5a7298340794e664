//! Attention of bf16 queries in tile registers, all rows of a tile at once.
//!
//! Of a group, keys become columns, values pairs of keys, both once for all rows; a cache of e4m3 is widened
//! exactly on the way. Where rows are few, they become the columns instead, and keys are multiplied as they
//! lie: the products and the order of their sums are the same, and so are the bits.
//!
//! A weight is the sum of two bf16, one of them what the other leaves over: values then are multiplied by
//! sixteen bits of it, where one alone would put logits farther from those of transformers than its own
//! bf16 does.

use super::lines::{CacheInTiles, LINE, Lines};
use super::products::{Group, Products};
use super::softmax::{GROUP, VECTORS};
use super::tile::{AttendTile, Queries, Rows, Scratch};
use crate::simd::tiles::{Factors, Line, MAX_ROWS, PANEL, Pair, SIDE, Step, Sums, Unit};
use crate::simd::{LANES, Lanes};
use half::bf16;
use std::marker::PhantomData;
use std::ops::Range;

/// Panels of a group.
const PANELS: usize = GROUP / PANEL;

/// Parts of a group whose values are pairs of registers.
const PARTS: usize = GROUP / LINE;

/// Lines of a row of weights: of each part of the group what is rounded, then what is left over.
const LINES_OF_WEIGHTS: usize = 2 * PARTS;

/// Working memory. Rows come in blocks of [`MAX_ROWS`]; few are filled up to [`SIDE`], with anything.
#[derive(Default)]
pub(super) struct Memory {
    q: Vec<Line>,               // [blocks][lines of a head][rows of the block]
    columns: Vec<[Line; SIDE]>, // [lines of a head][words][rows], of few rows
    copies: Vec<Line>,          // [GROUP][lines of a head]
    keys: Vec<Pair>,            // [panels of a group][lines of a head]
    scores: Vec<Sums<f32>>,     // [blocks][panels of a group]
    weights: Vec<Line>,         // [blocks][LINES_OF_WEIGHTS][rows of the block]: exp(score - max)
    values: Vec<Pair>,          // [panels of a head][PARTS]
    sums: Vec<Sums<f32>>,       // [blocks][panels of a head]
    num_rows: usize,
    lines_of_head: usize, // and panels
    scale: f32,           // of the scores
    configured: usize,
}

impl Memory {
    /// Rows of a block.
    #[inline(always)]
    fn rows(&self, block: usize) -> usize {
        MAX_ROWS.min(self.num_rows - block * MAX_ROWS)
    }

    /// Of those that have rows of the range.
    #[inline(always)]
    fn blocks(rows: &Rows<'_>) -> Range<usize> {
        rows.range.start / MAX_ROWS..rows.range.end.div_ceil(MAX_ROWS)
    }

    #[inline(always)]
    fn configure<U: Unit>(&mut self, num_rows: usize) {
        if self.configured != num_rows {
            U::configure(num_rows);
            self.configured = num_rows;
        }
    }

    /// The line of a row's weights.
    #[inline(always)]
    fn weights_mut(&mut self, row: usize, line: usize) -> &mut Line {
        let (block, num_rows) = (row / MAX_ROWS, self.rows(row / MAX_ROWS));
        let first = block * MAX_ROWS * LINES_OF_WEIGHTS;
        &mut self.weights[first + line * num_rows + row % MAX_ROWS]
    }

    /// Computes all scores of few rows. Keys that are not bf16, or do not lie by sixteen in whole lines, are
    /// copied.
    #[inline(always)]
    fn score_few<U: Unit, C: CacheInTiles>(&mut self, group: &Group<'_, C>) {
        let Group { key, head_dim, ref offsets, block_size, num_keys, .. } = *group;
        self.configure::<U>(SIDE);
        let in_place = head_dim.is_multiple_of(LINE) && block_size.is_multiple_of(SIDE);
        let in_place = C::as_bf16(key).filter(|_| in_place);
        if in_place.is_none() {
            for (copy, &offset) in self.copies.chunks_mut(self.lines_of_head).zip(offsets) {
                let row = Lines::new(&key[offset..][..head_dim]);
                for (line, copy) in copy.iter_mut().enumerate() {
                    row.line::<U>(line).store_words(&mut copy.0);
                }
            }
        }
        let mut rows = [&[][..]; GROUP / SIDE];
        let copies = self.copies.chunks(SIDE * self.lines_of_head);
        for ((rows, copies), keys) in rows.iter_mut().zip(copies).zip(offsets.as_chunks::<SIDE>().0)
        {
            *rows = match in_place {
                // Those past the last key are in the block, too, or are the first again.
                Some(key) => &key[keys[0]..][..SIDE * head_dim],
                None => Line::elements(copies),
            };
        }
        let mut scores = [[[0.0; SIDE]; SIDE]; GROUP / SIDE];
        U::multiply_rows(rows, &self.columns, &mut scores);
        for (at, scores) in scores.iter().take(num_keys.div_ceil(SIDE)).enumerate() {
            let mut square = [U::Lanes::splat(0.0); SIDE];
            for (square, scores) in square.iter_mut().zip(scores) {
                *square = U::Lanes::load(scores);
            }
            U::Lanes::transpose(&mut square);
            for (square, rows) in square.into_iter().zip(&mut self.scores[at / 2].0) {
                square.store(&mut rows[at % 2]);
            }
        }
    }

    /// Makes pairs of the values that are to be seen, zeros of others, while keys and values ahead are asked
    /// for, some with each pair: all at once they would keep everything else from memory. Whether all
    /// values are finite is told if it is asked.
    #[inline(always)]
    fn load_values<U: Unit, C: CacheInTiles>(
        &mut self,
        group: &Group<'_, C>,
        seen: Range<usize>,
        ahead: &[usize],
        ask: bool,
    ) -> bool {
        let Group { key, value, head_dim, ref offsets, .. } = *group;
        let mut finite = true;
        let num_pairs = group.num_keys.next_multiple_of(LINE) / 2;
        let (panels, _) = self.values.as_chunks_mut::<PARTS>();
        for (pair, keys) in offsets.as_chunks::<2>().0.iter().take(num_pairs).enumerate() {
            for &next in ahead.chunks(2).nth(pair).unwrap_or_default() {
                U::Lanes::prefetch(&key[next..][..head_dim]);
                U::Lanes::prefetch(&value[next..][..head_dim]);
            }
            let rows = keys.map(|offset| Lines::new(&value[offset..][..head_dim]));
            let seen = [seen.contains(&(2 * pair)), seen.contains(&(2 * pair + 1))];
            let nothing = U::Lanes::splat(0.0);
            for (panel, pairs) in panels.iter_mut().enumerate() {
                let step = &mut pairs[pair / SIDE][pair % SIDE];
                if seen == [true; 2] && !ask {
                    Self::keep_pair::<U>(rows[0].line::<U>(panel), rows[1].line::<U>(panel), step);
                } else {
                    let first = if seen[0] { rows[0].line::<U>(panel) } else { nothing };
                    let second = if seen[1] { rows[1].line::<U>(panel) } else { nothing };
                    finite &= !ask || (U::is_finite(first) & U::is_finite(second));
                    Self::keep_pair::<U>(first, second, step);
                }
            }
        }
        finite
    }

    #[inline(always)]
    fn keep_pair<U: Unit>(first: U::Lanes, second: U::Lanes, step: &mut Step) {
        let words = U::interleave(first, second);
        for (words, half) in words.into_iter().zip(step.0.as_chunks_mut().0) {
            words.store_words(half);
        }
    }

    /// Adds the weighted values to the sums of a block.
    #[inline(always)]
    fn add_to_block<U: Unit>(&mut self, block: usize, num_parts: usize) {
        let num_rows = self.rows(block);
        self.configure::<U>(num_rows);
        let Self { weights, values, sums, lines_of_head, .. } = self;
        let weights = &weights[block * MAX_ROWS * LINES_OF_WEIGHTS..][..num_rows * 2 * num_parts];
        let panels = values.chunks(PARTS);
        for (values, sums) in panels.zip(&mut sums[block * *lines_of_head..]) {
            U::multiply_twice(weights, &values[..num_parts], sums);
        }
    }

    /// Adds them to rows of one block, whose weights are copied.
    #[inline(always)]
    fn add_to_rows<U: Unit>(&mut self, rows: Range<usize>, num_parts: usize) {
        let (block, num_rows, num_lines) = (rows.start / MAX_ROWS, rows.len(), 2 * num_parts);
        let mut weights = [Line([0; SIDE]); LINES_OF_WEIGHTS * MAX_ROWS];
        for (line, weights) in weights.chunks_mut(num_rows).take(num_lines).enumerate() {
            for (weights, row) in weights.iter_mut().zip(rows.clone()) {
                *weights = *self.weights_mut(row, line);
            }
        }
        self.configure::<U>(num_rows);
        let first = rows.start % MAX_ROWS;
        for panel in 0..self.lines_of_head {
            let at = block * self.lines_of_head + panel;
            let mut sums = Sums::default();
            sums.0[..num_rows].copy_from_slice(&self.sums[at].0[first..first + num_rows]);
            let values = &self.values[panel * PARTS..][..num_parts];
            U::multiply_twice(&weights[..num_lines * num_rows], values, &mut sums);
            self.sums[at].0[first..first + num_rows].copy_from_slice(&sums.0[..num_rows]);
        }
    }
}

pub(super) struct InTiles<U>(PhantomData<U>);

impl<U: Unit, C: CacheInTiles> Products<bf16, C> for InTiles<U> {
    type Lanes = U::Lanes;

    #[inline(always)]
    fn load_queries(queries: &Queries<'_, bf16>, scratch: &mut Scratch) {
        let Queries { head_dim, scale, num_rows, .. } = *queries;
        let memory = &mut scratch.tiles;
        let (lines, blocks) = (head_dim.div_ceil(LINE), num_rows.div_ceil(MAX_ROWS));
        memory.num_rows = num_rows.max(SIDE);
        memory.lines_of_head = lines;
        memory.scale = scale;
        memory.configured = 0;
        memory.q.resize(memory.num_rows * lines, Line([0; SIDE]));
        memory.copies.resize(GROUP * lines, Line([0; SIDE]));
        memory.keys.resize(PANELS * lines, [Step([0; PANEL]); SIDE]);
        memory.scores.resize_with(blocks * PANELS, Sums::default);
        memory.weights.resize(memory.num_rows * LINES_OF_WEIGHTS, Line([0; SIDE]));
        memory.values.resize(lines * PARTS, [Step([0; PANEL]); SIDE]);
        memory.sums.clear();
        memory.sums.resize_with(blocks * lines, Sums::default);
        memory.columns.clear();
        if num_rows <= SIDE {
            for line in 0..lines {
                let mut square = [U::Lanes::splat(0.0); SIDE];
                for (row, square) in square.iter_mut().take(num_rows).enumerate() {
                    *square = Lines::new(queries.row(row)).line::<U>(line);
                }
                U::Lanes::transpose(&mut square);
                let mut columns = [Line([0; SIDE]); SIDE];
                for (words, columns) in square.into_iter().zip(&mut columns) {
                    words.store_words(&mut columns.0);
                }
                memory.columns.push(columns);
            }
        } else {
            for row in 0..num_rows {
                let rows = memory.rows(row / MAX_ROWS);
                let first = row / MAX_ROWS * MAX_ROWS * lines + row % MAX_ROWS;
                for line in 0..lines {
                    let words = Lines::new(queries.row(row)).line::<U>(line);
                    words.store_words(&mut memory.q[first + line * rows].0);
                }
            }
        }
    }

    /// And computes all scores of the rows.
    #[inline(always)]
    fn load_keys(group: &Group<'_, C>, rows: &Rows<'_>, scratch: &mut Scratch) {
        let Group { key, head_dim, ref offsets, .. } = *group;
        let memory = &mut scratch.tiles;
        let lines = memory.lines_of_head;
        let num_squares = group.num_keys.div_ceil(LANES);
        if !memory.columns.is_empty() {
            memory.score_few::<U, C>(group);
            return;
        }
        for (at, offsets) in offsets.as_chunks::<LANES>().0.iter().take(num_squares).enumerate() {
            let (panel, half) = (at / 2, at % 2);
            let row = |offset: usize| Lines::new(&key[offset..][..head_dim]);
            let rows: [Lines<'_, C>; LANES] = std::array::from_fn(|i| row(offsets[i]));
            for (line, pair) in memory.keys[panel * lines..][..lines].iter_mut().enumerate() {
                let mut square = [U::Lanes::splat(0.0); LANES];
                for (square, row) in square.iter_mut().zip(&rows) {
                    *square = row.line::<U>(line);
                }
                U::Lanes::transpose(&mut square);
                for (column, step) in square.into_iter().zip(pair) {
                    column.store_words(&mut step.0.as_chunks_mut().0[half]);
                }
            }
        }
        for block in Memory::blocks(rows) {
            let num_rows = memory.rows(block);
            memory.configure::<U>(num_rows);
            let q = &memory.q[block * MAX_ROWS * lines..][..num_rows * lines];
            let scores = &mut memory.scores[block * PANELS..][..group.num_keys.div_ceil(PANEL)];
            for (keys, scores) in memory.keys.chunks(lines).zip(scores) {
                U::multiply_bf16(Factors::of(q, keys), scores, true);
            }
        }
    }

    #[inline(always)]
    fn scores<const R: usize>(
        _group: &Group<'_, C>,
        row: usize,
        _ahead: &[usize],
        scratch: &Scratch,
    ) -> [[U::Lanes; VECTORS]; R] {
        let memory = &scratch.tiles;
        let scale = U::Lanes::splat(memory.scale);
        let mut scores = [[scale; VECTORS]; R];
        for (r, scores) in scores.iter_mut().enumerate() {
            let (block, row) = ((row + r) / MAX_ROWS, (row + r) % MAX_ROWS);
            for (i, scores) in scores.iter_mut().enumerate() {
                let panel = &memory.scores[block * PANELS + i / 2];
                *scores = U::Lanes::load(&panel.0[row][i % 2]).mul(scale);
            }
        }
        scores
    }

    #[inline(always)]
    fn keep_weights(row: usize, weights: [U::Lanes; VECTORS], scratch: &mut Scratch) {
        for half in 0..2 {
            let (x, y) = (weights[2 * half], weights[2 * half + 1]);
            let rounded = U::round(x, y);
            let wide = U::widen(rounded);
            let left = U::round(x.sub(wide[0]), y.sub(wide[1]));
            rounded.store_words(&mut scratch.tiles.weights_mut(row, 2 * half).0);
            left.store_words(&mut scratch.tiles.weights_mut(row, 2 * half + 1).0);
        }
    }

    /// A weight of a value that is not seen is 0. Where one may be no number, the rows of a token are
    /// multiplied by what they see, and zeros.
    #[inline(always)]
    fn add_values(
        tile: &AttendTile<'_, bf16, C>,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        scratch: &mut Scratch,
    ) {
        let Scratch { tiles: memory, softmax, .. } = scratch;
        let (lines, num_parts) = (memory.lines_of_head, group.num_keys.div_ceil(LINE));
        for row in rows.range.clone() {
            let rescale = softmax[row].rescale;
            // Most groups do not raise the maximum.
            if rescale.to_bits() != 1f32.to_bits() {
                let rescale = U::Lanes::splat(rescale);
                for sums in &mut memory.sums[row / MAX_ROWS * lines..][..lines] {
                    for sums in &mut sums.0[row % MAX_ROWS] {
                        U::Lanes::load(sums).mul(rescale).store(sums);
                    }
                }
            }
        }
        if memory.load_values::<U, C>(group, 0..group.num_keys, rows.ahead, !rows.see_all) {
            let blocks = Memory::blocks(rows);
            let all = blocks.start * MAX_ROWS..softmax.len().min(blocks.end * MAX_ROWS);
            for row in (all.start..rows.range.start).chain(rows.range.end..all.end) {
                for line in 0..LINES_OF_WEIGHTS {
                    *memory.weights_mut(row, line) = Line([0; SIDE]);
                }
            }
            for block in blocks {
                memory.add_to_block::<U>(block, num_parts);
            }
        } else {
            let mut row = rows.range.start;
            while row < rows.range.end {
                let next = (row / tile.group_size() + 1) * tile.group_size();
                let end = next.min((row / MAX_ROWS + 1) * MAX_ROWS);
                let (first, last) = tile.seen(row, rows);
                memory.load_values::<U, C>(group, first..last, &[], false);
                memory.add_to_rows::<U>(row..end, num_parts);
                row = end;
            }
        }
    }

    #[inline(always)]
    fn sums(row: usize, i: usize, scratch: &Scratch) -> U::Lanes {
        let memory = &scratch.tiles;
        let panel = &memory.sums[row / MAX_ROWS * memory.lines_of_head + i / PANEL];
        U::Lanes::load(&panel.0[row % MAX_ROWS][i % PANEL / LANES])
    }
}
