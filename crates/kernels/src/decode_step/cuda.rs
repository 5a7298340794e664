//! A decode step on a CUDA device: what it needs of the device, and its memory.

use super::{Dims, LAYER_BYTES, MAX_ROWS};
use crate::cuda::Launch;
use crate::paged_attention::cuda::{Model, PagedAttentionParams, SplitForm};
use crate::rms_norm;
use crate::rope_kv_write::HeadShape;
use candle_core::{DType, Result};

/// `StepLayer` of `params.cuh`; addresses of contiguous tensors, 0 for what a layer does not have.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct StepLayer {
    pub(super) attention_norm: u64,
    pub(super) qkv: u64,
    pub(super) qkv_bias: u64,
    pub(super) q_norm: u64,
    pub(super) k_norm: u64,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) out: u64,
    pub(super) out_bias: u64,
    pub(super) mlp_norm: u64,
    pub(super) gate_up: u64,
    pub(super) gate_up_bias: u64,
    pub(super) down: u64,
    pub(super) down_bias: u64,
}

const _: () = assert!(size_of::<StepLayer>() == LAYER_BYTES);

impl StepLayer {
    /// All of it, in order.
    pub(super) fn addresses(&self) -> [u64; LAYER_BYTES / 8] {
        [
            self.attention_norm,
            self.qkv,
            self.qkv_bias,
            self.q_norm,
            self.k_norm,
            self.key,
            self.value,
            self.out,
            self.out_bias,
            self.mlp_norm,
            self.gate_up,
            self.gate_up_bias,
            self.down,
            self.down_bias,
        ]
    }
}

/// `StepParams` of `params.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct StepParams {
    pub(super) attention: PagedAttentionParams,
    /// `[num_layers]` of [`StepLayer`]
    pub(super) layers: u64,
    /// `[vocab, hidden]`
    pub(super) embedding: u64,
    /// `[hidden]`
    pub(super) norm: u64,
    /// `[vocab, hidden]`
    pub(super) head: u64,
    /// `[rows]`
    pub(super) ids: u64,
    /// `[rows]`
    pub(super) positions: u64,
    /// `[rows]`
    pub(super) slots: u64,
    /// `[max_pos, head_dim / 2]` f32
    pub(super) cos: u64,
    /// As cos.
    pub(super) sin: u64,
    /// `[rows, (heads + 2 * kv_heads) * head_dim]`
    pub(super) qkv: u64,
    /// `[2, rows, hidden]`
    pub(super) branches: u64,
    /// `[rows, intermediate]`
    pub(super) gated: u64,
    /// `[rows, vocab]` f32
    pub(super) logits: u64,
    /// u32, 0 between launches
    pub(super) arrivals: u64,
    pub(super) num_layers: i32,
    pub(super) num_rows: i32,
    pub(super) hidden: i32,
    pub(super) intermediate: i32,
    pub(super) vocab: u32,
    pub(super) max_pos: u32,
    pub(super) num_slots: u32,
    pub(super) norm_threads: i32,
    pub(super) norm_eps: f32,
    pub(super) is_gelu: i32,
    pub(super) num_stages: i32,
    pub(super) region_bytes: i32,
}

/// What a device holds at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Processors {
    pub(super) count: usize,
    /// Shared memory that a block may have.
    pub(super) shared_bytes_per_block: usize,
}

/// A launch, which is cooperative, and how its blocks divide their memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) launch: Launch,
    pub(super) num_stages: usize,
    pub(super) region_bytes: usize,
    pub(super) norm_threads: usize,
}

/// Eight warps that compute, and four that ask for weights.
const THREADS: usize = 12 * 32;

/// 8 output features of up to 1,024 inputs, rows padded by 64 bytes.
const STAGE_BYTES: usize = 8 * (1024 + 32) * 2;

/// So many are on their way at once; more than the second are of no use.
const STAGES: (usize, usize) = (3, 12);

/// Sums of a block's warps for eight tiles, and of squares, and where the rows are; and what attention
/// declares itself.
const SUM_BYTES: usize = 8 * 8 * (MAX_ROWS * 8) * 4 + MAX_ROWS * (16 + 2) * 4;
const STATIC_BYTES: usize = 1024;

/// Elements between rows of inputs, as `input_stride` of `params.cuh`.
fn input_stride(len: usize) -> usize {
    len.next_multiple_of(64) + 32
}

/// None if the step has no kernel, or not on such a device.
pub(super) fn plan(dims: &Dims, processors: Processors) -> Result<Option<Plan>> {
    let Dims { hidden, intermediate, num_rows, dtype, cache_dtype, .. } = *dims;
    let HeadShape { num_heads, num_kv_heads, head_dim } = dims.heads;
    let query_width = num_heads * head_dim;
    let (Some(function), Some(attention)) = (function(dims), SplitForm::of(head_dim, false)) else {
        return Ok(None);
    };
    if num_kv_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
        return Ok(None);
    }
    let is_packed = [hidden, intermediate, query_width].iter().all(|len| len.is_multiple_of(8));
    if !is_packed || num_heads / num_kv_heads > 8 || !(1..=MAX_ROWS).contains(&num_rows) {
        return Ok(None);
    }
    let inputs = num_rows * input_stride(hidden.max(intermediate).max(query_width));
    let model = Model { num_heads, num_kv_heads, head_dim, dtype, cache_dtype };
    // The tiles of keys of two teams, which are half of a block's each, and their queries.
    let attention = attention.shared_bytes(&model) + 2 * 8 * head_dim * 2;
    let region_bytes = (2 * inputs).max(attention);
    let layer_bytes = dims.num_layers * LAYER_BYTES;
    // The rows' stream and the weight of a norm.
    let kept = region_bytes + (num_rows + 1) * hidden * 2 + SUM_BYTES + layer_bytes;
    // Two barriers a stage.
    let left = processors.shared_bytes_per_block.saturating_sub(kept + STATIC_BYTES);
    let num_stages = (left / (STAGE_BYTES + 16)).min(STAGES.1);
    if num_stages < STAGES.0 {
        return Ok(None);
    }
    let shared_bytes = kept + num_stages * (STAGE_BYTES + 16);
    let launch = Launch {
        is_cooperative: true,
        ..Launch::new(function, [processors.count, 1, 1], THREADS, shared_bytes)
    };
    let norm_threads = rms_norm::cuda::plan(1, hidden, dtype, true)?.block[0] as usize;
    Ok(Some(Plan { launch, num_stages, region_bytes, norm_threads }))
}

fn function(dims: &Dims) -> Option<&'static str> {
    use DType::{BF16, F8E4M3, F16};
    Some(match (dims.dtype, dims.cache_dtype, dims.heads.head_dim) {
        (BF16, BF16, 64) => "decode_step_bf16_64",
        (BF16, BF16, 128) => "decode_step_bf16_128",
        (F16, F16, 64) => "decode_step_f16_64",
        (F16, F16, 128) => "decode_step_f16_128",
        (BF16, F8E4M3, 64) => "decode_step_bf16_e4m3_64",
        (BF16, F8E4M3, 128) => "decode_step_bf16_e4m3_128",
        _ => return None,
    })
}
