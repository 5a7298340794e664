//! The sampler on a CUDA device: a block a row.

use crate::cuda::Launch;

/// `SampleParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct SampleParams {
    /// `[rows, vocab]` f32; edited in place
    pub(super) logits: u64,
    /// Of an [`Upload`](super::Upload).
    pub(super) words: u64,
    /// `[rows, width]` u32
    pub(super) records: u64,
    pub(super) vocab_size: i32,
    pub(super) width: i32,
}

const THREADS: usize = 1024;

/// 2048 sums of two words each.
const HISTOGRAM_BYTES: usize = 2048 * 8;

/// A launch for at least one row.
pub(super) fn plan(rows: usize, vocab_size: usize) -> Launch {
    // A bit a token before there is a histogram.
    let shared_bytes = HISTOGRAM_BYTES.max(vocab_size.div_ceil(32) * 4);
    Launch::new("sample", [rows, 1, 1], THREADS, shared_bytes)
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::{SampleParams, plan};
    use crate::cuda::{Module, address, allocate, launch, module, tensor_address, transfer};
    use crate::sample::Upload;
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, DType, Error, Layout, Result, Shape, bail};
    use std::cell::RefCell;

    static MODULE: Module = module!("sample");

    thread_local! {
        /// Masks make it large, so that it is kept.
        static UPLOAD: RefCell<Upload> = RefCell::default();
    }

    /// Copies what `fill` gives to the device, and samples or scores. Returns the records
    /// `[rows, width]`.
    pub(crate) fn sample(
        (logits, layout): (&CudaStorage, &Layout),
        fill: impl FnOnce(&mut Upload) -> Result<()>,
    ) -> Result<(CudaStorage, Shape)> {
        let device = logits.device();
        let (num_rows, vocab_size) = layout.shape().dims2()?;
        let (words, width) = UPLOAD.with_borrow_mut(|upload| {
            fill(upload)?;
            Ok::<_, Error>((transfer::upload(upload.words(), device)?, upload.record_width()))
        })?;
        let (output, records) = allocate(device, DType::U32, num_rows * width)?;
        let params = SampleParams {
            logits: logits_address(logits, layout)?,
            words: tensor_address(&words, "words")?,
            records,
            vocab_size: vocab_size as i32,
            width: width as i32,
        };
        if num_rows > 0 {
            launch(device, &MODULE, &plan(num_rows, vocab_size), &params)?;
        }
        Ok((output, (num_rows, width).into()))
    }

    fn logits_address(logits: &CudaStorage, layout: &Layout) -> Result<u64> {
        if logits.dtype() != DType::F32 {
            bail!("logits must be F32, they are {:?}", logits.dtype());
        }
        address(logits, layout, "logits")
    }
}
