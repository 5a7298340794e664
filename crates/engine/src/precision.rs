//! In what the weights of linear layers and the cache are held.

use candle_core::{DType, Device, Result, Tensor};
use kernels::collectives::part;
use kernels::experts::E2M1_BLOCK;
use kernels::linear::{Integers, Matrix, quantize_rows};

use crate::config::{EngineConfig, EngineOptions, OptionError};
use crate::model::{Linears, ModelSpec};
use crate::weights::{Quantized, holds_mxfp4};

/// What linear layers are brought to while they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// e4m3 with a scale for each output feature. Embeddings and the head stay as they are.
    Fp8,
    /// Integers of 8 bits with a scale for 128 inputs of an output feature, on the CPU. So is the head.
    Int8,
    /// The same of 4 bits. The head has 8.
    Int4,
}

impl Quantization {
    /// As the flag has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Of linear layers, if they are brought to integers.
    pub(crate) fn integers(self) -> Option<Integers> {
        match self {
            Self::Fp8 => None,
            Self::Int8 => Some(Integers::Int8),
            Self::Int4 => Some(Integers::Int4),
        }
    }

    /// Of the head. It is the last thing between the model and its choice, and so has 8 bits at least.
    pub(crate) fn integers_of_head(self) -> Option<Integers> {
        self.integers().map(|_| Integers::Int8)
    }

    /// A weight `[out, in]` on the CPU as a linear layer's on a device.
    pub(crate) fn matrix(self, weight: &Tensor, device: &Device) -> Result<Matrix> {
        let Some(integers) = self.integers() else {
            let (rows, scales) = quantize_rows(weight)?;
            return Matrix::from_e4m3(&rows, &scales, weight.dtype(), device);
        };
        Matrix::rounded(weight, integers)
    }

    fn linear_bytes(self, inputs: usize, outputs: usize) -> usize {
        match self.integers() {
            Some(integers) => integers.size_in_bytes(outputs, inputs),
            None => inputs * outputs + outputs * DType::F32.size_in_bytes(),
        }
    }
}

impl EngineConfig {
    /// What a model's linear layers are brought to, or come in; otherwise they are held in `dtype`.
    pub fn quantization_of(&self, spec: &ModelSpec) -> Option<Quantization> {
        self.quantization.or(is_fp8(spec).then_some(Quantization::Fp8))
    }

    /// Bytes of the parameters that a rank holds of a model, as they are held, with the scales of those that
    /// have any.
    pub fn weight_bytes(&self, spec: &ModelSpec) -> usize {
        let spec = &spec.of_rank(self.tensor_parallel_size);
        let wide = self.dtype.size_in_bytes();
        let all = spec.num_parameters * wide;
        let quantization = self.quantization_of(spec);
        if quantization.is_none() && !self.holds_mxfp4(spec) {
            return all;
        }
        let linears = spec.linears();
        let elements: usize =
            linears.iter().chain(&spec.expert_linears()).map(Linears::elements).sum();
        let bytes = self.linear_bytes(spec, &linears) + self.expert_bytes(spec);
        let (head, head_bytes) = match quantization.and_then(Quantization::integers_of_head) {
            None => (0, 0),
            Some(integers) => {
                let rows = part(spec.vocab_size, 0, self.tensor_parallel_size).len();
                (rows * spec.hidden_size, integers.size_in_bytes(rows, spec.hidden_size))
            }
        };
        all - (elements + head) * wide + bytes + head_bytes
    }

    /// Those of experts, of the spec of a rank.
    pub(crate) fn expert_bytes(&self, spec: &ModelSpec) -> usize {
        let experts = spec.expert_linears();
        if !self.holds_mxfp4(spec) {
            return self.linear_bytes(spec, &experts);
        }
        let bytes = |linears: &Linears| {
            if holds_mxfp4(linears.inputs) {
                linears.elements() / 2 + linears.elements() / E2M1_BLOCK
            } else {
                self.linear_bytes(spec, std::slice::from_ref(linears))
            }
        };
        experts.iter().map(bytes).sum()
    }

