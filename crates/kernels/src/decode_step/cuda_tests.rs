//! The kernel on the host, against the kernels of single operations: not a bit may differ.

use super::Dims;
use super::cuda::{Processors, StepLayer, StepParams, plan};
use crate::cuda::Launch;
use crate::cuda::testing::{Input, from_bytes, launch, launch_cooperative, on_device, to_bytes};
use crate::gated_activation::Activation;
use crate::gated_activation::cuda::{self as gate, GateParams};
use crate::linear::cuda::{Dtypes, Sizes, SkinnyParams, plan_skinny};
use crate::paged_attention::cuda::{self as attention, PagedAttentionParams};
use crate::paged_attention::{Extents, num_arrivals};
use crate::rms_norm::cuda::{self as norm, NormParams};
use crate::rope_kv_write::cuda::{self as rope, RopeParams};
use crate::rope_kv_write::{HeadShape, NO_SLOT};
use crate::testing::tensor;
use candle_core::{DType, Device, Error, Result, Tensor};
use cuda_host::{Buffer, Device as HostDevice};

const BLOCK_SIZE: usize = 16;
const MAX_POS: usize = 600;
const VOCAB: usize = 90;
const EPS: f32 = 1e-5;

/// Blocks that the host has threads for.
const NUM_BLOCKS: usize = 2;

/// A model of random weights and the rows of a step.
#[derive(Clone)]
struct Case {
    num_layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: HeadShape,
    dtype: DType,
    cache_dtype: DType,
    has_bias: bool,
    has_norms: bool,
    activation: Activation,
    /// Keys that each row sees, itself included; 0 for padding.
    contexts: Vec<usize>,
    shared_bytes: usize,
}

impl Case {
    fn new(contexts: &[usize]) -> Self {
        Self {
            num_layers: 2,
            hidden: 576,
            intermediate: 152,
            heads: HeadShape { num_heads: 4, num_kv_heads: 2, head_dim: 64 },
            dtype: DType::BF16,
            cache_dtype: DType::BF16,
            has_bias: false,
            has_norms: false,
            activation: Activation::Silu,
            contexts: contexts.to_vec(),
            shared_bytes: 227 << 10,
        }
    }

    fn dims(&self) -> Dims {
        Dims {
            num_layers: self.num_layers,
            num_rows: self.contexts.len(),
            hidden: self.hidden,
            intermediate: self.intermediate,
            heads: self.heads,
            dtype: self.dtype,
            cache_dtype: self.cache_dtype,
        }
    }

    fn query_width(&self) -> usize {
        self.heads.num_heads * self.heads.head_dim
    }

    fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.heads.num_kv_heads * self.heads.head_dim
    }

    /// Blocks of a sequence in the tables, and of the cache.
    fn num_blocks(&self) -> (usize, usize) {
        let width = self.contexts.iter().max().expect("a row").div_ceil(BLOCK_SIZE) + 1;
        (width, width * self.contexts.len())
    }
}

