//! What the kernels of a test read.

use super::StepLayer;
use super::{BLOCK_SIZE, Case, MAX_POS, VOCAB};
use crate::cuda::testing::Input;
use crate::paged_attention::cuda::PagedAttentionParams;
use crate::paged_attention::{Extents, num_arrivals};
use crate::rope_kv_write::{HeadShape, NO_SLOT};
use crate::testing::tensor;
use candle_core::{DType, Device, Result, Tensor};
use cuda_host::{Buffer, Device as HostDevice};

/// The model, the rows, and what attention works in.
pub(super) struct Memory {
    /// As a [`StepLayer`] has them.
    layers: Vec<[Input; 14]>,
    has_bias: bool,
    has_norms: bool,
    pub(super) embedding: Input,
    pub(super) norm: Input,
    pub(super) head: Input,
    pub(super) angles: [Input; 2],
    pub(super) ids: Buffer<u32>,
    pub(super) positions: Buffer<u32>,
    pub(super) slots: Buffer<u32>,
    q_starts: Buffer<u32>,
    context_lens: Buffer<u32>,
    block_tables: Buffer<u32>,
    partial_out: Buffer<f32>,
    partial_softmax: Buffer<[f32; 2]>,
    attention_arrivals: Buffer<u32>,
    pub(super) extents: Extents,
}

const KEY: usize = 5;
const VALUE: usize = 6;

/// Sums of products with it stay near one.
fn random(seed: u64, dims: &[usize], dtype: DType) -> Result<Tensor> {
    let scale = if dims.len() == 2 { 2.0 / (dims[1] as f64).sqrt() } else { 1.0 };
    (tensor(seed, dims, DType::F32, &Device::Cpu)? * scale)?.to_dtype(dtype)
}

/// The tensors of a layer, of which kernels write to the cache.
fn layer(case: &Case, index: usize, device: &HostDevice) -> Result<[Input; 14]> {
    let (hidden, head_dim) = (case.hidden, case.heads.head_dim);
    let cache = [case.num_blocks().1, case.heads.num_kv_heads, BLOCK_SIZE, head_dim];
    let shapes: [&[usize]; 14] = [
        &[hidden],
        &[case.qkv_width(), hidden],
        &[case.qkv_width()],
        &[head_dim],
        &[head_dim],
        &cache,
        &cache,
        &[hidden, case.query_width()],
        &[hidden],
        &[hidden],
        &[2 * case.intermediate, hidden],
        &[2 * case.intermediate],
        &[hidden, case.intermediate],
        &[hidden],
    ];
    let inputs = shapes.iter().enumerate().map(|(i, dims)| {
        let seed = (100 * index + i) as u64;
        if i == KEY || i == VALUE {
            Input::writable(device, &random(seed, dims, case.cache_dtype)?, 0)
        } else {
            Input::new(device, &random(seed, dims, case.dtype)?, 0)
        }
    });
    let inputs: Vec<Input> = inputs.collect::<Result<_>>()?;
    Ok(inputs.try_into().expect("14 tensors"))
}