    /// Whether experts that are stored in MXFP4 are held in it.
    fn holds_mxfp4(&self, spec: &ModelSpec) -> bool {
        self.on_gpu && spec.quantized == Some(Quantized::Mxfp4)
    }

    fn linear_bytes(&self, spec: &ModelSpec, linears: &[Linears]) -> usize {
        let quantization = self.quantization_of(spec);
        let bytes = |linears: &Linears| match quantization {
            None => linears.elements() * self.dtype.size_in_bytes(),
            Some(how) => linears.count * how.linear_bytes(linears.inputs, linears.outputs),
        };
        linears.iter().map(bytes).sum()
    }

    /// The dtype of the cache as vLLM names it.
    pub fn cache_dtype_name(&self) -> &'static str {
        match self.cache_dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            DType::F32 => "float32",
            DType::F8E4M3 => "fp8",
            other => other.as_str(),
        }
    }
}

/// Whether linear layers come as they are multiplied in e4m3.
fn is_fp8(spec: &ModelSpec) -> bool {
    spec.quantized == Some(Quantized::Fp8Rows)
}

/// Refuses for encoders what they do not have.
pub(crate) fn check_encoder(
    options: &EngineOptions,
    spec: &ModelSpec,
) -> std::result::Result<(), OptionError> {
    if !spec.is_encoder() {
        return Ok(());
    }
    if options.quantization.is_some() {
        return Err(OptionError::Encoder("--quantization", "linear layers stay as they are"));
    }
    if options.kv_cache_dtype.is_some() {
        return Err(OptionError::Encoder("--kv-cache-dtype", "there is no cache"));
    }
    Ok(())
}

/// A checkpoint in f16 runs on the CPU in f32, which holds its values exactly; bf16 would not.
pub(crate) fn resolve_dtype(
    options: &EngineOptions,
    spec: &ModelSpec,
) -> std::result::Result<DType, OptionError> {
    if options.quantization.and_then(Quantization::integers).is_some() {
        let name = options.quantization.map_or("", Quantization::name);
        if options.on_gpu {
            return Err(OptionError::Quantization(name, "is for the CPU: use fp8"));
        }
        if is_fp8(spec) {
            let why = "is for wider weights, the checkpoint's are fp8 already: leave it out";
            return Err(OptionError::Quantization(name, why));
        }
    }
    if options.on_gpu && spec.quantized == Some(Quantized::Mxfp4) && options.quantization.is_some()
    {
        let why =
            "is for wider weights, the checkpoint's experts have 4 bits already: leave it out";
        return Err(OptionError::Quantization("fp8", why));
    }
    let has_e4m3 = options.quantization.is_some()
        || is_fp8(spec)
        || options.kv_cache_dtype == Some(DType::F8E4M3);
    let takes_f16 = options.on_gpu && !has_e4m3 && spec.fits_f16;
    match (options.dtype, spec.dtype) {
        (Some(dtype @ (DType::F32 | DType::BF16)), _) => Ok(dtype),
        (Some(DType::F16), _) | (None, DType::F16) if takes_f16 => Ok(DType::F16),
        (Some(DType::F16), _) if options.on_gpu && !spec.fits_f16 => {
            Err(OptionError::Dtype("float16", "for this model, whose numbers go beyond it"))
        }
        (Some(DType::F16), _) if options.on_gpu => {
            Err(OptionError::Dtype("float16", "for fp8 weights and fp8 caches"))
        }
        (Some(DType::F16), _) => Err(OptionError::Dtype("float16", "on the CPU")),
        (Some(other), _) => Err(OptionError::Dtype(other.as_str(), "for activations")),
        (None, DType::BF16) => Ok(DType::BF16),
        (None, _) => Ok(DType::F32),
    }
}
