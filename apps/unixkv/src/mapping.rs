//! A file as memory.

use crate::Error;
use libtwz::Invariant;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a cache line, and in a page.
const LINE: usize = 64;
const PAGE: usize = 4096;

/// A whole file, mapped shared. Words are read and written atomically: other processes may have it mapped, too.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    /// Whether stores are flushed line by line, as on persistent memory; otherwise the page cache is what survives.
    flushes: bool,
    is_writable: bool,
    _file: File,
}

// SAFETY: the memory is accessed by atomic words only, and lives as long as the mapping.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Opens or makes the file at `path`, sizes it and maps it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(path: &Path, bytes: usize, flushes: bool) -> Result<Self, Error> {
        let failed = |source| Error::File { path: path.to_path_buf(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.map_err(failed)?;
        let bytes = bytes.max(usize::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(0)) & !7;
        file.set_len(bytes as u64).map_err(failed)?;
        Self::of(file, bytes, flushes, true).map_err(failed)
    }

    /// Opens the file at `path` for reading and maps it; to store in it is a fault.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(failed)?;
        let bytes = usize::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(0) & !7;
        Self::of(file, bytes, false, false).map_err(failed)
    }

    fn of(file: File, bytes: usize, flushes: bool, is_writable: bool) -> std::io::Result<Self> {
        let writing = if is_writable { libc::PROT_WRITE } else { 0 };
        let (protection, shared) = (libc::PROT_READ | writing, libc::MAP_SHARED);
        // SAFETY: a new mapping where the kernel likes it disturbs nothing.
        let got = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, shared, file.as_raw_fd(), 0) };
        match NonNull::new(got.cast::<u8>()) {
            Some(base) if got != libc::MAP_FAILED => {
                Ok(Self { base, bytes, flushes, is_writable, _file: file })
            }
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// Whether the file may be written.
    #[inline]
    pub(crate) const fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Its size.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The address of offset 0.
    #[must_use]
    pub fn base(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// The word at `at`, rounded down to a multiple of 8.
    ///
    /// # Panics
    /// Outside the file: check offsets that come out of one.
    #[inline]
    #[must_use]
    pub fn word(&self, at: usize) -> &AtomicU64 {
        let at = at & !7;
        assert!(at < self.bytes, "offset {at} of a file of {} bytes", self.bytes);
        // SAFETY: inside the mapping (checked; its size is a multiple of 8), aligned, and any bits are a value.
        unsafe { &*self.base.as_ptr().wrapping_add(at).cast::<AtomicU64>() }
    }

    /// What stands at `at`, if it lies inside.
    #[inline]
    pub(crate) fn at<T: Invariant>(&self, at: usize) -> Option<&T> {
        let is_inside = at <= self.bytes.checked_sub(size_of::<T>())? && at.is_multiple_of(align_of::<T>());
        // SAFETY: inside the mapping, which begins with a page, and aligned; any bits are a `T`. The types that are read so consist of cells.
        is_inside.then(|| unsafe { &*self.base.as_ptr().wrapping_add(at).cast::<T>() })
    }

    /// Makes pages present, so that who stores there first waits for none. Only a hint.
    pub(crate) fn populate(&self, at: usize, bytes: usize) {
        let (first, end) = (at & !(PAGE - 1), at.saturating_add(bytes).min(self.bytes));
        let address = self.base.as_ptr().wrapping_add(first);
        // SAFETY: pages of the mapping; their contents stay as they are.
        unsafe { libc::madvise(address.cast(), end.saturating_sub(first), libc::MADV_POPULATE_WRITE) };
    }

    /// Has the line at `at` fetched, which will be stored to. Only a hint.
    #[inline]
    pub(crate) fn expect_store(&self, at: usize) {
        let line = self.base.as_ptr().wrapping_add(at);
        // SAFETY: a prefetch changes no value and never faults, wherever it is.
        unsafe {
            core::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly))
        };
    }

    /// Loads a word.
    #[inline]
    #[must_use]
    pub fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Relaxed)
    }

    /// Stores a word.
    #[inline]
    pub fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    /// Starts writing lines back; durable after [`Mapping::fence`].
    #[inline]
    pub fn flush(&self, at: usize, bytes: usize) {
        if !self.flushes {
            return;
        }
        for line in (at & !(LINE - 1)..(at + bytes).min(self.bytes)).step_by(LINE) {
            let line = self.base.as_ptr().wrapping_add(line);
            if has_clwb() {
                // SAFETY: writing a line of the mapping back changes no value; the processor has the instruction.
                unsafe { core::arch::asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags)) };
            } else {
                // SAFETY: as above; every x86-64 has it.
                unsafe { core::arch::asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)) };
            }
        }
    }

    /// Waits until what was flushed is durable.
    #[inline]
    pub fn fence(&self) {
        if self.flushes {
            // SAFETY: a fence has no operands.
            unsafe { core::arch::asm!("sfence", options(nostack, preserves_flags)) };
        }
    }
}

/// CPUID leaf 7: EBX bit 24 (Intel SDM vol. 2A), asked once.
#[inline]
fn has_clwb() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| std::arch::x86_64::__cpuid_count(7, 0).ebx & 1 << 24 != 0)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; references into it borrow `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
