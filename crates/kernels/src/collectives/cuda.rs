//! Collectives of GPUs that read each other's memory: each shows the others what it has in a buffer that
//! all can reach, in rounds of at most [`HALF_BYTES`].

use super::{HALF_BYTES, MAX_RANKS};
use crate::cuda::{Launch, of_dtype, pack_len};
use candle_core::{DType, Result, bail};

/// `CollectiveParams` of `kernel.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct CollectiveParams {
    /// Of every rank: [`SIGNAL_BYTES`], zero at first, and two halves
    pub(super) buffers: [u64; MAX_RANKS],
    /// Of the ranks that are blocks of this launch, from `first_rank` on; on a GPU that is one.
    pub(super) x: [u64; MAX_RANKS],
    pub(super) out: [u64; MAX_RANKS],
    /// u32, not zero once nobody is to wait.
    pub(super) is_given_up: u64,
    /// That a block waits before it gives the group up.
    pub(super) most_ns: u64,
    /// Where the halves begin, and how long one is.
    pub(super) first_half: u64,
    pub(super) half_bytes: u64,
    pub(super) first_rank: i32,
    pub(super) num_ranks: i32,
    /// Of what is put together; a sum is one row.
    pub(super) rows: i32,
    /// Elements of a sum, or the most that a rank gives of a row.
    pub(super) columns: i32,
    /// Elements of a row that is put together.
    pub(super) width: i32,
    /// Whether each rank sums a part, and gives it to the others.
    pub(super) in_parts: i32,
}

/// `Signals`, and room to the next KiB.
pub(super) const SIGNAL_BYTES: usize = 3 << 10;

/// All launches have as many blocks: they count rounds together.
const BLOCKS: usize = 32;
const THREADS: usize = 512;

/// Up to so many bytes it is quicker to read all that four ranks, or more, have than to wait for each other a
/// second time. vLLM's bounds (`custom_all_reduce.cuh`), not measured here.
const WHOLE_BYTES_OF_FOUR: usize = 512 << 10;
const WHOLE_BYTES_OF_MORE: usize = 256 << 10;

/// Whether ranks sum a part each. Of two, both ways read as much, and one waits less.
fn in_parts(num_ranks: usize, num_bytes: usize) -> bool {
    match num_ranks {
        ..=2 => false,
        3..=4 => num_bytes > WHOLE_BYTES_OF_FOUR,
        _ => num_bytes > WHOLE_BYTES_OF_MORE,
    }
}

/// Most rows of so many columns a rank, f32, that one round takes.
pub(super) fn rows_of_round(columns: usize) -> Result<usize> {
    let padded = columns.next_multiple_of(pack_len(DType::F32));
    match HALF_BYTES / (padded * DType::F32.size_in_bytes()) {
        0 => bail!("a rank gives at most {HALF_BYTES} bytes of a row, not {columns} numbers"),
        rows => Ok(rows),
    }
}

/// The launch of a round of sums, and whether it is in parts.
pub(super) fn plan_sum(num_ranks: usize, len: usize, dtype: DType) -> Result<(Launch, bool)> {
    let functions = ["all_reduce_f32", "all_reduce_f16", "all_reduce_bf16"];
    let launch = Launch::one_dimensional(of_dtype(dtype, functions, "x")?, BLOCKS, THREADS);
    Ok((launch, in_parts(num_ranks, len * dtype.size_in_bytes())))
}

/// The launch of a round of rows that are put together.
pub(super) fn plan_gather() -> Launch {
    Launch::one_dimensional("all_gather_f32", BLOCKS, THREADS)
}

#[cfg(feature = "cuda")]
pub(super) mod forward {
    //! The candle side.

    use super::super::{Communicator, part};
    use super::{
        CollectiveParams, HALF_BYTES, MAX_RANKS, SIGNAL_BYTES, plan_gather, plan_sum, rows_of_round,
    };
    use crate::cuda::{Module, address, allocate, launch, module};
    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::{result, sys};
    use candle_core::{CudaDevice, CudaStorage, DType, Device, Layout, Result, bail};
    use std::ffi::c_void;
    use std::sync::Arc;

    static MODULE: Module = module!("collectives");

    /// A rank's end.
    #[derive(Debug)]
    pub(crate) struct Peer {
        rank: usize,
        room: Arc<Room>,
    }

