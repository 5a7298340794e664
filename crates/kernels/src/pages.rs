//! How large buffers lie in memory.

/// Asks for huge pages behind a buffer that is read from end to end, and not yet written: with pages
/// of 4 kB the translation of addresses costs a good part of the bandwidth.
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
