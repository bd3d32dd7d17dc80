//! Host memory that a probe guest sees: one `mmap`, unmapped when dropped.
//!
//! # Contract
//! - **M1**: `start..start + len` is mapped, and by this value only, for as long as it lives.
//! - **M2**: the guest runs only inside `KVM_RUN`, on the thread that owns the mapping, so a copy by the host never
//!   meets an access by the guest.
//! - Copies are bounds-checked against `len`; a mapping whose protection forbids the copy must not be copied to,
//!   so [`Mapping::protect`] takes the mapping mutably and records what is allowed.

use crate::lab::Trouble;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;

/// What the host lets KVM do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// `PROT_NONE`
    None,
    /// `PROT_READ`
    Read,
    /// `PROT_READ | PROT_WRITE`
    ReadWrite,
}

impl Protection {
    fn flags(self) -> libc::c_int {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// A mapping owned by this value.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    protection: Protection,
}

impl Mapping {
    /// Maps `len` bytes of zeroes that cost no memory until touched.
    pub(crate) fn anonymous(len: usize, protection: Protection) -> Result<Self, Trouble> {
        Self::map(len, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1)
    }

    /// Maps the first `len` bytes of `file`, shared.
    pub(crate) fn of_file(file: &File, len: usize, protection: Protection) -> Result<Self, Trouble> {
        Self::map(len, protection, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(
        len: usize,
        protection: Protection,
        flags: libc::c_int,
        descriptor: libc::c_int,
    ) -> Result<Self, Trouble> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no existing one.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len, protection.flags(), flags, descriptor, 0) };
        if start == libc::MAP_FAILED {
            return Err(Trouble::last("mmap"));
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, len, protection }),
            None => Err(Trouble::Odd("mmap returned address 0".into())),
        }
    }

    /// Changes what KVM, and the host, may do with the whole mapping.
    pub(crate) fn protect(&mut self, protection: Protection) -> Result<(), Trouble> {
        // SAFETY: M1, the range is ours; the recorded protection keeps our own copies legal.
        let result = unsafe { libc::mprotect(self.start.as_ptr().cast(), self.len, protection.flags()) };
        if result != 0 {
            return Err(Trouble::last("mprotect"));
        }
        self.protection = protection;
        Ok(())
    }

    /// Address in this process, for a memslot.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Trouble> {
        if self.protection != Protection::ReadWrite || !self.holds(offset, bytes.len()) {
            return Err(Trouble::Odd(format!("no {} writable bytes at {offset:#x}", bytes.len())));
        }
        // SAFETY: `holds` checked that the offset lies inside the mapping.
        let target = unsafe { self.start.add(offset) };
        // SAFETY: M1 and the check above make the target valid for the length; M2 keeps the guest away.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Stores a little-endian word at `offset`.
    pub(crate) fn write_u64(&mut self, offset: usize, value: u64) -> Result<(), Trouble> {
        self.write(offset, &value.to_le_bytes())
    }

    /// Loads a little-endian word from `offset`.
    pub(crate) fn read_u64(&self, offset: usize) -> Result<u64, Trouble> {
        let mut bytes = [0u8; 8];
        if self.protection == Protection::None || !self.holds(offset, bytes.len()) {
            return Err(Trouble::Odd(format!("no 8 readable bytes at {offset:#x}")));
        }
        // SAFETY: `holds` checked that the offset lies inside the mapping.
        let source = unsafe { self.start.add(offset) };
        // SAFETY: M1 and the check above make the source valid for 8 bytes; M2 keeps the guest away.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(u64::from_le_bytes(bytes))
    }

    fn holds(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: M1, the range is ours and nobody uses it after this. A failure would leak it, no more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// An unnamed file of `len` zero bytes in memory.
pub(crate) fn memory_file(len: usize) -> Result<File, Trouble> {
    // SAFETY: the name is a valid C string; the call touches no other memory.
    let descriptor = unsafe { libc::memfd_create(c"twz-probe".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(Trouble::last("memfd_create"));
    }
    // SAFETY: the descriptor was made above and is owned by nobody else.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(len as u64).map_err(|error| Trouble::io("sizing a memory file", &error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_inside_and_obey_the_protection() {
        let mut mapping = Mapping::anonymous(4096, Protection::ReadWrite).unwrap();
        mapping.write_u64(4088, 7).unwrap();
        assert_eq!(mapping.read_u64(4088).unwrap(), 7);
        assert!(mapping.write_u64(4089, 7).is_err());
        assert!(mapping.read_u64(usize::MAX).is_err());
        mapping.protect(Protection::Read).unwrap();
        assert!(mapping.write_u64(0, 1).is_err());
        mapping.protect(Protection::None).unwrap();
        assert!(mapping.read_u64(0).is_err());
    }

    #[test]
    fn two_mappings_of_a_file_are_the_same_bytes() {
        let file = memory_file(4096).unwrap();
        let mut one = Mapping::of_file(&file, 4096, Protection::ReadWrite).unwrap();
        let two = Mapping::of_file(&file, 4096, Protection::Read).unwrap();
        one.write_u64(16, 99).unwrap();
        assert_eq!(two.read_u64(16).unwrap(), 99);
    }
}
