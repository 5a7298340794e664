//! Attention on a CUDA device: which kernels take which sequences, and their grids.
//!
//! Sequences with up to [`SPLIT_ROWS`](super::SPLIT_ROWS) rows are the split kernel's, the others the tile kernel's; both
//! look at all sequences and take their own. What has no kernel on the tensor cores (f32, odd head
//! dims) goes to a plain one.

use super::Extents;
use crate::cuda::Launch;
use candle_core::{DType, Result, bail};

/// `PagedAttentionParams` of `params.cuh`; addresses of contiguous tensors.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PagedAttentionParams {
    /// `[tokens, heads, head_dim]`
    pub(crate) q: u64,
    /// `[num_blocks, kv_heads, block_size, head_dim]`
    pub(crate) key: u64,
    /// As key.
    pub(crate) value: u64,
    /// As q.
    pub(crate) out: u64,
    /// `[seqs + 1]`
    pub(crate) q_starts: u64,
    /// `[seqs]`
    pub(crate) context_lens: u64,
    /// `[seqs, table_width]`
    pub(crate) block_tables: u64,
    /// `[heads]` f32, 0 without sinks
    pub(crate) sinks: u64,
    /// `[partials, heads, head_dim]` f32
    pub(crate) partial_out: u64,
    /// `[partials, heads, 2]` f32
    pub(crate) partial_softmax: u64,
    /// `[seqs, kv_heads, warps]` u32, zero between launches
    pub(crate) arrivals: u64,
    /// Of scores, with that of an e4m3 cache's keys.
    pub(crate) scale: f32,
    /// Of an e4m3 cache, else 1.
    pub(crate) value_scale: f32,
    /// 0: none
    pub(crate) soft_cap: f32,
    pub(crate) num_seqs: i32,
    pub(crate) num_heads: i32,
    pub(crate) num_kv_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) block_size: i32,
    pub(crate) table_width: i32,
    /// 0: all keys
    pub(crate) window: i32,
    pub(crate) split_rows: i32,
}

/// Query heads of a warp in the plain kernel.
const PLAIN_WARPS: usize = 4;

/// What a grid depends on besides the lengths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model {
    pub(crate) num_heads: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Of q and the result.
    pub(crate) dtype: DType,
    /// The same, or e4m3 beside bf16 and f32.
    pub(crate) cache_dtype: DType,
}

/// What a device holds at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processors {
    pub(crate) count: usize,
    /// Shared memory that each has for its blocks.
    pub(crate) shared_bytes_per_processor: usize,
}

/// A form of the split kernel: `SplitShape` of `split.cuh`.
pub(crate) struct SplitForm {
    functions: [&'static str; 3], // as `dtype_index`
    rows: usize,
    warps: usize,
    /// Blocks that a multiprocessor has registers for.
    max_blocks: usize,
}

macro_rules! functions {
    ($kernel:literal) => {
        [
            concat!("paged_attention_", $kernel, "_bf16"),
            concat!("paged_attention_", $kernel, "_f16"),
            concat!("paged_attention_", $kernel, "_bf16_e4m3"),
        ]
    };
}

/// Which of the functions; none for f32.
fn dtype_index(heads: &Model) -> Result<Option<usize>> {
    match (heads.dtype, heads.cache_dtype) {
        (DType::BF16, DType::BF16) => Ok(Some(0)),
        (DType::F16, DType::F16) => Ok(Some(1)),
        (DType::BF16, DType::F8E4M3) => Ok(Some(2)),
        (DType::F32, DType::F32 | DType::F8E4M3) => Ok(None),
        (q, cache) => bail!("attention has no kernel for q of {q:?} with a cache of {cache:?}"),
    }
}

impl SplitForm {
    pub(crate) fn of(head_dim: usize, has_many_rows: bool) -> Option<Self> {
        let (functions, rows, warps, max_blocks) = match (head_dim, has_many_rows) {
            (64, false) => (functions!("split_64x1"), 8, 4, 3),
            (64, true) => (functions!("split_64x2"), 16, 4, 3),
            (96, false) => (functions!("split_96x1"), 8, 4, 3),
            (96, true) => (functions!("split_96x2"), 16, 4, 2),
            (128, false) => (functions!("split_128x1"), 8, 4, 3),
            (128, true) => (functions!("split_128x2"), 16, 4, 2),
            (256, _) => (functions!("split_256x1"), 8, 2, 3),
            _ => return None,
        };
        Some(Self { functions, rows, warps, max_blocks })
    }