    /// What all ranks of a group reach.
    struct Room {
        buffers: Vec<Buffer>,
        /// Memory of the host that the GPUs read: one u32.
        is_given_up: *mut c_void,
    }

    // SAFETY: the word is written by volatile stores of one value, and read by GPUs alone.
    unsafe impl Send for Room {}
    // SAFETY: as above.
    unsafe impl Sync for Room {}

    impl std::fmt::Debug for Room {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "Room of {} ranks", self.buffers.len())
        }
    }

    /// Memory of one GPU that the others read. Not of candle's pool, which they cannot.
    struct Buffer {
        device: CudaDevice,
        at: sys::CUdeviceptr,
    }

    impl Buffer {
        fn new(device: &CudaDevice) -> Result<Self> {
            device.cuda_stream().context().bind_to_thread().w()?;
            // SAFETY: the context is current; signals are set below, halves are written before they are read.
            let at = unsafe { result::malloc_sync(Communicator::MEMORY_BYTES) }.w()?;
            let buffer = Self { device: device.clone(), at };
            buffer.clear_signals()?;
            Ok(buffer)
        }

        /// Once the GPU has done all that it was asked for.
        fn clear_signals(&self) -> Result<()> {
            let stream = self.device.cuda_stream();
            stream.synchronize().w()?;
            // SAFETY: the memory is this buffer's, and nothing that uses it is under way.
            unsafe { result::memset_d8_sync(self.at, 0, SIGNAL_BYTES) }.w()?;
            // On a GPU of its own stream the next kernel need not wait for the memset.
            stream.context().synchronize().w()
        }
    }

    impl Buffer {
        /// Until its GPU has done all that it was asked for. Whether it could: a device that does not answer has
        /// lost its memory already.
        fn wait(&self) -> bool {
            let stream = self.device.cuda_stream();
            stream.context().bind_to_thread().is_ok() && stream.synchronize().is_ok()
        }
    }

    impl Drop for Buffer {
        fn drop(&mut self) {
            if self.wait() {
                // SAFETY: it was allocated by this context, and nothing uses it any more.
                let _ = unsafe { result::free_sync(self.at) };
            }
        }
    }

    /// No rank is so much later than another, unless it is lost: what is loaded or allocated at first use takes
    /// seconds.
    const MOST_NS: u64 = 60_000_000_000;

    impl Room {
        fn is_given_up(&self) -> bool {
            // SAFETY: the word is the room's.
            unsafe { self.is_given_up.cast::<u32>().read_volatile() != 0 }
        }

        fn set_given_up(&self, is_given_up: bool) {
            // SAFETY: the word is the room's.
            unsafe { self.is_given_up.cast::<u32>().write_volatile(is_given_up.into()) };
        }
    }

    impl Drop for Room {
        fn drop(&mut self) {
            self.set_given_up(true);
            // Each GPU may still read of all others, and of the word.
            for buffer in &self.buffers {
                buffer.wait();
            }
            self.buffers.clear();
            // SAFETY: it was allocated for this room.
            let _ = unsafe { result::free_host(self.is_given_up) };
        }
    }

    /// Lets each GPU read the memory of the others.
    fn connect(devices: &[CudaDevice]) -> Result<()> {
        for device in devices {
            let context = device.cuda_stream().context().clone();
            for other in devices {
                let theirs = other.cuda_stream().context().clone();
                let (a, b) = (context.ordinal(), theirs.ordinal());
                if a == b {
                    continue;
                }
                context.bind_to_thread().w()?;
                let mut can_reach = 0;
                // SAFETY: both devices are open, and the context of the first is current.
                let enabled = unsafe {
                    let (of, to) = (context.cu_device(), theirs.cu_device());
                    sys::cuDeviceCanAccessPeer(&raw mut can_reach, of, to).result().w()?;
                    if can_reach == 0 {
                        bail!(
                            "GPU {a} cannot reach the memory of GPU {b}: choose GPUs that are \
                             connected (nvidia-smi topo -p2p r) with CUDA_VISIBLE_DEVICES, or a \
                             smaller --tensor-parallel-size"
                        );
                    }
                    sys::cuCtxEnablePeerAccess(theirs.cu_ctx(), 0)
                };
                if enabled != sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED {
                    enabled.result().w()?;
                }
            }
        }
        Ok(())
    }

    impl Peer {
        pub(crate) fn of(devices: &[Device]) -> Result<Vec<Self>> {
            let devices: Vec<_> = devices
                .iter()
                .map(|device| device.as_cuda_device().cloned())
                .collect::<Result<_>>()?;
            connect(&devices)?;
            // A rank that waits keeps a GPU busy: on one that it shares, nobody may load beside it.
            for device in &devices {
                for dtype in [DType::F32, DType::F16, DType::BF16] {
                    MODULE.prepare(device, &plan_sum(devices.len(), 0, dtype)?.0)?;
                }
                MODULE.prepare(device, &plan_gather())?;
            }
            let buffers = devices.iter().map(Buffer::new).collect::<Result<_>>()?;
            // SAFETY: a context is current; the word is written before anything reads it.
            let is_given_up =
                unsafe { result::malloc_host(size_of::<u32>(), sys::CU_MEMHOSTALLOC_PORTABLE) }
                    .w()?;
            let room = Arc::new(Room { buffers, is_given_up });
            room.set_given_up(false);
            Ok((0..devices.len()).map(|rank| Self { rank, room: Arc::clone(&room) }).collect())
        }

        pub(crate) fn give_up(&self) {
            self.room.set_given_up(true);
        }

        pub(crate) fn is_given_up(&self) -> bool {
            self.room.is_given_up()
        }

        pub(crate) fn begin_anew(&self) -> Result<()> {
            self.give_up();
            for buffer in &self.room.buffers {
                buffer.device.cuda_stream().context().bind_to_thread().w()?;
                buffer.device.cuda_stream().synchronize().w()?;
            }
            // Nobody is in a round now, on any GPU.
            for buffer in &self.room.buffers {
                buffer.device.cuda_stream().context().bind_to_thread().w()?;
                buffer.clear_signals()?;
            }
            self.room.set_given_up(false);
            Ok(())
        }

        /// Of a round that has neither inputs nor lengths yet.
        fn params(&self) -> CollectiveParams {
            let mut buffers = [0; MAX_RANKS];
            for (at, buffer) in buffers.iter_mut().zip(&self.room.buffers) {
                *at = buffer.at;
            }
            CollectiveParams {
                buffers,
                x: [0; MAX_RANKS],
                out: [0; MAX_RANKS],
                is_given_up: self.room.is_given_up as u64,
                most_ns: MOST_NS,
                first_half: SIGNAL_BYTES as u64,
                half_bytes: HALF_BYTES as u64,
                first_rank: self.rank as i32,
                num_ranks: self.room.buffers.len() as i32,
                rows: 1,
                columns: 0,
                width: 0,
                in_parts: 0,
            }
        }

        /// The sum over the ranks.
        pub(crate) fn all_reduce(&self, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
            let (device, dtype, len) = (x.device(), x.dtype(), layout.shape().elem_count());
            let (output, out) = allocate(device, dtype, len)?;
            let x = address(x, layout, "x")?;
            let most = HALF_BYTES / dtype.size_in_bytes();
            for first in (0..len).step_by(most) {
                let columns = most.min(len - first);
                let (round, in_parts) = plan_sum(self.room.buffers.len(), columns, dtype)?;
                let mut params = self.params();
                let offset = (first * dtype.size_in_bytes()) as u64;
                (params.x[0], params.out[0]) = (x + offset, out + offset);
                (params.columns, params.in_parts) = (columns as i32, in_parts.into());
                launch(device, &MODULE, &round, &params)?;
            }
            Ok(output)
        }

        /// `[rows, part]` of each rank to `[rows, width]`.
        pub(crate) fn all_gather(
            &self,
            x: &CudaStorage,
            layout: &Layout,
            width: usize,
        ) -> Result<CudaStorage> {
            let (rows, own) = layout.shape().dims2()?;
            let (output, out) = allocate(x.device(), DType::F32, rows * width)?;
            let at = address(x, layout, "x")?;
            // The first has as many as any.
            let columns = part(width, 0, self.room.buffers.len()).len();
            let most = rows_of_round(columns)?;
            for first in (0..rows).step_by(most) {
                let mut params = self.params();
                let offset = |columns: usize| (first * columns * size_of::<f32>()) as u64;
                (params.x[0], params.out[0]) = (at + offset(own), out + offset(width));
                (params.rows, params.columns) = (most.min(rows - first) as i32, columns as i32);
                params.width = width as i32;
                launch(x.device(), &MODULE, &plan_gather(), &params)?;
            }
            Ok(output)
        }
    }
}
