//! The step on a device that has a kernel for it, against the operations there; none on others.

use super::{DecodeStep, Layer, Linear, MAX_ROWS, Model, Rows};
use crate::gated_activation::{Activation, gated_activation};
use crate::gather_rows::gather_rows;
use crate::linear::Matrix;
use crate::paged_attention::{
    Extents, KvCacheLayer, OnDevice, PagedAttention, Variant, Workspace, paged_attention,
};
use crate::rms_norm::{Gain, add_rms_norm, rms_norm};
use crate::rope_kv_write::{HeadShape, NO_SLOT, RopeKvWrite, rope_kv_write};
use crate::testing::{devices, ids, tensor, to_bits};
use candle_core::{DType, Device, Result, Tensor};

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 1528;
const VOCAB: usize = 2000;
const HEADS: HeadShape = HeadShape { num_heads: 16, num_kv_heads: 8, head_dim: 128 };
const MAX_POS: usize = 4096;
const BLOCK_SIZE: usize = 16;
const EPS: f32 = 1e-6;

/// The tensors of a layer, and its cache.
struct LayerWeights {
    norms: [Tensor; 2],
    head_norms: [Tensor; 2],
    matrices: [Matrix; 4],
    cache: KvCacheLayer,
}

struct Weights {
    layers: Vec<LayerWeights>,
    embedding: Matrix,
    head: Matrix,
    norm: Tensor,
    angles: [Tensor; 2],
}

impl Weights {
    fn new(dtype: DType, num_blocks: usize, device: &Device) -> Result<Self> {
        let matrix = |seed: u64, out: usize, inner: usize| {
            let scale = 2.0 / (inner as f64).sqrt();
            let weight = (tensor(seed, &[out, inner], DType::F32, device)? * scale)?;
            Matrix::new(&weight.to_dtype(dtype)?.copy()?)
        };
        let vector = |seed: u64, len: usize| tensor(seed, &[len], dtype, device)?.copy();
        let query = HEADS.num_heads * HEADS.head_dim;
        let qkv = query + 2 * HEADS.num_kv_heads * HEADS.head_dim;
        let cache = [num_blocks, HEADS.num_kv_heads, BLOCK_SIZE, HEADS.head_dim];
        let layers = (0..3).map(|layer| {
            let seed = 100 * layer;
            Ok(LayerWeights {
                norms: [vector(seed, HIDDEN)?, vector(seed + 1, HIDDEN)?],
                head_norms: [vector(seed + 2, HEADS.head_dim)?, vector(seed + 3, HEADS.head_dim)?],
                matrices: [
                    matrix(seed + 4, qkv, HIDDEN)?,
                    matrix(seed + 5, HIDDEN, query)?,
                    matrix(seed + 6, 2 * INTERMEDIATE, HIDDEN)?,
                    matrix(seed + 7, HIDDEN, INTERMEDIATE)?,
                ],
                cache: KvCacheLayer {
                    key: tensor(seed + 8, &cache, dtype, device)?.copy()?,
                    value: tensor(seed + 9, &cache, dtype, device)?.copy()?,
                },
            })
        });
        let angles = [MAX_POS, HEADS.head_dim / 2];
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            embedding: matrix(1000, VOCAB, HIDDEN)?,
            head: matrix(1001, VOCAB, HIDDEN)?,
            norm: vector(1002, HIDDEN)?,
            angles: [
                tensor(1003, &angles, DType::F32, device)?,
                tensor(1004, &angles, DType::F32, device)?,
            ],
        })
    }

    /// Of all layers: keys, then values.
    fn caches(&self) -> Result<Vec<Vec<u32>>> {
        let tensors = self.layers.iter().flat_map(|layer| [&layer.cache.key, &layer.cache.value]);
        tensors.map(to_bits).collect()
    }

    /// Writes what is no number to where the rows' keys and values belong.
    fn spoil(&self, batch: &Batch) -> Result<()> {
        let slots: Vec<u32> = batch.tensors[2].to_vec1()?;
        for slot in slots.into_iter().filter(|slot| *slot != NO_SLOT) {
            let (block, offset) = (slot as usize / BLOCK_SIZE, slot as usize % BLOCK_SIZE);
            for cache in self.layers.iter().flat_map(|l| [&l.cache.key, &l.cache.value]) {
                let shape = (1, HEADS.num_kv_heads, 1, HEADS.head_dim);
                let none =
                    Tensor::full(f32::NAN, shape, cache.device())?.to_dtype(cache.dtype())?;
                cache.narrow(0, block, 1)?.slice_set(&none.contiguous()?, 2, offset)?;
            }
        }
        Ok(())
    }

    fn layers(&self) -> Vec<Layer<'_>> {
        let mut layers = Vec::new();
        for layer in &self.layers {
            let [qkv, out, gate_up, down] =
                layer.matrices.each_ref().map(|weight| Linear { weight, bias: None });
            layers.push(Layer {
                attention_norm: &layer.norms[0],
                qkv,
                q_norm: Some(&layer.head_norms[0]),
                k_norm: Some(&layer.head_norms[1]),
                cache: &layer.cache,
                out,
                mlp_norm: &layer.norms[1],
                gate_up,
                down,
            });
        }
        layers
    }

    fn model(&self) -> Model<'_> {
        Model {
            embedding: &self.embedding,
            layers: self.layers(),
            norm: &self.norm,
            head: &self.head,
            cos: &self.angles[0],
            sin: &self.angles[1],
            heads: HEADS,
            norm_eps: EPS,
            activation: Activation::Silu,
            scale: (HEADS.head_dim as f32).sqrt().recip(),
        }
    }
}

