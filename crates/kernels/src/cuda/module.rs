//! Compiled kernels on a device: embedded at build time, loaded at first use, launched on the
//! device's stream.

use super::Launch;
use crate::views::contiguous;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use std::sync::{Arc, PoisonError, RwLock};

/// The fat binary of one `kernel.cu` with what has been loaded of it.
pub(crate) struct Module {
    image: &'static [u8],
    loaded: RwLock<Loaded>,
}

/// What the devices of this process have of a module.
struct Loaded {
    modules: Vec<(usize, Arc<CudaModule>)>,
    functions: Vec<Function>,
}

/// A kernel on one device.
struct Function {
    ordinal: usize,
    name: &'static str,
    handle: Arc<CudaFunction>,
    /// Dynamic shared memory that launches may ask for.
    shared_bytes: u32,
}

/// The module of the op in this folder.
macro_rules! module {
    ($op:literal) => {
        $crate::cuda::Module::new(include_bytes!(concat!(env!("OUT_DIR"), "/", $op, ".fatbin")))
    };
}
pub(crate) use module;

/// What every function may have without asking: 48 KiB, of which up to 8 are left to what it declares
/// itself (the sampler 4.3 KiB).
const UNASKED_SHARED_BYTES: u32 = 40 << 10;

impl Module {
    pub(crate) const fn new(image: &'static [u8]) -> Self {
        let loaded = Loaded { modules: Vec::new(), functions: Vec::new() };
        Self { image, loaded: RwLock::new(loaded) }
    }

    /// The function of a launch, allowed its shared memory. A module has few functions, and their
    /// names are constants: a scan is quick.
    ///
    /// The driver is asked without a lock: it may wait for all that a GPU is at, which may wait for a rank that
    /// wants this module on another. What two threads load at once is loaded twice.
    fn function(&self, stream: &Arc<CudaStream>, launch: &Launch) -> Result<Arc<CudaFunction>> {
        let ordinal = stream.context().ordinal();
        let is_it =
            |function: &Function| function.ordinal == ordinal && function.name == launch.function;
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = loaded.functions.iter().find(|function| is_it(function))
            && launch.shared_bytes <= known.shared_bytes
        {
            return Ok(Arc::clone(&known.handle));
        }
        let module = loaded.modules.iter().find(|(at, _)| *at == ordinal);
        let module = module.map(|(_, module)| Arc::clone(module));
        drop(loaded);

        let is_fresh = module.is_none();
        let module = match module {
            Some(module) => module,
            None => stream.context().load_module(Ptx::from_binary(self.image.to_vec())).w()?,
        };
        let handle = Arc::new(module.load_function(launch.function).w()?);
        if launch.shared_bytes > UNASKED_SHARED_BYTES {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            handle.set_attribute(most, launch.shared_bytes as i32).w()?;
        }
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        if is_fresh {
            // For good: a module is unloaded with its last handle, of which a kernel may be running.
            loaded.modules.push((ordinal, module));
        }
        let shared_bytes = launch.shared_bytes.max(UNASKED_SHARED_BYTES);
        let enough = |known: &&Function| is_it(known) && known.shared_bytes >= shared_bytes;
        if let Some(known) = loaded.functions.iter().find(enough) {
            return Ok(Arc::clone(&known.handle));
        }
        loaded.functions.retain(|known| !is_it(known));
        let name = launch.function;
        loaded.functions.push(Function {
            ordinal,
            name,
            handle: Arc::clone(&handle),
            shared_bytes,
        });
        Ok(handle)
    }

    /// Loads the function of a launch before it is asked for.
    pub(crate) fn prepare(&self, device: &CudaDevice, launch: &Launch) -> Result<()> {
        self.function(&device.cuda_stream(), launch).map(drop)
    }
}

/// For which devices the kernel of a launch was compiled, as 90 for sm_90: older ones than the device, if
/// the binary has nothing nearer to it.
pub(crate) fn compiled_for(device: &CudaDevice, module: &Module, launch: &Launch) -> Result<i32> {
    let function = module.function(&device.cuda_stream(), launch)?;
    function.get_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION).w()
}

/// Parameters as an argument of a kernel.
#[repr(transparent)]
struct Argument<P>(P);

