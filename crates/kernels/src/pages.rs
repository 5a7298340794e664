//! How large buffers lie in memory.

use memmap2::MmapMut;
use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

/// Of a huge page.
const HUGE: usize = 2 << 20;

/// A slice in pages of its own, huge ones where the system has some: with pages of 4 kB the translation
/// of addresses costs a good part of the bandwidth. Memory of an allocator may have been written before,
/// and then stays in the small pages that it got.
#[derive(Debug)]
pub struct Pages<T> {
    map: MmapMut,
    /// Of the first element in it, in bytes.
    start: usize,
    len: usize,
    elements: PhantomData<T>,
}

impl<T> Pages<MaybeUninit<T>> {
    /// Ends the process if there is no memory, as [`Box`] does.
    pub fn new(len: usize) -> Self {
        const { assert!(align_of::<T>() <= HUGE && !std::mem::needs_drop::<T>()) };
        let layout = Layout::array::<T>(len).expect("a slice has less than half of all addresses");
        // What is skipped up to a whole page is never touched.
        let map =
            MmapMut::map_anon(layout.size() + HUGE).unwrap_or_else(|_| handle_alloc_error(layout));
        let start = map.as_ptr().align_offset(HUGE);
        let pages = Self { map, start, len, elements: PhantomData };
        advise_huge_pages(&pages);
        pages
    }

    /// # Safety
    /// Every element must have been written.
    pub unsafe fn assume_init(self) -> Pages<T> {
        Pages { map: self.map, start: self.start, len: self.len, elements: PhantomData }
    }
}

impl<T> Deref for Pages<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `new` made room for so many elements behind `start`, which is aligned; that they are
        // what T says is the promise of `assume_init`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start).cast(), self.len) }
    }
}

impl<T> DerefMut for Pages<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.start).cast(), self.len)
        }
    }
}

/// Asks for huge pages behind a buffer that is read from end to end, and not yet written.
#[cfg(target_os = "linux")]
pub fn advise_huge_pages<T>(buffer: &[T]) {
    const PAGE: usize = 4096;
    let start = buffer.as_ptr().addr().next_multiple_of(PAGE);
    let end = (buffer.as_ptr().addr() + size_of_val(buffer)) / PAGE * PAGE;
    if start < end {
        let address = buffer.as_ptr().with_addr(start).cast_mut().cast();
        // SAFETY: whole pages inside the allocation, and the advice does not change what they
        // hold. That it may be refused is no loss but of speed.
        unsafe { libc::madvise(address, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Elsewhere the system decides.
#[cfg(not(target_os = "linux"))]
pub fn advise_huge_pages<T>(_buffer: &[T]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_aligned_and_keep_what_was_written() {
        for len in [0, 1, 1000, 3 << 20] {
            let mut pages = Pages::<MaybeUninit<u32>>::new(len);
            assert!(pages.as_ptr().addr().is_multiple_of(HUGE));
            for (i, element) in pages.iter_mut().enumerate() {
                element.write(i as u32);
            }
            // SAFETY: all were written.
            let pages = unsafe { pages.assume_init() };
            assert!(pages.iter().copied().eq(0..len as u32));
        }
    }
}