/// Rows by the keys that they see; 0 for padding.
struct Batch {
    tensors: [Tensor; 6],
    extents: Extents,
    workspace: Workspace,
}

impl Batch {
    /// The batch, and the blocks that its cache needs.
    fn new(contexts: &[usize], device: &Device) -> Result<(Self, usize)> {
        let (rows, width) = (contexts.len(), MAX_POS / BLOCK_SIZE);
        let mut tables = vec![0u32; rows * width];
        let mut num_blocks = 0;
        // The rows take blocks in turn, so that those of a sequence are not neighbours.
        for i in 0..width {
            for row in (0..rows).filter(|row| contexts[*row] > i * BLOCK_SIZE) {
                tables[row * width + i] = num_blocks;
                num_blocks += 1;
            }
        }
        let slot = |(row, &context): (usize, &usize)| {
            let last = context.checked_sub(1);
            last.map_or(NO_SLOT, |at| {
                tables[row * width + at / BLOCK_SIZE] * BLOCK_SIZE as u32 + (at % BLOCK_SIZE) as u32
            })
        };
        let list = |values: Vec<u32>| ids(&values, device);
        let last = |context: &usize| context.saturating_sub(1) as u32;
        let tensors = [
            list((0..rows).map(|row| (31 * row + 5) as u32).collect())?,
            list(contexts.iter().map(last).collect())?,
            list(contexts.iter().enumerate().map(slot).collect())?,
            list((0..=rows as u32).collect())?,
            list(contexts.iter().map(|&context| context as u32).collect())?,
            list(tables.clone())?.reshape((rows, width))?,
        ];
        let extents = Extents::of(contexts.iter().map(|_| (1, MAX_POS)));
        let workspace = Workspace::new(device, &extents, (rows, HEADS.num_heads, HEADS.head_dim))?;
        Ok((Self { tensors, extents, workspace }, num_blocks.max(1) as usize))
    }

    fn rows(&self) -> Rows<'_> {
        let [ids, positions, slots, q_starts, context_lens, block_tables] = &self.tensors;
        let workspace = &self.workspace;
        Rows { ids, positions, slots, q_starts, context_lens, block_tables, workspace }
    }
}

