//! Layers of experts on a CUDA device.

use super::{E2M1_BLOCK, Gate, Score};
use crate::cuda::{Launch, WARP, of_dtype, pack_len};
use candle_core::{DType, Result, bail};

/// `ChooseParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct ChooseParams {
    /// `[tokens, experts]` f32
    pub(super) logits: u64,
    /// `[experts]` f32, 0 without one
    pub(super) bias: u64,
    /// `[2, tokens, per_token]` u32
    pub(super) choice: u64,
    pub(super) num_tokens: i32,
    pub(super) num_experts: i32,
    pub(super) per_token: i32,
    pub(super) is_sigmoid: i32,
    pub(super) is_normalised: i32,
    pub(super) factor: f32,
}

impl ChooseParams {
    pub(super) fn new(
        [logits, bias, choice]: [u64; 3],
        [num_tokens, num_experts]: [usize; 2],
        gate: Gate,
    ) -> Self {
        Self {
            logits,
            bias,
            choice,
            num_tokens: num_tokens as i32,
            num_experts: num_experts as i32,
            per_token: gate.per_token as i32,
            is_sigmoid: (gate.score == Score::Sigmoid).into(),
            is_normalised: gate.is_normalised.into(),
            factor: gate.factor,
        }
    }
}

/// `SortParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct SortParams {
    /// `[rows]` u32
    pub(super) experts: u64,
    /// `[2 * rows + experts + 1]` u32
    pub(super) sorted: u64,
    pub(super) num_rows: i32,
}

/// `MultiplyParams` of `weights.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct MultiplyParams {
    /// `[rows / rows_of_token, in]`, or `[rows, in]`
    pub(super) x: u64,
    /// `[experts, out, in]`
    pub(super) weight: u64,
    /// Of e4m3 `[experts, out]` f32, of e2m1 `[experts, out, in / 32]` e8m0, else 0
    pub(super) scales: u64,
    /// `[experts, out]`, 0 without one
    pub(super) bias: u64,
    /// `[rows]` u32, of choices
    pub(super) experts: u64,
    /// `[2 * rows + experts + 1]` u32: the choice of each row, the row of each choice, where each expert's begin
    pub(super) sorted: u64,
    /// `[rows, out]`
    pub(super) y: u64,
    pub(super) num_rows: i32,
    /// 0 where x has the rows themselves.
    pub(super) rows_of_token: i32,
    pub(super) in_features: i32,
    pub(super) out_features: i32,
}

/// `CombineParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct CombineParams {
    /// `[rows, width]`
    pub(super) y: u64,
    /// `[tokens, per_token]` u32
    pub(super) places: u64,
    /// `[tokens, per_token]` f32
    pub(super) weights: u64,
    /// `[tokens, width]`, 0 without one
    pub(super) shared: u64,
    /// `[tokens, width]`
    pub(super) out: u64,
    pub(super) per_token: i32,
    pub(super) width: i32,
}

const THREADS: usize = 256;

/// A launch for at least one token.
pub(super) fn plan_choose(num_tokens: usize) -> Launch {
    Launch::one_dimensional("choose_experts", num_tokens.div_ceil(THREADS / WARP), THREADS)
}

/// A launch for at least one row.
pub(super) fn plan_sort(num_experts: usize) -> Launch {
    Launch::one_dimensional("sort_rows", num_experts, THREADS)
}

/// In what a weight is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The type of x.
    Wide,
    /// A byte, with a scale for each output feature.
    E4m3,
    /// Half a byte, with a scale for 32 inputs.
    E2m1,
}

impl Form {
    /// What a block's stages take, the tile that they are widened to, and scales of the output features' inputs.
    fn shared_bytes(self, shape: Shape, in_features: usize) -> usize {
        let Shape { outs, rows, stages: [wide, e4m3, e2m1] } = shape;
        let stage = |bits: usize| outs * DEPTH * bits / 8 + rows * DEPTH * 2;
        let tile = outs * DEPTH * 2;
        match self {
            Self::Wide => wide * stage(16),
            Self::E4m3 => e4m3 * stage(8) + tile,
            Self::E2m1 => e2m1 * stage(4) + tile + outs * in_features / E2M1_BLOCK,
        }
    }
}

/// What a block multiplies at once, and how far it reads ahead of that.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Output features, of which a warp has 16.
    outs: usize,
    rows: usize,
    /// Of weights of each form.
    stages: [usize; 3],
}

