//! Linear layers on a CUDA device: few rows by kernels of our own, that read each weight once. Many rows
//! are cuBLAS's, which multiplies an e4m3 weight with rows that were brought to e4m3, too.

use crate::cuda::{Launch, of_dtype};
use candle_core::{DType, Result, bail};

/// `SkinnyParams` of `skinny.cuh`; addresses of contiguous tensors.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SkinnyParams {
    /// `[rows, in]`
    pub(crate) x: u64,
    /// `[out, in]`
    pub(crate) weight: u64,
    /// `[out]` f32 of an e4m3 weight, else 0
    pub(crate) scales: u64,
    /// `[out]`, 0 without one
    pub(crate) bias: u64,
    /// `[rows, out]`
    pub(crate) y: u64,
    pub(crate) num_rows: i32,
    pub(crate) in_features: i32,
    pub(crate) out_features: i32,
}

/// `QuantizeParams` of `quantize.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuantizeParams {
    /// `[rows, len]`
    pub(crate) x: u64,
    /// `[rows, len]` e4m3
    pub(crate) y: u64,
    /// `[rows]` f32
    pub(crate) scales: u64,
    pub(crate) len: i32,
}

/// Up to so many rows every weight is read once, and waiting for it is all there is to do.
pub(crate) const MAX_SKINNY_ROWS: usize = 16;

/// Storage types of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dtypes {
    /// Of x and the bias.
    pub(crate) x: DType,
    /// That of x, or e4m3.
    pub(crate) weight: DType,
    /// That of x, or f32.
    pub(crate) y: DType,
}

/// `[rows, in]` times `[out, in]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
}

/// Forms of the skinny kernel: (16 output features, 8 rows) a block, times these.
const FORMS: [(usize, usize); 3] = [(1, 1), (2, 1), (2, 2)];

const SKINNY_THREADS: usize = 256;

/// The launch for 1 to [`MAX_SKINNY_ROWS`] rows that start at multiples of 16 bytes, or for any number
/// of an e4m3 weight; none for lengths that do not allow it. What a row becomes does not depend on the
/// form.
pub(crate) fn plan_skinny(
    sizes: Sizes,
    dtypes: Dtypes,
    num_processors: usize,
) -> Result<Option<Launch>> {
    let Sizes { rows, in_features, out_features } = sizes;
    let bytes = in_features * dtypes.weight.size_in_bytes();
    let is_narrow = dtypes.weight == DType::F8E4M3;
    if rows > MAX_SKINNY_ROWS && !is_narrow || !bytes.is_multiple_of(16) || dtypes.x == DType::F32 {
        return Ok(None);
    }
    // Twice the output features halve what is read of x, if there are blocks enough.
    let form = match rows {
        9.. => 2,
        5..=8 if out_features / 32 >= 2 * num_processors => 1,
        _ => 0,
    };
    let (outs, rows_of_block) = (16 * FORMS[form].0, 8 * FORMS[form].1);
    let grid = [rows.div_ceil(rows_of_block), out_features.div_ceil(outs), 1];
    Ok(Some(Launch::new(skinny_functions(dtypes)?[form], grid, SKINNY_THREADS, 0)))
}

macro_rules! forms {
    ($dtypes:literal) => {
        [
            concat!("linear_", $dtypes, "_1x1"),
            concat!("linear_", $dtypes, "_2x1"),
            concat!("linear_", $dtypes, "_2x2"),
        ]
    };
}

fn skinny_functions(dtypes: Dtypes) -> Result<[&'static str; 3]> {
    use DType::{BF16, F8E4M3, F16, F32};
    Ok(match (dtypes.weight, dtypes.x, dtypes.y) {
        (BF16, BF16, BF16) => forms!("bf16_bf16_to_bf16"),
        (BF16, BF16, F32) => forms!("bf16_bf16_to_f32"),
        (F16, F16, F16) => forms!("f16_f16_to_f16"),
        (F16, F16, F32) => forms!("f16_f16_to_f32"),
        (F8E4M3, BF16, BF16) => forms!("e4m3_bf16_to_bf16"),
        (F8E4M3, BF16, F32) => forms!("e4m3_bf16_to_f32"),
        (F8E4M3, F16, F16) => forms!("e4m3_f16_to_f16"),
        (F8E4M3, F16, F32) => forms!("e4m3_f16_to_f32"),
        _ => bail!("a linear layer has no kernel for {dtypes:?}"),
    })
}

/// Output features, and rows, of a block of the plain kernel.
const PLAIN_OUTS: usize = 8;
const PLAIN_ROWS: usize = 8;

/// The launch for everything else.
pub(crate) fn plan_plain(sizes: Sizes, dtypes: Dtypes) -> Result<Launch> {
    use DType::{BF16, F8E4M3, F16, F32};
    let function = match (dtypes.weight, dtypes.x, dtypes.y) {
        (F32, F32, F32) => "linear_plain_f32_to_f32",
        (F16, F16, F16) => "linear_plain_f16_to_f16",
        (F16, F16, F32) => "linear_plain_f16_to_f32",
        (BF16, BF16, BF16) => "linear_plain_bf16_to_bf16",
        (BF16, BF16, F32) => "linear_plain_bf16_to_f32",
        (F8E4M3, F32, F32) => "linear_plain_e4m3_f32_to_f32",
        (F8E4M3, F16, F16) => "linear_plain_e4m3_f16_to_f16",
        (F8E4M3, F16, F32) => "linear_plain_e4m3_f16_to_f32",
        (F8E4M3, BF16, BF16) => "linear_plain_e4m3_bf16_to_bf16",
        (F8E4M3, BF16, F32) => "linear_plain_e4m3_bf16_to_f32",
        _ => bail!("a linear layer has no kernel for {dtypes:?}"),
    };
    let grid = [sizes.out_features.div_ceil(PLAIN_OUTS), sizes.rows.div_ceil(PLAIN_ROWS), 1];
    Ok(Launch::new(function, grid, PLAIN_OUTS * 32, 0))
}