/// The operations one by one. `[rows, vocab]` f32
fn by_operations(model: &Model, batch: &Batch) -> Result<Tensor> {
    let rows = batch.rows();
    let linear = |x: &Tensor, linear: &Linear| linear.weight.forward(x, linear.bias);
    let mut stream = model.embedding.gather(rows.ids)?;
    let mut x = rms_norm(&stream, model.layers[0].attention_norm, Gain::Weight, EPS)?;
    for (i, layer) in model.layers.iter().enumerate() {
        let write = RopeKvWrite {
            heads: HEADS,
            q_norm: layer.q_norm,
            k_norm: layer.k_norm,
            norm_gain: Gain::Weight,
            norm_eps: EPS,
            cos: model.cos,
            sin: model.sin,
            q_scale: None,
            positions: rows.positions,
            slots: rows.slots,
        };
        let q = rope_kv_write(&linear(&x, &layer.qkv)?, layer.cache, &write)?;
        let attend = PagedAttention {
            scale: model.scale,
            q_starts: rows.q_starts,
            context_lens: rows.context_lens,
            block_tables: rows.block_tables,
            variant: Variant::default(),
            on_device: Some(OnDevice { extents: batch.extents, workspace: rows.workspace }),
        };
        let attended = paged_attention(&q, layer.cache, &attend)?;
        let (normed, sum) = add_rms_norm(
            &linear(&attended, &layer.out)?,
            &stream,
            layer.mlp_norm,
            Gain::Weight,
            EPS,
        )?;
        let gated = gated_activation(&linear(&normed, &layer.gate_up)?, model.activation)?;
        let next = model.layers.get(i + 1).map_or(model.norm, |next| next.attention_norm);
        (x, stream) = add_rms_norm(&linear(&gated, &layer.down)?, &sum, next, Gain::Weight, EPS)?;
    }
    let all = ids(&(0..x.dims()[0] as u32).collect::<Vec<_>>(), x.device())?;
    model.head.forward_f32(&gather_rows(&x, &all)?)
}

#[test]
fn a_step_on_a_gpu_has_the_bits_of_its_operations() -> Result<()> {
    let batches: [&[usize]; 4] = [&[1], &[3000], &[700, 0], &[5, 300, 0, 2000, 17, 256, 1, 600]];
    for device in devices() {
        for dtype in [DType::BF16, DType::F16] {
            if device.is_cpu() && dtype == DType::F16 {
                continue; // which the CPU has no weights of
            }
            for contexts in batches {
                let (batch, num_blocks) = Batch::new(contexts, &device)?;
                let weights = Weights::new(dtype, num_blocks, &device)?;
                let model = weights.model();
                weights.spoil(&batch)?;
                let expected = to_bits(&by_operations(&model, &batch)?)?;
                let caches = weights.caches()?;
                let has_all = expected.iter().chain(caches.iter().flatten());
                assert!(has_all.into_iter().all(|bits| !f32::from_bits(*bits).is_nan()));
                let step = DecodeStep::new(&model, contexts.len(), &device)?;
                let Some(step) = step else {
                    assert!(device.is_cpu(), "tests need a GPU of sm_90 or sm_100");
                    continue;
                };
                // Again and again: blocks may come in any order. Nothing that is right is left over.
                for _ in 0..20 {
                    weights.spoil(&batch)?;
                    drop(Tensor::full(f32::NAN, contexts.len() * VOCAB, &device)?);
                    let given = to_bits(&step.forward(&batch.rows())?)?;
                    assert!(given == expected, "{dtype:?}, contexts of {contexts:?}");
                }
                assert!(weights.caches()? == caches, "{dtype:?}, contexts of {contexts:?}");
            }
            let weights = Weights::new(dtype, 1, &device)?;
            assert!(DecodeStep::new(&weights.model(), MAX_ROWS + 1, &device)?.is_none());
        }
    }
    Ok(())
}
