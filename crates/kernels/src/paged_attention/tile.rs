//! Attention of one tile: some tokens' grouped query heads against one key head.
//!
//! Keys come in groups of [`GROUP`] that start at multiples of it. For each, four query rows at a time
//! take their scores and update their running softmax; then all of them, again by four, add their part
//! of the values, so that only keys or only values need be in L1. The number of rows taken together
//! changes no row's arithmetic. How it is multiplied is in `widened.rs`, `pairs.rs` and `tiles.rs`, which
//! takes all rows at once.

#[cfg(any(target_arch = "x86_64", test))]
use super::lines::CacheInTiles;
#[cfg(target_arch = "x86_64")]
use super::pairs::{self, Pairs};
use super::products::{Group, Products};
use super::softmax::{GROUP, Softmax};
#[cfg(any(target_arch = "x86_64", test))]
use super::tiles::{self, InTiles};
use super::widened::{self, Widened};
use crate::disjoint::DisjointMut;
#[cfg(any(target_arch = "x86_64", test))]
use crate::simd::tiles::{TileKernel, Unit};
use crate::simd::{Element, Kernel, LANES, Lanes, load_at, store_at};
#[cfg(target_arch = "x86_64")]
use crate::simd::{PairKernel, PairLanes};
#[cfg(any(target_arch = "x86_64", test))]
use half::bf16;
use std::cell::RefCell;
use std::ops::Range;

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

impl Tile<'_> {
    /// Keys that its last token sees.
    #[inline(always)]
    fn end(&self) -> usize {
        self.visible + self.num_tokens - 1
    }
}

impl<E, C> Inputs<'_, E, C> {
    /// Those of a tile's group, of which there may be none.
    #[inline(always)]
    fn keys(&self, tile: &Tile<'_>, start: usize) -> Keys {
        let Inputs { num_kv_heads, head_dim, block_size, .. } = *self;
        let end = tile.end().min(start + GROUP);
        let num = end.saturating_sub(start);
        let mut offsets = [0; GROUP];
        let mut position = start;
        while position < end {
            let (block, row) = (position / block_size, position % block_size);
            let first = (tile.table[block] as usize * num_kv_heads + tile.kv_head) * block_size;
            let next = end.min((block + 1) * block_size);
            let mut offset = (first + row) * head_dim;
            for at in &mut offsets[position - start..next - start] {
                *at = offset;
                offset += head_dim;
            }
            position = next;
        }
        let first = offsets[0];
        offsets[num..].fill(first);
        Keys { offsets, num }
    }
}

/// Where the keys and values of a group begin.
pub(super) struct Keys {
    /// Past the last key, where the first does.
    offsets: [usize; GROUP],
    num: usize,
}

impl Keys {
    #[inline(always)]
    fn offsets(&self) -> &[usize] {
        &self.offsets[..self.num]
    }
}

/// A tile to be computed.
pub(super) struct AttendTile<'a, E, C> {
    pub(super) inputs: &'a Inputs<'a, E, C>,
    pub(super) tile: &'a Tile<'a>,
    /// The one that is computed next, if any is.
    pub(super) next: Option<&'a Tile<'a>>,
    pub(super) out: &'a DisjointMut<'a, E>, // [tokens, heads, head_dim]
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Working memory of a thread, kept from tile to tile.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) widened: widened::Memory,
    #[cfg(target_arch = "x86_64")]
    pub(super) pairs: pairs::Memory,
    #[cfg(any(target_arch = "x86_64", test))]
    pub(super) tiles: tiles::Memory,
    pub(super) acc: Vec<f32>,         // [rows, padded head_dim]
    pub(super) softmax: Vec<Softmax>, // [rows]
}

/// Elements of a row of sums.
#[inline(always)]
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// The query heads of a tile: rows of its tokens, those of a token together.
pub(super) struct Queries<'a, E> {
    q: &'a [E], // from the first on
    pub(super) num_rows: usize,
    pub(super) group_size: usize,
    token_stride: usize,
    pub(super) head_dim: usize,
    /// Factor on the scores.
    pub(super) scale: f32,
}

impl<'a, E> Queries<'a, E> {
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [E] {
        let head = row % self.group_size * self.head_dim;
        &self.q[row / self.group_size * self.token_stride + head..][..self.head_dim]
    }
}

impl<E: Element, C: Element> Kernel for AttendTile<'_, E, C> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        self.attend::<Widened<V>>();
    }
}

#[cfg(target_arch = "x86_64")]
impl PairKernel for AttendTile<'_, bf16, bf16> {
    #[inline(always)]
    fn run_pairs<V: PairLanes>(self) {
        self.attend::<Pairs<V>>();
    }
}

#[cfg(any(target_arch = "x86_64", test))]
impl<U: Unit, C: CacheInTiles> TileKernel<U> for AttendTile<'_, bf16, C> {
    #[inline(always)]
    fn run(self) {
        self.attend::<InTiles<U>>();
        U::release();
    }
}

