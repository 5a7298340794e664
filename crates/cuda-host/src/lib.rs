//! Runs the CUDA kernels of `crates/kernels` on the host, in tests.
//!
//! The kernels are compiled by the host's compiler against `shim/`: the threads of a block are
//! fibers, barriers and warp functions are where they change. A launch that touches memory outside
//! its buffers, writes to an input, misaligns an access, or waits for a thread that has returned is
//! an error that names kernel, block and thread.
//!
//! [`on_device`] runs a test's body several times: memory that nobody wrote holds another value,
//! buffers end or start at guard pages, threads and blocks run in another order, asynchronous copies
//! arrive at once or late. What comes out must be the same bits.

#![expect(unsafe_code, reason = "calls the shim, and hands memory to it")]

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::marker::PhantomData;
use std::{fmt, ptr, slice};

unsafe extern "C" {
    fn sconce_allocate(
        size: usize,
        at_end: bool,
        poison: u8,
        data: *mut *mut c_void,
    ) -> *mut c_void;
    fn sconce_protect(handle: *mut c_void);
    fn sconce_is_clean(handle: *mut c_void) -> bool;
    fn sconce_free(handle: *mut c_void);
    fn sconce_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: usize,
        params: *const c_void,
        params_size: usize,
        poison: u8,
        is_backward: bool,
        is_cooperative: bool,
        error: *mut c_char,
        error_size: usize,
    ) -> i32;
    static sconce_kernel_files: [*const c_char; 1];
}

/// A launch went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchError(String);

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LaunchError {}

/// Plain data that a device may hold: any bits are a value.
///
/// # Safety
/// Every bit pattern must be valid.
pub unsafe trait Plain: Copy {}

// SAFETY: all bits are values.
unsafe impl Plain for u8 {}
// SAFETY: all bits are values.
unsafe impl Plain for u16 {}
// SAFETY: all bits are values.
unsafe impl Plain for u32 {}
// SAFETY: all bits are values.
unsafe impl Plain for i32 {}
// SAFETY: all bits are values.
unsafe impl Plain for u64 {}
// SAFETY: all bits are values.
unsafe impl Plain for f32 {}
// SAFETY: all bits are values.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// How one run differs from the others.
#[derive(Debug, Clone, Copy)]
struct Mode {
    poison: u8,
    ends_at_guard: bool,
    is_backward: bool,
}

/// All ones are NaN in every float; the other is a small number.
const MODES: [Mode; 2] = [
    Mode { poison: 0xff, ends_at_guard: true, is_backward: false },
    Mode { poison: 0x3c, ends_at_guard: false, is_backward: true },
];

/// Runs a body in every mode and returns what it gave.
///
/// # Panics
/// If the modes do not give the same: the kernel reads what nobody wrote, or its threads race.
pub fn on_device<T: PartialEq + fmt::Debug, E>(
    body: impl Fn(&Device) -> Result<T, E>,
) -> Result<T, E> {
    let first = body(&Device { mode: MODES[0] })?;
    for mode in &MODES[1..] {
        let other = body(&Device { mode: *mode })?;
        assert!(
            first == other,
            "the result depends on memory that nobody wrote, or on the order of threads"
        );
    }
    Ok(first)
}

/// Where buffers live and kernels run.
#[derive(Debug)]
pub struct Device {
    mode: Mode,
}

impl Device {
    /// An input: a kernel that writes to it fails.
    pub fn input<T: Plain>(&self, values: &[T]) -> Buffer<T> {
        let buffer = self.filled(values);
        // SAFETY: the handle is the buffer's.
        unsafe { sconce_protect(buffer.handle) };
        buffer
    }

    /// Memory that a kernel may read and write.
    pub fn filled<T: Plain>(&self, values: &[T]) -> Buffer<T> {
        let buffer = self.output(values.len());
        // SAFETY: the buffer is as long and was made just now.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), buffer.data, values.len()) };
        buffer
    }

    /// Memory that nobody wrote.
    pub fn output<T: Plain>(&self, len: usize) -> Buffer<T> {
        let mut data = ptr::null_mut();
        let Mode { poison, ends_at_guard, .. } = self.mode;
        // SAFETY: it allocates; `data` is written before it returns.
        let handle =
            unsafe { sconce_allocate(len * size_of::<T>(), ends_at_guard, poison, &raw mut data) };
        assert!(!handle.is_null(), "the system gives no memory");
        Buffer { handle, data: data.cast(), len, owner: PhantomData }
    }

    /// Runs a kernel to its end, block after block.
    ///
    /// # Errors
    /// No such kernel, parameters of another size, a launch that the device would refuse, and
    /// whatever the kernel does wrong.
    pub fn launch<P>(
        &self,
        function: &str,
        grid_and_block: ([u32; 3], [u32; 3]),
        shared_bytes: u32,
        params: &P,
    ) -> Result<(), LaunchError> {
        self.run(function, grid_and_block, shared_bytes, params, false)
    }

    /// Runs a kernel whose blocks wait for each other to its end: up to 1,024 threads in all.
    ///
    /// # Errors
    /// As [`launch`](Self::launch), and more threads.
    pub fn launch_cooperative<P>(
        &self,
        function: &str,
        grid_and_block: ([u32; 3], [u32; 3]),
        shared_bytes: u32,
        params: &P,
    ) -> Result<(), LaunchError> {
        self.run(function, grid_and_block, shared_bytes, params, true)
    }

    fn run<P>(
        &self,
        function: &str,
        (grid, block): ([u32; 3], [u32; 3]),
        shared_bytes: u32,
        params: &P,
        is_cooperative: bool,
    ) -> Result<(), LaunchError> {
        let name = CString::new(function).map_err(|error| LaunchError(error.to_string()))?;
        let mut error = [0u8; 512];
        // SAFETY: an array of the linked kernel files, which it links by being named.
        let has_files = unsafe { !sconce_kernel_files[0].is_null() };
        assert!(has_files, "no kernel was compiled");
        // SAFETY: all pointers are to live values of the sizes given.
        let status = unsafe {
            sconce_launch(
                name.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                shared_bytes as usize,
                ptr::from_ref(params).cast(),
                size_of::<P>(),
                self.mode.poison,
                self.mode.is_backward,
                is_cooperative,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&error).map(CStr::to_string_lossy);
        Err(LaunchError(text.unwrap_or_default().into_owned()))
    }
}

/// Device memory between guard pages.
#[derive(Debug)]
pub struct Buffer<T> {
    handle: *mut c_void,
    data: *mut T,
    len: usize,
    // Kernels write through raw addresses: not to be shared between threads.
    owner: PhantomData<Cell<T>>,
}

impl<T: Plain> Buffer<T> {
    /// Address of the first element, as a kernel's parameter.
    pub fn address(&self) -> u64 {
        self.data.addr() as u64
    }

    /// What it holds.
    ///
    /// # Panics
    /// If something was written beside it.
    pub fn read(&self) -> Vec<T> {
        // SAFETY: the handle is the buffer's.
        assert!(unsafe { sconce_is_clean(self.handle) }, "a kernel wrote beside a buffer");
        // SAFETY: allocated with this length; whatever it holds is a value; no launch is running.
        unsafe { slice::from_raw_parts(self.data, self.len) }.to_vec()
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: the handle is the buffer's, and not used again.
        unsafe { sconce_free(self.handle) };
    }
}