/// What the kernels read.
struct Memory {
    layers: Vec<[Input; 14]>,
    has: [bool; 14],
    embedding: Input,
    norm: Input,
    head: Input,
    angles: [Input; 2],
    ids: Buffer<u32>,
    positions: Buffer<u32>,
    slots: Buffer<u32>,
    q_starts: Buffer<u32>,
    context_lens: Buffer<u32>,
    block_tables: Buffer<u32>,
    partial_out: Buffer<f32>,
    partial_softmax: Buffer<[f32; 2]>,
    attention_arrivals: Buffer<u32>,
    extents: Extents,
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
    fn new(case: &Case, device: &HostDevice) -> Result<Self> {
        let (hidden, dtype, rows) = (case.hidden, case.dtype, case.contexts.len());
        let layers = (0..case.num_layers).map(|index| layer(case, index, device));
        let mut has = [true; 14];
        for (bias, norms) in [(2, 3), (8, 4), (11, 3), (13, 4)] {
            has[bias] = case.has_bias;
            has[norms] = case.has_norms;
        }
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
            has,
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

    fn layer(&self, index: usize) -> [u64; 14] {
        let addresses = self.layers[index].each_ref().map(Input::address);
        std::array::from_fn(|i| if self.has[i] { addresses[i] } else { 0 })
    }

    fn attention(&self, case: &Case, [q, key, value, out]: [u64; 4]) -> PagedAttentionParams {
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

    /// The logits and all caches.
    fn results(&self, logits: &Buffer<u8>) -> Vec<Vec<u8>> {
        let caches = self.layers.iter().flat_map(|layer| [&layer[KEY], &layer[VALUE]]);
        [logits.read()].into_iter().chain(caches.map(Input::read)).collect()
    }
}

/// The step as one launch.
fn run_step(case: &Case) -> Result<Vec<Vec<u8>>> {
    on_device(|device| {
        let memory = Memory::new(case, device)?;
        let processors = Processors { count: NUM_BLOCKS, shared_bytes: case.shared_bytes };
        let plan = plan(&case.dims(), processors)?.expect("it fits");
        let rows = case.contexts.len();
        let layers: Vec<[u64; 14]> = (0..case.num_layers).map(|i| memory.layer(i)).collect();
        assert_eq!(size_of_val(&layers[0]), size_of::<StepLayer>());
        let layers = device.input(&layers);
        let words = |width: usize| device.output::<u8>(rows * width * 2);
        let (qkv, attended) = (words(case.qkv_width()), words(case.query_width()));
        let (branches, gated) = (words(2 * case.hidden), words(case.intermediate));
        let logits = device.output::<u8>(rows * VOCAB * 4);
        let arrivals = device.filled(&[0u32]);
        let params = StepParams {
            attention: memory.attention(case, [0, 0, 0, attended.address()]),
            layers: layers.address(),
            embedding: memory.embedding.address(),
            norm: memory.norm.address(),
            head: memory.head.address(),
            ids: memory.ids.address(),
            positions: memory.positions.address(),
            slots: memory.slots.address(),
            cos: memory.angles[0].address(),
            sin: memory.angles[1].address(),
            qkv: qkv.address(),
            branches: branches.address(),
            gated: gated.address(),
            logits: logits.address(),
            arrivals: arrivals.address(),
            num_layers: case.num_layers as i32,
            num_rows: rows as i32,
            hidden: case.hidden as i32,
            intermediate: case.intermediate as i32,
            vocab: VOCAB as u32,
            max_pos: MAX_POS as u32,
            num_slots: (case.num_blocks().1 * BLOCK_SIZE) as u32,
            norm_threads: plan.norm_threads as i32,
            norm_eps: EPS,
            is_gelu: i32::from(case.activation == Activation::GeluTanh),
            num_stages: plan.num_stages as i32,
            region_bytes: plan.region_bytes as i32,
        };
        launch_cooperative(device, &plan.launch, &params).map_err(Error::wrap)?;
        let results = memory.results(&logits);
        // What one launch leaves does not matter to the next.
        assert_eq!(arrivals.read(), [0], "the counter is left");
        assert!(memory.attention_arrivals.read().iter().all(|&left| left == 0));
        launch_cooperative(device, &plan.launch, &params).map_err(Error::wrap)?;
        assert!(memory.results(&logits) == results, "the second launch differs");
        Ok(results)
    })
}

/// The same by the kernels of single operations.
struct Operations<'a> {
    case: &'a Case,
    memory: &'a Memory,
    device: &'a HostDevice,
}

impl Operations<'_> {
    fn output(&self, width: usize, size: usize) -> Buffer<u8> {
        self.device.output(self.case.contexts.len() * width * size)
    }

    fn launch<P>(&self, launch_of: &Launch, params: &P) -> Result<()> {
        launch(self.device, launch_of, params).map_err(Error::wrap)
    }

    fn linear(
        &self,
        x: u64,
        [weight, bias]: [u64; 2],
        [in_features, out_features]: [usize; 2],
        y: DType,
    ) -> Result<Buffer<u8>> {
        let (rows, dtype) = (self.case.contexts.len(), self.case.dtype);
        let out = self.output(out_features, y.size_in_bytes());
        let plan = plan_skinny(
            Sizes { rows, in_features, out_features },
            Dtypes { x: dtype, weight: dtype, y },
            1,
        )?;
        let params = SkinnyParams {
            x,
            weight,
            scales: 0,
            bias,
            y: out.address(),
            num_rows: rows as i32,
            in_features: in_features as i32,
            out_features: out_features as i32,
        };
        self.launch(&plan.expect("few rows"), &params)?;
        Ok(out)
    }

    /// The norm of x, or of its sum with the residual, and that sum.
    fn norm(&self, x: u64, residual: u64, weight: u64) -> Result<[Buffer<u8>; 2]> {
        let hidden = self.case.hidden;
        let out = [self.output(hidden, 2), self.output(hidden, 2)];
        let adds = residual != 0;
        let params = NormParams {
            x,
            residual,
            weight,
            normed: out[0].address(),
            sums: if adds { out[1].address() } else { 0 },
            hidden: hidden as i32,
            eps: EPS,
        };
        let rows = self.case.contexts.len();
        self.launch(&norm::plan(rows, hidden, self.case.dtype, adds)?, &params)?;
        Ok(out)
    }

