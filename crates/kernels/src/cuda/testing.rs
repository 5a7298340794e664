//! Kernels on the host: tensors to device memory and back, for the parity tests.

use super::Launch;
use candle_core::{DType, Device, Result, Tensor};
use cuda_host::{Buffer, Device as HostDevice, LaunchError};

/// Storage types that the kernels take.
pub(crate) const CUDA_DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Runs a launch on the host.
pub(crate) fn launch<P>(
    device: &HostDevice,
    launch: &Launch,
    params: &P,
) -> std::result::Result<(), LaunchError> {
    let Launch { function, grid, block, shared_bytes, is_cooperative } = *launch;
    if is_cooperative {
        device.launch_cooperative(function, (grid, block), shared_bytes, params)
    } else {
        device.launch(function, (grid, block), shared_bytes, params)
    }
}

/// A tensor in device memory behind `offset` elements of something else.
#[derive(Debug)]
pub(crate) struct Input {
    buffer: Buffer<u8>,
    start: usize,
}

impl Input {
    /// That no kernel may write.
    pub(crate) fn new(device: &HostDevice, tensor: &Tensor, offset: usize) -> Result<Self> {
        let (bytes, start) = shifted(tensor, offset)?;
        Ok(Self { buffer: device.input(&bytes), start })
    }

    /// That kernels write.
    pub(crate) fn writable(device: &HostDevice, tensor: &Tensor, offset: usize) -> Result<Self> {
        let (bytes, start) = shifted(tensor, offset)?;
        Ok(Self { buffer: device.filled(&bytes), start })
    }

    /// Of the first element.
    pub(crate) fn address(&self) -> u64 {
        self.buffer.address() + self.start as u64
    }

    /// The tensor's bytes as they are now; what lies before them is as it was.
    pub(crate) fn read(&self) -> Vec<u8> {
        let bytes = self.buffer.read();
        assert!(bytes[..self.start].iter().all(|&byte| byte == BEFORE), "written before a buffer");
        bytes[self.start..].to_vec()
    }
}

const BEFORE: u8 = 0x7f;

fn shifted(tensor: &Tensor, offset: usize) -> Result<(Vec<u8>, usize)> {
    let start = offset * tensor.dtype().size_in_bytes();
    Ok(([vec![BEFORE; start], to_bytes(tensor)?].concat(), start))
}

/// All elements, as they lie in memory.
pub(crate) fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tensor.write_bytes(&mut bytes)?;
    Ok(bytes)
}

/// The way back.
pub(crate) fn from_bytes(bytes: &[u8], dims: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::from_raw_buffer(bytes, dtype, dims, &Device::Cpu)
}

/// As [`on_device`](cuda_host::on_device), of a body whose errors are candle's.
pub(crate) fn on_device(
    body: impl Fn(&HostDevice) -> Result<Vec<Vec<u8>>>,
) -> Result<Vec<Vec<u8>>> {
    cuda_host::on_device(body)
}
