//! The candle side.

use super::cuda::{Plan, Processors, StepLayer, StepParams, plan};
use super::{Dims, Layer, Linear, Model, Rows};
use crate::cuda::{
    Module, address, allocate, block_shared_bytes, compiled_for, launch, module, processors,
    tensor_address,
};
use crate::device::upload;
use crate::gated_activation::Activation;
use crate::paged_attention::cuda::PagedAttentionParams;
use crate::paged_attention::{Extents, num_arrivals};
use crate::views::contiguous;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor,
    bail,
};

static MODULE: Module = module!("decode_step");

/// Everything of a launch but the rows.
pub(super) struct Step {
    plan: Plan,
    /// For which devices its kernel was compiled, as 90 for sm_90.
    compiled_for: i32,
    /// With the addresses of the model and of the memory below.
    params: StepParams,
    /// What the addresses belong to.
    _held: Vec<Tensor>,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// Collects addresses, and the tensors that they belong to.
#[derive(Default)]
struct Addresses {
    held: Vec<Tensor>,
}

impl Addresses {
    /// Of a contiguous tensor of these dims and dtype, whose start is a multiple of 16 bytes.
    fn of(&mut self, tensor: &Tensor, dims: &[usize], dtype: DType, name: &str) -> Result<u64> {
        let address = self.anywhere(tensor, dims, dtype, name)?;
        if !address.is_multiple_of(16) {
            bail!("{name} must start at a multiple of 16 bytes");
        }
        Ok(address)
    }

    /// Of one that may start anywhere.
    fn anywhere(
        &mut self,
        tensor: &Tensor,
        dims: &[usize],
        dtype: DType,
        name: &str,
    ) -> Result<u64> {
        if tensor.dims() != dims || tensor.dtype() != dtype {
            let (found, of) = (tensor.dims(), tensor.dtype());
            bail!("{name} must be {dims:?} {dtype:?}, it is {found:?} {of:?}");
        }
        contiguous(tensor.layout(), name)?;
        self.held.push(tensor.clone());
        tensor_address(tensor, name)
    }

    /// Of a new tensor.
    fn own(&mut self, tensor: Tensor) -> Result<u64> {
        let address = tensor_address(&tensor, "memory")?;
        self.held.push(tensor);
        Ok(address)
    }

    fn optional(
        &mut self,
        tensor: Option<&Tensor>,
        dims: &[usize],
        dtype: DType,
        name: &str,
    ) -> Result<u64> {
        tensor.map_or(Ok(0), |tensor| self.anywhere(tensor, dims, dtype, name))
    }

    /// Weight `[out, in]` and bias `[out]`.
    fn linear(
        &mut self,
        linear: &Linear,
        dims: [usize; 2],
        dtype: DType,
        name: &str,
    ) -> Result<[u64; 2]> {
        let Some(weight) = linear.weight.plain_rows() else {
            bail!("{name} has no rows of 16 bits")
        };
        let weight = self.of(weight, &dims, dtype, name)?;
        Ok([weight, self.optional(linear.bias, &dims[..1], dtype, name)?])
    }
}

impl Step {
    pub(super) fn new(model: &Model, num_rows: usize, device: &CudaDevice) -> Result<Option<Self>> {
        let dims = model.dims(num_rows);
        let processors = Processors {
            count: processors(device)?.0,
            shared_bytes_per_block: block_shared_bytes(device)?,
        };
        let plan = plan(&dims, processors)?.filter(|_| model.has_plain_rows());
        let Some(plan) = plan else { return Ok(None) };
        let compiled_for = compiled_for(device, &MODULE, &plan.launch)?;
        if compiled_for < 90 {
            return Ok(None);
        }
        let mut addresses = Addresses::default();
        let params = model.params(&dims, &plan, &Device::Cuda(device.clone()), &mut addresses)?;
        Ok(Some(Self { plan, compiled_for, params, _held: addresses.held }))
    }

    pub(super) fn is_measured(&self) -> bool {
        self.compiled_for == 90
    }

    pub(super) fn forward(&self, rows: &Rows) -> Result<Tensor> {
        rows.ids.apply_op1_no_bwd(&Launched { step: self, rows })
    }
}

impl Model<'_> {
    fn dims(&self, num_rows: usize) -> Dims {
        let first = &self.layers[0];
        Dims {
            num_layers: self.layers.len(),
            num_rows,
            hidden: self.embedding.in_features(),
            intermediate: first.down.weight.in_features(),
            heads: self.heads,
            dtype: self.embedding.dtype(),
            cache_dtype: first.cache.key.dtype(),
        }
    }

    /// Whether all of its weights are held as they came.
    fn has_plain_rows(&self) -> bool {
        let linears = self.layers.iter().flat_map(|layer| {
            [&layer.qkv, &layer.out, &layer.gate_up, &layer.down].map(|linear| linear.weight)
        });
        let mut all = [self.embedding, self.head].into_iter().chain(linears);
        all.all(|weight| weight.plain_rows().is_some())
    }