/// Of many tokens.
const MANY: Shape = Shape { outs: 128, rows: 64, stages: [4, 5, 5] };
/// Of so few that no expert has more rows.
const FEW: Shape = Shape { outs: 64, rows: 16, stages: [8, 10, 16] };

/// Inputs of a stage.
const DEPTH: usize = 64;
/// Output features of a block of the plain kernel.
const PLAIN_OUTS: usize = 8;

/// Of a block, on the GPUs that have least.
const MAX_SHARED_BYTES: usize = 99 << 10;

/// A launch for at least one row, of so many tokens.
pub(super) fn plan_multiply(
    params: &MultiplyParams,
    (num_experts, num_tokens): (usize, usize),
    dtype: DType,
    form: Form,
) -> Result<Launch> {
    let (in_features, out_features) = (params.in_features as usize, params.out_features as usize);
    let is_whole = match form {
        Form::Wide => (in_features * dtype.size_in_bytes()).is_multiple_of(16),
        // A thread widens as many as share a scale in e2m1.
        Form::E4m3 => in_features.is_multiple_of(E2M1_BLOCK),
        // Scales are copied 16 at once.
        Form::E2m1 => (out_features * in_features / E2M1_BLOCK).is_multiple_of(16),
    };
    let copied_scales = if form == Form::E2m1 { params.scales } else { 0 };
    let copied = [params.x, params.weight, copied_scales];
    let is_aligned = copied.iter().all(|address| address.is_multiple_of(16));
    let is_few = num_tokens <= FEW.rows;
    let shape = if is_few { FEW } else { MANY };
    // What a row becomes must not depend on how many there are: either shape, or none.
    let most_shared = [MANY, FEW].map(|shape| form.shared_bytes(shape, in_features));
    let fits = most_shared.iter().all(|bytes| *bytes <= MAX_SHARED_BYTES);
    if dtype == DType::F32 || !is_whole || !is_aligned || !fits {
        let functions = match form {
            Form::Wide => ["multiply_plain_f32", "multiply_plain_f16", "multiply_plain_bf16"],
            Form::E4m3 => ["multiply_plain_e4m3_f32", NONE, "multiply_plain_e4m3_bf16"],
            Form::E2m1 => ["multiply_plain_e2m1_f32", NONE, "multiply_plain_e2m1_bf16"],
        };
        let grid = [params.num_rows as usize, out_features.div_ceil(PLAIN_OUTS), 1];
        return Ok(Launch::new(function_of(dtype, form, functions)?, grid, THREADS, 0));
    }
    let functions = match (form, is_few) {
        (Form::Wide, false) => [NONE, "multiply_many_f16", "multiply_many_bf16"],
        (Form::Wide, true) => [NONE, "multiply_few_f16", "multiply_few_bf16"],
        (Form::E4m3, false) => [NONE, NONE, "multiply_many_e4m3_bf16"],
        (Form::E4m3, true) => [NONE, NONE, "multiply_few_e4m3_bf16"],
        (Form::E2m1, false) => [NONE, NONE, "multiply_many_e2m1_bf16"],
        (Form::E2m1, true) => [NONE, NONE, "multiply_few_e2m1_bf16"],
    };
    let (grid, threads) = ([out_features.div_ceil(shape.outs), num_experts, 1], shape.outs * 2);
    let shared_bytes = form.shared_bytes(shape, in_features);
    Ok(Launch::new(function_of(dtype, form, functions)?, grid, threads, shared_bytes))
}

/// Where there is no kernel.
const NONE: &str = "";

