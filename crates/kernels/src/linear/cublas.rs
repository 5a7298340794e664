//! Dense products on a CUDA device, by cuBLASLt: for more rows than the bandwidth-bound kernel takes.
//!
//! A product of few shapes is asked for over and over, so the algorithm that the library's heuristic
//! chooses is kept by shape, with the rows rounded up to a power of two; the workspace is allocated
//! once. Nothing is allocated and nothing is waited for later, so that a graph can be captured.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaDevice, DType, Error, Result};

/// What NVIDIA recommends for Hopper; other GPUs use less of it.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Of fresh allocations, and the most that an algorithm makes use of.
const ALIGNMENT: u64 = 256;

/// What an algorithm is chosen for that any number of rows gets.
const INVARIANT_ROWS: usize = 256;
const INVARIANT_ALIGNMENT: u64 = 16;

/// `CUBLAS_OP_T`, which cudarc has not in this module.
const TRANSPOSED: i32 = 1;
/// `CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F`, which cudarc has since CUDA 12.9 alone.
const SCALES_OF_ROWS: i32 = 3;

/// Of the library itself.
type Answer<T> = std::result::Result<T, result::CublasError>;

/// `y = x W^T + b`; addresses of contiguous rows on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    /// `[rows, inner]`
    pub(super) x: u64,
    /// `[out, inner]` of the dtype of x
    pub(super) weight: u64,
    /// Of e4m3: of the rows of the weight, `[out]` f32, and of those of x, `[rows]` f32
    pub(super) scales: Option<[u64; 2]>,
    /// `[out]` of the dtype of y, 0 for none
    pub(super) bias: u64,
    /// `[rows, out]`
    pub(super) y: u64,
    pub(super) rows: usize,
    pub(super) out: usize,
    pub(super) inner: usize,
    /// f32, f16, bf16 or e4m3
    pub(super) dtype: DType,
    /// The same, or f32; beside e4m3 any.
    pub(super) out_dtype: DType,
    /// Whether any number of rows gets the same algorithm, in which a row does not depend on others.
    pub(super) is_batch_invariant: bool,
}

/// What a product is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Case {
    /// A power of two.
    rows: usize,
    out: usize,
    inner: usize,
    dtype: DType,
    out_dtype: DType,
    has_bias: bool,
    /// Of x in bytes.
    alignment: u64,
    is_batch_invariant: bool,
}

/// The library on one stream: a workspace must not be shared by products that run at once.
struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    algorithms: HashMap<Case, Option<sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: the handle may be used from any thread, one at a time.
unsafe impl Send for Blas {}

/// One a stream, for the life of the process. Streams of several ranks multiply at the same time.
static STREAMS: Mutex<Vec<(usize, Arc<Mutex<Blas>>)>> = Mutex::new(Vec::new());

/// Asks the device's stream for a product of at least one row. `false` if the library has no way to
/// compute it: lengths that are no multiples of 16 bytes, or e4m3 on a GPU or with a library that
/// cannot scale rows.
pub(super) fn multiply(device: &CudaDevice, product: &Product) -> Result<bool> {
    with_blas(device, |blas| blas.multiply(device, product))
}

/// Whether [`multiply`] would compute the product; nothing is computed.
pub(super) fn can_multiply(device: &CudaDevice, product: &Product) -> Result<bool> {
    with_blas(device, |blas| Ok(blas.algorithm(product)?.is_some()))
}

fn with_blas<T>(device: &CudaDevice, f: impl FnOnce(&mut Blas) -> Result<T>) -> Result<T> {
    let streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let stream = device.cuda_stream();
    let key = stream.cu_stream().addr();
    let known = streams.iter().find(|(stream, _)| *stream == key);
    let known = known.map(|(_, blas)| Arc::clone(blas));
    drop(streams);
    if let Some(blas) = known {
        return f(&mut blas.lock().unwrap_or_else(PoisonError::into_inner));
    }
    let handle = result::create_handle().map_err(failed)?;
    // SAFETY: what a product leaves in it is read by no other.
    let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.w()?;
    let mut blas = Blas { handle, workspace, algorithms: HashMap::new() };
    // A stream is one thread's at a time: nobody else has made the same meanwhile.
    let done = f(&mut blas);
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    streams.push((key, Arc::new(Mutex::new(blas))));
    done
}

