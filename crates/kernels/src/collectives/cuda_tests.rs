//! The CUDA kernels on the host: the ranks are blocks of one launch there, that run side by side.

use super::cuda::{CollectiveParams, SIGNAL_BYTES, plan_gather, plan_sum, rows_of_round};
use super::{HALF_BYTES, MAX_RANKS, cpu, part};
use crate::cuda::testing::{CUDA_DTYPES, Input, launch, on_device, to_bytes};
use crate::cuda::{Launch, pack_len};
use crate::testing::{message, tensor};
use candle_core::{DType, Device, Error, Result, Tensor};
use cuda_host::{Buffer, Device as HostDevice};

/// As many as two halves of the tests' largest need.
const TEST_HALF_BYTES: usize = 32 << 10;

/// The memory of a group on the host, and the rounds it goes through.
struct Group<'a> {
    device: &'a HostDevice,
    buffers: Vec<Buffer<u8>>,
    is_given_up: Buffer<u32>,
}

impl<'a> Group<'a> {
    fn new(device: &'a HostDevice, num_ranks: usize, is_given_up: u32) -> Self {
        // What nobody wrote must not be read from the halves.
        let buffer = |_| {
            let halves = device.output::<u8>(2 * TEST_HALF_BYTES).read();
            device.filled(&[vec![0; SIGNAL_BYTES], halves].concat())
        };
        let buffers = (0..num_ranks).map(buffer).collect();
        Self { device, buffers, is_given_up: device.input(&[is_given_up]) }
    }

    fn params(&self) -> CollectiveParams {
        let mut buffers = [0; MAX_RANKS];
        for (at, buffer) in buffers.iter_mut().zip(&self.buffers) {
            *at = buffer.address();
        }
        CollectiveParams {
            buffers,
            x: [0; MAX_RANKS],
            out: [0; MAX_RANKS],
            is_given_up: self.is_given_up.address(),
            most_ns: u64::MAX,
            first_half: SIGNAL_BYTES as u64,
            half_bytes: TEST_HALF_BYTES as u64,
            first_rank: 0,
            num_ranks: self.buffers.len() as i32,
            rows: 1,
            columns: 0,
            width: 0,
            in_parts: 0,
        }
    }

    /// A round of the first `num_there` ranks, in two blocks each. What each of them gets.
    fn round(
        &self,
        plan: &Launch,
        mut params: CollectiveParams,
        (x, num_there, out_bytes): (&[Tensor], usize, usize),
        offset: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let inputs: Vec<_> =
            x.iter().map(|x| Input::new(self.device, x, offset)).collect::<Result<_>>()?;
        let outs: Vec<_> = inputs.iter().map(|_| self.device.output::<u8>(out_bytes)).collect();
        for (rank, (input, out)) in inputs.iter().zip(&outs).enumerate() {
            (params.x[rank], params.out[rank]) = (input.address(), out.address());
        }
        let small = Launch {
            grid: [2, num_there as u32, 1],
            block: [32, 1, 1],
            is_cooperative: true,
            ..*plan
        };
        launch(self.device, &small, &params).map_err(Error::wrap)?;
        Ok(outs.iter().map(Buffer::read).collect())
    }
}

