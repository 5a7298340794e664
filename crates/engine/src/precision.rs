//! In what the weights of linear layers and the cache are held.

use candle_core::DType;

use crate::config::{EngineConfig, EngineOptions, OptionError};
use crate::model::ModelSpec;

/// What linear layers are brought to while they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// e4m3 with a scale for each output feature.
    Fp8,
}

impl EngineConfig {
    /// What the weights of a model's linear layers are held in: e4m3 if they were asked for or come so.
    /// Embeddings, norms and the head are held in `dtype`.
    pub fn linear_dtype(&self, spec: &ModelSpec) -> DType {
        if self.quantization.is_some() || spec.is_fp8 { DType::F8E4M3 } else { self.dtype }
    }

    /// Bytes of a model's parameters as they are held, with the scales of e4m3 linear layers.
    pub fn weight_bytes(&self, spec: &ModelSpec) -> usize {
        let wide = self.dtype.size_in_bytes();
        let all = spec.num_parameters * wide;
        let linear_dtype = self.linear_dtype(spec);
        if linear_dtype == self.dtype {
            return all;
        }
        let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
        let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
        // qkv, out, gate and up, down: inputs and outputs.
        let linears = [(hidden, q + 2 * kv), (q, hidden), (hidden, 2 * inner), (inner, hidden)];
        let elements: usize = linears.iter().map(|(inputs, outputs)| inputs * outputs).sum();
        let scales: usize = linears.iter().map(|(_, outputs)| outputs).sum();
        all - spec.num_layers * elements * (wide - linear_dtype.size_in_bytes())
            + spec.num_layers * scales * DType::F32.size_in_bytes()
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

/// Refuses for encoders what they do not have.
pub(crate) fn check_encoder(options: &EngineOptions, spec: &ModelSpec) -> Result<(), OptionError> {
    if spec.num_layers > 0 {
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
) -> Result<DType, OptionError> {
    let has_e4m3 = options.quantization.is_some()
        || spec.is_fp8
        || options.kv_cache_dtype == Some(DType::F8E4M3);
    let takes_f16 = options.on_gpu && !has_e4m3 && spec.num_layers > 0;
    match (options.dtype, spec.dtype) {
        (Some(dtype @ (DType::F32 | DType::BF16)), _) => Ok(dtype),
        (Some(DType::F16), _) | (None, DType::F16) if takes_f16 => Ok(DType::F16),
        (Some(DType::F16), _) if options.on_gpu => {
            Err(OptionError::Dtype("float16", "for fp8 weights, fp8 caches and encoders"))
        }
        (Some(DType::F16), _) => Err(OptionError::Dtype("float16", "on the CPU")),
        (Some(other), _) => Err(OptionError::Dtype(other.as_str(), "for activations")),
        (None, DType::BF16) => Ok(DType::BF16),
        (None, _) => Ok(DType::F32),
    }
}
