//! What the tests of every op share: devices, seeded tensors and a comparison with a tolerance.

use crate::device::{HAS_CUDA, open_cuda};
use candle_core::{DType, Device, Result, Tensor};
use std::sync::LazyLock;

/// The devices that every op's tests run on: with the feature `cuda` a GPU must be there.
pub(crate) fn devices() -> Vec<Device> {
    static CUDA: LazyLock<Device> =
        LazyLock::new(|| open_cuda(0).expect("tests with the feature cuda need a GPU"));
    let mut devices = vec![Device::Cpu];
    if HAS_CUDA {
        devices.push(CUDA.clone());
    }
    devices
}

/// The storage types of activations.
pub(crate) const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Every device with each that it computes in: a GPU in f16, too.
pub(crate) fn kinds() -> impl Iterator<Item = (Device, DType)> {
    devices().into_iter().flat_map(|device| {
        let f16 = device.is_cuda().then_some(DType::F16);
        DTYPES.into_iter().chain(f16).map(move |dtype| (device.clone(), dtype))
    })
}

/// Uniform values in [-1, 1), the same for the same seed (SplitMix64, Steele et al. 2014).
pub(crate) fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// A tensor of [`values`], in a storage that holds other elements before and after it.
pub(crate) fn tensor(seed: u64, dims: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let len = dims.iter().product::<usize>();
    // On a GPU kernels read 16 bytes at once, from where a tensor begins.
    let offset = if device.is_cpu() { 3 } else { 8 };
    Tensor::from_vec(values(seed, len + 8), len + 8, device)?
        .to_dtype(dtype)?
        .narrow(0, offset, len)?
        .reshape(dims)
}

/// A u32 tensor of one dimension.
pub(crate) fn ids(values: &[u32], device: &Device) -> Result<Tensor> {
    Tensor::from_slice(values, values.len(), device)
}

/// To the nearest, here of numbers that are not beyond the largest. By the CPU: candle has no kernels
/// under the names by which it asks for those casts on a GPU.
pub(crate) fn to_e4m3(x: &Tensor) -> Result<Tensor> {
    let wide = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    wide.clamp(-448f32, 448f32)?.to_dtype(DType::F8E4M3)?.to_device(x.device())
}

/// All elements, widened.
pub(crate) fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    let tensor = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    // float8's way from e4m3 to f64 does not end for its smallest numbers.
    let is_narrow = tensor.dtype() == DType::F8E4M3;
    let tensor = if is_narrow { tensor.to_dtype(DType::F32)? } else { tensor };
    tensor.to_dtype(DType::F64)?.to_vec1()
}

/// All elements' f32 bits: bf16 widens without loss.
pub(crate) fn to_bits(tensor: &Tensor) -> Result<Vec<u32>> {
    let tensor = tensor.to_device(&Device::Cpu)?;
    let values: Vec<f32> = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}

/// Compares with a reference: the error may be `relative` of the value plus that of 1, in f32 as
/// stated by the op, in bf16 half a unit in the last place (2^-9) for each of the op's roundings, in f16 an eighth of that.
pub(crate) fn assert_close(actual: &Tensor, expected: &[f64], relative: Tolerance) {
    let allowed = match actual.dtype() {
        DType::BF16 => relative.bf16,
        DType::F16 => relative.bf16 / 8.0,
        _ => relative.f32,
    };
    let actual = to_f64(actual).expect("a tensor converts to f64");
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let error = (a - e).abs();
        assert!(error <= allowed * (1.0 + e.abs()), "element {i} is {a}, expected {e}");
    }
}

/// Allowed error by dtype.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) f32: f64,
    pub(crate) bf16: f64,
}

/// The text of an error that must be there.
pub(crate) fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}
