//! Sums on the CPU: one pass, in parallel.

use crate::pool::for_each_row;
use crate::simd::{Element, Kernel, LANES, Lanes, PIECE, dispatch, load_at, store_at};
use crate::views::slice;
use candle_core::{CpuStorage, Layout, Result};

pub(super) fn add<E: Element>(
    (x, x_layout): (&CpuStorage, &Layout),
    (y, y_layout): (&CpuStorage, &Layout),
) -> Result<CpuStorage> {
    let x: &[E] = slice(x, x_layout, "x")?;
    let y: &[E] = slice(y, y_layout, "y")?;
    let mut out = vec![E::default(); x.len()];
    for_each_row(&mut out, PIECE, x.len(), |piece, out| {
        let range = piece * PIECE..piece * PIECE + out.len();
        dispatch(AddRow { x: &x[range.clone()], y: &y[range], out });
    });
    Ok(E::to_cpu_storage_owned(out))
}

/// Three rows of one length.
pub(crate) struct AddRow<'a, E> {
    pub(crate) x: &'a [E],
    pub(crate) y: &'a [E],
    pub(crate) out: &'a mut [E],
}

impl<E: Element> Kernel for AddRow<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        for i in (0..self.out.len()).step_by(LANES) {
            let sum = load_at::<V, E>(self.x, i).add(load_at(self.y, i));
            store_at(sum, self.out, i);
        }
    }
}