    fn attend(&self, qkv: u64, layer: &[u64; 14]) -> Result<Buffer<u8>> {
        let (case, rows) = (self.case, self.case.contexts.len());
        let (q, out) = (self.output(case.query_width(), 2), self.output(case.query_width(), 2));
        let HeadShape { num_heads, num_kv_heads, head_dim } = case.heads;
        let params = RopeParams {
            qkv,
            q: q.address(),
            key: layer[KEY],
            value: layer[VALUE],
            q_norm: layer[3],
            k_norm: layer[4],
            cos: self.memory.angles[0].address(),
            sin: self.memory.angles[1].address(),
            positions: self.memory.positions.address(),
            slots: self.memory.slots.address(),
            num_heads: num_heads as i32,
            num_kv_heads: num_kv_heads as i32,
            head_dim: head_dim as i32,
            block_size: BLOCK_SIZE as i32,
            group: rope::group(case.heads, case.dtype)? as i32,
            max_pos: MAX_POS as u32,
            num_slots: (case.num_blocks().1 * BLOCK_SIZE) as u32,
            norm_eps: EPS,
        };
        self.launch(&rope::plan(rows, case.heads, case.dtype, case.cache_dtype)?, &params)?;
        let params =
            self.memory.attention(case, [q.address(), layer[KEY], layer[VALUE], out.address()]);
        let (dtype, cache_dtype) = (case.dtype, case.cache_dtype);
        let model = attention::Model { num_heads, num_kv_heads, head_dim, dtype, cache_dtype };
        let processors = attention::Processors { count: 2, shared_bytes: 1 << 17 };
        for one in attention::plan(&model, rows, &self.memory.extents, processors)? {
            self.launch(&one, &params)?;
        }
        Ok(out)
    }

    fn gate(&self, gate_up: u64) -> Result<Buffer<u8>> {
        let (rows, intermediate) = (self.case.contexts.len(), self.case.intermediate);
        let out = self.output(intermediate, 2);
        let params = GateParams { gate_up, out: out.address(), intermediate: intermediate as i32 };
        let (dtype, activation) = (self.case.dtype, self.case.activation);
        self.launch(&gate::plan(rows, intermediate, dtype, activation)?, &params)?;
        Ok(out)
    }

    fn embed(&self) -> Result<Buffer<u8>> {
        let Case { hidden, dtype, .. } = *self.case;
        let table = from_bytes(&self.memory.embedding.read(), &[VOCAB, hidden], dtype)?;
        let none = Tensor::zeros((1, hidden), dtype, &Device::Cpu)?;
        let ids = self.memory.ids.read().into_iter().map(|id| id.min(VOCAB as u32)).collect();
        let ids = Tensor::from_vec(ids, self.case.contexts.len(), &Device::Cpu)?;
        let rows = Tensor::cat(&[&table, &none], 0)?.index_select(&ids, 0)?;
        Ok(self.device.input(&to_bytes(&rows)?))
    }

    fn run(&self) -> Result<Vec<Vec<u8>>> {
        let Case { hidden, intermediate, dtype, .. } = *self.case;
        let mut stream = self.embed()?;
        let mut x = self.norm(stream.address(), 0, self.memory.layer(0)[0])?[0].read();
        for i in 0..self.case.num_layers {
            let layer = self.memory.layer(i);
            let input = self.device.input(&x);
            let qkv_dims = [hidden, self.case.qkv_width()];
            let qkv = self.linear(input.address(), [layer[1], layer[2]], qkv_dims, dtype)?;
            let attended = self.attend(qkv.address(), &layer)?;
            let out_dims = [self.case.query_width(), hidden];
            let out = self.linear(attended.address(), [layer[7], layer[8]], out_dims, dtype)?;
            let [normed, sum] = self.norm(out.address(), stream.address(), layer[9])?;
            let gate_up = [layer[10], layer[11]];
            let gate_up =
                self.linear(normed.address(), gate_up, [hidden, 2 * intermediate], dtype)?;
            let gated = self.gate(gate_up.address())?;
            let down = [layer[12], layer[13]];
            let down = self.linear(gated.address(), down, [intermediate, hidden], dtype)?;
            let is_last = i + 1 == self.case.num_layers;
            let next =
                if is_last { self.memory.norm.address() } else { self.memory.layer(i + 1)[0] };
            let [normed, next_stream] = self.norm(down.address(), sum.address(), next)?;
            (x, stream) = (normed.read(), next_stream);
        }
        let (input, head) = (self.device.input(&x), self.memory.head.address());
        let logits = self.linear(input.address(), [head, 0], [hidden, VOCAB], DType::F32)?;
        Ok(self.memory.results(&logits))
    }
}

