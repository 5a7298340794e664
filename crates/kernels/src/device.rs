//! What an engine asks of a device beside operations: to be opened, how much memory it has, copies
//! that do not wait, and whole steps at one call.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda::{graph, transfer};
use crate::views::contiguous;

/// Whether this build can compute on CUDA devices.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// Opens a CUDA device for tensors of one stream. Several threads may use it, one at a time.
///
/// # Errors
/// A build without the feature `cuda`, no driver, or no such device.
#[cfg(feature = "cuda")]
pub fn open_cuda(ordinal: usize) -> Result<Device> {
    crate::cuda::open(ordinal)
}

/// As with the feature, which this build lacks.
///
/// # Errors
/// Always.
#[cfg(not(feature = "cuda"))]
pub fn open_cuda(_ordinal: usize) -> Result<Device> {
    bail!("this sconce was built for the CPU alone: build it with --features cuda")
}

/// Memory of a device of its own, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Not taken by any process.
    pub free: usize,
    /// All there is.
    pub total: usize,
}

/// The memory of a device that does not compute in the host's.
///
/// # Errors
/// Whatever the driver says.
pub fn memory(device: &Device) -> Result<Option<DeviceMemory>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::memory(device).map(Some),
        _ => Ok(None),
    }
}

/// Copies words to a device without waiting for it. `[words]` u32
///
/// # Errors
/// Memory of host or device that cannot be had.
pub fn upload(words: &[u32], device: &Device) -> Result<Tensor> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => transfer::upload(words, device),
        _ => Tensor::from_slice(words, words.len(), device),
    }
}

/// As [`upload`], into a contiguous u32 tensor of as many elements.
///
/// # Errors
/// Another length, dtype or layout, and as [`upload`].
pub fn upload_into(words: &[u32], tensor: &Tensor) -> Result<()> {
    if tensor.elem_count() != words.len() || tensor.dtype() != DType::U32 {
        let (len, dtype) = (words.len(), tensor.dtype());
        bail!("{len} words do not fit a tensor of {} elements of {dtype:?}", tensor.elem_count());
    }
    tensor.inplace_op1(&Overwrite { words })
}

struct Overwrite<'a> {
    words: &'a [u32],
}

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "upload_into"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (start, end) = contiguous(layout, "the tensor")?;
        let CpuStorage::U32(words) = storage else { bail!("the tensor must be U32") };
        words[start..end].copy_from_slice(self.words);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let (start, end) = contiguous(layout, "the tensor")?;
        transfer::upload_into(self.words, storage, start..end)
    }
}

/// A copy from the device that was asked for and will be there some time.
#[derive(Debug)]
pub struct Readback {
    #[cfg(feature = "cuda")]
    pending: Option<transfer::Pending>,
    words: Vec<u32>,
}

impl Readback {
    /// Asks for the elements of a contiguous u32 tensor, as they are once all has run that was asked
    /// of the device before.
    ///
    /// # Errors
    /// Another dtype, or memory of the host that cannot be had.
    pub fn start(tensor: &Tensor) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if tensor.device().is_cuda() {
            return Ok(Self { pending: Some(transfer::download(tensor)?), words: Vec::new() });
        }
        Ok(Self {
            #[cfg(feature = "cuda")]
            pending: None,
            words: tensor.flatten_all()?.to_vec1()?,
        })
    }

    /// Waits for the copy, and for nothing that was asked of the device after it.
    ///
    /// # Errors
    /// A fault of the device in anything before.
    pub fn wait(self) -> Result<Vec<u32>> {
        #[cfg(feature = "cuda")]
        if let Some(pending) = self.pending {
            return pending.wait();
        }
        Ok(self.words)
    }
}

/// Operations of a device, recorded once and asked for again with one call: they read and write the
/// same tensors every time.
#[derive(Debug)]
pub struct Graph {
    #[cfg(feature = "cuda")]
    graph: graph::Graph,
}

impl Graph {
    /// Records what `f` asks of the device. Runs it once before, so that whatever is loaded or
    /// allocated at the first use is there; it must not wait, copy to or from the host, or leave
    /// anything behind but what it writes to tensors that were there before. `None` on a device that
    /// records nothing.
    ///
    /// # Errors
    /// Those of `f`, and of the device.
    pub fn record(device: &Device, f: impl FnMut() -> Result<()>) -> Result<Option<Self>> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Some(Self { graph: graph::Graph::record(device, f)? })),
            _ => {
                drop(f);
                Ok(None)
            }
        }
    }

    /// Asks for all of it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn launch(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        self.graph.launch()?;
        Ok(())
    }
}
