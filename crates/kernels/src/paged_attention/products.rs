//! How scores and values are multiplied: in f32 whatever the types, in pairs of bf16, or in tiles.

use super::softmax::{GROUP, VECTORS};
use super::tile::{AttendTile, Queries, Rows, Scratch};
use crate::simd::{Element, Lanes};
use std::ops::Range;

/// The products of attention. The number of rows taken together changes no row's arithmetic. All must be
/// `#[inline(always)]`.
pub(super) trait Products<E: Element, C: Element>: Sized {
    type Lanes: Lanes;

    /// Takes the queries of a tile, makes room for the weights of its rows, and begins their sums.
    fn load_queries(queries: &Queries<'_, E>, scratch: &mut Scratch);

    /// Prepares the keys of a group.
    fn load_keys(group: &Group<'_, C>, rows: &Rows<'_>, scratch: &mut Scratch);

    /// `scale q K^T` of the rows from `row` on. Scores of keys that are not there are anything.
    fn scores<const R: usize>(
        group: &Group<'_, C>,
        row: usize,
        ahead: &[usize],
        scratch: &Scratch,
    ) -> [[Self::Lanes; VECTORS]; R];

    /// Keeps the weights of a row for [`Self::add_values`].
    fn keep_weights(row: usize, weights: [Self::Lanes; VECTORS], scratch: &mut Scratch);

    /// Rescales the sums of rows and adds their weighted values of a group.
    fn add_values(
        tile: &AttendTile<'_, E, C>,
        group: &Group<'_, C>,
        rows: &Rows<'_>,
        scratch: &mut Scratch,
    );

    /// Sums of a row from element `i` on, a multiple of the lanes.
    fn sums(row: usize, i: usize, scratch: &Scratch) -> Self::Lanes;
}

/// Those that add values to a few rows at a time, which lie in [`Scratch::acc`].
pub(super) trait ByRows<E: Element, C: Element>: Products<E, C> {
    /// Adds the weighted values of some keys, in order, to the rows from `row` on.
    fn add_values_of<const R: usize>(
        group: &Group<'_, C>,
        row: usize,
        keys: Range<usize>,
        ahead: &[usize],
        scratch: &mut Scratch,
    );
}

/// Keys and values of a group.
pub(super) struct Group<'a, C> {
    pub(super) key: &'a [C],
    pub(super) value: &'a [C],
    pub(super) head_dim: usize,
    /// Where keys and values begin; past the last key, where the first does.
    pub(super) offsets: [usize; GROUP],
    pub(super) num_keys: usize,
    /// Keys that lie behind each other, from a multiple of it on.
    pub(super) block_size: usize,
}