    /// Stages of a tile of 16 keys and their values for each warp, rows padded by 16 bytes: two, or
    /// four of elements that are half as large.
    pub(crate) fn shared_bytes(&self, heads: &Model) -> usize {
        let stages = 4 / heads.cache_dtype.size_in_bytes();
        self.warps * stages * 2 * 16 * heads.padded_cache_row()
    }
}

impl Model {
    /// Bytes of a key in shared memory.
    fn padded_cache_row(&self) -> usize {
        self.head_dim * self.cache_dtype.size_in_bytes() + 16
    }
}

/// A form of the tile kernel: `TileShape` of `tile.cuh`.
struct TileForm {
    functions: [&'static str; 3], // as `dtype_index`
    rows: usize,
    keys: usize,
}

impl TileForm {
    fn of(head_dim: usize, cache_dtype: DType) -> Option<Self> {
        let (functions, rows, keys) = match head_dim {
            64 => (functions!("tile_64"), 128, 64),
            96 => (functions!("tile_96"), 128, 64),
            128 if cache_dtype == DType::F8E4M3 => (functions!("tile_128"), 128, 48),
            128 => (functions!("tile_128"), 128, 64),
            256 => (functions!("tile_256"), 64, 32),
            _ => return None,
        };
        Some(Self { functions, rows, keys })
    }

