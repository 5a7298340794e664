//! Copies between host and device that wait for nothing: through memory of the host that the device
//! reads and writes by itself, in buffers that are used again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Storage, Tensor, bail};

use crate::views::contiguous;

/// Free buffers of a GPU that are kept: more than there are copies on their way at once.
const MAX_FREE: usize = 32;
/// Of the smallest buffer.
const MIN_WORDS: usize = 1 << 12;
/// Memory that the host reads and writes as any other.
const CACHED: u32 = 0;

/// Memory that the device can reach.
struct Buffer {
    memory: PinnedHostSlice<u32>,
    /// Recorded behind the last copy from or to it.
    used: CudaEvent,
}

/// Buffers of all streams whose copies may or may not be done, the oldest first.
static FREE: Mutex<VecDeque<Buffer>> = Mutex::new(VecDeque::new());

impl Drop for Buffer {
    fn drop(&mut self) {
        // The memory is freed behind this, and a copy that nobody waited for may be under way.
        let _ = self.used.synchronize();
    }
}

impl Buffer {
    /// One that no copy uses any more.
    fn take(stream: &Arc<CudaStream>, words: usize) -> Result<Self> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Buffer| {
            buffer.memory.len() >= words
                && buffer.memory.context() == stream.context()
                && buffer.used.is_complete()
        };
        if let Some(at) = free.iter().position(fits)
            && let Some(buffer) = free.remove(at)
        {
            return Ok(buffer);
        }
        drop(free);
        let words = words.next_power_of_two().max(MIN_WORDS);
        // SAFETY: it is written before it is read: by `upload`, or by the copy that is waited for.
        let memory = unsafe { stream.context().alloc_pinned_with_flags(words, CACHED) }.w()?;
        Ok(Self { memory, used: stream.context().new_event(None).w()? })
    }

    /// Back, with a copy perhaps still under way.
    fn give(self) {
        let context = Arc::clone(self.memory.context());
        let is_of_gpu = |buffer: &Self| *buffer.memory.context() == context;
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.push_back(self);
        let num_of_gpu = || free.iter().filter(|buffer| is_of_gpu(buffer)).count();
        let too_many = free.len() > MAX_FREE && num_of_gpu() > MAX_FREE;
        let is_unused = |buffer: &Self| is_of_gpu(buffer) && buffer.used.is_complete();
        let oldest = too_many.then(|| free.iter().position(is_unused)).flatten();
        let oldest = oldest.and_then(|at| free.remove(at));
        // The driver may wait for a GPU when it takes memory back: others need not wait for that.
        drop(free);
        drop(oldest);
    }
}

/// Copies words into a new tensor. `[words]`
pub(crate) fn upload(words: &[u32], device: &CudaDevice) -> Result<Tensor> {
    // SAFETY: all of it is written by the copy below, in the order of the stream.
    let slice = unsafe { device.alloc::<u32>(words.len().max(1))? };
    let mut storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    upload_into(words, &mut storage, 0..words.len())?;
    Ok(Tensor::from_storage(Storage::Cuda(storage), words.len(), BackpropOp::none(), false))
}

/// Copies words into a range of u32 elements as long as they are.
pub(crate) fn upload_into(
    words: &[u32],
    storage: &mut CudaStorage,
    range: Range<usize>,
) -> Result<()> {
    if words.is_empty() {
        return Ok(());
    }
    let stream = storage.device().cuda_stream();
    let mut buffer = Buffer::take(&stream, words.len())?;
    let host = &mut buffer.memory.as_mut_slice().w()?[..words.len()];
    host.copy_from_slice(words);
    let mut to = storage.as_cuda_slice_mut::<u32>()?.slice_mut(range);
    stream.memcpy_htod(&*host, &mut to).w()?;
    buffer.used.record(&stream).w()?;
    buffer.give();
    Ok(())
}

/// A copy to the host under way.
pub(crate) struct Pending {
    buffer: Buffer,
    words: usize,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({} words)", self.words)
    }
}

/// Asks for the elements of a contiguous u32 tensor.
pub(crate) fn download(tensor: &Tensor) -> Result<Pending> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = contiguous(layout, "what is read back")?;
    let Storage::Cuda(storage) = &*storage else {
        bail!("what is read back must be on a CUDA device");
    };
    let stream = storage.device().cuda_stream();
    let words = end - start;
    let mut buffer = Buffer::take(&stream, words)?;
    if words > 0 {
        let from = storage.as_cuda_slice::<u32>()?.slice(start..end);
        let host = &mut buffer.memory.as_mut_slice().w()?[..words];
        stream.memcpy_dtoh(&from, host).w()?;
    }
    buffer.used.record(&stream).w()?;
    Ok(Pending { buffer, words })
}

impl Pending {
    pub(crate) fn wait(self) -> Result<Vec<u32>> {
        let Self { buffer, words } = self;
        buffer.used.synchronize().w()?;
        let copy = buffer.memory.as_slice().w()?[..words].to_vec();
        buffer.give();
        Ok(copy)
    }
}