fn function_of(dtype: DType, form: Form, functions: [&'static str; 3]) -> Result<&'static str> {
    match of_dtype(dtype, functions, "x")? {
        NONE => bail!("experts in {form:?} have no kernel for {dtype:?}"),
        function => Ok(function),
    }
}

/// A launch for at least one token.
pub(super) fn plan_combine(num_tokens: usize, width: usize, dtype: DType) -> Result<Launch> {
    let function = of_dtype(dtype, ["combine_f32", "combine_f16", "combine_bf16"], "y")?;
    let packs = width.div_ceil(pack_len(dtype));
    let threads = packs.next_multiple_of(WARP).min(THREADS);
    Ok(Launch::new(function, [num_tokens, packs.div_ceil(threads), 1], threads, 0))
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{
        ChooseParams, CombineParams, MultiplyParams, SortParams, plan_choose, plan_combine,
        plan_multiply, plan_sort,
    };
    use crate::cuda::{Module, address, allocate, launch, module, tensor_address};
    use crate::experts::{Choose, Combine, Multiply, Rows};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, DType, Layout, Result, Tensor};

    static MODULE: Module = module!("experts");

    /// 0 without one.
    fn optional(tensor: Option<&Tensor>, name: &str) -> Result<u64> {
        tensor.map_or(Ok(0), |tensor| tensor_address(tensor, name))
    }

    /// logits `[tokens, experts]` to `[2, tokens, per_token]`.
    pub(crate) fn choose(
        logits: &CudaStorage,
        layout: &Layout,
        op: &Choose,
    ) -> Result<CudaStorage> {
        if logits.dtype() != DType::F32 {
            candle_core::bail!("logits must be F32, they are {:?}", logits.dtype());
        }
        let (num_tokens, num_experts) = layout.shape().dims2()?;
        let len = 2 * num_tokens * op.gate.per_token;
        let (out, choice) = allocate(logits.device(), DType::U32, len)?;
        let bias = optional(op.bias, "the bias")?;
        let addresses = [address(logits, layout, "logits")?, bias, choice];
        let params = ChooseParams::new(addresses, [num_tokens, num_experts], op.gate);
        if num_tokens > 0 {
            launch(logits.device(), &MODULE, &plan_choose(num_tokens), &params)?;
        }
        Ok(out)
    }

    /// Experts `[tokens, per_token]` to `[2 * rows + experts + 1]`.
    pub(crate) fn sort(
        experts: &CudaStorage,
        layout: &Layout,
        num_experts: usize,
    ) -> Result<CudaStorage> {
        let num_rows = layout.shape().elem_count();
        let len = 2 * num_rows + num_experts + 1;
        let (out, sorted) = allocate(experts.device(), DType::U32, len)?;
        let experts_address = address(experts, layout, "experts")?;
        let params = SortParams { experts: experts_address, sorted, num_rows: num_rows as i32 };
        if num_rows > 0 {
            launch(experts.device(), &MODULE, &plan_sort(num_experts), &params)?;
        }
        Ok(out)
    }

    /// x `[rows / rows_of_token, in]`, or `[rows, in]`, to `[rows, out]`.
    pub(crate) fn multiply(
        (x, layout): (&CudaStorage, &Layout),
        op: &Multiply,
    ) -> Result<CudaStorage> {
        let [num_experts, out_features, in_features] = op.dims;
        let (out, y) = allocate(x.device(), x.dtype(), op.num_rows * out_features)?;
        let params = MultiplyParams {
            x: address(x, layout, "x")?,
            weight: tensor_address(op.weight, "the weight")?,
            scales: optional(op.scales, "the scales")?,
            bias: optional(op.bias, "the bias")?,
            experts: tensor_address(op.choice, "the choice")?,
            sorted: tensor_address(op.sorted, "the order")?,
            y,
            num_rows: op.num_rows as i32,
            rows_of_token: op.rows_of_token as i32,
            in_features: in_features as i32,
            out_features: out_features as i32,
        };
        if op.num_rows > 0 {
            let plan = plan_multiply(&params, (num_experts, op.num_tokens), x.dtype(), op.form)?;
            launch(x.device(), &MODULE, &plan, &params)?;
        }
        Ok(out)
    }

    /// y `[rows, width]` to `[tokens, width]`.
    pub(crate) fn combine(
        (y, layout): (&CudaStorage, &Layout),
        &Combine { routing, shared }: &Combine,
    ) -> Result<CudaStorage> {
        let ([num_tokens, per_token], width) = (routing.dims(), layout.dims()[1]);
        let Rows::OnDevice(sorted) = &routing.rows else {
            candle_core::bail!("the rows are on a CUDA device, the choice is not")
        };
        let places = sorted.narrow(0, num_tokens * per_token, num_tokens * per_token)?;
        let (output, out) = allocate(y.device(), y.dtype(), num_tokens * width)?;
        let params = CombineParams {
            y: address(y, layout, "y")?,
            places: tensor_address(&places, "the places")?,
            weights: tensor_address(&routing.choice.get(1)?, "the weights")?,
            shared: optional(shared, "the shared part")?,
            out,
            per_token: per_token as i32,
            width: width as i32,
        };
        if num_tokens * width > 0 {
            let plan = plan_combine(num_tokens, width, y.dtype())?;
            launch(y.device(), &MODULE, &plan, &params)?;
        }
        Ok(output)
    }
}