/// Rounds of unlike lengths behind each other, in both ways: each rank gets the CPU's sum.
#[test]
fn sums_equal_the_cpu_s_round_after_round() -> Result<()> {
    for (num_ranks, dtype) in [2, 3, 8].into_iter().flat_map(|n| CUDA_DTYPES.map(|d| (n, d))) {
        for offset in [0, 1] {
            let lengths = [1, 7, 1024, 5, 3333, 256];
            let inputs = |round: usize, len: usize| -> Result<Vec<Tensor>> {
                let seed = |rank: usize| (100 * round + rank) as u64;
                (0..num_ranks).map(|rank| tensor(seed(rank), &[len], dtype, &Device::Cpu)).collect()
            };
            let given = on_device(|device| {
                let group = Group::new(device, num_ranks, 0);
                let mut all = Vec::new();
                for (round, &len) in lengths.iter().enumerate() {
                    let (plan, _) = plan_sum(num_ranks, len, dtype)?;
                    let mut params = group.params();
                    (params.columns, params.in_parts) = (len as i32, i32::from(round % 2 == 1));
                    let bytes = len * dtype.size_in_bytes();
                    let x = inputs(round, len)?;
                    all.extend(group.round(&plan, params, (&x, num_ranks, bytes), offset)?);
                }
                Ok(all)
            })?;
            for (round, &len) in lengths.iter().enumerate() {
                // Widened, since the CPU op takes no f16: the sums are rounded once in both.
                let wide: Vec<_> = inputs(round, len)?
                    .iter()
                    .map(|x| x.to_dtype(DType::F32))
                    .collect::<Result<_>>()?;
                let expected = to_bytes(&cpu::sum(&wide)?.to_dtype(dtype)?)?;
                for rank in 0..num_ranks {
                    assert!(given[round * num_ranks + rank] == expected, "{num_ranks} x {len}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn columns_are_put_side_by_side_by_every_rank() -> Result<()> {
    for num_ranks in [2, 3, 8] {
        for (rows, width) in [(1, 9), (3, 131), (4, 512)] {
            for offset in [0, 1] {
                let whole = tensor(7, &[rows, width], DType::F32, &Device::Cpu)?;
                let own = |rank| {
                    let columns = part(width, rank, num_ranks);
                    whole.narrow(1, columns.start, columns.len())?.contiguous()
                };
                let x: Vec<_> = (0..num_ranks).map(own).collect::<Result<_>>()?;
                let given = on_device(|device| {
                    let group = Group::new(device, num_ranks, 0);
                    let mut params = group.params();
                    (params.rows, params.width) = (rows as i32, width as i32);
                    params.columns = part(width, 0, num_ranks).len() as i32;
                    let bytes = rows * width * size_of::<f32>();
                    group.round(&plan_gather(), params, (&x, num_ranks, bytes), offset)
                })?;
                for given in given {
                    assert!(given == to_bytes(&whole)?, "{num_ranks} x [{rows}, {width}]");
                }
            }
        }
    }
    Ok(())
}

/// One of three ranks does not come: the others wait for ever, or not at all once the group is given up.
#[test]
fn nobody_waits_in_a_group_that_is_given_up() -> Result<()> {
    for is_given_up in [0, 1] {
        let x: Vec<_> = (0..2)
            .map(|rank| tensor(rank, &[64], DType::F32, &Device::Cpu))
            .collect::<Result<_>>()?;
        let ended = on_device(|device| {
            let group = Group::new(device, 3, is_given_up);
            let mut params = group.params();
            (params.columns, params.in_parts) = (64, 1);
            let (plan, _) = plan_sum(3, 64, DType::F32)?;
            let ended = group.round(&plan, params, (&x, 2, 256), 0);
            let error = ended.err().map(|error| error.to_string()).unwrap_or_default();
            Ok(vec![error.contains("deadlock").to_string().into_bytes()])
        })?;
        assert_eq!(ended, [(is_given_up == 0).to_string().into_bytes()]);
    }
    Ok(())
}

#[test]
fn large_tensors_take_rounds_that_fit() -> Result<()> {
    for columns in [1, 5, 18_992, 64_128, HALF_BYTES / 4] {
        let rows = rows_of_round(columns)?;
        let padded = columns.next_multiple_of(pack_len(DType::F32));
        assert!(rows * padded * size_of::<f32>() <= HALF_BYTES);
        assert!((rows + 1) * padded * size_of::<f32>() > HALF_BYTES);
    }
    assert!(message(rows_of_round(HALF_BYTES / 4 + 1)).contains("a rank gives at most 8388608"));
    // Of two ranks none is in parts, of more the large ones.
    let is_in_parts = |num_ranks, len| Ok::<_, Error>(plan_sum(num_ranks, len, DType::BF16)?.1);
    assert!(!is_in_parts(2, 1 << 22)? && !is_in_parts(8, 4096)? && is_in_parts(4, 1 << 20)?);
    Ok(())
}
