//! Sums and concatenations over the ranks of a group, each of which holds a part of every layer
//! (tensor parallelism: Shoeybi et al. 2019, arXiv:1909.08053).
//!
//! The ranks are threads of one process. All of them must ask for the same collectives in the same
//! order. Every rank gets the same bits: sums are of f32, in the order of the ranks, rounded once, so
//! that they depend neither on the size of a batch nor on the way the parts take.

mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::views::contiguous;
#[cfg(feature = "cuda")]
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Shape};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::ops::Range;

/// Most ranks of a group: the GPUs of one machine that reach each other.
pub const MAX_RANKS: usize = 8;

/// What a rank hears that waits for one that gave up.
pub const GIVEN_UP: &str = "another rank of the model failed";

/// The part of `len` things that a rank of a group has: as many as the others, of the last ones less.
///
/// # Panics
/// If there is no such rank.
pub fn part(len: usize, rank: usize, num_ranks: usize) -> Range<usize> {
    assert!(rank < num_ranks, "rank {rank} of {num_ranks}");
    let most = len.div_ceil(num_ranks);
    (rank * most).min(len)..((rank + 1) * most).min(len)
}

/// A rank's end of a group.
#[derive(Debug)]
pub struct Communicator {
    rank: usize,
    num_ranks: usize,
    end: End,
}

/// How a rank reaches the others.
#[derive(Debug)]
enum End {
    Cpu(cpu::Meeting),
    /// Through memory of the GPUs that all of them can reach.
    #[cfg(feature = "cuda")]
    Cuda(cuda::forward::Peer),
}

impl Communicator {
    /// An end for each of `devices`, which are all the CPU or all GPUs. A GPU may stand there more
    /// than once, if each rank has a stream of its own.
    ///
    /// # Errors
    /// Fewer than two or more than [`MAX_RANKS`], unlike devices, GPUs that do not reach each other's
    /// memory, or have not the [memory](Self::MEMORY_BYTES).
    pub fn group(devices: &[Device]) -> Result<Vec<Self>> {
        let num_ranks = devices.len();
        if !(2..=MAX_RANKS).contains(&num_ranks) {
            bail!("a group has 2 to {MAX_RANKS} ranks, not {num_ranks}");
        }
        let ends = if devices.iter().all(Device::is_cpu) {
            cpu::Meeting::of(num_ranks).into_iter().map(End::Cpu).collect()
        } else {
            gpus(devices)?
        };
        let of_rank = |(rank, end)| Self { rank, num_ranks, end };
        Ok(ends.into_iter().enumerate().map(of_rank).collect())
    }

    /// What a rank's end takes of a GPU's memory.
    pub const MEMORY_BYTES: usize = 2 * HALF_BYTES + (64 << 10);

    /// Of this end, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks of the group.
    pub fn num_ranks(&self) -> usize {
        self.num_ranks
    }

    /// The sum of what the ranks give, which must all be of one shape, f32 or bf16 (on GPUs f16, too).
    /// Waits for the other ranks: on a GPU only there.
    ///
    /// # Errors
    /// A dtype that is not summed, a strided tensor, another shape than the others gave; a group that
    /// was given up.
    pub fn all_reduce(&self, x: &Tensor) -> Result<Tensor> {
        contiguous(x.layout(), "x")?;
        match &self.end {
            End::Cpu(meeting) => cpu::sum(&meeting.exchange(x)?),
            #[cfg(feature = "cuda")]
            End::Cuda(peer) => x.apply_op1_no_bwd(&AllReduce(peer)),
        }
    }

    /// The columns of all ranks side by side: of `[rows, width]` each gives its [`part`].
    /// `[rows, part]` f32 to `[rows, width]`
    ///
    /// # Errors
    /// Another dtype or number of columns, a strided tensor; a group that was given up.
    pub fn all_gather(&self, x: &Tensor, width: usize) -> Result<Tensor> {
        let (_, columns) = x.dims2()?;
        let expected = part(width, self.rank, self.num_ranks).len();
        if columns != expected || x.dtype() != DType::F32 {
            let (rank, dtype) = (self.rank, x.dtype());
            bail!(
                "rank {rank} gives {expected} columns of F32 of {width}, not {columns} of {dtype:?}"
            );
        }
        contiguous(x.layout(), "x")?;
        match &self.end {
            End::Cpu(meeting) => Tensor::cat(&meeting.exchange(x)?, 1),
            #[cfg(feature = "cuda")]
            End::Cuda(peer) => x.apply_op1_no_bwd(&AllGather { peer, width }),
        }
    }

