//! Opening a device and asking it for its memory.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{CudaDevice, Device, Error, Result};

use crate::device::DeviceMemory;

/// A device with one stream, on which everything runs in the order it was asked for.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let opened = Device::new_cuda_with_stream(ordinal);
    let device = opened.map_err(|error| Error::Msg(reason(ordinal, &error)))?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: all tensors of a device are made, used and freed on its one stream. Events that candle
    // would record for each of them would also keep steps from being captured.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(cuda)?;
    Ok(device)
}

/// The first line of what the driver says, and how many devices there are.
fn reason(ordinal: usize, error: &Error) -> String {
    let found = match result::init().and_then(|()| result::device::get_count()) {
        Ok(0) | Err(_) => "no CUDA device was found".to_owned(),
        Ok(1) => "one CUDA device was found".to_owned(),
        Ok(count) => format!("{count} CUDA devices were found"),
    };
    let said = error.to_string();
    let said = said.lines().next().unwrap_or_default();
    format!("cannot open CUDA device {ordinal}: {found} ({said})")
}

/// What is freed stays with the process: given back, it would have to be mapped again every step.
fn keep_freed_memory(device: &CudaDevice) -> Result<()> {
    let context = device.cuda_stream().context().clone();
    context.bind_to_thread().w()?;
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the context is current, and the values are of the types that the driver expects.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result().w()?;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result().w()?;
    }
    Ok(())
}

pub(crate) fn memory(device: &CudaDevice) -> Result<DeviceMemory> {
    let (free, total) = device.cuda_stream().context().mem_get_info().w()?;
    Ok(DeviceMemory { free, total })
}
