//! A mapped file without DAX: stores reach the disk by `msync`.
//!
//! # Contract
//! - **M1**: the region is a shared file mapping whose base is page-aligned.
//! - [`Pmem::flush`] notes the range; [`Pmem::fence`] writes every noted range of *all* threads to the disk before it
//!   returns. Slow (a disk write per fence), correct.
//! - A fence that the kernel refuses (disk error) cannot be reported through [`Pmem::fence`]; it is remembered and
//!   [`Msynced::failed`] says so from then on. The owner of the file checks it after each operation.

use crate::{Native, Pmem};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const PAGE: u64 = 4096;

/// A file mapping made durable by `msync`.
#[derive(Debug)]
pub struct Msynced {
    region: Native,
    /// The page-aligned ranges (start, end) flushed since the last fence.
    noted: Mutex<Vec<(u64, u64)>>,
    failed: AtomicBool,
}

impl Msynced {
    /// Takes a mapped file.
    ///
    /// # Safety
    /// As for [`Native::new`], and M1: a shared mapping of a file with a page-aligned base.
    #[must_use]
    pub const unsafe fn new(base: *mut u8, len: u64) -> Self {
        // SAFETY: the caller promises what `Native::new` needs.
        let region = unsafe { Native::new(base, len) };
        Self { region, noted: Mutex::new(Vec::new()), failed: AtomicBool::new(false) }
    }

    /// Whether any write to the disk failed since the start: nothing since then is known to be durable.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn note(&self, at: u64, len: u64) {
        if len == 0 {
            return;
        }
        let (start, end) = (at - at % PAGE, (at + len).next_multiple_of(PAGE).min(self.len()));
        let mut noted = self.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match noted.last_mut() {
            // Flushes come in runs: most extend or repeat the last range.
            Some(last) if start <= last.1 && end >= last.0 => {
                *last = (last.0.min(start), last.1.max(end));
            }
            _ => noted.push((start, end)),
        }
    }
}

impl Pmem for Msynced {
    crate::loads_and_stores_of!(region);
    crate::flushed_stores_of!(region);

    fn flush(&self, at: u64, len: u64) {
        assert!(len <= self.len() && at <= self.len() - len, "pmem flush outside its region");
        self.note(at, len);
    }

    /// Writes the noted ranges to the disk. The lock is held meanwhile, so that a second thread, whose range this
    /// one took over, cannot return before it is written.
    fn fence(&self) {
        let mut noted = self.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (start, end) in noted.drain(..) {
            #[allow(clippy::cast_possible_truncation, reason = "x86-64: usize is 64 bits")]
            let (address, len) = (self.region.base().wrapping_add(start as usize), (end - start) as usize);
            // SAFETY: the range was inside the region when noted and is mapped (N1 of `Native`, M1); msync changes
            // no memory.
            let result = unsafe { libc::msync(address.cast(), len, libc::MS_SYNC) };
            if result != 0 {
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }
}
