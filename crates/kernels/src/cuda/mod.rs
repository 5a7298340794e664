//! What the CUDA forwards share: a launch as plain data, computed without a device, and with the
//! feature the way to run it.
//!
//! The kernels are in `kernel.cu` beside each op's CPU forward, their vocabulary in `device.cuh`. They
//! run on the host too, in tests (`crates/cuda-host`).

#[cfg(feature = "cuda")]
mod context;
#[cfg(feature = "cuda")]
pub(crate) mod graph;
#[cfg(feature = "cuda")]
mod module;
#[cfg(feature = "cuda")]
pub(crate) mod staging;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(feature = "cuda")]
pub(crate) mod transfer;

#[cfg(feature = "cuda")]
pub(crate) use context::{memory, open};
#[cfg(feature = "cuda")]
pub(crate) use module::{
    Module, address, allocate, block_shared_bytes, compiled_for, launch, module, processors,
    tensor_address,
};

use candle_core::{DType, Result, bail};

/// One kernel launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Name of the kernel.
    pub(crate) function: &'static str,
    /// Blocks; of y and z at most 65535.
    pub(crate) grid: [u32; 3],
    /// Threads of a block.
    pub(crate) block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub(crate) shared_bytes: u32,
    /// Whether blocks wait for each other: the device refuses more than it holds at once.
    pub(crate) is_cooperative: bool,
}

impl Launch {
    /// Blocks that do not wait for each other, with their threads along x.
    pub(crate) fn new(
        function: &'static str,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
    ) -> Self {
        Self {
            function,
            grid: grid.map(|blocks| blocks as u32),
            block: [threads as u32, 1, 1],
            shared_bytes: shared_bytes as u32,
            is_cooperative: false,
        }
    }

    /// Blocks along x, too, and no dynamic shared memory.
    pub(crate) fn one_dimensional(function: &'static str, blocks: usize, threads: usize) -> Self {
        Self::new(function, [blocks, 1, 1], threads, 0)
    }

    /// 16 bytes of `x` a thread, by the kernel of its type, of those for f32, f16 and bf16.
    pub(crate) fn elementwise(
        functions: [&'static str; 3],
        len: usize,
        dtype: DType,
    ) -> Result<Self> {
        const THREADS: usize = 256;
        let blocks = len.div_ceil(THREADS * pack_len(dtype));
        Ok(Self::one_dimensional(of_dtype(dtype, functions, "x")?, blocks, THREADS))
    }
}

/// Threads of a warp.
pub(crate) const WARP: usize = 32;

/// Elements in 16 bytes.
pub(crate) fn pack_len(dtype: DType) -> usize {
    16 / dtype.size_in_bytes()
}

/// The kernel for a storage type, of those for f32, f16 and bf16.
pub(crate) fn of_dtype(
    dtype: DType,
    [f32, f16, bf16]: [&'static str; 3],
    name: &str,
) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok(f32),
        DType::F16 => Ok(f16),
        DType::BF16 => Ok(bf16),
        other => bail!("{name} must be f32, f16 or bf16, it is {other:?}"),
    }
}