impl<E: Element, C: Element> AttendTile<'_, E, C> {
    // No closure may stand between this and what it calls: the body of another function, were it not
    // inlined, would be compiled without vectors.
    #[inline(always)]
    fn attend<P: Products<E, C>>(&self) {
        let mut scratch = SCRATCH.take();
        let queries = self.queries();
        let num_rows = queries.num_rows;
        P::load_queries(&queries, &mut scratch);
        scratch.softmax.clear();
        scratch.softmax.resize(num_rows, Softmax::new());
        let mut start = self.first_seen(0) / GROUP * GROUP;
        let mut keys = self.inputs.keys(self.tile, start);
        while start < self.tile.end() {
            let next = self.keys_ahead(start + GROUP);
            self.attend_group::<P>(start, &keys, next.offsets(), &mut scratch);
            keys = next;
            start += GROUP;
        }
        self.store::<P>(&scratch);
        SCRATCH.set(scratch);
    }

    #[inline(always)]
    fn queries(&self) -> Queries<'_, E> {
        let Inputs { q, num_heads, head_dim, scale, .. } = *self.inputs;
        Queries {
            q: &q[self.head_start(0)..],
            num_rows: self.tile.num_tokens * self.group_size(),
            group_size: self.group_size(),
            token_stride: num_heads * head_dim,
            head_dim,
            scale,
        }
    }

    /// Query heads that share the key head.
    #[inline(always)]
    pub(super) fn group_size(&self) -> usize {
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

    /// Which keys of the group a row sees.
    #[inline(always)]
    pub(super) fn seen(&self, row: usize, rows: &Rows<'_>) -> (usize, usize) {
        let Rows { start, see_all, .. } = *rows;
        if see_all {
            return (0, GROUP);
        }
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

    /// Adds what the keys `start..start + GROUP` give to every row that sees any of them.
    #[inline(always)]
    fn attend_group<P: Products<E, C>>(
        &self,
        start: usize,
        keys: &Keys,
        ahead: &[usize],
        scratch: &mut Scratch,
    ) {
        let Inputs { key, value, head_dim, block_size, .. } = *self.inputs;
        let num_rows = scratch.softmax.len();
        let Keys { offsets, num: num_keys } = *keys;
        let group = Group { key, value, head_dim, offsets, num_keys, block_size };
        // Rows of the first tokens may not see any key of the last group, and with a window those of
        // the last tokens none of the first.
        let first_row = (start + 1).saturating_sub(self.tile.visible) * self.group_size();
        let last_token = (start + GROUP).saturating_add(self.inputs.window) - self.tile.visible;
        let end = num_rows.min(last_token.saturating_mul(self.group_size()));
        let rows = Rows {
            range: first_row..end,
            start,
            see_all: start + GROUP <= self.tile.visible && self.first_seen(num_rows - 1) <= start,
            ahead,
        };
        P::load_keys(&group, &rows, scratch);
        self.weigh::<P>(&group, &rows, scratch);
        P::add_values(self, &group, &rows, scratch);
    }

    /// Those of the group from `start` on, or of the next tile's first one.
    #[inline(always)]
    fn keys_ahead(&self, start: usize) -> Keys {
        match self.next {
            Some(next) if start >= self.tile.end() => {
                let first = next.visible.saturating_sub(self.inputs.window) / GROUP * GROUP;
                self.inputs.keys(next, first)
            }
            _ => self.inputs.keys(self.tile, start),
        }
    }

    /// Divides by the sums and rounds.
    #[inline(always)]
    fn store<P: Products<E, C>>(&self, scratch: &Scratch) {
        let head_dim = self.inputs.head_dim;
        for (row, softmax) in scratch.softmax.iter().enumerate() {
            let start = self.head_start(row);
            // SAFETY: no other tile has this token and query head.
            let out = unsafe { self.out.slice(start..start + head_dim) };
            let sink = self.inputs.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[self.head(row)]);
            let sum = P::Lanes::splat(softmax.total::<P::Lanes>(sink));
            for i in (0..head_dim).step_by(LANES) {
                store_at(P::sums(row, i, scratch).div(sum), out, i);
            }
        }
    }
}

impl Scratch {
    /// Makes sums of 0.
    #[inline(always)]
    pub(super) fn begin_sums(&mut self, num_rows: usize, head_dim: usize) {
        self.acc.clear();
        self.acc.resize(num_rows * padded(head_dim), 0.0);
    }

    /// Sums of a row from element `i` on.
    #[inline(always)]
    pub(super) fn sums<V: Lanes>(&self, row: usize, i: usize, head_dim: usize) -> V {
        load_at(&self.acc[row * padded(head_dim)..][..padded(head_dim)], i)
    }

    /// Multiplies the sums of a row by what its maximum has grown by.
    #[inline(always)]
    pub(super) fn rescale<V: Lanes>(&mut self, row: usize, head_dim: usize) {
        let rescale = self.softmax[row].rescale;
        // Most groups do not raise it.
        if rescale.to_bits() != 1f32.to_bits() {
            let (acc, _) = self.acc[row * padded(head_dim)..][..padded(head_dim)].as_chunks_mut();
            for acc in acc {
                V::load(acc).mul(V::splat(rescale)).store(acc);
            }
        }
    }
}

/// Rows of a tile against one group of keys.
pub(super) struct Rows<'a> {
    /// Those that see any of them.
    pub(super) range: Range<usize>,
    start: usize,
    /// Whether all of the tile see all of the keys.
    pub(super) see_all: bool,
    /// Keys or values of the next group, to ask for meanwhile: blocks lie anywhere, where the processor
    /// does not look ahead by itself.
    pub(super) ahead: &'a [usize],
}
