//! Weights and inputs rounded to integers, for the processor's products of bytes.
//!
//! Both get a scale for every [`BLOCK`] elements along `in`. Within a block the sum is one of integers,
//! exact in whatever order; blocks are added in ascending order in f32, so that a row's result is the
//! same in any batch here, too. Inputs are rounded to 8 bits, each row when it is multiplied (as
//! llama.cpp does with blocks of 32 for its `Q8_0`).

use super::cpu::Product;
use super::element::{Element, Words};
use super::pack::{PANEL, Packed, Step};
use super::portable::{PortableInt4, PortableInt8};
#[cfg(any(target_arch = "x86_64", test))]
use super::tiles::{TileInt4, TileInt8};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2Int4, Avx2Int8, Avx512VnniInt4, Avx512VnniInt8};
use crate::disjoint::DisjointMut;
use crate::pages::Pages;
use crate::pool::for_each_row;
#[cfg(target_arch = "x86_64")]
use crate::simd::Amx;
#[cfg(test)]
use crate::simd::Described;
use crate::simd::{self, Kernel, LANES, Lanes, Path, ROUND, dispatch, load_at};
use std::mem::MaybeUninit;

/// Elements along `in` that share a scale.
pub(super) const BLOCK: usize = 128;

/// What a weight is rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integers {
    /// -127 to 127, of which the largest of a block becomes one or the other.
    Int8,
    /// -8 to 7, with the scale that puts a block nearest to what it was.
    Int4,
}

impl Integers {
    /// Elements of a weight that share a word.
    pub(super) fn per_word(self) -> usize {
        match self {
            Self::Int8 => 4,
            Self::Int4 => 8,
        }
    }

    /// Those of weights, and one of scales for each block.
    pub(super) fn steps_per_panel(self, in_features: usize) -> usize {
        in_features.div_ceil(self.per_word()) + in_features.div_ceil(BLOCK)
    }

    /// Of a weight `[out, in]`, as [`Matrix::rounded`](super::Matrix::rounded) holds it.
    pub fn size_in_bytes(self, out_features: usize, in_features: usize) -> usize {
        out_features.div_ceil(PANEL) * self.steps_per_panel(in_features) * size_of::<Step>()
    }
}

/// What is known of a block of x.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// What its integers are to be multiplied by.
    pub(super) scale: f32,
    /// Their sum.
    pub(super) sum: i32,
}

/// Where registers of tiles would hold fewer rows, vectors are faster.
#[cfg(target_arch = "x86_64")]
const MIN_ROWS_OF_TILES: usize = 24;

/// `y = x W^T + b` of a weight that [`Packed::rounded`] made.
pub(super) fn multiply<E: Element, O: simd::Element>(
    path: Path,
    kind: Integers,
    weight: &Packed,
    x: &[E],
    bias: Option<Vec<f32>>,
) -> Vec<O> {
    #[cfg(target_arch = "x86_64")]
    let num_rows = x.len() / weight.in_features();
    let (x, blocks) = round_inputs(x, weight.in_features());
    let product = Product { weight, x: &x, bias };
    #[cfg(target_arch = "x86_64")]
    let has_vnni = is_x86_feature_detected!("avx512vnni");
    // The sums are exact and scaled alike, so that a row's bits are the same in either.
    #[cfg(target_arch = "x86_64")]
    let path = if path == Path::Amx && num_rows < MIN_ROWS_OF_TILES && has_vnni {
        Path::Avx512Bf16
    } else {
        path
    };
    match (path, kind) {
        #[cfg(target_arch = "x86_64")]
        (Path::Amx, Integers::Int8) => product.compute_blocks::<TileInt8<Amx>, O>(&blocks),
        #[cfg(target_arch = "x86_64")]
        (Path::Amx, Integers::Int4) => product.compute_blocks::<TileInt4<Amx>, O>(&blocks),
        #[cfg(target_arch = "x86_64")]
        (Path::Avx512Bf16 | Path::Avx512, Integers::Int8) if has_vnni => {
            product.compute_blocks::<Avx512VnniInt8, O>(&blocks)
        }
        #[cfg(target_arch = "x86_64")]
        (Path::Avx512Bf16 | Path::Avx512, Integers::Int4) if has_vnni => {
            product.compute_blocks::<Avx512VnniInt4, O>(&blocks)
        }
        #[cfg(target_arch = "x86_64")]
        (Path::Avx512Bf16 | Path::Avx512 | Path::Avx2, Integers::Int8) => {
            product.compute_blocks::<Avx2Int8, O>(&blocks)
        }
        #[cfg(target_arch = "x86_64")]
        (Path::Avx512Bf16 | Path::Avx512 | Path::Avx2, Integers::Int4) => {
            product.compute_blocks::<Avx2Int4, O>(&blocks)
        }
        (Path::Portable, Integers::Int8) => product.compute_blocks::<PortableInt8, O>(&blocks),
        (Path::Portable, Integers::Int4) => product.compute_blocks::<PortableInt4, O>(&blocks),
        #[cfg(test)]
        (Path::DescribedTiles, Integers::Int8) => {
            product.compute_blocks::<TileInt8<Described>, O>(&blocks)
        }
        #[cfg(test)]
        (Path::DescribedTiles, Integers::Int4) => {
            product.compute_blocks::<TileInt4<Described>, O>(&blocks)
        }
    }
}

