//! Where tensors come from, and the parts that are taken of them.

use kernels::pool;

use super::checkpoint::{Checkpoint, StoredTensor};
use super::dummy::{Dummy, DummyTensor};
use super::element::Element;
use super::quantized::{Quantized, Unpacked};
use super::{CHUNK, Result, RowsOf};
use std::ops::Range;

pub(super) enum Source {
    Checkpoint(Checkpoint),
    Dummy(Dummy),
}

impl Source {
    pub(super) fn tensor<T: Element>(
        &self,
        part: &Part,
        quantized: Option<Quantized>,
    ) -> Result<SourceTensor<'_, T>> {
        Ok(match self {
            Self::Checkpoint(checkpoint) => {
                let shape = <[usize; 2]>::try_from(part.shape.as_slice()).ok();
                let unpacked = match quantized.zip(shape) {
                    Some((how, shape)) => how.unpack(checkpoint, part.name, shape)?,
                    None => None,
                };
                match unpacked {
                    Some(unpacked) => SourceTensor::Unpacked(unpacked),
                    None => SourceTensor::Stored(checkpoint.tensor::<T>(part.name, &part.shape)?),
                }
            }
            Self::Dummy(dummy) => SourceTensor::Dummy(dummy.tensor(part.name)),
        })
    }
}

/// Where the elements of one tensor come from.
pub(super) enum SourceTensor<'a, T> {
    Stored(StoredTensor<'a>),
    Unpacked(Unpacked<T>),
    Dummy(DummyTensor<T>),
}

impl<T: Element> SourceTensor<'_, T> {
    /// Gives the elements `first..first + dst.len()` of the flattened tensor.
    fn read(&self, first: usize, dst: &mut [T]) {
        match self {
            Self::Stored(tensor) => tensor.read(first, dst),
            Self::Unpacked(tensor) => dst.copy_from_slice(&tensor.elements[first..][..dst.len()]),
            Self::Dummy(tensor) => tensor.fill(first, dst),
        }
    }

    /// Lets go of what lies in memory for it. Bytes of the checkpoint that `len` elements take.
    pub(super) fn release(&self, len: usize) -> u64 {
        match self {
            Self::Stored(tensor) => {
                tensor.release();
                tensor.num_bytes(len)
            }
            Self::Unpacked(tensor) => tensor.num_bytes,
            Self::Dummy(_) => 0,
        }
    }
}

/// Writes the elements from `first` on, of those of the parts one after the other.
pub(super) fn fill<T: Element>(
    parts: &[Part],
    sources: &[SourceTensor<T>],
    first: usize,
    dst: &mut [T],
) {
    let (mut skipped, mut rest) = (first, dst);
    for (part, source) in parts.iter().zip(sources) {
        let len = rest.len().min(part.len.saturating_sub(skipped));
        let (dst, tail) = rest.split_at_mut(len);
        rest = tail;
        pool::for_each_row(dst, CHUNK, len, |chunk, dst| {
            part.read(source, skipped + chunk * CHUNK, dst);
        });
        skipped = skipped.saturating_sub(part.len);
    }
}

/// What is taken of one tensor: rows of `width` elements, `stride` apart, from `first` on.
pub(super) struct Part<'a> {
    pub(super) name: &'a str,
    /// Of the whole tensor.
    shape: Vec<usize>,
    first: usize,
    width: usize,
    stride: usize,
    pub(super) len: usize,
}

impl<'a> Part<'a> {
    pub(super) fn whole(name: &'a str, shape: &[usize]) -> Self {
        let len = shape.iter().product();
        Self { name, shape: shape.to_vec(), first: 0, width: len, stride: len, len }
    }

    pub(super) fn rows(part: &'a RowsOf, row: &[usize]) -> Self {
        let width = row.iter().product::<usize>();
        let len = part.rows.len() * width;
        Self {
            name: &part.name,
            shape: [&[part.total], row].concat(),
            first: part.rows.start * width,
            width: len,
            stride: len,
            len,
        }
    }

    /// Some columns of the rows.
    pub(super) fn block(part: &'a RowsOf, num_columns: usize, columns: Range<usize>) -> Self {
        let rows = Self::rows(part, &[num_columns]);
        if columns.len() == num_columns {
            return rows;
        }
        let (width, len) = (columns.len(), part.rows.len() * columns.len());
        Self { first: rows.first + columns.start, width, stride: num_columns, len, ..rows }
    }

    /// The elements from `first` on, of those that are taken.
    fn read<T: Element>(&self, source: &SourceTensor<T>, first: usize, dst: &mut [T]) {
        let (mut at, mut rest) = (first, dst);
        while !rest.is_empty() {
            let (row, column) = (at / self.width, at % self.width);
            let (dst, tail) = rest.split_at_mut(rest.len().min(self.width - column));
            source.read(self.first + row * self.stride + column, dst);
            at += dst.len();
            rest = tail;
        }
    }
}
