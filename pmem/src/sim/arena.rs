//! Zeroed memory of any size that costs what is touched.

use crate::Native;
use crate::Pmem;
use memmap2::{MmapMut, MmapOptions};

/// Private anonymous memory, read and written only through a [`Native`] region.
#[derive(Debug)]
pub(crate) struct Arena {
    region: Native,
    /// Keeps the region mapped.
    _map: MmapMut,
}

impl Arena {
    pub(crate) fn new(len: u64) -> Self {
        let len = len.max(1).next_multiple_of(4096);
        #[allow(clippy::cast_possible_truncation, reason = "x86-64: usize is 64 bits")]
        let map = MmapOptions::new().len(len as usize).no_reserve_swap().map_anon();
        #[allow(clippy::expect_used, reason = "test support: without memory there is no test")]
        let mut map = map.expect("address space for simulated memory");
        // SAFETY: the mapping is page-aligned, `len` long, lives as long as the region (both are in this struct), and
        // is never used as a slice.
        let region = unsafe { Native::new(map.as_mut_ptr(), len) };
        Self { region, _map: map }
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.region.base()
    }

    pub(crate) fn len(&self) -> u64 {
        self.region.len()
    }

    #[inline]
    pub(crate) fn load(&self, at: u64) -> u64 {
        self.region.load(at)
    }

    #[inline]
    pub(crate) fn store(&self, at: u64, value: u64) {
        self.region.store(at, value);
    }

    #[inline]
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) {
        self.region.read(at, into);
    }
}
