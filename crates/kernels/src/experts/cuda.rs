//! Layers of experts on a CUDA device.

use crate::cuda::{Launch, WARP, of_dtype, pack_len};
use candle_core::{DType, Result};

/// `ChooseParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct ChooseParams {
    /// `[tokens, experts]` f32
    pub(super) logits: u64,
    /// `[2, tokens, per_token]` u32
    pub(super) choice: u64,
    pub(super) num_tokens: i32,
    pub(super) num_experts: i32,
    pub(super) per_token: i32,
    pub(super) is_normalised: i32,
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

/// `MultiplyParams` of `multiply.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct MultiplyParams {
    /// `[rows / rows_of_token, in]`, or `[rows, in]`
    pub(super) x: u64,
    /// `[experts, out, in]`
    pub(super) weight: u64,
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

/// Output features of a block, and what its stages take.
const OUTS: usize = 128;
const STAGES_BYTES: usize = 4 * (128 + 64) * 64 * 2;
/// Output features of a block of the plain kernel.
const PLAIN_OUTS: usize = 8;

/// A launch for at least one row.
pub(super) fn plan_multiply(
    params: &MultiplyParams,
    num_experts: usize,
    dtype: DType,
) -> Result<Launch> {
    let out_features = params.out_features as usize;
    let row_bytes = params.in_features as u64 * dtype.size_in_bytes() as u64;
    let is_aligned = [params.x, params.weight, row_bytes].iter().all(|x| x.is_multiple_of(16));
    if dtype == DType::F32 || !is_aligned {
        let functions = ["multiply_plain_f32", "multiply_plain_f16", "multiply_plain_bf16"];
        let grid = [params.num_rows as usize, out_features.div_ceil(PLAIN_OUTS), 1];
        return Ok(Launch::new(of_dtype(dtype, functions, "x")?, grid, THREADS, 0));
    }
    let function = if dtype == DType::F16 { "multiply_f16" } else { "multiply_bf16" };
    let grid = [out_features.div_ceil(OUTS), num_experts, 1];
    Ok(Launch::new(function, grid, THREADS, STAGES_BYTES))
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
    use crate::experts::{Choose, Multiply, Routing, Rows};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, DType, Layout, Result};

    static MODULE: Module = module!("experts");

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
        let len = 2 * num_tokens * op.per_token;
        let (out, choice) = allocate(logits.device(), DType::U32, len)?;
        let params = ChooseParams {
            logits: address(logits, layout, "logits")?,
            choice,
            num_tokens: num_tokens as i32,
            num_experts: num_experts as i32,
            per_token: op.per_token as i32,
            is_normalised: op.is_normalised.into(),
        };
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
        let (num_experts, out_features, in_features) = op.weight.dims3()?;
        let (out, y) = allocate(x.device(), x.dtype(), op.num_rows * out_features)?;
        let params = MultiplyParams {
            x: address(x, layout, "x")?,
            weight: tensor_address(op.weight, "the weight")?,
            experts: tensor_address(op.choice, "the choice")?,
            sorted: tensor_address(op.sorted, "the order")?,
            y,
            num_rows: op.num_rows as i32,
            rows_of_token: op.rows_of_token as i32,
            in_features: in_features as i32,
            out_features: out_features as i32,
        };
        if op.num_rows > 0 {
            let plan = plan_multiply(&params, num_experts, x.dtype())?;
            launch(x.device(), &MODULE, &plan, &params)?;
        }
        Ok(out)
    }

    /// y `[rows, width]` to `[tokens, width]`.
    pub(crate) fn combine(
        (y, layout): (&CudaStorage, &Layout),
        routing: &Routing,
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
