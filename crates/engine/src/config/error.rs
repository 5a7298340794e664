//! Options that cannot be honoured.

use crate::memory::Size;

/// An option that cannot be honoured. The message names the flag and says what would be accepted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OptionError {
    /// A number outside its range.
    #[error("{flag} is {value} but must be between {least} and {most} ({why})")]
    OutOfRange {
        /// As typed on the command line.
        flag: &'static str,
        /// What was given.
        value: usize,
        /// Smallest accepted.
        least: usize,
        /// Largest accepted.
        most: usize,
        /// Where the bound comes from.
        why: &'static str,
    },
    /// A share of memory that is none.
    #[error("--gpu-memory-utilization is {0} but must be above 0 and at most 1")]
    Utilization(f64),
    /// A dtype that cannot be computed in, and where.
    #[error("--dtype {0} is not supported {1}: use auto, float32 or bfloat16")]
    Dtype(&'static str, &'static str),
    /// What linear layers cannot be brought to, and why.
    #[error("--quantization {0} {1}")]
    Quantization(&'static str, &'static str),
    /// Decode steps cannot be one launch, and why.
    #[error("--decode-megakernel {0}: leave it out")]
    Megakernel(&'static str),
    /// A model that so many ranks cannot share.
    #[error(
        "--tensor-parallel-size {num_ranks}: its {num_heads} query heads, {num_kv_heads} key-value heads \
         and MLP of {intermediate_sizes} cannot be shared out evenly: use {possible}"
    )]
    Ranks {
        /// That were asked for.
        num_ranks: usize,
        /// Of the model.
        num_heads: usize,
        /// Of the model.
        num_kv_heads: usize,
        /// Of the model.
        intermediate_sizes: String,
        /// Numbers of ranks that can.
        possible: String,
    },
    /// What an encoder has not.
    #[error("{0} is not for encoders ({1}): leave it out")]
    Encoder(&'static str, &'static str),
    /// The draft model does not go with the model.
    #[error("--draft-model: {0}")]
    Draft(String),
    /// The processor computes with other instructions already.
    #[error("--max-cpu-isa: this process computes with {0} already")]
    Isa(&'static str),
    /// The kernels' pool could not be started.
    #[error("--num-threads: {0}")]
    Threads(String),
    /// The cache holds less than one sequence of full length.
    #[error(
        "the KV cache holds {cache_tokens} tokens, less than one sequence of --max-model-len \
         {max_model_len}: {}raise {flag}",
        lower_to(*.cache_tokens)
    )]
    CacheTooSmall {
        /// Tokens that fit.
        cache_tokens: usize,
        /// Tokens that must fit.
        max_model_len: usize,
        /// The flag (or the machine's memory) that sets the size.
        flag: &'static str,
    },
    /// Weights and activations alone exceed the memory.
    #[error(
        "the model needs {needed} before any KV cache but {available} are available: lower \
         --max-num-batched-tokens or use a smaller --dtype or model"
    )]
    ModelTooLarge {
        /// Weights, activations and runtime.
        needed: Size,
        /// Free memory of the device.
        available: Size,
    },
    /// Several models exceed the memory.
    #[error(
        "the models need {needed} together, caches of a given size included, but {available} are \
         available: serve fewer or smaller ones, or lower their --kv-cache-memory-bytes or \
         --max-num-batched-tokens"
    )]
    ModelsTooLarge {
        /// Weights, activations, runtime, and the caches whose size is given.
        needed: Size,
        /// Free memory of the device.
        available: Size,
    },
    /// The cache that was asked for exceeds the memory.
    #[error(
        "the KV cache would take {cache} but {remaining} remain beside the model: lower \
         --kv-cache-memory-bytes or --num-gpu-blocks-override"
    )]
    CacheTooLarge {
        /// What was asked for.
        cache: Size,
        /// What is left.
        remaining: Size,
    },
}

pub(crate) fn in_range(
    flag: &'static str,
    value: usize,
    (least, most): (usize, usize),
    why: &'static str,
) -> Result<usize, OptionError> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(OptionError::OutOfRange { flag, value, least, most, why })
    }
}

/// Other advice, if there is any.
fn lower_to(cache_tokens: usize) -> String {
    if cache_tokens == 0 {
        return String::new();
    }
    format!("lower --max-model-len to {cache_tokens} or ")
}