    /// Everything of the parameters that does not change from step to step.
    fn params(
        &self,
        dims: &Dims,
        plan: &Plan,
        device: &Device,
        addresses: &mut Addresses,
    ) -> Result<StepParams> {
        let Dims { num_rows, hidden, intermediate, heads, dtype, .. } = *dims;
        let vocab = self.embedding.out_features();
        let layers: Vec<StepLayer> = self
            .layers
            .iter()
            .map(|layer| self.layer(layer, dtype, addresses))
            .collect::<Result<_>>()?;
        let layers = addresses.own(upload(&words(&layers), device)?)?;
        let query_width = heads.num_heads * heads.head_dim;
        let qkv_width = query_width + 2 * heads.num_kv_heads * heads.head_dim;
        let mut memory = |width| {
            let zeros = Tensor::zeros((num_rows, width), dtype, device)?;
            addresses.own(zeros)
        };
        let (qkv, attended) = (memory(qkv_width)?, memory(query_width)?);
        let (branches, gated) = (memory(2 * hidden)?, memory(intermediate)?);
        let arrivals = addresses.own(Tensor::zeros(1, DType::U32, device)?)?;
        let mut matrix = |weight, name| {
            addresses.linear(&Linear { weight, bias: None }, [vocab, hidden], dtype, name)
        };
        let ([embedding, _], [head, _]) =
            (matrix(self.embedding, "embedding")?, matrix(self.head, "head")?);
        let (num_blocks, _, block_size, _) = self.layers[0].cache.key.dims4()?;
        if !block_size.is_multiple_of(8) {
            bail!("a block must have a multiple of 8 keys, it has {block_size}");
        }
        if num_blocks * heads.num_kv_heads * block_size > u32::MAX as usize {
            bail!("cache.key must have fewer than 2^32 rows, it has {num_blocks} blocks");
        }
        let (max_pos, _) = self.cos.dims2()?;
        let angles = [max_pos, heads.head_dim / 2];
        Ok(StepParams {
            attention: self.attention(attended, num_rows, block_size),
            layers,
            embedding,
            norm: addresses.of(self.norm, &[hidden], dtype, "norm")?,
            head,
            ids: 0,
            positions: 0,
            slots: 0,
            cos: addresses.of(self.cos, &angles, DType::F32, "cos")?,
            sin: addresses.of(self.sin, &angles, DType::F32, "sin")?,
            qkv,
            branches,
            gated,
            logits: 0,
            arrivals,
            num_layers: self.layers.len() as i32,
            num_rows: num_rows as i32,
            hidden: hidden as i32,
            intermediate: intermediate as i32,
            vocab: vocab as u32,
            max_pos: max_pos as u32,
            num_slots: (num_blocks * block_size) as u32,
            norm_threads: plan.norm_threads as i32,
            norm_eps: self.norm_eps,
            is_gelu: i32::from(self.activation == Activation::GeluTanh),
            num_stages: plan.num_stages as i32,
            region_bytes: plan.region_bytes as i32,
        })
    }

    fn attention(&self, out: u64, num_rows: usize, block_size: usize) -> PagedAttentionParams {
        PagedAttentionParams {
            q: 0,
            key: 0,
            value: 0,
            out,
            q_starts: 0,
            context_lens: 0,
            block_tables: 0,
            sinks: 0,
            partial_out: 0,
            partial_softmax: 0,
            arrivals: 0,
            scale: self.scale,
            value_scale: 1.0,
            soft_cap: 0.0,
            num_seqs: num_rows as i32,
            num_heads: self.heads.num_heads as i32,
            num_kv_heads: self.heads.num_kv_heads as i32,
            head_dim: self.heads.head_dim as i32,
            block_size: block_size as i32,
            table_width: 0,
            window: 0,
            split_rows: Extents::of([(1, 1)]).split_limit() as i32,
        }
    }

