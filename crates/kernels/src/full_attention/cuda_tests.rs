//! The CUDA kernels, on the host, against the reference of the CPU op.

use super::FullAttention;
use super::cuda::{FullAttentionParams, Sizes, plan, window_and_factor};
use super::tests::{Case, HEADS, LENS, case, tolerance_of_tiles};
use crate::cuda::testing::{CUDA_DTYPES, Input, from_bytes, launch, on_device};
use crate::testing::{assert_close, ids, message, to_bits};
use candle_core::{DType, Device, Error, Result, Tensor};

fn run(case: &Case, args: &FullAttention, offset: usize) -> Result<Tensor> {
    let (tokens, width) = case.qkv.dims2()?;
    let dtype = case.qkv.dtype();
    let out = on_device(|device| {
        let qkv = Input::new(device, &case.qkv, offset)?;
        let starts = Input::new(device, args.starts, 0)?;
        let tables = args.rotary.map(|(cos, sin)| [cos, sin]).into_iter().flatten();
        let tables =
            tables.map(|table| Input::new(device, table, 1)).collect::<Result<Vec<_>>>()?;
        let out = device.output::<u8>(tokens * width / 3 * dtype.size_in_bytes());
        let (window, factor) = window_and_factor(args.window, args.scale);
        let params = FullAttentionParams {
            qkv: qkv.address(),
            starts: starts.address(),
            cos: tables.first().map_or(0, Input::address),
            sin: tables.last().map_or(0, Input::address),
            out: out.address(),
            num_heads: args.num_heads as i32,
            head_dim: (width / 3 / args.num_heads) as i32,
            window,
            factor,
        };
        let sizes = Sizes {
            num_seqs: args.starts.dims1()? - 1,
            max_len: args.max_len,
            num_heads: args.num_heads,
            head_dim: width / 3 / args.num_heads,
        };
        launch(device, &plan(sizes, dtype)?, &params).map_err(Error::wrap)?;
        Ok(vec![out.read()])
    })?;
    from_bytes(&out[0], &[tokens, width / 3], dtype)
}

#[test]
fn kernels_equal_the_reference() -> Result<()> {
    let variants = [(None, false, 0), (None, true, 1), (Some(3), true, 0), (Some(40), false, 1)];
    for (i, dtype) in CUDA_DTYPES.into_iter().enumerate() {
        for (j, heads) in HEADS.into_iter().enumerate() {
            let case = case(heads, dtype, &Device::Cpu)?;
            // Each with each other one, half of all threes.
            for (window, rotates, offset) in variants.into_iter().skip((i + j) % 2).step_by(2) {
                let args = case.args(window, rotates);
                let y = run(&case, &args, offset)?;
                assert_close(&y, &case.reference(&args)?, tolerance_of_tiles(rotates));
            }
        }
    }
    Ok(())
}

#[test]
fn a_sequence_is_the_same_in_any_batch() -> Result<()> {
    for dtype in CUDA_DTYPES {
        let mut case = case((2, 32), dtype, &Device::Cpu)?;
        let all = run(&case, &case.args(Some(20), true), 0)?;
        let (whole, mut start) = (case.qkv.clone(), 0);
        for len in LENS {
            case.qkv = whole.narrow(0, start, len)?;
            case.starts = ids(&[0, len as u32], &Device::Cpu)?;
            let alone = run(&case, &case.args(Some(20), true), 0)?;
            assert_eq!(to_bits(&alone)?, to_bits(&all.narrow(0, start, len)?)?, "{len}");
            start += len;
        }
    }
    Ok(())
}

#[test]
fn heads_that_no_kernel_takes_are_refused() {
    let sizes = Sizes { num_seqs: 1, max_len: 5, num_heads: 2, head_dim: 257 };
    assert!(message(plan(sizes, DType::BF16)).contains("heads of 257"));
}