/// The launch that brings rows to e4m3.
pub(crate) fn plan_quantize(rows: usize, dtype: DType) -> Result<Launch> {
    let functions = ["quantize_rows_f32", "quantize_rows_f16", "quantize_rows_bf16"];
    Ok(Launch::one_dimensional(of_dtype(dtype, functions, "x")?, rows, 256))
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::super::Rows;
    use super::super::cublas::{self, Product};
    use super::{
        Dtypes, MAX_SKINNY_ROWS, QuantizeParams, Sizes, SkinnyParams, plan_plain, plan_quantize,
        plan_skinny,
    };
    use crate::cuda::{Module, address, allocate, launch, module, processors, tensor_address};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape};

    static MODULE: Module = module!("linear");

    /// weight `[out, in]`, x `[rows, in]` and bias `[out]` to `[rows, out]`; shapes are checked.
    pub(crate) fn linear(
        Rows { weight, scales, is_batch_invariant }: &Rows,
        (x, x_layout): (&CudaStorage, &Layout),
        bias: Option<(&CudaStorage, &Layout)>,
        out_dtype: DType,
    ) -> Result<(CudaStorage, Shape)> {
        let (rows, (out, inner)) = (x_layout.dims()[0], weight.dims2()?);
        let (storage, y) = allocate(x.device(), out_dtype, rows * out)?;
        let params = SkinnyParams {
            x: address(x, x_layout, "x")?,
            weight: tensor_address(weight, "weight")?,
            scales: scales.as_ref().map_or(Ok(0), |scales| tensor_address(scales, "scales"))?,
            bias: bias.map_or(Ok(0), |(bias, layout)| address(bias, layout, "bias"))?,
            y,
            num_rows: rows as i32,
            in_features: inner as i32,
            out_features: out as i32,
        };
        if rows > 0 {
            let sizes = Sizes { rows, in_features: inner, out_features: out };
            let dtypes = Dtypes { x: x.dtype(), weight: weight.dtype(), y: out_dtype };
            multiply(x.device(), &params, sizes, dtypes, *is_batch_invariant)?;
        }
        Ok((storage, (rows, out).into()))
    }

    /// Few rows by our kernel, more by the library, and what neither takes by the plain kernel.
    fn multiply(
        device: &CudaDevice,
        params: &SkinnyParams,
        sizes: Sizes,
        dtypes: Dtypes,
        is_batch_invariant: bool,
    ) -> Result<()> {
        let skinny = || {
            let is_aligned =
                [params.x, params.weight].iter().all(|address| address.is_multiple_of(16));
            let plan = || plan_skinny(sizes, dtypes, processors(device)?.0);
            if is_aligned { plan() } else { Ok(None) }
        };
        if sizes.rows <= MAX_SKINNY_ROWS
            && !is_batch_invariant
            && let Some(skinny) = skinny()?
        {
            return launch(device, &MODULE, &skinny, params);
        }
        let product = Product {
            x: params.x,
            weight: params.weight,
            scales: None,
            bias: params.bias,
            y: params.y,
            rows: sizes.rows,
            out: sizes.out_features,
            inner: sizes.in_features,
            dtype: dtypes.x,
            out_dtype: dtypes.y,
            is_batch_invariant,
        };
        if dtypes.weight == DType::F8E4M3 {
            if multiply_narrow(device, product, params.scales)? {
                return Ok(());
            }
            if let Some(skinny) = skinny()? {
                return launch(device, &MODULE, &skinny, params);
            }
        } else if cublas::multiply(device, &product)? {
            return Ok(());
        }
        launch(device, &MODULE, &plan_plain(sizes, dtypes)?, params)
    }

    /// The library multiplies e4m3 with e4m3: rows of x are brought to it, each with its own scale.
    /// `false` if it has no way to, as on other GPUs than Hopper.
    fn multiply_narrow(device: &CudaDevice, wide: Product, weight_scales: u64) -> Result<bool> {
        let Product { rows, inner, .. } = wide;
        if wide.dtype == DType::F32 {
            return Ok(false); // Who wants f32 wants no rounded rows.
        }
        // Freed in the order of the stream.
        let (_x, x) = allocate(device, DType::U8, rows * inner)?;
        let (_scales, scales) = allocate(device, DType::F32, rows)?;
        let narrow =
            Product { x, scales: Some([weight_scales, scales]), dtype: DType::F8E4M3, ..wide };
        if !cublas::can_multiply(device, &narrow)? {
            return Ok(false);
        }
        let params = QuantizeParams { x: wide.x, y: x, scales, len: inner as i32 };
        launch(device, &MODULE, &plan_quantize(rows, wide.dtype)?, &params)?;
        cublas::multiply(device, &narrow)
    }
}
