//! Why weights could not be loaded; every message names the file or the tensor and what to do.

use std::io;
use std::path::PathBuf;

/// Why a checkpoint could not be opened or a tensor not be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds no safetensors checkpoint.
    #[error(
        "{}: neither model.safetensors nor model.safetensors.index.json is there ({found}); \
         give the directory of a safetensors checkpoint",
        dir.display()
    )]
    NoCheckpoint {
        /// The directory.
        dir: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The index is not what Hugging Face writes.
    #[error("{}: {reason}; download the file again", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names files that are not there.
    #[error(
        "{}: {} of {total} shards are missing: {}; download them into the same directory",
        index.display(), missing.len(), missing.join(", ")
    )]
    MissingShards {
        /// The index file.
        index: PathBuf,
        /// Names of the missing files.
        missing: Vec<String>,
        /// Files the index names.
        total: usize,
    },
    /// The header is not that of a safetensors file.
    #[error("{file}: not a valid safetensors file: {reason}; download it again")]
    Corrupt {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The data is shorter or longer than the header says.
    #[error(
        "{file}: has {found} bytes, which is not the length its header promises: \
         truncated or damaged; download it again"
    )]
    Truncated {
        /// The file.
        file: String,
        /// Its length in bytes.
        found: usize,
    },
    /// The checkpoint has no such tensor.
    #[error(
        "{file}: tensor `{name}` is missing; config.json and the weights belong to different models, \
         or the checkpoint is incomplete"
    )]
    MissingTensor {
        /// The checkpoint or the shard that should hold it.
        file: String,
        /// The tensor.
        name: String,
    },
    /// A layer is packed, and nothing says how, or something else.
    #[error(
        "{file}: tensor `{name}` is packed in a form that the quantization_config of config.json does not \
         name; add what the tool wrote (older ones to quantize_config.json) under that key, with its quant_method"
    )]
    Unexplained {
        /// The checkpoint.
        file: String,
        /// The packed tensor.
        name: String,
    },
    /// A tensor's shape is not the one that `config.json` implies.
    #[error(
        "{file}: tensor `{name}` has shape {found:?} where config.json implies {expected:?}; \
         config.json and the weights belong to different models"
    )]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The shape that was asked for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that is not supported.
    #[error(
        "{file}: tensor `{name}` is stored as {found}; only F32, F16 and BF16 are supported, and \
         F8_E4M3 in linear layers where config.json has a quantization_config, so take another checkpoint"
    )]
    StoredDtype {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The type in the file.
        found: String,
    },
    /// A tensor of a quantised layer is stored in another type than its format has.
    #[error(
        "{file}: tensor `{name}` is stored as {found} where the quantization_config of config.json \
         implies {expected}; config.json and the weights belong to different models"
    )]
    QuantizedDtype {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The type of the format.
        expected: String,
        /// The type in the file.
        found: String,
    },
    /// Groups of inputs that do not divide them.
    #[error(
        "layer `{layer}` has scales for {groups} groups of its {inputs} inputs, which is no whole number \
         of inputs for each; take another checkpoint"
    )]
    Groups {
        /// The layer.
        layer: String,
        /// Groups that have scales.
        groups: usize,
        /// Inputs of the layer.
        inputs: usize,
    },
    /// A group of inputs that has no scales.
    #[error("tensor `{name}` puts an input into group {group} of {groups}; download it again")]
    Group {
        /// The tensor of groups.
        name: String,
        /// The first such, from 0.
        group: usize,
        /// Groups that have scales.
        groups: usize,
    },
    /// A scale that makes no numbers.
    #[error("tensor `{name}` has the scale {scale}, which is no number above 0; download it again")]
    Scale {
        /// The tensor of scales.
        name: String,
        /// The first such.
        scale: f32,
    },
    /// Weights were asked for in a type that is not supported.
    #[error("weights cannot be loaded as {0}; choose f32, bf16 or f16")]
    TargetDtype(&'static str),
    /// The tensor could not be made on the device.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
