//! One slice written by several threads, each its own ranges.

use std::marker::PhantomData;
use std::ops::Range;

/// A slice of which threads take ranges that never overlap.
pub(crate) struct DisjointMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&mut [T]` to other threads, which `T: Send` permits; that these do not
// overlap is the duty of the caller of `slice`.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// # Safety
    /// While the returned slice lives no other call may name any of its elements.
    #[expect(clippy::mut_from_ref, reason = "that is the purpose; the caller keeps ranges apart")]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range out of bounds");
        // SAFETY: in bounds by the assertion, borrowed by nobody else by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
