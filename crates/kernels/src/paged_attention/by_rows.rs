//! What is done to the rows of a tile, a few at a time.

use super::products::{ByRows, Group, Products};
use super::softmax::{cap, mask};
use super::tile::{AttendTile, Rows, Scratch};
use crate::simd::{Element, Lanes};
use std::marker::PhantomData;

/// What is done to some rows of a tile with a group of keys.
trait RowStep<E: Element, C: Element> {
    type Lanes: Lanes;

    /// To `R` rows from `row` on. Must be `#[inline(always)]`.
    fn take<const R: usize>(
        tile: &AttendTile<'_, E, C>,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        at: At<'_>,
        scratch: &mut Scratch,
    );
}

/// Scores and softmax.
struct Weigh<P>(PhantomData<P>);

/// Rescales what was added and adds the values.
struct AddValues<P>(PhantomData<P>);

/// The row that is next, and what to ask for meanwhile.
#[derive(Clone, Copy)]
struct At<'a> {
    row: usize,
    ahead: &'a [usize],
}

impl<E: Element, C: Element> AttendTile<'_, E, C> {
    /// Takes the scores of a group into the softmax of the rows.
    #[inline(always)]
    pub(super) fn weigh<P: Products<E, C>>(
        &self,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        scratch: &mut Scratch,
    ) {
        self.step_by_rows::<Weigh<P>>(group, rows, scratch);
    }

    /// Adds the values of a group.
    #[inline(always)]
    pub(super) fn add_by_rows<P: ByRows<E, C>>(
        &self,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        scratch: &mut Scratch,
    ) {
        self.step_by_rows::<AddValues<P>>(group, rows, scratch);
    }

    #[inline(always)]
    fn step_by_rows<S: RowStep<E, C>>(
        &self,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        scratch: &mut Scratch,
    ) {
        let mut at = At { row: rows.range.start, ahead: rows.ahead };
        while at.row < rows.range.end {
            let left = rows.range.end - at.row;
            if S::Lanes::TILE_ROWS >= 4 && left >= 4 {
                S::take::<4>(self, group, rows, at, scratch);
                at.row += 4;
            } else if S::Lanes::TILE_ROWS >= 2 && left >= 2 {
                S::take::<2>(self, group, rows, at, scratch);
                at.row += 2;
            } else {
                S::take::<1>(self, group, rows, at, scratch);
                at.row += 1;
            }
            at.ahead = &[];
        }
    }
}

impl<E: Element, C: Element, P: Products<E, C>> RowStep<E, C> for Weigh<P> {
    type Lanes = P::Lanes;

    #[inline(always)]
    fn take<const R: usize>(
        tile: &AttendTile<'_, E, C>,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        at: At<'_>,
        scratch: &mut Scratch,
    ) {
        let scores = P::scores::<R>(group, at.row, at.ahead, scratch);
        for (r, mut scores) in scores.into_iter().enumerate() {
            let row = at.row + r;
            if let Some(limit) = tile.inputs.soft_cap {
                scores = cap(scores, limit);
            }
            let weights = scratch.softmax[row].add(mask(scores, tile.seen(row, rows)));
            P::keep_weights(row, weights, scratch);
        }
    }
}

impl<E: Element, C: Element, P: ByRows<E, C>> RowStep<E, C> for AddValues<P> {
    type Lanes = P::Lanes;

    /// No row may read a value it does not see: even times 0 it would show if not finite. So what all see
    /// is taken together, the rest row by row.
    #[inline(always)]
    fn take<const R: usize>(
        tile: &AttendTile<'_, E, C>,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        at: At<'_>,
        scratch: &mut Scratch,
    ) {
        let At { row, ahead } = at;
        for row in row..row + R {
            scratch.rescale::<P::Lanes>(row, group.head_dim);
        }
        let (first, end) = (tile.seen(row + R - 1, rows).0, tile.seen(row, rows).1);
        let together = first..end.max(first);
        for part in 0..3 {
            if part == 1 {
                if !together.is_empty() {
                    P::add_values_of::<R>(group, row, together.clone(), ahead, scratch);
                }
                continue;
            }
            for row in row..row + R {
                let (first, end) = tile.seen(row, rows);
                let keys = if part == 0 {
                    first..together.start.min(end)
                } else {
                    together.end.max(first)..end
                };
                if !keys.is_empty() {
                    P::add_values_of::<1>(group, row, keys, &[], scratch);
                }
            }
        }
    }
}
