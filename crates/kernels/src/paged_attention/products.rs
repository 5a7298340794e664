//! How scores and values are multiplied: in f32 whatever the types, or in pairs of bf16.

use super::softmax::{GROUP, VECTORS};
use super::tile::{Queries, Scratch};
use crate::simd::{Element, Lanes};
use std::ops::Range;

/// The products of attention. The number of rows taken together, `R`, changes no row's arithmetic. All
/// must be `#[inline(always)]`.
pub(super) trait Products<E: Element, C: Element> {
    type Lanes: Lanes;

    /// Takes the queries of a tile and makes room for the weights of its rows.
    fn load_queries(queries: &Queries<'_, E>, scratch: &mut Scratch);

    /// Prepares the keys of a group.
    fn load_keys(group: &Group<'_, C>, scratch: &mut Scratch);

    /// `scale q K^T` of the rows from `row` on. Scores of keys that are not there are anything.
    fn scores<const R: usize>(
        group: &Group<'_, C>,
        row: usize,
        ahead: &[usize],
        scratch: &Scratch,
    ) -> [[Self::Lanes; VECTORS]; R];

    /// Keeps the weights of a row for [`Self::add_values`].
    fn keep_weights(row: usize, weights: [Self::Lanes; VECTORS], scratch: &mut Scratch);

    /// Adds the weighted values of some keys, in order, to the rows from `row` on.
    fn add_values<const R: usize>(
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
}
