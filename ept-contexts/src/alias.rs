//! Host virtual memory behind a window.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// What the second stage allows. Execute is not here: KVM gives it with read, and the first stage withholds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Loads.
    Read,
    /// Loads and stores.
    ReadWrite,
}

impl Protection {
    const fn flags(self) -> i32 {
        match self {
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// The host refused a mapping.
#[derive(Debug, thiserror::Error)]
pub enum AliasError {
    /// A range that is not inside of the alias; a bug of the caller, caught here because memory safety depends on it (I2).
    #[error("range {start:#x}+{bytes:#x} is outside of the alias ({size:#x} bytes)")]
    Outside {
        /// First byte, from the start of the alias.
        start: u64,
        /// Bytes.
        bytes: u64,
        /// Size of the alias.
        size: u64,
    },
    /// `mmap` or `mprotect` failed. ENOMEM mostly means that `vm.max_map_count` is reached.
    #[error("{call} of {bytes:#x} bytes failed (a limit is `sysctl vm.max_map_count`)")]
    Host {
        /// The system call.
        call: &'static str,
        /// Bytes.
        bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A stretch of address space, given back when the last holder drops it. Whoever tells KVM its address holds one.
#[derive(Debug)]
pub struct Reservation {
    start: NonNull<u8>,
    bytes: u64,
}

// SAFETY: plain address space, which nobody dereferences here; it changes through `&mut Alias` only.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

/// A reservation of address space; accessible only where something was mapped into it.
#[derive(Debug)]
pub struct Alias(Arc<Reservation>);

impl Alias {
    /// Reserves `bytes`, a multiple of 2 MiB, aligned so that huge pages stay possible.
    ///
    /// # Errors
    /// [`AliasError::Host`] when there is no such stretch of address space.
    pub fn reserve(bytes: u64) -> Result<Self, AliasError> {
        const ALIGN: u64 = 1 << 30;
        let failed = |source| AliasError::Host { call: "mmap", bytes, source };
        let length = usize::try_from(bytes + ALIGN).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the host's choice disturbs nothing.
        let found = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if found == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let aligned = (found as u64).next_multiple_of(ALIGN);
        let start =
            NonNull::new(aligned as *mut u8).ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
        // Give back what alignment left over at both ends.
        let head = aligned - found as u64;
        release(found as u64, head);
        release(aligned + bytes, ALIGN - head);
        Ok(Self(Arc::new(Reservation { start, bytes })))
    }

    /// Host address of the first byte, for the memslot.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0.start.as_ptr() as u64
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Keeps the address space reserved beyond the alias's own life.
    pub(crate) fn reservation(&self) -> Arc<Reservation> {
        Arc::clone(&self.0)
    }

    /// Maps `bytes` of `file` from `file_offset` at `start`, in place of what was there. The caller keeps the extent leased (I1).
    ///
    /// # Errors
    /// [`AliasError::Outside`]; [`AliasError::Host`], after which the range holds nothing new.
    pub fn map(
        &mut self,
        start: u64,
        file: BorrowedFd<'_>,
        file_offset: u64,
        bytes: u64,
        protection: Protection,
    ) -> Result<(), AliasError> {
        let at = self.inside(start, bytes)?;
        let failed = |source| AliasError::Host { call: "mmap", bytes, source };
        let offset =
            libc::off_t::try_from(file_offset).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: I2, `at` lies in our reservation, which nobody references; the pages are reached by guests only.
        let mapped =
            unsafe { libc::mmap(at, bytes_of(bytes), protection.flags(), flags, file.as_raw_fd(), offset) };
        if mapped == libc::MAP_FAILED { Err(failed(io::Error::last_os_error())) } else { Ok(()) }
    }

    /// Changes what is allowed on a mapped range. Complete on every hart when it returns.
    ///
    /// # Errors
    /// As [`Alias::map`].
    pub fn protect(&mut self, start: u64, bytes: u64, protection: Protection) -> Result<(), AliasError> {
        let at = self.inside(start, bytes)?;
        // SAFETY: I2.
        match unsafe { libc::mprotect(at, bytes_of(bytes), protection.flags()) } {
            0 => Ok(()),
            _ => Err(AliasError::Host { call: "mprotect", bytes, source: io::Error::last_os_error() }),
        }
    }

    /// Takes a range away. Complete on every hart when it returns; only then may the extents be used for something else.
    ///
    /// # Errors
    /// As [`Alias::map`].
    pub fn clear(&mut self, start: u64, bytes: u64) -> Result<(), AliasError> {
        let at = self.inside(start, bytes)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: I2.
        let mapped = unsafe { libc::mmap(at, bytes_of(bytes), libc::PROT_NONE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(AliasError::Host { call: "mmap", bytes, source: io::Error::last_os_error() });
        }
        Ok(())
    }

    fn inside(&self, start: u64, bytes: u64) -> Result<*mut libc::c_void, AliasError> {
        match start.checked_add(bytes) {
            Some(end) if end <= self.bytes() && bytes > 0 => {
                Ok((self.address() + start) as *mut libc::c_void)
            }
            _ => Err(AliasError::Outside { start, bytes, size: self.bytes() }),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        release(self.start.as_ptr() as u64, self.bytes);
    }
}

/// Gives address space of a reservation back.
fn release(start: u64, bytes: u64) {
    if bytes > 0 {
        // SAFETY: called with parts of a reservation only, which nobody uses any more: those that alignment left over, and all of
        // it when its last holder is gone.
        unsafe { libc::munmap(start as *mut libc::c_void, bytes_of(bytes)) };
    }
}

/// A size that was found to lie in an existing mapping, so it fits.
#[allow(clippy::cast_possible_truncation, reason = "64-bit hosts only; the range was checked")]
const fn bytes_of(bytes: u64) -> usize {
    bytes as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn refuses_what_is_outside() {
        let mut alias = Alias::reserve(4 << 20).expect("address space");
        let file = std::fs::File::open("/dev/zero").expect("/dev/zero");
        for (start, bytes) in [(4 << 20, 4096), (u64::MAX, 4096), (0, 5 << 20), (0, 0)] {
            let result = alias.map(start, file.as_fd(), 0, bytes, Protection::Read);
            assert!(matches!(result, Err(AliasError::Outside { .. })), "{start:#x}+{bytes:#x}");
            assert!(matches!(alias.clear(start, bytes), Err(AliasError::Outside { .. })));
            assert!(matches!(alias.protect(start, bytes, Protection::Read), Err(AliasError::Outside { .. })));
        }
    }

    #[test]
    fn is_aligned_for_huge_pages() {
        let alias = Alias::reserve(2 << 20).expect("address space");
        assert_eq!(alias.address() % (1 << 30), 0);
    }
}
