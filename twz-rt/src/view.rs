//! The current view: mapping an object is a store.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use twz_abi::program::VIEW_SLOT;
use twz_abi::view::{SLOT_COUNT, SLOT_SIZE, entry_flags, entry_offset};
use twz_abi::{ObjectId, Rights};

/// Makes `slot` of the current view map `object`, asking for `rights`; returns the slot's address. No system call: the kernel looks when
/// the slot is touched. The slot must have been empty; a changed one needs `invalidate_view`.
///
/// `None` for a slot past the last one.
#[must_use]
pub fn map(slot: u64, object: ObjectId, rights: Rights) -> Option<*mut u8> {
    let entry = VIEW_SLOT * SLOT_SIZE + entry_offset(slot).filter(|_| slot < SLOT_COUNT)?;
    let (word, flags) = (entry as *const AtomicU64, (entry + 16) as *const AtomicU32);
    // SAFETY: the loader maps the view, writable, at VIEW_SLOT for as long as the program lives; entries are shared with the
    // kernel, hence atomics.
    unsafe { &*word }.store(object.lo, Ordering::Relaxed);
    // SAFETY: as above; the ID's second half.
    unsafe { &*word.wrapping_add(1) }.store(object.hi, Ordering::Relaxed);
    // SAFETY: as above; the word after the flags.
    unsafe { &*flags.wrapping_add(1) }.store(rights.bits(), Ordering::Relaxed);
    // SAFETY: as above; stored last, so that the entry is complete when it becomes valid.
    unsafe { &*flags }.store(entry_flags::VALID, Ordering::Release);
    Some((slot * SLOT_SIZE) as *mut u8)
}
