//! The CUDA kernels on the host against the CPU op.

use super::cuda::{GatherParams, plan};
use super::{gather_rows, gather_rows_of_part};
use crate::cuda::testing::{CUDA_DTYPES, Input, launch, on_device, to_bytes};
use crate::testing::{ids, tensor};
use candle_core::{DType, Device, Error, Result, Tensor};

fn run(table: &Tensor, wanted: &[u32], first_row: u32, offset: usize) -> Result<Vec<u8>> {
    let (num_rows, width) = table.dims2()?;
    let row_bytes = width * table.dtype().size_in_bytes();
    let out = on_device(|device| {
        let table = Input::new(device, table, offset)?;
        let ids = Input::new(device, &ids(wanted, &Device::Cpu)?, 1)?;
        let out = device.output::<u8>(wanted.len() * row_bytes);
        let params = GatherParams {
            table: table.address(),
            ids: ids.address(),
            out: out.address(),
            num_rows: num_rows as u32,
            first_row,
            row_bytes: row_bytes as i32,
        };
        launch(device, &plan(wanted.len(), &params), &params).map_err(Error::wrap)?;
        Ok(vec![out.read()])
    })?;
    Ok(out.concat())
}

#[test]
fn kernels_equal_the_cpu_and_give_zeros_beyond_the_table() -> Result<()> {
    for dtype in CUDA_DTYPES {
        for (rows, width) in [(1, 1), (7, 5), (9, 896), (5, 4104)] {
            for offset in [0, 1] {
                let table = tensor(1, &[rows, width], dtype, &Device::Cpu)?;
                let wanted: Vec<u32> = (0..rows as u32 * 2).map(|i| i * 3 % rows as u32).collect();
                let row_bytes = width * dtype.size_in_bytes();
                let mut given =
                    run(&table, &[&wanted[..], &[rows as u32, u32::MAX]].concat(), 0, offset)?;
                let beyond = given.split_off(wanted.len() * row_bytes);
                assert!(beyond.iter().all(|&byte| byte == 0));
                // Widened, since the CPU op takes no f16: no bits are lost.
                let wide = gather_rows(&table.to_dtype(DType::F32)?, &ids(&wanted, &Device::Cpu)?)?;
                assert_eq!(given, to_bytes(&wide.to_dtype(dtype)?)?);
            }
        }
    }
    Ok(())
}

#[test]
fn parts_of_a_table_give_zeros_for_the_rows_of_others() -> Result<()> {
    let table = tensor(1, &[4, 24], DType::BF16, &Device::Cpu)?;
    let wanted = [0, 9, 10, 13, 14, u32::MAX];
    let expected = gather_rows_of_part(&table, &ids(&wanted, &Device::Cpu)?, 10)?;
    assert_eq!(run(&table, &wanted, 10, 0)?, to_bytes(&expected)?);
    Ok(())
}
