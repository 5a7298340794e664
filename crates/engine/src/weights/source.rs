//! Where tensors come from, and the parts that are taken of them.

use kernels::pool;

use super::checkpoint::{Checkpoint, StoredTensor};
use super::dummy::{Dummy, DummyTensor};
use super::element::Element;
use super::mxfp4::Mxfp4;
use super::quantized::{Quantized, Unpacked};
use super::{CHUNK, Result, RowsOf};
use std::ops::Range;
use std::sync::Arc;

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
            Self::Checkpoint(checkpoint) if part.is_of_experts => {
                let [experts, inputs, outputs] = part.shape[..] else {
                    unreachable!("the shape of a weight of experts is made with three dimensions")
                };
                if quantized == Some(Quantized::Mxfp4) {
                    SourceTensor::Mxfp4(Mxfp4::open(
                        checkpoint,
                        part.name,
                        [experts, outputs, inputs],
                    )?)
                } else {
                    let tensor = checkpoint.tensor::<T>(part.name, &part.shape)?;
                    SourceTensor::Transposed(tensor, [inputs, outputs])
                }
            }
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
    /// Matrices `[in, out]` that are read as `[out, in]`.
    Transposed(StoredTensor<'a>, [usize; 2]),
    Mxfp4(Mxfp4<'a>),
    Unpacked(Unpacked<T>),
    Dummy(DummyTensor<T>),
}

impl<T: Element> SourceTensor<'_, T> {
    /// Gives the elements `first..first + dst.len()` of the flattened tensor.
    fn read(&self, first: usize, dst: &mut [T]) {
        match self {
            Self::Stored(tensor) => tensor.read(first, dst),
            Self::Transposed(tensor, [inputs, outputs]) => {
                for (at, dst) in (first..).zip(dst) {
                    let (row, input) = (at / inputs, at % inputs);
                    let (matrix, output) = (row / outputs, row % outputs);
                    let at = (matrix * inputs + input) * outputs + output;
                    tensor.read(at, std::slice::from_mut(dst));
                }
            }
            Self::Mxfp4(tensor) => tensor.read(first, dst),
            Self::Unpacked(tensor) => dst.copy_from_slice(&tensor.elements[first..][..dst.len()]),
            Self::Dummy(tensor) => tensor.fill(first, dst),
        }
    }

    /// Lets go of what lies in memory for it. Bytes of the checkpoint that `len` elements take; what was unpacked is
    /// counted whole, unless it was before.
    pub(super) fn release(&self, len: usize, is_counted: bool) -> u64 {
        match self {
            Self::Stored(tensor) | Self::Transposed(tensor, _) => {
                tensor.release();
                tensor.num_bytes(len)
            }
            Self::Mxfp4(tensor) => tensor.release(len),
            Self::Unpacked(tensor) if !is_counted => tensor.num_bytes,
            Self::Unpacked(_) | Self::Dummy(_) => 0,
        }
    }
}

/// Writes the elements from `first` on, of those of the parts one after the other.
pub(super) fn fill<T: Element>(
    parts: &[Part],
    sources: &[Arc<SourceTensor<T>>],
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
    /// It is `[experts, in, out]` and read as their output features `[experts * out, in]`.
    is_of_experts: bool,
}

impl<'a> Part<'a> {
    pub(super) fn whole(name: &'a str, shape: &[usize]) -> Self {
        let len = shape.iter().product();
        let shape = shape.to_vec();
        Self { name, shape, first: 0, width: len, stride: len, len, is_of_experts: false }
    }

    pub(super) fn rows(part: &'a RowsOf, row: &[usize]) -> Self {
        let (width, is_of_experts) = (row.iter().product::<usize>(), part.experts.is_some());
        let shape = match part.experts {
            None => [&[part.total], row].concat(),
            Some(experts) => [&[experts], row, &[part.total / experts]].concat(),
        };
        let len = part.num_rows() * width;
        // Those one after the other are one.
        let (width, stride) = if part.step == 1 { (len, len) } else { (width, part.step * width) };
        Self {
            name: &part.name,
            shape,
            first: part.rows.start * row.iter().product::<usize>(),
            width,
            stride,
            len,
            is_of_experts: is_of_experts && !row.is_empty(),
        }
    }

    /// Some columns of the rows.
    pub(super) fn block(part: &'a RowsOf, num_columns: usize, columns: Range<usize>) -> Self {
        let rows = Self::rows(part, &[num_columns]);
        if columns.len() == num_columns {
            return rows;
        }
        let (width, len) = (columns.len(), part.num_rows() * columns.len());
        let stride = part.step * num_columns;
        Self { first: rows.first + columns.start, width, stride, len, ..rows }
    }

    /// Some bytes of the rows, of a tensor of experts' `[experts, out, ..]` that has `row` for each.
    pub(super) fn bytes(name: &'a str, part: &RowsOf, row: &[usize], bytes: Range<usize>) -> Self {
        let (experts, row_bytes) = (part.experts.unwrap_or(1), row.iter().product::<usize>());
        Self {
            name,
            shape: [&[experts, part.total / experts], row].concat(),
            first: part.rows.start * row_bytes + bytes.start,
            width: bytes.len(),
            stride: part.step * row_bytes,
            len: part.num_rows() * bytes.len(),
            is_of_experts: false,
        }
    }

    /// Whether it is another part of the same tensor.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        self.name == other.name && self.shape == other.shape
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
