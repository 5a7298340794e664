//! Causal attention of grouped queries over paged keys and values, for prefill chunks and decodes
//! of several sequences in one call.
//!
//! Row `t` of a sequence with `rows` rows and `context` keys sees the first
//! `context - rows + t + 1` keys: `o = softmax(scale * q K^T) V` over those. Keys and values lie in
//! blocks (Kwon et al. 2023, arXiv:2309.06180): key `p` of a sequence is row `p % block_size` of
//! block `table[p / block_size]`. Query head `h` reads key/value head `h / (heads / kv_heads)`
//! (Ainslie et al. 2023, arXiv:2305.13245). The softmax is computed on the way, in f32 (Milakov and
//! Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
//!
//! A [`Variant`] hides keys before a window, as Mistral 7B does (arXiv:2310.06825), bounds scores by a
//! tanh, as Gemma 2 does (arXiv:2408.00118), or gives each head a score for nothing, an attention sink
//! (arXiv:2309.17453), as gpt-oss does (arXiv:2508.10925).
//!
//! The result of a row depends on its query and its keys alone, bit for bit: keys are taken in
//! groups that start at multiples of a constant position, whatever the chunk, the batch, the block
//! size or the blocks.

mod by_rows;
mod cpu;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod cuda;
#[cfg(test)]
mod cuda_tests;
mod extents;
#[cfg(any(target_arch = "x86_64", test))]
mod lines;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod products;
mod softmax;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(any(target_arch = "x86_64", test))]
mod tiles;
mod widened;

#[cfg(any(feature = "cuda", test))]
pub(crate) use extents::num_arrivals;
pub use extents::{Extents, SPLIT_ROWS, Workspace};

use crate::simd::Path;
use crate::views::{expect_cache, expect_dims, expect_like, match_element};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use float8::F8E4M3;

/// Keys and values of one layer, in fixed blocks.
#[derive(Debug, Clone)]
pub struct KvCacheLayer {
    /// `[num_blocks, num_kv_heads, block_size, head_dim]`
    pub key: Tensor,
    /// `[num_blocks, num_kv_heads, block_size, head_dim]`
    pub value: Tensor,
}

/// Which rows belong to which sequence, and where its keys lie.
#[derive(Debug, Clone, Copy)]
pub struct PagedAttention<'a> {
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Rows of each sequence: `q_starts[i]..q_starts[i + 1]`. `[seqs + 1]` u32
    pub q_starts: &'a Tensor,
    /// Keys each sequence's last row sees, itself included; 0 for padding, whose rows become zeros.
    /// `[seqs]` u32
    pub context_lens: &'a Tensor,
    /// Blocks of each sequence in order, padded with anything. `[seqs, max_blocks]` u32
    pub block_tables: &'a Tensor,
    /// What the model asks for besides.
    pub variant: Variant<'a>,
    /// What a CUDA device needs besides; not used on the CPU.
    pub on_device: Option<OnDevice<'a>>,
}

/// What some models do otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Variant<'a> {
    /// Keys that a row sees at most, the last ones, itself included; at least 1.
    pub window: Option<usize>,
    /// Scores become `cap tanh(score / cap)`; above 0.
    pub soft_cap: Option<f32>,
    /// A score of each query head for nothing: a weight without a value. `[heads]` f32
    pub sinks: Option<&'a Tensor>,
}

/// What a device cannot look up before a launch, and may not allocate during one.
#[derive(Debug, Clone, Copy)]
pub struct OnDevice<'a> {
    /// Bounds of the lengths.
    pub extents: Extents,
    /// Memory for the parts of results; of one stream, for calls one after another.
    pub workspace: &'a Workspace,
}

/// The largest head that the kernels take.
const MAX_HEAD_DIM: usize = 256;

