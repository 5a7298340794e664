//! What an engine asks of a device beside operations: to be opened, how much memory it has, copies
//! that do not wait, and whole steps at one call.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::{CudaDType, cudarc::driver::DeviceRepr};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, WithDType, bail};

#[cfg(feature = "cuda")]
use crate::cuda::{graph, staging, transfer};
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

/// What a tensor is made of; candle wants to hear more of it on a GPU.
#[cfg(feature = "cuda")]
pub trait Element: WithDType + CudaDType + DeviceRepr {}
#[cfg(feature = "cuda")]
impl<T: WithDType + CudaDType + DeviceRepr> Element for T {}
/// What a tensor is made of.
#[cfg(not(feature = "cuda"))]
pub trait Element: WithDType {}
#[cfg(not(feature = "cuda"))]
impl<T: WithDType> Element for T {}

/// The way of large tensors to a GPU: the host writes a piece while the one before it is copied.
#[derive(Debug)]
pub struct Staging {
    #[cfg(feature = "cuda")]
    staging: staging::Staging,
}

impl Staging {
    /// With 64 MiB of the host that the GPU reads by itself, until it is dropped. `None` on a device
    /// that computes in the host's memory.
    ///
    /// # Errors
    /// Memory of the host that the GPU cannot be given.
    pub fn new(device: &Device) -> Result<Option<Self>> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Some(Self { staging: staging::Staging::new(device)? })),
            _ => Ok(None),
        }
    }

    /// A new contiguous tensor. `fill(first, piece)` writes elements from `first` on, all of the piece;
    /// the pieces follow each other from the first element to the last.
    ///
    /// # Errors
    /// Memory of the device that is not there.
    pub fn tensor<T: Element>(
        &mut self,
        shape: &[usize],
        fill: impl FnMut(usize, &mut [T]),
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        return self.staging.tensor(shape, fill);
        #[cfg(not(feature = "cuda"))]
        {
            drop(fill);
            bail!("{shape:?}: only a GPU's tensors are staged")
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{devices, message};

    #[test]
    fn words_come_back_as_they_went() -> Result<()> {
        for device in devices() {
            for len in [0, 1, 7, 5000] {
                let words: Vec<u32> = (0..len).map(|i| i * 77 + 1).collect();
                let tensor = upload(&words, &device)?;
                assert_eq!(tensor.dims(), [len as usize]);
                // More uploads and read-backs are under way than there are buffers.
                let pending = (0..40).map(|_| Readback::start(&tensor));
                for pending in pending.collect::<Result<Vec<_>>>()? {
                    assert_eq!(pending.wait()?, words);
                }
            }
        }
        Ok(())
    }

    /// Longer than two pieces, and what a tensor before it left in them.
    #[test]
    fn tensors_are_made_of_pieces() -> Result<()> {
        for device in devices() {
            let Some(mut staging) = Staging::new(&device)? else {
                assert!(device.is_cpu(), "a GPU's tensors are staged");
                continue;
            };
            for (rows, factor) in [(9_000, 7), (2, 3), (0, 1), (3_000, 5)] {
                let value = |i: usize| (i * factor) as u32;
                let mut next = 0;
                let tensor = staging.tensor::<u32>(&[rows, 2_000], |first, piece| {
                    assert_eq!(first, next);
                    next += piece.len();
                    for (i, element) in piece.iter_mut().enumerate() {
                        *element = value(first + i);
                    }
                })?;
                assert_eq!((tensor.dims(), next), (&[rows, 2_000][..], rows * 2_000));
                let there: Vec<u32> = tensor.flatten_all()?.to_vec1()?;
                assert!(there.into_iter().enumerate().all(|(i, element)| element == value(i)));
            }
        }
        Ok(())
    }

    #[test]
    fn a_view_is_overwritten_and_nothing_beside_it() -> Result<()> {
        for device in devices() {
            let tensor = upload(&[1; 10], &device)?;
            let view = tensor.narrow(0, 3, 4)?;
            let before = Readback::start(&tensor)?;
            upload_into(&[7, 8, 9, 10], &view)?;
            assert_eq!(before.wait()?, [1; 10], "it is as it was when it was asked for");
            assert_eq!(Readback::start(&tensor)?.wait()?, [1, 1, 1, 7, 8, 9, 10, 1, 1, 1]);
            assert_eq!(Readback::start(&view)?.wait()?, [7, 8, 9, 10]);
            assert!(message(upload_into(&[1; 3], &view)).contains("3 words do not fit"));
        }
        Ok(())
    }

    /// Two recordings that share an output, launched in turns: each reads its inputs as they are then.
    #[test]
    fn recordings_read_what_is_there_when_they_are_launched() -> Result<()> {
        for device in devices() {
            let (a, b) = (upload(&[0; 4], &device)?, upload(&[0; 2], &device)?);
            let out = upload(&[0; 4], &device)?;
            let record =
                |from: &Tensor| Graph::record(&device, || out.slice_set(&(from + from)?, 0, 0));
            let (Some(first), Some(second)) = (record(&a)?, record(&b)?) else {
                assert!(device.is_cpu(), "a GPU records");
                continue;
            };
            for round in 0..5 {
                upload_into(&[round; 4], &a)?;
                upload_into(&[100 + round; 2], &b)?;
                first.launch()?;
                let after_first = Readback::start(&out)?;
                second.launch()?;
                assert_eq!(after_first.wait()?, [2 * round; 4]);
                let (x, y) = (200 + 2 * round, 2 * round);
                assert_eq!(Readback::start(&out)?.wait()?, [x, x, y, y]);
            }
        }
        Ok(())
    }
}
