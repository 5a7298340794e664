//! Tensors made on the host, piece by piece: while one piece is copied the next is written.

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, DeviceRepr, PinnedHostSlice};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Storage, Tensor};

/// Large enough for the bus' full rate, small enough that the first copy begins soon.
const PIECE_BYTES: usize = 32 << 20;
/// One is written, one copied.
const NUM_PIECES: usize = 2;
/// Memory that the host writes as any other: pieces are decoded into it in no order.
const CACHED: u32 = 0;

/// Memory of the host that the device reads by itself. Freed when dropped.
pub(crate) struct Staging {
    device: CudaDevice,
    pieces: [Piece; NUM_PIECES],
    /// The piece whose copy was asked for first.
    next: usize,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staging({} pieces of {PIECE_BYTES} bytes)", self.pieces.len())
    }
}

struct Piece {
    memory: PinnedHostSlice<u8>,
    /// Recorded behind the copy from it.
    copied: CudaEvent,
}

impl Piece {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        // SAFETY: `tensor` copies nothing of it but what was written for that copy.
        let memory =
            unsafe { stream.context().alloc_pinned_with_flags(PIECE_BYTES, CACHED) }.w()?;
        Ok(Self { memory, copied: stream.context().new_event(None).w()? })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // The memory is freed behind this, and the last copy may be under way; a fault of the device
        // is told by whatever is asked of it next.
        let _ = self.copied.synchronize();
    }
}

impl Staging {
    pub(crate) fn new(device: &CudaDevice) -> Result<Self> {
        let pieces = [Piece::new(device)?, Piece::new(device)?];
        Ok(Self { device: device.clone(), pieces, next: 0 })
    }

    /// As [`crate::device::Staging::tensor`].
    pub(crate) fn tensor<T: CudaDType + DeviceRepr>(
        &mut self,
        shape: &[usize],
        mut fill: impl FnMut(usize, &mut [T]),
    ) -> Result<Tensor> {
        let stream = self.device.cuda_stream();
        let len: usize = shape.iter().product();
        // SAFETY: the copies below write all of it, in the order of the stream.
        let mut elements = unsafe { self.device.alloc::<T>(len)? };
        let mut first = 0;
        while first < len {
            let piece = &mut self.pieces[self.next];
            self.next = (self.next + 1) % NUM_PIECES;
            piece.copied.synchronize().w()?;
            let end = len.min(first + PIECE_BYTES / size_of::<T>());
            let bytes = piece.memory.as_mut_slice().w()?;
            // SAFETY: the memory is page-aligned, long enough, and any bits are a `T`: those are
            // numbers. `fill` writes all of them.
            let host = unsafe {
                std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<T>(), end - first)
            };
            fill(first, host);
            stream.memcpy_htod(&*host, &mut elements.slice_mut(first..end)).w()?;
            piece.copied.record(&stream).w()?;
            first = end;
        }
        let storage = CudaStorage::wrap_cuda_slice(elements, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }
}