/// Attends. Keys and values of the rows themselves must be in the cache already.
///
/// q `[tokens, heads, head_dim]` f32 or bf16 (on a CUDA device f16, too), `head_dim` a multiple of 8 up
/// to 256, the cache of the same dtype or e4m3. Returns `[tokens, heads * head_dim]`.
///
/// # Errors
/// A shape or dtype that does not fit, a strided input, rows that do not add up to tokens, a context
/// shorter than its rows or longer than its block table, a block beyond the cache, or a variant that
/// means nothing. On a CUDA device, which alone knows the lengths and the blocks, those are not seen;
/// there blocks must have a multiple of 8 keys, and `on_device` must be given.
pub fn paged_attention(q: &Tensor, cache: &KvCacheLayer, args: &PagedAttention) -> Result<Tensor> {
    check(q, cache, args)?;
    let attend = Attend { args, path: Path::fastest() };
    q.apply_op3_no_bwd(&cache.key, &cache.value, &attend)
}

/// Checks everything but the values of the index tensors.
fn check(q: &Tensor, cache: &KvCacheLayer, args: &PagedAttention) -> Result<()> {
    let (_, num_heads, head_dim) = q.dims3()?;
    if head_dim == 0 || head_dim % 8 != 0 || head_dim > MAX_HEAD_DIM {
        bail!("head_dim must be a multiple of 8 up to {MAX_HEAD_DIM}, it is {head_dim}");
    }
    let (num_blocks, num_kv_heads, block_size, _) = cache.key.dims4()?;
    if num_kv_heads == 0 || num_heads % num_kv_heads != 0 {
        bail!("{num_heads} query heads cannot share {num_kv_heads} key heads");
    }
    let cache_dims = [num_blocks, num_kv_heads, block_size, head_dim];
    for (tensor, name) in [(&cache.key, "cache.key"), (&cache.value, "cache.value")] {
        expect_dims(tensor, &cache_dims, name)?;
        expect_cache((tensor, name), (q, "q"))?;
    }
    expect_like((&cache.value, "cache.value"), (&cache.key, "cache.key"))?;
    let num_seqs = args.context_lens.dims1()?;
    expect_dims(args.q_starts, &[num_seqs + 1], "q_starts")?;
    let (table_rows, _) = args.block_tables.dims2()?;
    if table_rows != num_seqs {
        bail!("block_tables must have a row for each of {num_seqs} sequences, not {table_rows}");
    }
    args.variant.check(num_heads)
}

impl Variant<'_> {
    fn check(&self, num_heads: usize) -> Result<()> {
        if self.window == Some(0) {
            bail!("window must be at least 1: a row sees itself");
        }
        if let Some(cap) = self.soft_cap.filter(|cap| !cap.is_finite() || *cap <= 0.0) {
            bail!("soft_cap must be a number above 0, it is {cap}");
        }
        if let Some(sinks) = self.sinks {
            expect_dims(sinks, &[num_heads], "sinks")?;
            if sinks.dtype() != DType::F32 {
                bail!("sinks must be F32, they are {:?}", sinks.dtype());
            }
        }
        Ok(())
    }
}

struct Attend<'a> {
    args: &'a PagedAttention<'a>,
    /// On the CPU.
    path: Path,
}

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "paged_attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, num_heads, head_dim) = q_layout.shape().dims3()?;
        let cache = [(key, key_layout), (value, value_layout)];
        let out = match_element!(q.dtype(), "q", E => match key.dtype() {
            DType::F8E4M3 => {
                cpu::paged_attention::<E, F8E4M3>(self.path, (q, q_layout), cache, self.args)?
            },
            _ => cpu::paged_attention::<E, E>(self.path, (q, q_layout), cache, self.args)?,
        });
        Ok((out, (tokens, num_heads * head_dim).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &CudaStorage,
        q_layout: &Layout,
        key: &CudaStorage,
        key_layout: &Layout,
        value: &CudaStorage,
        value_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (tokens, num_heads, head_dim) = q_layout.shape().dims3()?;
        let cache = [(key, key_layout), (value, value_layout)];
        let out = cuda::forward::paged_attention((q, q_layout), cache, self.args)?;
        Ok((out, (tokens, num_heads * head_dim).into()))
    }
}
