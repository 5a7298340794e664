//! On the CPU: a look-up.

use super::PENDING;
use crate::sample::is_fault;
use candle_core::{Result, bail};

/// records `[rows, width]`
pub(super) fn resolve(ids: &[u32], records: &[u32], width: usize) -> Result<Vec<u32>> {
    let resolve = |&id: &u32| {
        if id & PENDING == 0 {
            return Ok(id);
        }
        let row = (id & !PENDING) as usize;
        match records.get(row * width) {
            Some(&word) => Ok(if is_fault(word) { 0 } else { word }),
            None => bail!("row {row} is beyond the {} of the records", records.len() / width),
        }
    };
    ids.iter().map(resolve).collect()
}
