//! The CUDA kernel on the host against the CPU op.

use super::cuda::{ResolveParams, plan};
use super::{pending, resolve_ids};
use crate::cuda::testing::launch;
use crate::testing::ids;
use candle_core::{Device, Error, Result, Tensor};

fn run(given: &[u32], records: &[u32], width: usize) -> Result<Vec<u32>> {
    cuda_host::on_device(|device| {
        let (ids, records) = (device.filled(given), device.input(records));
        let params = ResolveParams {
            ids: ids.address(),
            records: records.address(),
            len: given.len() as i32,
            num_rows: (records.read().len() / width) as u32,
            width: width as i32,
        };
        launch(device, &plan(given.len()), &params).map_err(Error::wrap)?;
        Ok(ids.read())
    })
}

#[test]
fn the_kernel_equals_the_cpu() -> Result<()> {
    for (len, rows, width) in [(1, 1, 1), (6, 3, 5), (300, 40, 1), (1000, 256, 43)] {
        let mut records: Vec<u32> = (0..rows * width).map(|i| i * 31 % 997).collect();
        // The last row gave no token.
        records[((rows - 1) * width) as usize] = u32::MAX - 1;
        let given: Vec<u32> =
            (0..len).map(|i| if i % 3 == 0 { i } else { pending(i % rows) }).collect();
        let of_cpu = Tensor::from_slice(&records, (rows as usize, width as usize), &Device::Cpu)?;
        let expected = ids(&given, &Device::Cpu)?;
        resolve_ids(&expected, &of_cpu)?;
        assert_eq!(run(&given, &records, width as usize)?, expected.to_vec1::<u32>()?);
    }
    Ok(())
}

#[test]
fn faults_and_rows_beyond_the_records_are_id_0() -> Result<()> {
    let records = [5, u32::MAX, u32::MAX - 1, u32::MAX - 2];
    let given = [pending(0), pending(1), pending(2), pending(3), pending(4), u32::MAX, 9];
    assert_eq!(run(&given, &records, 1)?, [5, 0, 0, 0, 0, 0, 9]);
    Ok(())
}
