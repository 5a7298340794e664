//! Rows of heads as lines of bf16, as tile registers take them.

use crate::simd::Element;
use crate::simd::tiles::{SIDE, Unit};
use float8::F8E4M3;
use half::bf16;

/// Elements of a line.
pub(super) const LINE: usize = 2 * SIDE;

/// What a cache may hold to be multiplied in tiles.
pub(super) trait CacheInTiles: Element {
    /// As a line of bf16.
    fn line<U: Unit>(elements: &[Self; LINE]) -> U::Lanes;

    /// As they are, if they are bf16.
    fn as_bf16(elements: &[Self]) -> Option<&[bf16]>;
}

impl CacheInTiles for bf16 {
    #[inline(always)]
    fn line<U: Unit>(elements: &[Self; LINE]) -> U::Lanes {
        U::load(elements)
    }

    #[inline(always)]
    fn as_bf16(elements: &[Self]) -> Option<&[bf16]> {
        Some(elements)
    }
}

impl CacheInTiles for F8E4M3 {
    #[inline(always)]
    fn line<U: Unit>(elements: &[Self; LINE]) -> U::Lanes {
        U::load_e4m3(elements)
    }

    #[inline(always)]
    fn as_bf16(_elements: &[Self]) -> Option<&[bf16]> {
        None
    }
}

/// A row of a head, in lines.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a, C> {
    whole: &'a [[C; LINE]],
    rest: &'a [C],
}

impl<'a, C: CacheInTiles> Lines<'a, C> {
    #[inline(always)]
    pub(super) fn new(row: &'a [C]) -> Self {
        let (whole, rest) = row.as_chunks();
        Self { whole, rest }
    }

    /// Line `i`, with zeros past the end of the row.
    #[inline(always)]
    pub(super) fn line<U: Unit>(&self, i: usize) -> U::Lanes {
        match self.whole.get(i) {
            Some(elements) => C::line::<U>(elements),
            None => C::line::<U>(&filled_up(self.rest)),
        }
    }
}

/// Apart, so that the loops around it stay small.
#[cold]
#[inline(never)]
fn filled_up<C: Element>(rest: &[C]) -> [C; LINE] {
    let mut elements = [C::default(); LINE];
    elements[..rest.len()].copy_from_slice(rest);
    elements
}
