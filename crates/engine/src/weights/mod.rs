//! Weights: tensors by name from a checkpoint, from bytes in the binary, or from a generator.
//!
//! A checkpoint is mapped, and the pages of a tensor are dropped as soon as it is decoded: memory
//! grows by what has been loaded, not by what has been read.

mod bytes;
mod checkpoint;
mod dummy;
mod element;
mod error;
mod linear;
mod mxfp4;
mod quantized;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use kernels::collectives::{self, Communicator};
use kernels::device::Staging;

use checkpoint::Checkpoint;
use dummy::Dummy;
use element::Element;

use crate::precision::Quantization;
pub use error::WeightsError;
pub(crate) use linear::holds_mxfp4;
pub use quantized::Quantized;
use source::{Part, Source, SourceTensor, fill};

/// Elements decoded by one task; their pages are released together.
const CHUNK: usize = 1 << 20;

type Result<T> = std::result::Result<T, WeightsError>;

/// Where a model's tensors come from, in the dtype and on the device they are wanted.
pub struct Weights {
    source: Source,
    device: Device,
    dtype: DType,
    /// What linear layers are brought to, if they are.
    quantization: Option<Quantization>,
    /// What they are stored in, if they are not as they are.
    quantized: Option<Quantized>,
    used: BTreeSet<String>,
    num_parameters: usize,
    progress: Progress,
    on_progress: Option<Box<dyn FnMut(Progress) + Send>>,
    is_batch_invariant: bool,
    /// For a device with memory of its own.
    staging: Option<Staging>,
    /// Of the rank whose part of the layers is wanted, if there are several.
    communicator: Option<Arc<Communicator>>,
}

/// Which decoder layer a module or a tensor is of.
pub fn decoder_layer(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// How the names of tensors end by which others round activations.
const OF_ACTIVATIONS: [&str; 3] = [".input_scale", ".input_zero_point", ".activation_scale"];

/// Rows of a tensor that are taken.
#[derive(Debug, Clone)]
pub struct RowsOf {
    /// Of the tensor.
    pub name: String,
    /// Rows that it has.
    pub total: usize,
    /// Where those that are taken lie.
    pub rows: Range<usize>,
    /// From one of them to the next.
    pub step: usize,
    /// Experts that the tensor is of, if it is of several: their weights `[experts, in, out]`, those in MXFP4, or
    /// their biases `[experts, out]`. Rows are output features, counted through all experts.
    pub experts: Option<usize>,
}

impl RowsOf {
    /// All of them.
    pub fn all(name: String, total: usize) -> Self {
        Self::some(name, total, 0..total)
    }

    /// Those one after the other.
    pub fn some(name: String, total: usize, rows: Range<usize>) -> Self {
        Self { name, total, rows, step: 1, experts: None }
    }

    /// How many are taken.
    pub fn num_rows(&self) -> usize {
        self.rows.len().div_ceil(self.step)
    }
}

/// How far loading is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the checkpoint read so far.
    pub loaded_bytes: u64,
    /// Bytes of the whole checkpoint; 0 for generated weights, whose extent is not known.
    pub total_bytes: u64,
}

impl Weights {
    /// Opens the checkpoint in a directory: `model.safetensors`, or the shards named by
    /// `model.safetensors.index.json`. Headers are checked here, tensors when they are asked for.
    pub fn open(dir: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Self::new(Source::Checkpoint(Checkpoint::open(dir)?), device, dtype)
    }

    /// Opens a safetensors file that is part of the binary; `name` stands for it in messages.
    pub fn embedded(
        name: &str,
        bytes: &'static [u8],
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        Self::new(Source::Checkpoint(Checkpoint::embedded(name, bytes)?), device, dtype)
    }

    /// Has every tensor of any shape: random values of standard deviation 0.02, ones for norms.
    /// A value depends on the seed, the tensor's name and its place in the tensor alone.
    pub fn dummy(seed: u64, device: &Device, dtype: DType) -> Result<Self> {
        Self::new(Source::Dummy(Dummy { seed }), device, dtype)
    }