    /// Sums known numbers with the other ranks, few and many, and looks at what comes. There are machines that
    /// say of GPUs that they reach each other's memory, and they do not.
    ///
    /// # Errors
    /// Other sums; as [`all_reduce`](Self::all_reduce).
    pub fn check(&self, device: &Device) -> Result<()> {
        for len in [1_000, 300_000] {
            let own: Vec<f32> = (0..len).map(|i| (i % 97 + self.rank) as f32).collect();
            let sums = self.all_reduce(&Tensor::from_vec(own, len, device)?)?.to_vec1::<f32>()?;
            if self.is_given_up() {
                bail!("{GIVEN_UP}");
            }
            let of_ranks = self.num_ranks * (self.num_ranks - 1) / 2;
            let expected = |i: usize| (i % 97 * self.num_ranks + of_ranks) as f32;
            if let Some(wrong) = (0..len).find(|i| sums[*i] != expected(*i)) {
                let (sum, expected) = (sums[wrong], expected(wrong));
                bail!(
                    "GPUs do not read what others wrote: a sum is {sum} instead of {expected}; leave \
                     --tensor-parallel-size out, or look at the IOMMU (ACS) and the driver"
                );
            }
        }
        Ok(())
    }

    /// Gives the group up: nobody waits any more, on no device, and what ranks ask for gives an error or
    /// anything, until the group [begins anew](Self::begin_anew). For a rank that cannot go on. A GPU that
    /// waits for another a minute does so by itself.
    pub fn give_up(&self) {
        match &self.end {
            End::Cpu(meeting) => meeting.give_up(),
            #[cfg(feature = "cuda")]
            End::Cuda(peer) => peer.give_up(),
        }
    }

    /// Whether it was: then what GPUs computed since counts for nothing.
    pub fn is_given_up(&self) -> bool {
        match &self.end {
            End::Cpu(meeting) => meeting.is_given_up(),
            #[cfg(feature = "cuda")]
            End::Cuda(peer) => peer.is_given_up(),
        }
    }

    /// Makes the group as it was at first, whatever its ranks were at. To be called of one end, while
    /// no rank asks for anything. Waits for all devices.
    ///
    /// # Errors
    /// A device that does not answer.
    pub fn begin_anew(&self) -> Result<()> {
        match &self.end {
            End::Cpu(meeting) => {
                meeting.begin_anew();
                Ok(())
            }
            #[cfg(feature = "cuda")]
            End::Cuda(peer) => peer.begin_anew(),
        }
    }
}

/// What a rank shows to the others at once; larger tensors take several rounds. There are two, so that a
/// rank can begin the next round while others still read of this one.
const HALF_BYTES: usize = 8 << 20;

#[cfg(feature = "cuda")]
fn gpus(devices: &[Device]) -> Result<Vec<End>> {
    Ok(cuda::forward::Peer::of(devices)?.into_iter().map(End::Cuda).collect())
}

#[cfg(not(feature = "cuda"))]
fn gpus(_devices: &[Device]) -> Result<Vec<End>> {
    bail!("the ranks of a group compute all on the CPU or all on GPUs")
}

/// The op behind [`Communicator::all_reduce`] on a GPU.
#[cfg(feature = "cuda")]
struct AllReduce<'a>(&'a cuda::forward::Peer);

#[cfg(feature = "cuda")]
impl CustomOp1 for AllReduce<'_> {
    fn name(&self) -> &'static str {
        "all_reduce"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("x must be on the GPU of its rank")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((self.0.all_reduce(x, layout)?, layout.shape().clone()))
    }
}

/// The op behind [`Communicator::all_gather`] on a GPU.
#[cfg(feature = "cuda")]
struct AllGather<'a> {
    peer: &'a cuda::forward::Peer,
    width: usize,
}

#[cfg(feature = "cuda")]
impl CustomOp1 for AllGather<'_> {
    fn name(&self) -> &'static str {
        "all_gather"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("x must be on the GPU of its rank")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = (layout.dims()[0], self.width).into();
        Ok((self.peer.all_gather(x, layout, self.width)?, shape))
    }
}