fn run_operations(case: &Case) -> Result<Vec<Vec<u8>>> {
    on_device(|device| {
        let memory = Memory::new(case, device)?;
        Operations { case, memory: &memory, device }.run()
    })
}

fn assert_same(case: &Case) -> Result<()> {
    let (step, operations) = (run_step(case)?, run_operations(case)?);
    let logits = from_bytes(&step[0], &[case.contexts.len(), VOCAB], DType::F32)?;
    let spread = logits.flatten_all()?.abs()?.max(0)?.to_scalar::<f32>()?;
    assert!(spread > 0.1 && spread < 100.0, "logits that say nothing: {spread}");
    for (i, (step, operations)) in step.iter().zip(&operations).enumerate() {
        assert!(step == operations, "result {i} differs");
    }
    Ok(())
}

#[test]
fn a_step_has_the_bits_of_its_operations() -> Result<()> {
    // A token alone, one split of keys, two.
    for contexts in [&[1], &[100], &[300]] {
        assert_same(&Case::new(contexts))?;
    }
    Ok(())
}

/// Rows that see much, little and nothing; one whose id has no embedding.
#[test]
fn rows_do_not_know_of_each_other() -> Result<()> {
    assert_same(&Case::new(&[20, 0, 290, 1, 16, 17, 33, 0]))
}

#[test]
fn every_form_has_the_bits_of_its_operations() -> Result<()> {
    let base = Case::new(&[270, 5]);
    let wide = HeadShape { num_heads: 3, num_kv_heads: 1, head_dim: 128 };
    assert_same(&Case { has_norms: true, ..base.clone() })?;
    assert_same(&Case { has_bias: true, activation: Activation::GeluTanh, ..base.clone() })?;
    assert_same(&Case { dtype: DType::F16, cache_dtype: DType::F16, ..base.clone() })?;
    assert_same(&Case { cache_dtype: DType::F8E4M3, has_norms: true, ..base.clone() })?;
    for (dtype, cache_dtype) in
        [(DType::BF16, DType::BF16), (DType::F16, DType::F16), (DType::BF16, DType::F8E4M3)]
    {
        assert_same(&Case { heads: wide, dtype, cache_dtype, has_norms: true, ..base.clone() })?;
    }
    Ok(())
}

/// Less than a chunk of inputs, sums of squares by more threads than there are, the fewest stages, a
/// block that has nothing to multiply.
#[test]
fn every_size_has_the_bits_of_its_operations() -> Result<()> {
    let base = Case::new(&[40]);
    let eight = HeadShape { num_heads: 8, num_kv_heads: 1, head_dim: 64 };
    assert_same(&Case { hidden: 64, intermediate: 8, num_layers: 1, ..base.clone() })?;
    assert_same(&Case { hidden: 4616, num_layers: 1, ..base.clone() })?;
    assert_same(&Case { heads: eight, intermediate: 1032, ..base.clone() })?;
    let few = (4 * (16 * 544 * 2 + 16)) + (130 << 10);
    assert_same(&Case { shared_bytes: few, ..base })
}

#[test]
fn what_has_no_kernel_is_left_to_the_operations() -> Result<()> {
    let base = Case::new(&[40]);
    let heads = |num_heads, num_kv_heads, head_dim| Case {
        heads: HeadShape { num_heads, num_kv_heads, head_dim },
        ..base.clone()
    };
    let fits = |case: &Case| -> Result<bool> {
        let processors = Processors { count: 132, shared_bytes: case.shared_bytes };
        Ok(plan(&case.dims(), processors)?.is_some())
    };
    assert!(fits(&base)?);
    assert!(fits(&heads(8, 1, 64))?);
    for (case, why) in [
        (heads(9, 1, 64), "nine query heads a key head"),
        (heads(2, 1, 96), "heads of 96 elements"),
        (Case { contexts: vec![1; 9], ..base.clone() }, "nine rows"),
        (Case { hidden: 60, ..base.clone() }, "rows that are not of whole 16 bytes"),
        (Case { dtype: DType::F32, cache_dtype: DType::F32, ..base.clone() }, "32 bits"),
        (Case { shared_bytes: 99 << 10, ..base.clone() }, "a device with little shared memory"),
    ] {
        assert!(!fits(&case)?, "{why}");
    }
    Ok(())
}
