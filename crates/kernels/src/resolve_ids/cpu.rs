//! On the CPU: a look-up.

use super::PENDING;
use crate::sample::is_fault;
use candle_core::{Result, bail};

/// records `[rows, width]`
pub(super) fn resolve(ids: &mut [u32], records: &[u32], width: usize) -> Result<()> {
    for id in ids.iter_mut().filter(|id| **id & PENDING != 0) {
        let row = (*id & !PENDING) as usize;
        *id = match records.get(row * width) {
            Some(&word) if is_fault(word) => 0,
            Some(&word) => word,
            None => bail!("row {row} is beyond the {} of the records", records.len() / width),
        };
    }
    Ok(())
}
