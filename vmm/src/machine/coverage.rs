//! Which of the guest kernel's instructions were reached (`twzvmm --coverage FILE`).
//!
//! # Contract
//! - FILE holds addresses in the kernel's text, hexadecimal, one a line. At the machine's end it is written again without those that were
//!   reached, so runs with the same file add up.
//! - The first byte of each instruction is replaced by HLT. A hart that gets there comes out, the byte is put back, and the hart goes on at
//!   the same instruction: reaching it costs one exit once, on any second stage, whether ring 0 is interpreted or not.
//! - In such a run the kernel's text is writable in the second stage.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use twz_abi::boot::KERNEL_BASE;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const HLT: u8 = 0xf4;

/// The list of addresses cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CoverageError {
    /// It cannot be read or written.
    #[error("coverage file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// A line is no address in the kernel's text.
    #[error("coverage file {}: {line:?} is no address in the kernel's text", path.display())]
    Address {
        /// The file.
        path: PathBuf,
        /// The line.
        line: String,
    },
}

struct Place {
    /// What stands there.
    byte: u8,
    reached: AtomicBool,
}

/// The instructions that are watched.
pub(super) struct Coverage {
    path: PathBuf,
    memory: GuestMemoryMmap,
    /// By virtual address.
    places: BTreeMap<u64, Place>,
}

impl Coverage {
    /// Reads the list and puts HLT where it says. No hart has run yet; `text` holds the guest-physical ranges of what the kernel never
    /// changes.
    pub(super) fn plant(
        path: &Path,
        memory: &GuestMemoryMmap,
        text: &[Range<u64>],
    ) -> Result<Self, CoverageError> {
        let list = std::fs::read_to_string(path)
            .map_err(|reason| CoverageError::File { path: path.to_owned(), reason })?;
        let mut places = BTreeMap::new();
        for line in list.lines() {
            let wrong = || CoverageError::Address { path: path.to_owned(), line: line.to_owned() };
            let address = u64::from_str_radix(line, 16).map_err(|_| wrong())?;
            let physical = address.checked_sub(KERNEL_BASE).ok_or_else(wrong)?;
            if !text.iter().any(|range| range.contains(&physical)) {
                return Err(wrong());
            }
            let at = GuestAddress(physical);
            let byte = memory.read_obj(at).map_err(|_| wrong())?;
            memory.write_obj(HLT, at).map_err(|_| wrong())?;
            // A line that stands there twice keeps the kernel's byte.
            places.entry(address).or_insert(Place { byte, reached: AtomicBool::new(false) });
        }
        Ok(Self { path: path.to_owned(), memory: memory.clone(), places })
    }

    /// A hart has halted with `rip` behind the HLT. Where it goes on if the HLT is ours.
    pub(super) fn reach(&self, rip: u64) -> Option<u64> {
        let address = rip.checked_sub(1)?;
        let place = self.places.get(&address)?;
        // Another hart may have come here, too; both find the same.
        place.reached.store(true, Ordering::Relaxed);
        let at = GuestAddress(address - KERNEL_BASE);
        if let Err(error) = self.memory.write_obj(place.byte, at) {
            tracing::error!(%error, address, "the kernel's text cannot be written");
        }
        // A HLT of the kernel's own has done what it is there for.
        (place.byte != HLT).then_some(address)
    }

    /// Writes the list without what was reached.
    pub(super) fn write(&self) -> Result<(), CoverageError> {
        let missed = self.places.iter().filter(|(_, place)| !place.reached.load(Ordering::Relaxed));
        let list: String = missed.map(|(address, _)| format!("{address:x}\n")).collect();
        std::fs::write(&self.path, list)
            .map_err(|reason| CoverageError::File { path: self.path.clone(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOP: u8 = 0x90;

    fn memory() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x3000)]).unwrap();
        memory.write_slice(&[NOP; 0x1000], GuestAddress(0x1000)).unwrap();
        memory.write_obj(HLT, GuestAddress(0x1004)).unwrap();
        memory
    }

    fn list(folder: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = folder.path().join("list");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn what_is_reached_gets_its_byte_back_and_leaves_the_list() {
        let (folder, memory) = (tempfile::tempdir().unwrap(), memory());
        let path = list(&folder, "ffffffff80001002\nffffffff80001002\nffffffff80001003\nffffffff80001004\n");
        let text = 0x1000..0x2000;
        let coverage = Coverage::plant(&path, &memory, std::slice::from_ref(&text)).unwrap();
        let byte = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
        assert_eq!([byte(0x1001), byte(0x1002), byte(0x1003)], [NOP, HLT, HLT]);
        assert_eq!(coverage.reach(KERNEL_BASE + 0x1002), None, "a halt somewhere else");
        for _ in 0..2 {
            assert_eq!(coverage.reach(KERNEL_BASE + 0x1003), Some(KERNEL_BASE + 0x1002));
            assert_eq!([byte(0x1002), byte(0x1003)], [NOP, HLT]);
        }
        assert_eq!(coverage.reach(KERNEL_BASE + 0x1005), None, "the kernel's own HLT");
        assert_eq!(byte(0x1004), HLT);
        coverage.write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ffffffff80001003\n");
    }

    #[test]
    fn other_addresses_are_refused() {
        let (folder, memory) = (tempfile::tempdir().unwrap(), memory());
        let text = 0x1000..0x2000;
        for wrong in ["ffffffff80002000", "ffffffff80000fff", "1000", "", "xyz", "1ffffffff80001000"] {
            let path = list(&folder, &format!("{wrong}\n"));
            assert!(matches!(
                Coverage::plant(&path, &memory, std::slice::from_ref(&text)),
                Err(CoverageError::Address { .. })
            ));
        }
        assert!(Coverage::plant(&folder.path().join("none"), &memory, &[text]).is_err());
        assert!((0x1000..0x1004).all(|at| memory.read_obj::<u8>(GuestAddress(at)).unwrap() == NOP));
    }
}