/// x `[tokens, in]` to integers of that shape and `[tokens, blocks]`.
fn round_inputs<E: Element>(x: &[E], in_features: usize) -> (Vec<i8>, Vec<Block>) {
    let num_rows = x.len() / in_features;
    let num_blocks = in_features.div_ceil(BLOCK);
    let mut integers = vec![0; x.len()];
    let mut blocks = vec![Block { scale: 0.0, sum: 0 }; num_rows * num_blocks];
    let shared = DisjointMut::new(&mut blocks);
    for_each_row(&mut integers, in_features, x.len(), |row, integers| {
        // SAFETY: each row has its own blocks.
        let blocks = unsafe { shared.slice(row * num_blocks..(row + 1) * num_blocks) };
        let x = &x[row * in_features..][..in_features];
        dispatch(RoundRow { x, integers, blocks });
    });
    (integers, blocks)
}

/// Rounds a row of inputs.
struct RoundRow<'a, E> {
    x: &'a [E],
    integers: &'a mut [i8],
    blocks: &'a mut [Block],
}

impl<E: simd::Element> Kernel for RoundRow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let rows = self.x.chunks(BLOCK).zip(self.integers.chunks_mut(BLOCK));
        for ((x, integers), block) in rows.zip(self.blocks) {
            block.scale = round_block::<V, E>(Integers::Int8, x, integers);
            block.sum = 0;
            for &integer in &*integers {
                block.sum += i32::from(integer);
            }
        }
    }
}

/// Rounds up to [`BLOCK`] elements to the nearest, ties to even, and gives their scale. The scale is not
/// finite if one of them is not.
#[inline(always)]
fn round_block<V: Lanes, E: simd::Element>(kind: Integers, x: &[E], out: &mut [i8]) -> f32 {
    let zero = V::splat(0.0);
    let (mut largest, mut smallest, mut finite) = (zero, zero, zero);
    for i in (0..x.len()).step_by(LANES) {
        let x: V = load_at(x, i);
        largest = largest.max(x);
        smallest = smallest.max(zero.sub(x));
        finite = x.mul_add(zero, finite);
    }
    let (largest, smallest) = (largest.reduce_max(), smallest.reduce_max());
    let finite = finite.reduce_add();
    let scale = match kind {
        Integers::Int8 => largest.max(smallest) / 127.0,
        Integers::Int4 if largest > smallest => nearest_scale::<V, E>(x, largest),
        Integers::Int4 => nearest_scale::<V, E>(x, -smallest),
    };
    let inverse = inverse(scale);
    for (out, i) in out.chunks_mut(LANES).zip((0..x.len()).step_by(LANES)) {
        let mut biased = [0.0; LANES];
        kind.round(load_at::<V, E>(x, i), inverse).store(&mut biased);
        for (out, biased) in out.iter_mut().zip(biased) {
            *out = biased.to_bits() as i8;
        }
    }
    scale + finite
}

/// The reciprocal of the smallest numbers would be infinite.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale.abs() > 1e-37 { 1.0 / scale } else { 0.0 }
}

/// What the element of largest magnitude is tried as; the first is taken where no other is better. Another sign
/// of the others, or a number below 4, which has a multiple among them, would give the same. None cuts it off:
/// two that do bring random weights nearer by a tenth of the squares, and spoilt more of a model's answers.
const EXTREMES: [f32; 5] = [-8.0, 7.0, 6.0, 5.0, 4.0];

