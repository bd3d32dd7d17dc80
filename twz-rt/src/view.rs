//! Views: mapping an object is a store (paper §3.2).
//!
//! # Contract
//! - A new entry needs no call: the kernel looks when the slot is touched. A changed or deleted one is in force on every hart when
//!   [`invalidate`] has returned, not before.
//! - An entry becomes valid by one store after the rest of it is written, and invalid by one store before the rest changes; so whoever
//!   reads it meanwhile sees the old entry, the new one, or none.

use crate::{slots, syscall};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use twz_abi::program::VIEW_SLOT;
use twz_abi::view::{
    HEADER_OFFSET, SLOT_SIZE, SlotRange, VIEW_MAGIC, VIEW_VERSION, entry_flags, entry_offset,
};
use twz_abi::{ErrorCode, ObjectId, Rights};

const FAULT_HANDLER: u64 = core::mem::offset_of!(twz_abi::view::ViewHeader, fault_handler) as u64;
const LOW_SYSCALL: u64 = core::mem::offset_of!(twz_abi::view::ViewHeader, low_syscall_handler) as u64;

/// A view that is mapped, writable, at some address.
#[derive(Clone, Copy, Debug)]
pub struct View {
    base: u64,
}

impl View {
    /// The view that the program was loaded in, where the loader mapped it.
    #[must_use]
    pub const fn current() -> Self {
        Self { base: VIEW_SLOT * SLOT_SIZE }
    }

    /// The view object that is mapped at `base`.
    ///
    /// # Safety
    /// A view object must be mapped there, writable, as long as the value is used.
    #[must_use]
    pub unsafe fn at(base: *mut u8) -> Self {
        Self { base: base as u64 }
    }

    fn half(self, offset: u64) -> &'static AtomicU32 {
        // SAFETY: `base` is a mapped view (contract of `current` and `at`); the offset lies in it and is aligned. Entries are
        // shared with the kernel and other threads, hence atomics.
        unsafe { &*((self.base + offset) as *const AtomicU32) }
    }

    fn word(self, offset: u64) -> &'static AtomicU64 {
        // SAFETY: as in `half`.
        unsafe { &*((self.base + offset) as *const AtomicU64) }
    }

    /// Writes the header of a new view.
    pub fn initialise(self) {
        self.half(HEADER_OFFSET + 8).store(VIEW_VERSION, Ordering::Relaxed);
        self.word(HEADER_OFFSET).store(VIEW_MAGIC, Ordering::Release);
    }

    /// Makes `slot` map `object`, asking for `rights`; returns the slot's address in this view, `None` past the last slot. The slot must have
    /// been empty; after a change, [`invalidate`] it.
    #[must_use]
    pub fn map(self, slot: u64, object: ObjectId, rights: Rights) -> Option<*mut u8> {
        self.set(slot, object, rights, entry_flags::VALID)
    }

    /// Like [`View::map`] with [`entry_flags`] of the caller's choice.
    pub fn set(self, slot: u64, object: ObjectId, rights: Rights, flags: u32) -> Option<*mut u8> {
        let entry = entry_offset(slot)?;
        if self.half(entry + 16).load(Ordering::Relaxed) & entry_flags::VALID != 0 {
            self.half(entry + 16).store(0, Ordering::Release);
        }
        self.word(entry).store(object.lo, Ordering::Relaxed);
        self.word(entry + 8).store(object.hi, Ordering::Relaxed);
        self.half(entry + 20).store(rights.bits(), Ordering::Relaxed);
        self.half(entry + 16).store(flags, Ordering::Release);
        Some((slot * SLOT_SIZE) as *mut u8)
    }

    /// Empties a slot's entry. What was mapped stays reachable until [`invalidate`].
    pub fn clear(self, slot: u64) {
        if let Some(entry) = entry_offset(slot) {
            self.half(entry + 16).store(0, Ordering::Release);
        }
    }

    /// The object and flags that a slot's entry holds now.
    #[must_use]
    pub fn get(self, slot: u64) -> Option<(ObjectId, u32)> {
        let entry = entry_offset(slot)?;
        let flags = self.half(entry + 16).load(Ordering::Acquire);
        let lo = self.word(entry).load(Ordering::Relaxed);
        let hi = self.word(entry + 8).load(Ordering::Relaxed);
        Some((ObjectId { lo, hi }, flags))
    }

    /// Names the code that faults are delivered to; 0 for none.
    ///
    /// # Safety
    /// The code must be a fault handler as [`twz_abi::fault::FaultFrame`] describes; see [`crate::fault`] for one.
    pub unsafe fn set_fault_handler(self, address: u64) {
        self.word(HEADER_OFFSET + FAULT_HANDLER).store(address, Ordering::Release);
    }

    /// Names the code that system calls below [`twz_abi::syscall::FIRST`] are delivered to; 0 for none.
    ///
    /// # Safety
    /// The code is entered with all registers as they were, on the caller's stack and above its red zone, RCX holding where to go back to and
    /// R11 the flags. It must keep what the caller of a system call may rely on.
    pub unsafe fn set_low_syscall_handler(self, address: u64) {
        self.word(HEADER_OFFSET + LOW_SYSCALL).store(address, Ordering::Release);
    }
}

/// Maps `object` in `slot` of the current view; see [`View::map`].
#[must_use]
pub fn map(slot: u64, object: ObjectId, rights: Rights) -> Option<*mut u8> {
    View::current().map(slot, object, rights)
}

/// Maps `object` in a free slot of the current view; `None` when there is no free slot.
#[must_use]
pub fn map_anywhere(object: ObjectId, rights: Rights) -> Option<*mut u8> {
    map(slots::allocate()?, object, rights)
}

/// Deletes the entry of `slot` and returns when no hart reaches through it any more.
///
/// # Errors
/// [`ErrorCode::BadArgument`] past the last slot.
///
/// # Safety
/// Nothing may use memory of the slot any more.
pub unsafe fn unmap(slot: u64) -> Result<(), ErrorCode> {
    View::current().clear(slot);
    invalidate(&[SlotRange { first: slot, count: 1 }])?;
    slots::free(slot);
    Ok(())
}

/// Returns when no hart uses what entries in `ranges` of the current view said before they were changed.
///
/// # Errors
/// [`ErrorCode::BadArgument`] for more than [`twz_abi::view::RANGES_MAX`] ranges, or one that ends past the last slot.
pub fn invalidate(ranges: &[SlotRange]) -> Result<(), ErrorCode> {
    syscall::view_invalidate(ranges)
}
