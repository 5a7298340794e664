//! Rows by their ids on the CPU, in parallel.

use crate::pool::for_each_row;
use crate::simd::Element;
use crate::views::slice;
use candle_core::{CpuStorage, Layout, Result, bail};

/// table `[rows, width]`, ids `[n]`, to `[n, width]`. Of a part of a table, that from a row on, ids of other parts
/// give zeros.
pub(super) fn gather_rows<E: Element>(
    (table, table_layout): (&CpuStorage, &Layout),
    (ids, ids_layout): (&CpuStorage, &Layout),
    part_from: Option<u32>,
) -> Result<CpuStorage> {
    let table: &[E] = slice(table, table_layout, "the table")?;
    let ids: &[u32] = slice(ids, ids_layout, "ids")?;
    let (num_rows, width) = table_layout.shape().dims2()?;
    let is_beyond = |id: &&u32| part_from.is_none() && **id as usize >= num_rows;
    if let Some(id) = ids.iter().find(is_beyond) {
        bail!("row {id} is outside the table of {num_rows}");
    }
    let mut out = vec![E::default(); ids.len() * width];
    let work = out.len();
    for_each_row(&mut out, width, work, |i, row| {
        let id = ids[i].wrapping_sub(part_from.unwrap_or_default()) as usize;
        if id < num_rows {
            row.copy_from_slice(&table[id * width..][..width]);
        }
    });
    Ok(E::to_cpu_storage_owned(out))
}