/// The scale with which a block of four bits comes nearest to what it was, by squares, of those that make
/// `extreme` one of [`EXTREMES`]: each gives the integers, and these the scale that suits them best (as
/// llama.cpp finds those of its `Q4_K`). Numbers that have been rounded to this grid before, as GPTQ does with
/// symmetric groups of as many, find it again.
#[inline(always)]
fn nearest_scale<V: Lanes, E: simd::Element>(x: &[E], extreme: f32) -> f32 {
    let mut nearest = extreme / EXTREMES[0];
    let mut most = 0.0;
    for number in EXTREMES {
        let inverse = inverse(extreme / number);
        let (mut products, mut squares) = (V::splat(0.0), V::splat(0.0));
        for i in (0..x.len()).step_by(LANES) {
            let x: V = load_at(x, i);
            let integers = Integers::Int4.round(x, inverse).sub(V::splat(ROUND));
            products = x.mul_add(integers, products);
            squares = integers.mul_add(integers, squares);
        }
        let (products, squares) = (products.reduce_add(), squares.reduce_add());
        // The square of what is left is that of x less this.
        let explained = products * products / squares;
        if explained > most {
            (nearest, most) = (products / squares, explained);
        }
    }
    nearest
}

/// Rounds and packs the rows of one panel. `[1..=PANEL, in]`
struct RoundPanel<'a, E> {
    kind: Integers,
    rows: &'a [E],
    in_features: usize,
    steps: &'a mut [MaybeUninit<Step>],
}

impl<E: simd::Element> Kernel for RoundPanel<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let per_word = self.kind.per_word();
        for (block, steps) in self.steps.chunks_mut(1 + BLOCK / per_word).enumerate() {
            let mut block_steps = [Step([0; PANEL]); 1 + BLOCK / 4];
            let (scales, words) = block_steps.split_at_mut(1);
            for (lane, row) in self.rows.chunks(self.in_features).enumerate() {
                let x = &row[block * BLOCK..];
                let x = &x[..x.len().min(BLOCK)];
                let mut integers = [0; BLOCK];
                let scale = round_block::<V, E>(self.kind, x, &mut integers);
                scales[0].0[lane] = scale.to_bits();
                for (step, integers) in words.iter_mut().zip(integers.chunks(per_word)) {
                    step.0[lane] = match self.kind {
                        Integers::Int8 => i8::word(integers),
                        Integers::Int4 => nibbles(integers),
                    };
                }
            }
            steps.write_copy_of_slice(&block_steps[..steps.len()]);
        }
    }
}

/// Eight elements, 8 added to each: the first four in the lower halves of a word's bytes.
#[inline(always)]
fn nibbles(elements: &[i8]) -> u32 {
    let (low, high) = elements.split_at(4);
    // Of four bits of two's complement, turning the highest adds 8.
    ((i8::word(low) & 0x0f0f_0f0f) | (i8::word(high) & 0x0f0f_0f0f) << 4) ^ 0x8888_8888
}

/// The bytes of both halves of [`nibbles`].
#[inline(always)]
pub(super) fn halves(word: u32) -> [u32; 2] {
    [word & 0x0f0f_0f0f, word >> 4 & 0x0f0f_0f0f]
}

/// The two words of x that meet a word of [`nibbles`].
#[inline(always)]
pub(super) fn words_of_eight(elements: &[i8]) -> [u32; 2] {
    let (low, high) = elements.split_at(elements.len().min(4));
    [i8::word(low), i8::word(high)]
}

impl Integers {
    /// Times `inverse`, to the nearest integer that there is, which is added to [`ROUND`].
    #[inline(always)]
    fn round<V: Lanes>(self, x: V, inverse: f32) -> V {
        let y = x.mul(V::splat(inverse));
        let y = match self {
            Self::Int8 => y,
            Self::Int4 => {
                let most = V::splat(7.0);
                most.select_less(y, most, y).max(V::splat(-8.0))
            }
        };
        y.add(V::splat(ROUND))
    }

    /// Element `index` of a word.
    pub(super) fn element(self, word: u32, index: usize) -> f32 {
        let element = match self {
            Self::Int8 => word.to_le_bytes()[index].cast_signed(),
            Self::Int4 => halves(word)[index / 4].to_le_bytes()[index % 4].cast_signed() - 8,
        };
        f32::from(element)
    }
}

impl Packed {
    /// rows `[out, in]`, not empty, rounded
    pub(super) fn rounded<E: Element>(rows: &[E], in_features: usize, kind: Integers) -> Self {
        let num_panels = (rows.len() / in_features).div_ceil(PANEL);
        let steps_per_panel = kind.steps_per_panel(in_features);
        let mut steps = Pages::new(num_panels * steps_per_panel);
        for_each_row(&mut steps, steps_per_panel, rows.len(), |panel, steps| {
            let len = PANEL * in_features;
            let rows = &rows[panel * len..rows.len().min((panel + 1) * len)];
            dispatch(RoundPanel { kind, rows, in_features, steps });
        });
        // SAFETY: every step of every panel was written.
        let steps = unsafe { steps.assume_init() };
        Self::of_integers(kind, steps, [rows.len() / in_features, in_features])
    }
}
