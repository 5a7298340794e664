//! What flags may say that take one of a few words.

use clap::ValueEnum;
use engine::CpuIsa;
use serde::{Deserialize, Serialize};

/// `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DtypeKind {
    /// The checkpoint's own; float16 runs as float32 on the CPU.
    Auto,
    /// 16 bits, the exponent of float32.
    Bfloat16,
    /// 16 bits, on a GPU.
    #[value(alias = "half")]
    #[serde(alias = "half")]
    Float16,
    /// 32 bits.
    Float32,
}

/// `--quantization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum QuantizationKind {
    /// 8 bits (e4m3) with a scale for each output feature; embeddings, norms and the head stay.
    Fp8,
    /// 8 bits, integers with a scale for 128 inputs, on the CPU; the head, too.
    Int8,
    /// The same of 4 bits; the head has 8.
    Int4,
}

/// `--max-cpu-isa`, each with those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CpuIsaKind {
    /// What every processor has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512.
    Avx512,
    /// Its products of bf16.
    #[value(name = "avx512-bf16")]
    #[serde(rename = "avx512-bf16")]
    Avx512Bf16,
    /// Tile registers.
    Amx,
}

impl From<CpuIsaKind> for CpuIsa {
    fn from(kind: CpuIsaKind) -> Self {
        match kind {
            CpuIsaKind::Portable => Self::Portable,
            CpuIsaKind::Avx2 => Self::Avx2,
            CpuIsaKind::Avx512 => Self::Avx512,
            CpuIsaKind::Avx512Bf16 => Self::Avx512Bf16,
            CpuIsaKind::Amx => Self::Amx,
        }
    }
}

/// `--kv-cache-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CacheDtypeKind {
    /// That of the activations.
    Auto,
    /// 8 bits (e4m3), without a scale.
    Fp8,
    /// The same as fp8.
    #[value(name = "fp8_e4m3")]
    Fp8E4m3,
}

/// `--load-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LoadFormat {
    /// The checkpoint's safetensors files.
    Auto,
    /// The same as auto: safetensors files.
    Safetensors,
    /// Random weights of the shape that config.json gives; nothing is read.
    Dummy,
}

/// `--runner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Runner {
    /// By the model's files.
    Auto,
    /// To generate text.
    Generate,
    /// To make vectors of texts.
    Pooling,
}

/// `--pooling-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PoolingKind {
    /// The last token's state.
    Last,
    /// The average of all.
    Mean,
    /// The first token's state.
    Cls,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}
