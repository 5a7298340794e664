//! The bytes of a safetensors file: mapped from disk or embedded in the binary.
#![expect(unsafe_code, reason = "mapping a file, and dropping its pages again")]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Advice, Mmap, UncheckedAdvice};

/// A read-only file image.
pub(super) enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl Bytes {
    /// Maps a file. Nothing is read until it is touched.
    pub(super) fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only and private to this process. A checkpoint must not be
        // written or cut short while it loads (every mapping loader asks for that): the kernel
        // would answer a read past the new end with SIGBUS, never with other memory.
        let map = unsafe { Mmap::map(&file)? };
        // A hint: without it the kernel reads ahead less, nothing else changes.
        let _ = map.advise(Advice::Sequential);
        Ok(Self::Mapped(map))
    }

    /// Drops the pages of `range` from this process; reading them again would map them anew.
    /// Without this the mapped checkpoint would count towards our memory beside the loaded weights.
    pub(super) fn release(&self, range: Range<usize>) {
        assert!(range.end <= self.len(), "released range {range:?} lies beyond the file");
        if let Self::Mapped(map) = self {
            // SAFETY: the pages belong to a read-only file mapping, so dropping them loses no
            // writes and a later read finds the same bytes.
            let _ = unsafe {
                map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}