    fn layer(&self, layer: &Layer, dtype: DType, addresses: &mut Addresses) -> Result<StepLayer> {
        let hidden = self.embedding.in_features();
        let intermediate = self.layers[0].down.weight.in_features();
        let head_dim = self.heads.head_dim;
        let (query, key) = (self.heads.num_heads * head_dim, self.heads.num_kv_heads * head_dim);
        let first = &self.layers[0].cache.key;
        let (num_blocks, _, block_size, _) = first.dims4()?;
        let of_cache = [num_blocks, self.heads.num_kv_heads, block_size, head_dim];
        let mut norm = |norm, dims: &[usize], name| addresses.of(norm, dims, dtype, name);
        let attention_norm = norm(layer.attention_norm, &[hidden], "attention_norm")?;
        let mlp_norm = norm(layer.mlp_norm, &[hidden], "mlp_norm")?;
        let mut linear = |linear, dims, name| addresses.linear(linear, dims, dtype, name);
        let [qkv, qkv_bias] = linear(&layer.qkv, [query + 2 * key, hidden], "qkv")?;
        let [out, out_bias] = linear(&layer.out, [hidden, query], "out")?;
        let [gate_up, gate_up_bias] =
            linear(&layer.gate_up, [2 * intermediate, hidden], "gate_up")?;
        let [down, down_bias] = linear(&layer.down, [hidden, intermediate], "down")?;
        let mut cache = |cache, name| addresses.of(cache, &of_cache, first.dtype(), name);
        let (key, value) =
            (cache(&layer.cache.key, "cache.key")?, cache(&layer.cache.value, "cache.value")?);
        let mut head_norm = |norm: Option<&Tensor>, name| {
            norm.map_or(Ok(0), |norm| addresses.of(norm, &[head_dim], dtype, name))
        };
        Ok(StepLayer {
            attention_norm,
            qkv,
            qkv_bias,
            q_norm: head_norm(layer.q_norm, "q_norm")?,
            k_norm: head_norm(layer.k_norm, "k_norm")?,
            key,
            value,
            out,
            out_bias,
            mlp_norm,
            gate_up,
            gate_up_bias,
            down,
            down_bias,
        })
    }
}

/// The table as the kernel reads it: addresses, the lower half of each first.
fn words(layers: &[StepLayer]) -> Vec<u32> {
    let addresses = layers.iter().flat_map(StepLayer::addresses);
    addresses.flat_map(|at| [at as u32, (at >> 32) as u32]).collect()
}

/// One launch, of which the ids are the argument.
struct Launched<'a> {
    step: &'a Step,
    rows: &'a Rows<'a>,
}

impl Launched<'_> {
    /// The rows' part of the parameters.
    fn params(&self, ids: u64, logits: u64) -> Result<StepParams> {
        let Rows { workspace, .. } = self.rows;
        let mut params = self.step.params;
        let num_rows = params.num_rows as usize;
        let indices = |tensor: &Tensor, dims: &[usize], name: &str| {
            if tensor.dims() != dims || tensor.dtype() != DType::U32 {
                let (found, dtype) = (tensor.dims(), tensor.dtype());
                bail!("{name} must be {dims:?} U32, it is {found:?} {dtype:?}");
            }
            tensor_address(tensor, name)
        };
        let table_width = self.rows.block_tables.dims2()?.1;
        let num_keys = table_width * params.attention.block_size as usize;
        let needed = Extents::of(std::iter::repeat_n((1, num_keys), num_rows)).num_partials();
        let heads = [params.attention.num_heads as usize, params.attention.head_dim as usize];
        let partials = workspace.partial_out.dims();
        let num_counters = workspace.arrivals.elem_count();
        if partials[0] < needed || partials[1..] != heads {
            bail!("workspace has parts {partials:?}, the step needs [{needed}, {heads:?}]");
        }
        if num_counters < num_arrivals(num_rows, heads[0]) {
            bail!("workspace was made for fewer than {num_rows} sequences");
        }
        params.ids = ids;
        params.positions = indices(self.rows.positions, &[num_rows], "positions")?;
        params.slots = indices(self.rows.slots, &[num_rows], "slots")?;
        params.logits = logits;
        let attention = &mut params.attention;
        attention.q_starts = indices(self.rows.q_starts, &[num_rows + 1], "q_starts")?;
        attention.context_lens = indices(self.rows.context_lens, &[num_rows], "context_lens")?;
        let tables = self.rows.block_tables;
        attention.block_tables = indices(tables, &[num_rows, table_width], "block_tables")?;
        attention.table_width = table_width as i32;
        attention.partial_out = tensor_address(&workspace.partial_out, "workspace")?;
        attention.partial_softmax = tensor_address(&workspace.partial_softmax, "workspace")?;
        attention.arrivals = tensor_address(&workspace.arrivals, "workspace")?;
        Ok(params)
    }
}

impl CustomOp1 for Launched<'_> {
    fn name(&self) -> &'static str {
        "decode_step"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("ids must be on the CUDA device of the model")
    }

    fn cuda_fwd(&self, ids: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (num_rows, vocab) =
            (self.step.params.num_rows as usize, self.step.params.vocab as usize);
        if layout.dims() != [num_rows] || ids.dtype() != DType::U32 {
            bail!("ids must be [{num_rows}] U32, they are {:?} {:?}", layout.dims(), ids.dtype());
        }
        let device = ids.device();
        let (out, logits) = allocate(device, DType::F32, num_rows * vocab)?;
        let params = self.params(address(ids, layout, "ids")?, logits)?;
        launch(device, &MODULE, &self.step.plan.launch, &params)?;
        Ok((out, (num_rows, vocab).into()))
    }
}