    /// Queries, a tile of keys and one of values, rows padded by 16 bytes.
    fn shared_bytes(&self, heads: &Model) -> usize {
        let query_row = heads.head_dim * heads.dtype.size_in_bytes() + 16;
        self.rows * query_row + 2 * self.keys * heads.padded_cache_row()
    }
}

/// The launches for at least one row, in any order. They suffice for every call whose lengths the
/// extents bound.
pub(crate) fn plan(
    heads: &Model,
    tokens: usize,
    extents: &Extents,
    processors: Processors,
) -> Result<Vec<Launch>> {
    let &Model { num_heads, num_kv_heads, head_dim, cache_dtype, .. } = heads;
    let group_size = num_heads / num_kv_heads;
    let split = SplitForm::of(head_dim, extents.max_split_rows * group_size > 8);
    let tile = TileForm::of(head_dim, cache_dtype);
    let (Some(dtype), Some(split), Some(tile)) = (dtype_index(heads)?, split, tile) else {
        return Ok(vec![plain(heads, tokens)]);
    };
    let mut launches = Vec::new();
    if extents.split_seqs > 0 {
        let shared_bytes = split.shared_bytes(heads);
        // A block has a KiB of its own besides.
        let fitting = processors.shared_bytes_per_processor / (shared_bytes + 1024);
        let resident = processors.count * fitting.clamp(1, split.max_blocks);
        let row_tiles = (extents.max_split_rows * group_size).div_ceil(split.rows);
        let units = extents.split_seqs * row_tiles * extents.max_splits();
        let grid = [resident.min(units * num_kv_heads), 1, 1];
        launches.push(Launch::new(split.functions[dtype], grid, split.warps * 32, shared_bytes));
    }
    if extents.tile_seqs > 0 {
        // Every sequence may have one tile that is not full.
        let rows = extents.tile_rows * group_size + extents.tile_seqs * (tile.rows - 1);
        let grid = [rows / tile.rows * num_kv_heads, 1, 1];
        launches.push(Launch::new(tile.functions[dtype], grid, 128, tile.shared_bytes(heads)));
    }
    Ok(launches)
}

fn plain(heads: &Model, tokens: usize) -> Launch {
    let function = match (heads.dtype, heads.cache_dtype) {
        (DType::F32, DType::F8E4M3) => "paged_attention_plain_f32_e4m3",
        (_, DType::F8E4M3) => "paged_attention_plain_bf16_e4m3",
        (DType::BF16, _) => "paged_attention_plain_bf16",
        (DType::F16, _) => "paged_attention_plain_f16",
        _ => "paged_attention_plain_f32",
    };
    let head_blocks = heads.num_heads.div_ceil(PLAIN_WARPS);
    Launch::new(function, [tokens, head_blocks, 1], PLAIN_WARPS * 32, 0)
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::super::extents::num_arrivals;
    use super::super::{OnDevice, PagedAttention};
    use super::{Model, PagedAttentionParams, Processors, plan};
    use crate::cuda::{Module, address, allocate, launch, module, processors, tensor_address};
    use candle_core::backend::BackendStorage;
    use candle_core::{CudaStorage, DType, Layout, Result, Tensor, bail};

    static MODULE: Module = module!("paged_attention");

    /// q `[tokens, heads, head_dim]`, cache `[num_blocks, kv_heads, block_size, head_dim]` twice.
    pub(crate) fn paged_attention(
        (q, q_layout): (&CudaStorage, &Layout),
        [(key, key_layout), (value, value_layout)]: [(&CudaStorage, &Layout); 2],
        args: &PagedAttention,
    ) -> Result<CudaStorage> {
        let (tokens, num_heads, head_dim) = q_layout.shape().dims3()?;
        let (num_blocks, num_kv_heads, block_size, _) = key_layout.shape().dims4()?;
        let (num_seqs, table_width) = args.block_tables.dims2()?;
        let Some(on_device) = &args.on_device else {
            bail!("on_device must be given: a device needs bounds of the lengths and a workspace");
        };
        check(on_device, (tokens, num_seqs), (num_heads, head_dim))?;
        if !block_size.is_multiple_of(8) {
            bail!("a block must have a multiple of 8 keys on a CUDA device, it has {block_size}");
        }
        if num_blocks * num_kv_heads * block_size > u32::MAX as usize {
            bail!("cache.key must have fewer than 2^32 rows, its shape is {:?}", key_layout.dims());
        }
        let OnDevice { extents, workspace } = on_device;
        let (out, out_address) = allocate(q.device(), q.dtype(), tokens * num_heads * head_dim)?;
        let params = PagedAttentionParams {
            q: aligned(address(q, q_layout, "q")?, "q")?,
            key: aligned(address(key, key_layout, "cache.key")?, "cache.key")?,
            value: aligned(address(value, value_layout, "cache.value")?, "cache.value")?,
            out: out_address,
            q_starts: indices(args.q_starts, "q_starts")?,
            context_lens: indices(args.context_lens, "context_lens")?,
            block_tables: indices(args.block_tables, "block_tables")?,
            sinks: args.variant.sinks.map_or(Ok(0), |sinks| tensor_address(sinks, "sinks"))?,
            partial_out: tensor_address(&workspace.partial_out, "workspace")?,
            partial_softmax: tensor_address(&workspace.partial_softmax, "workspace")?,
            arrivals: tensor_address(&workspace.arrivals, "workspace")?,
            scale: args.scale,
            value_scale: 1.0,
            soft_cap: args.variant.soft_cap.unwrap_or(0.0),
            num_seqs: num_seqs as i32,
            num_heads: num_heads as i32,
            num_kv_heads: num_kv_heads as i32,
            head_dim: head_dim as i32,
            block_size: block_size as i32,
            table_width: table_width as i32,
            window: args.variant.window.map_or(0, |window| window.min(i32::MAX as usize) as i32),
            split_rows: extents.split_limit() as i32,
        };
        if tokens > 0 {
            let (dtype, cache_dtype) = (q.dtype(), key.dtype());
            let heads = Model { num_heads, num_kv_heads, head_dim, dtype, cache_dtype };
            let (count, shared_bytes_per_processor) = processors(q.device())?;
            let processors = Processors { count, shared_bytes_per_processor };
            for one in plan(&heads, tokens, extents, processors)? {
                launch(q.device(), &MODULE, &one, &params)?;
            }
        }
        Ok(out)
    }

    /// Refuses extents that leave rows out, and a workspace that is too small for them.
    fn check(
        OnDevice { extents, workspace }: &OnDevice,
        (tokens, num_seqs): (usize, usize),
        (num_heads, head_dim): (usize, usize),
    ) -> Result<()> {
        if extents.split_rows + extents.tile_rows < tokens {
            bail!("extents must cover the {tokens} rows of q, they are {extents:?}");
        }
        let (partials, heads, width) = workspace.partial_out.dims3()?;
        if partials < extents.num_partials() || (heads, width) != (num_heads, head_dim) {
            bail!(
                "workspace has {partials} parts of [{heads}, {width}], the call needs {} of \
                 [{num_heads}, {head_dim}]",
                extents.num_partials()
            );
        }
        if workspace.arrivals.elem_count() < num_arrivals(num_seqs, num_heads) {
            bail!("workspace was made for fewer than {num_seqs} sequences");
        }
        Ok(())
    }

    fn indices(tensor: &Tensor, name: &str) -> Result<u64> {
        if tensor.dtype() != DType::U32 {
            bail!("{name} must be U32, it is {:?}", tensor.dtype());
        }
        tensor_address(tensor, name)
    }

    /// Refuses a view that does not start where 16 bytes can be read at once.
    fn aligned(address: u64, name: &str) -> Result<u64> {
        if !address.is_multiple_of(16) {
            bail!("{name} must start at a multiple of 16 bytes on a CUDA device");
        }
        Ok(address)
    }
}