impl Blas {
    fn multiply(&mut self, device: &CudaDevice, product: &Product) -> Result<bool> {
        let stream = device.cuda_stream();
        let Some(algorithm) = self.algorithm(product)? else { return Ok(false) };
        let problem = Problem::new(product, product.rows).map_err(failed)?;
        let (workspace, _guard) = self.workspace.device_ptr(&stream);
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the caller's addresses have the shapes that the problem says; memory is freed in the
        // order of the stream.
        unsafe {
            result::matmul(
                self.handle,
                problem.operation,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                pointer(product.weight),
                problem.weight,
                pointer(product.x),
                problem.x,
                pointer(product.y),
                problem.y,
                pointer(product.y).cast_mut(),
                problem.y,
                &raw const algorithm,
                pointer(workspace).cast_mut(),
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        }
        .map_err(failed)?;
        Ok(true)
    }

    /// What the library's heuristic takes first.
    fn ask(&self, product: &Product, case: &Case) -> Answer<sys::cublasLtMatmulAlgo_t> {
        let problem = Problem::new(product, case.rows)?;
        let preference = Preference::new(case.alignment, case.is_batch_invariant)?;
        // SAFETY: all descriptions live until the end of the block.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                problem.operation,
                problem.weight,
                problem.x,
                problem.y,
                problem.y,
                preference.0,
            )
        };
        found.map(|found| found.algo)
    }

    fn algorithm(&mut self, product: &Product) -> Result<Option<sys::cublasLtMatmulAlgo_t>> {
        let is_batch_invariant = product.is_batch_invariant;
        let (rows, alignment) = if is_batch_invariant {
            (INVARIANT_ROWS, INVARIANT_ALIGNMENT)
        } else {
            let alignment = ALIGNMENT.min(1 << product.x.trailing_zeros().min(16));
            (product.rows.next_power_of_two(), alignment)
        };
        if is_batch_invariant && !product.x.is_multiple_of(alignment) {
            return Ok(None);
        }
        let case = Case {
            rows,
            out: product.out,
            inner: product.inner,
            dtype: product.dtype,
            out_dtype: product.out_dtype,
            has_bias: product.bias != 0,
            alignment,
            is_batch_invariant,
        };
        if let Some(known) = self.algorithms.get(&case) {
            return Ok(*known);
        }
        let algorithm = match self.ask(product, &case) {
            Ok(algorithm) => Some(algorithm),
            Err(error) if has_no_way(product, error.0) => None,
            Err(error) => return Err(failed(error)),
        };
        self.algorithms.insert(case, algorithm);
        Ok(algorithm)
    }
}

/// Whether a refusal means that the library cannot compute such a product.
fn has_no_way(product: &Product, refusal: sys::cublasStatus_t) -> bool {
    use sys::cublasStatus_t::{CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED};
    // Before CUDA 12.9 it knows no scales of rows.
    let is_unknown = product.scales.is_some() && refusal == CUBLAS_STATUS_INVALID_VALUE;
    refusal == CUBLAS_STATUS_NOT_SUPPORTED || is_unknown
}

/// A product as the library describes it. It counts columns first, so that our rows are its columns:
/// `y^T [out, rows] = (W^T)^T x^T`.
struct Problem {
    operation: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
}

impl Problem {
    fn new(product: &Product, rows: usize) -> Answer<Self> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let Product { out, inner, bias, .. } = *product;
        let (dtype, out_dtype) = (data_type(product.dtype), data_type(product.out_dtype));
        let layout = |dtype, height: usize, width: usize| {
            result::create_matrix_layout(dtype, height as u64, width as u64, height as i64)
        };
        // Sums in f32, without rounding the factors to TF32.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let scale = sys::cudaDataType::CUDA_R_32F;
        // Filled in one by one: what exists is destroyed if the next cannot be made.
        let none = std::ptr::null_mut();
        let mut problem = Self { operation: std::ptr::null_mut(), weight: none, x: none, y: none };
        problem.operation = result::create_matmul_desc(compute, scale)?;
        problem.weight = layout(dtype, inner, out)?;
        problem.x = layout(dtype, inner, rows)?;
        problem.y = layout(out_dtype, out, rows)?;
        problem.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        if let Some([weight, x]) = product.scales {
            problem.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &SCALES_OF_ROWS)?;
            problem.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &SCALES_OF_ROWS)?;
            problem.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &weight)?;
            problem.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x)?;
        }
        if bias != 0 {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            problem.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            problem.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(problem)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Answer<()> {
        let bytes = size_of::<T>();
        // SAFETY: the operation is alive, and the value is copied.
        unsafe {
            result::set_matmul_desc_attribute(
                self.operation,
                attribute,
                std::ptr::from_ref(value).cast(),
                bytes,
            )
        }
    }
}

impl Drop for Problem {
    fn drop(&mut self) {
        for layout in [self.weight, self.x, self.y] {
            if !layout.is_null() {
                // SAFETY: made by `new`, destroyed once. An error could only leak it.
                let _ = unsafe { result::destroy_matrix_layout(layout) };
            }
        }
        if !self.operation.is_null() {
            // SAFETY: as above.
            let _ = unsafe { result::destroy_matmul_desc(self.operation) };
        }
    }
}

/// What an algorithm may use and count on.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(alignment: u64, is_batch_invariant: bool) -> Answer<Self> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(result::create_matmul_pref()?);
        let workspace = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        preference.set(workspace, &(WORKSPACE_BYTES as u64))?;
        let of_x = Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES;
        preference.set(of_x, &(alignment as u32))?;
        if is_batch_invariant {
            // An output is one sum: parts of it would be as many as the rows leave room for.
            let schemes = Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
            preference.set(schemes, &0u32)?;
        }
        Ok(preference)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Answer<()> {
        let (value, bytes) = (std::ptr::from_ref(value).cast(), size_of::<T>());
        // SAFETY: the preference is alive, and the value is copied.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, value, bytes) }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. An error could only leak it.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F8E4M3 => sys::cudaDataType::CUDA_R_8F_E4M3,
        _ => sys::cudaDataType::CUDA_R_32F,
    }
}

fn pointer(address: u64) -> *const c_void {
    std::ptr::with_exposed_provenance(address as usize)
}

fn failed(error: result::CublasError) -> Error {
    Error::Msg(format!("cuBLASLt: {error}"))
}