// SAFETY: a parameter struct is `#[repr(C)]` and the twin of the kernel's (tests on the host compare
// the sizes, and the results).
unsafe impl<P: Copy> DeviceRepr for Argument<P> {}

/// Starts a kernel on the device's stream. It only launches: no copy, no wait, so that a graph can be
/// captured; `params` has addresses of memory that lives until the stream has run the kernel.
pub(crate) fn launch<P: Copy>(
    device: &CudaDevice,
    module: &Module,
    launch: &Launch,
    params: &P,
) -> Result<()> {
    let stream = device.cuda_stream();
    let function = module.function(&stream, launch)?;
    let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
    let config = LaunchConfig {
        grid_dim: (gx, gy, gz),
        block_dim: (bx, by, bz),
        shared_mem_bytes: launch.shared_bytes,
    };
    let argument = Argument(*params);
    let mut builder = stream.launch_builder(&function);
    builder.arg(&argument);
    // SAFETY: the caller computes launch and parameters together from checked shapes; memory is freed
    // in the order of the stream.
    unsafe {
        if launch.is_cooperative {
            builder.launch_cooperative(config)
        } else {
            builder.launch(config)
        }
    }
    .w()?;
    Ok(())
}

/// Shared memory that a block may ask for, in bytes.
pub(crate) fn block_shared_bytes(device: &CudaDevice) -> Result<usize> {
    let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    Ok(device.cuda_stream().context().attribute(most).w()? as usize)
}

/// Multiprocessors, and the shared memory of each in bytes. The driver is asked once a device.
pub(crate) fn processors(device: &CudaDevice) -> Result<(usize, usize)> {
    /// By ordinal.
    static KNOWN: RwLock<Vec<(usize, (usize, usize))>> = RwLock::new(Vec::new());

    let stream = device.cuda_stream();
    let ordinal = stream.context().ordinal();
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(&(_, processors)) = known.iter().find(|(at, _)| *at == ordinal) {
        return Ok(processors);
    }
    drop(known);

    let ask = |attribute| stream.context().attribute(attribute).w();
    let count = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let shared = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR;
    let processors = (count as usize, ask(shared)? as usize);
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    // Another thread may have asked meanwhile.
    if known.iter().all(|(at, _)| *at != ordinal) {
        known.push((ordinal, processors));
    }
    Ok(processors)
}

/// Device address of the first element of a contiguous view.
pub(crate) fn address(storage: &CudaStorage, layout: &Layout, name: &str) -> Result<u64> {
    let (start, _) = contiguous(layout, name)?;
    let stream = storage.device().cuda_stream();
    let base = match &storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F8E4M3(slice) => slice.device_ptr(&stream).0,
        _ => bail!("{name} has the dtype {:?}, which no kernel takes", storage.dtype()),
    };
    Ok(base + (start * storage.dtype().size_in_bytes()) as u64)
}

/// As [`address`], of a tensor that an op holds beside its arguments.
pub(crate) fn tensor_address(tensor: &Tensor, name: &str) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => address(storage, layout, name),
        _ => bail!("{name} must be on the CUDA device, as the other inputs are"),
    }
}

/// An output that nobody wrote yet, and its address.
pub(crate) fn allocate(
    device: &CudaDevice,
    dtype: DType,
    len: usize,
) -> Result<(CudaStorage, u64)> {
    // SAFETY: every kernel writes all of its output.
    let storage = unsafe {
        match dtype {
            DType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(len)?, device.clone()),
            DType::F16 => CudaStorage::wrap_cuda_slice(device.alloc::<f16>(len)?, device.clone()),
            DType::BF16 => CudaStorage::wrap_cuda_slice(device.alloc::<bf16>(len)?, device.clone()),
            DType::U8 => CudaStorage::wrap_cuda_slice(device.alloc::<u8>(len)?, device.clone()),
            DType::U32 => CudaStorage::wrap_cuda_slice(device.alloc::<u32>(len)?, device.clone()),
            other => bail!("no kernel writes {other:?}"),
        }
    };
    let at = address(&storage, &Layout::contiguous(len), "an output")?;
    Ok((storage, at))
}
