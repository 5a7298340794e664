//! The kernel on the host, against the kernels of single operations: not a bit may differ.

use super::Dims;
use super::cuda::{Plan, Processors, StepLayer, StepParams, plan};
use crate::cuda::testing::{from_bytes, launch, on_device};
use crate::gated_activation::Activation;
use crate::rope_kv_write::HeadShape;
use candle_core::{DType, Error, Result};
use memory::Memory;
use operations::Operations;

mod memory;
mod operations;

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

    fn plan(&self) -> Result<Option<Plan>> {
        plan(
            &self.dims(),
            Processors { count: NUM_BLOCKS, shared_bytes_per_block: self.shared_bytes },
        )
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

/// The step as one launch.
fn run_step(case: &Case) -> Result<Vec<Vec<u8>>> {
    on_device(|device| {
        let memory = Memory::new(case, device)?;
        let plan = case.plan()?.expect("it fits");
        let rows = case.contexts.len();
        let layers = (0..case.num_layers).map(|i| StepLayer::addresses(&memory.layer(i)));
        let layers = device.input(&layers.collect::<Vec<_>>());
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
        launch(device, &plan.launch, &params).map_err(Error::wrap)?;
        let results = memory.results(&logits);
        // What one launch leaves does not matter to the next.
        assert_eq!(arrivals.read(), [0], "the counter is left");
        assert!(memory.has_no_arrivals(), "attention's counters are left");
        launch(device, &plan.launch, &params).map_err(Error::wrap)?;
        assert!(memory.results(&logits) == results, "the second launch differs");
        Ok(results)
    })
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
    let of = |kib: usize| Case { shared_bytes: kib << 10, ..base.clone() };
    let least = (1..227).map(of).find(|case| case.plan().is_ok_and(|plan| plan.is_some()));
    let least = least.expect("some suffices");
    assert_eq!(least.plan()?.expect("it fits").num_stages, 3);
    assert_same(&least)
}

#[test]
fn what_has_no_kernel_is_left_to_the_operations() -> Result<()> {
    let base = Case::new(&[40]);
    let heads = |num_heads, num_kv_heads, head_dim| Case {
        heads: HeadShape { num_heads, num_kv_heads, head_dim },
        ..base.clone()
    };
    let fits = |case: &Case| Ok::<_, Error>(case.plan()?.is_some());
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

/// What docs/cuda.md says of a Hopper's shared memory.
#[test]
fn known_shapes_fit_up_to_so_many_rows() -> Result<()> {
    let heads = |num_heads| HeadShape { num_heads, num_kv_heads: 8, head_dim: 128 };
    let case = |num_layers, hidden, intermediate, num_heads| Case {
        num_layers,
        hidden,
        intermediate,
        heads: heads(num_heads),
        ..Case::new(&[])
    };
    for (case, most) in [(case(32, 4096, 14336, 32), 4), (case(28, 1024, 3072, 16), 8)] {
        for rows in 1..=8 {
            let case = Case { contexts: vec![1; rows], ..case.clone() };
            assert_eq!(case.plan()?.is_some(), rows <= most, "{rows} rows of {}", case.hidden);
        }
    }
    Ok(())
}