    fn new(source: Source, device: &Device, dtype: DType) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
            return Err(WeightsError::TargetDtype(dtype.as_str()));
        }
        let total_bytes = match &source {
            Source::Checkpoint(checkpoint) => checkpoint.num_bytes(),
            Source::Dummy(_) => 0,
        };
        Ok(Self {
            source,
            is_batch_invariant: false,
            staging: Staging::new(device)?,
            device: device.clone(),
            dtype,
            quantization: None,
            quantized: None,
            used: BTreeSet::new(),
            num_parameters: 0,
            communicator: None,
            progress: Progress { loaded_bytes: 0, total_bytes },
            on_progress: None,
        })
    }

    /// Brings linear layers, and the head if it says so, to what they are not stored in.
    #[must_use]
    pub fn with_quantization(mut self, quantization: Option<Quantization>) -> Self {
        self.quantization = quantization;
        self
    }

    /// Reads linear layers as the checkpoint stores them.
    #[must_use]
    pub fn with_quantized(mut self, quantized: Option<Quantized>) -> Self {
        self.quantized = quantized;
        self
    }

    /// Hands out matrices whose rows are the same in any batch on every device, or not.
    #[must_use]
    pub fn with_batch_invariance(mut self, is_batch_invariant: bool) -> Self {
        self.is_batch_invariant = is_batch_invariant;
        self
    }

    /// Reads of layers that are shared out the part of a rank, and joins them by its collectives.
    #[must_use]
    pub fn with_communicator(mut self, communicator: Option<Arc<Communicator>>) -> Self {
        self.communicator = communicator;
        self
    }

    /// Of the rank whose parts are read, if there are several.
    pub fn communicator(&self) -> Option<&Arc<Communicator>> {
        self.communicator.as_ref()
    }

    /// The rank and how many there are.
    pub fn rank(&self) -> (usize, usize) {
        self.communicator.as_ref().map_or((0, 1), |end| (end.rank(), end.num_ranks()))
    }

    /// Which of `len` output features are the rank's.
    pub fn part(&self, len: usize) -> Range<usize> {
        let (rank, num_ranks) = self.rank();
        collectives::part(len, rank, num_ranks)
    }

    /// Calls `f` after every tensor.
    #[must_use]
    pub fn with_progress(mut self, f: impl FnMut(Progress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(f));
        self
    }

    /// Element type of the tensors handed out.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Device of the tensors handed out.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the checkpoint has this tensor; generated weights have every one.
    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::Checkpoint(checkpoint) => checkpoint.contains(name),
            Source::Dummy(_) => true,
        }
    }

    /// Parameters handed out so far.
    pub fn num_parameters(&self) -> usize {
        self.num_parameters
    }

    /// Tensors of the checkpoint that nobody asked for. The rotary frequencies that old Llama
    /// checkpoints carry are left out: they follow from `config.json`. So are scales of activations:
    /// rows get their own.
    pub fn unused(&self) -> Vec<&str> {
        match &self.source {
            Source::Checkpoint(checkpoint) => checkpoint
                .names()
                .filter(|name| !self.used.contains(*name))
                .filter(|name| !name.ends_with("rotary_emb.inv_freq"))
                .filter(|name| !OF_ACTIVATIONS.iter().any(|end| name.ends_with(end)))
                .collect(),
            Source::Dummy(_) => Vec::new(),
        }
    }

    /// The tensor of this name, which must have this shape.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.gather(&[Part::whole(name, shape)], shape)
    }

    /// The same in f32, whatever the others are handed out in.
    pub fn tensor_f32(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let device = self.device.clone();
        let tensor = self.read::<f32>(&device, &[Part::whole(name, shape)], shape)?;
        self.num_parameters += tensor.elem_count();
        Ok(tensor)
    }

    /// Rows of several tensors, stacked along their first dimension; `row` is the shape of a row (empty for
    /// biases).
    pub fn stacked(&mut self, parts: &[RowsOf], row: &[usize]) -> Result<Tensor> {
        let num_rows = parts.iter().map(RowsOf::num_rows).sum();
        let parts: Vec<Part> = parts.iter().map(|part| Part::rows(part, row)).collect();
        self.gather(&parts, &[&[num_rows], row].concat())
    }

    fn gather(&mut self, parts: &[Part], shape: &[usize]) -> Result<Tensor> {
        let device = self.device.clone();
        self.gather_on(&device, parts, shape)
    }

    fn gather_on(&mut self, device: &Device, parts: &[Part], shape: &[usize]) -> Result<Tensor> {
        let tensor = match self.dtype {
            DType::F32 => self.read::<f32>(device, parts, shape)?,
            DType::BF16 => self.read::<bf16>(device, parts, shape)?,
            DType::F16 => self.read::<f16>(device, parts, shape)?,
            other => return Err(WeightsError::TargetDtype(other.as_str())),
        };
        self.num_parameters += tensor.elem_count();
        Ok(tensor)
    }

    /// The elements of some parts, one after the other.
    fn read<T: Element>(
        &mut self,
        device: &Device,
        parts: &[Part],
        shape: &[usize],
    ) -> Result<Tensor> {
        let len: usize = shape.iter().product();
        assert_eq!(parts.iter().map(|part| part.len).sum::<usize>(), len, "parts of {shape:?}");
        let mut sources: Vec<Arc<SourceTensor<T>>> = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            // What is unpacked is so once for all of its rows that are wanted.
            let shared = at.checked_sub(1).filter(|before| parts[*before].is_of_same(part));
            sources.push(match shared {
                Some(before) => Arc::clone(&sources[before]),
                None => Arc::new(self.source.tensor::<T>(part, self.quantized)?),
            });
        }
        let tensor = match &mut self.staging {
            Some(staging) if !device.is_cpu() => {
                staging.tensor(shape, |first, dst| fill(parts, &sources, first, dst))?
            }
            _ => {
                let mut elements = buffer::<T>(len);
                fill(parts, &sources, 0, &mut elements);
                Tensor::from_vec(elements, shape, device)?
            }
        };
        for (at, (part, source)) in parts.iter().zip(&sources).enumerate() {
            let is_shared = at > 0 && Arc::ptr_eq(&sources[at - 1], source);
            self.progress.loaded_bytes += source.release(part.len, is_shared);
            match &**source {
                SourceTensor::Unpacked(unpacked) => self.used.extend(unpacked.names.clone()),
                SourceTensor::Mxfp4(tensor) => self.used.extend(tensor.names.clone()),
                _ => drop(self.used.insert(part.name.to_owned())),
            }
        }
        if let Some(on_progress) = &mut self.on_progress {
            on_progress(self.progress);
        }
        Ok(tensor)
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Checkpoint(checkpoint) => checkpoint.name.clone(),
            Source::Dummy(dummy) => format!("{dummy:?}"),
        };
        f.debug_struct("Weights")
            .field("source", &source)
            .field("dtype", &self.dtype)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// A zeroed buffer that goes back to the system as soon as it is dropped.
///
/// Weights are dropped once they are packed. glibc keeps freed blocks of up to 32 MiB for itself,
/// as holes between the packed matrices (8 % on top of a 0.6B model); larger ones it unmaps. What
/// is reserved and not touched takes no memory.
fn buffer<T: Element>(len: usize) -> Vec<T> {
    const WORTH_IT: usize = 1 << 18;
    const UNMAPPED_WHEN_FREED: usize = 33 << 20; // bytes
    if len < WORTH_IT {
        return T::zeroed(len);
    }
    let mut elements = T::zeroed(len.max(UNMAPPED_WHEN_FREED / size_of::<T>()));
    elements.truncate(len);
    elements
}