impl Memory {
    pub(super) fn new(case: &Case, device: &HostDevice) -> Result<Self> {
        let (hidden, dtype, rows) = (case.hidden, case.dtype, case.contexts.len());
        let layers = (0..case.num_layers).map(|index| layer(case, index, device));
        let input = |seed: u64, dims: &[usize], dtype: DType| {
            Input::new(device, &random(seed, dims, dtype)?, 0)
        };
        let angles = [MAX_POS, case.heads.head_dim / 2];
        let extents = Extents::of(case.contexts.iter().map(|&context| (1, context.max(1))));
        let partials = extents.num_partials() * case.heads.num_heads;
        let table_width = case.num_blocks().0;
        // Blocks of a sequence are not neighbours.
        let block = |row: usize, i: usize| (i * rows + row) as u32;
        let slot = |row: usize| {
            let last = case.contexts[row].checked_sub(1);
            last.map_or(NO_SLOT, |at| {
                block(row, at / BLOCK_SIZE) * BLOCK_SIZE as u32 + (at % BLOCK_SIZE) as u32
            })
        };
        let list = |f: &dyn Fn(usize) -> u32, len: usize| {
            device.input(&(0..len).map(f).collect::<Vec<u32>>())
        };
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            has_bias: case.has_bias,
            has_norms: case.has_norms,
            embedding: input(1000, &[VOCAB, hidden], dtype)?,
            norm: input(1001, &[hidden], dtype)?,
            head: input(1002, &[VOCAB, hidden], dtype)?,
            angles: [input(1003, &angles, DType::F32)?, input(1004, &angles, DType::F32)?],
            // One beyond the vocabulary.
            ids: list(&|row| if row == 2 { VOCAB as u32 } else { (7 * row + 3) as u32 }, rows),
            positions: list(&|row| case.contexts[row].saturating_sub(1) as u32, rows),
            slots: list(&slot, rows),
            q_starts: list(&|row| row as u32, rows + 1),
            context_lens: list(&|row| case.contexts[row] as u32, rows),
            block_tables: list(&|i| block(i / table_width, i % table_width), rows * table_width),
            partial_out: device.output(partials * case.heads.head_dim),
            partial_softmax: device.output(partials),
            attention_arrivals: device.filled(&vec![0; num_arrivals(rows, case.heads.num_heads)]),
            extents,
        })
    }

    pub(super) fn layer(&self, index: usize) -> StepLayer {
        let [
            attention_norm,
            qkv,
            qkv_bias,
            q_norm,
            k_norm,
            key,
            value,
            out,
            out_bias,
            mlp_norm,
            gate_up,
            gate_up_bias,
            down,
            down_bias,
        ] = self.layers[index].each_ref().map(Input::address);
        let bias = |address| if self.has_bias { address } else { 0 };
        let head_norm = |address| if self.has_norms { address } else { 0 };
        StepLayer {
            attention_norm,
            qkv,
            qkv_bias: bias(qkv_bias),
            q_norm: head_norm(q_norm),
            k_norm: head_norm(k_norm),
            key,
            value,
            out,
            out_bias: bias(out_bias),
            mlp_norm,
            gate_up,
            gate_up_bias: bias(gate_up_bias),
            down,
            down_bias: bias(down_bias),
        }
    }

    pub(super) fn attention(
        &self,
        case: &Case,
        [q, key, value, out]: [u64; 4],
    ) -> PagedAttentionParams {
        let HeadShape { num_heads, num_kv_heads, head_dim } = case.heads;
        PagedAttentionParams {
            q,
            key,
            value,
            out,
            q_starts: self.q_starts.address(),
            context_lens: self.context_lens.address(),
            block_tables: self.block_tables.address(),
            sinks: 0,
            partial_out: self.partial_out.address(),
            partial_softmax: self.partial_softmax.address(),
            arrivals: self.attention_arrivals.address(),
            scale: (head_dim as f32).sqrt().recip(),
            value_scale: 1.0,
            soft_cap: 0.0,
            num_seqs: case.contexts.len() as i32,
            num_heads: num_heads as i32,
            num_kv_heads: num_kv_heads as i32,
            head_dim: head_dim as i32,
            block_size: BLOCK_SIZE as i32,
            table_width: case.num_blocks().0 as i32,
            window: 0,
            split_rows: self.extents.split_limit() as i32,
        }
    }

    pub(super) fn has_no_arrivals(&self) -> bool {
        self.attention_arrivals.read().iter().all(|&left| left == 0)
    }

    /// The logits and all caches.
    pub(super) fn results(&self, logits: &Buffer<u8>) -> Vec<Vec<u8>> {
        let caches = self.layers.iter().flat_map(|layer| [&layer[KEY], &layer[VALUE]]);
        [logits.read()].into_iter().chain(caches.map(Input::read)).collect()
    }
}
