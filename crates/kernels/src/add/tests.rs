//! Sums against those of the widened elements.

use super::add;
use crate::testing::{kinds, message, tensor, to_bits};
use candle_core::{DType, Device, Result};

#[test]
fn equals_the_rounded_sum() -> Result<()> {
    for (device, dtype) in kinds() {
        // Less than a vector, one piece and a rest, and enough for several threads.
        for dims in [&[7][..], &[3, 345], &[130, 1027]] {
            let x = tensor(1, dims, dtype, &device)?;
            let y = tensor(2, dims, dtype, &device)?;
            let sum = add(&x, &y)?;
            let expected = (x.to_dtype(DType::F32)? + y.to_dtype(DType::F32)?)?;
            assert_eq!((sum.dims(), sum.dtype()), (dims, dtype));
            assert_eq!(to_bits(&sum)?, to_bits(&expected.to_dtype(dtype)?)?);
        }
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let x = tensor(1, &[4, 8], DType::F32, &Device::Cpu)?;
    assert!(message(add(&x, &x.narrow(0, 0, 3)?)).contains("y must have shape"));
    assert!(message(add(&x, &x.to_dtype(DType::BF16)?)).contains("y must be F32"));
    assert!(message(add(&x.t()?, &x.t()?)).contains("x must be contiguous"));
    Ok(())
}
