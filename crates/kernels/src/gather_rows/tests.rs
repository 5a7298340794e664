//! Rows by their ids against single reads.

use super::{gather_rows, gather_rows_of_part};
use crate::testing::{DTYPES, devices, ids, message, tensor, to_bits};
use candle_core::{DType, Device, Result};

#[test]
fn rows_are_those_of_the_table() -> Result<()> {
    for device in devices() {
        for dtype in DTYPES {
            for (rows, width) in [(1, 1), (7, 5), (40, 896), (300, 1024)] {
                let table = tensor(1, &[rows, width], dtype, &device)?;
                let wanted: Vec<u32> = (0..rows as u32 * 2).map(|i| i * 7 % rows as u32).collect();
                let gathered = gather_rows(&table, &ids(&wanted, &device)?)?;
                assert_eq!((gathered.dims(), gathered.dtype()), (&[2 * rows, width][..], dtype));
                for (i, &id) in wanted.iter().enumerate() {
                    let expected = to_bits(&table.get(id as usize)?)?;
                    assert_eq!(to_bits(&gathered.get(i)?)?, expected);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn no_ids_give_no_rows() -> Result<()> {
    for device in devices() {
        let table = tensor(1, &[3, 8], DType::F32, &device)?;
        assert_eq!(gather_rows(&table, &ids(&[], &device)?)?.dims(), [0, 8]);
    }
    Ok(())
}

#[test]
fn wrong_inputs_are_named() -> Result<()> {
    let table = tensor(1, &[4, 8], DType::F32, &Device::Cpu)?;
    let wanted = ids(&[1, 4], &Device::Cpu)?;
    assert!(message(gather_rows(&table, &wanted)).contains("row 4 is outside the table of 4"));
    let narrow = message(gather_rows(&table, &wanted.to_dtype(DType::U8)?));
    assert!(narrow.contains("ids must be [n] U32"), "{narrow}");
    let strided = message(gather_rows(&table.t()?, &wanted));
    assert!(strided.contains("the table must be contiguous"), "{strided}");
    assert!(message(gather_rows(&table.get(0)?, &wanted)).contains("must be [rows, width]"));
    Ok(())
}

/// The parts of a table give what all of it gives, if they are added.
#[test]
fn parts_have_the_rows_of_their_own_and_zeros() -> Result<()> {
    for device in devices() {
        let table = tensor(1, &[10, 8], DType::F32, &device)?;
        let wanted = ids(&[9, 0, 3, 4, 7, 4], &device)?;
        let of_part = |first: usize, len: usize| {
            gather_rows_of_part(&table.narrow(0, first, len)?, &wanted, first as u32)
        };
        let (head, tail) = (of_part(0, 4)?, of_part(4, 6)?);
        assert_eq!(to_bits(&head.get(0)?)?, [0; 8]);
        assert_eq!(to_bits(&tail.get(1)?)?, [0; 8]);
        assert_eq!(to_bits(&(head + tail)?)?, to_bits(&gather_rows(&table, &wanted)?)?);
    }
    Ok(())
}
