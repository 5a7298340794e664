//! Tensors as slices: the checks that every CPU forward makes, and rows written in parallel.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, WithDType, bail};

/// The elements of a contiguous view, which may start anywhere in its storage.
pub(crate) fn slice<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
    name: &str,
) -> Result<&'a [T]> {
    let (start, end) = contiguous(layout, name)?;
    if storage.dtype() != T::DTYPE {
        bail!("{name} must be {:?}, it is {:?}", T::DTYPE, storage.dtype());
    }
    Ok(&storage.as_slice::<T>()?[start..end])
}

/// As [`slice()`], of the storage that `Tensor::storage_and_layout` returns.
pub(crate) fn cpu_slice<'a, T: WithDType>(
    storage: &'a Storage,
    layout: &Layout,
    name: &str,
) -> Result<&'a [T]> {
    match storage {
        Storage::Cpu(storage) => slice(storage, layout, name),
        _ => bail!("{name} must be on the CPU, as the other inputs are"),
    }
}

/// First and last-plus-one element of a contiguous view.
pub(crate) fn contiguous(layout: &Layout, name: &str) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(ends) => Ok(ends),
        None => bail!(
            "{name} must be contiguous: its shape is {:?}, its strides {:?}",
            layout.dims(),
            layout.stride()
        ),
    }
}

/// Refuses a tensor whose shape is another than expected.
pub(crate) fn expect_dims(tensor: &Tensor, expected: &[usize], name: &str) -> Result<()> {
    if tensor.dims() != expected {
        bail!("{name} must have shape {expected:?}, it has {:?}", tensor.dims());
    }
    Ok(())
}

/// Refuses a tensor whose dtype is another than that of `like`.
pub(crate) fn expect_like(
    (tensor, name): (&Tensor, &str),
    (like, like_name): (&Tensor, &str),
) -> Result<()> {
    let (dtype, expected) = (tensor.dtype(), like.dtype());
    if dtype != expected {
        bail!("{name} must be {expected:?} as {like_name} is, it is {dtype:?}");
    }
    Ok(())
}

/// Refuses a cache tensor whose dtype is neither that of `like` nor e4m3.
pub(crate) fn expect_cache(tensor: (&Tensor, &str), like: (&Tensor, &str)) -> Result<()> {
    if tensor.0.dtype() == DType::F8E4M3 { Ok(()) } else { expect_like(tensor, like) }
}

/// Calls the body with `$element` as the Rust type of a dtype.
macro_rules! match_element {
    ($dtype:expr, $name:expr, $element:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $element = f32;
                $body
            }
            candle_core::DType::BF16 => {
                type $element = half::bf16;
                $body
            }
            other => candle_core::bail!("{} must be f32 or bf16, it is {other:?}", $name),
        }
    };
}
pub(crate) use match_element;
