//! What a thread knows about itself: a block that FS points to.
//!
//! # Contract
//! - **I1**: FS is 0, or the address of a [`ThreadBlock`] whose first word is its own address, which stays where it is as long as the
//!   thread runs. Only the thread itself uses its block.
//! - A thread that has no block (one that was started by a bare system call, or that is inside a gate) must not use what needs one.

use crate::syscall;
use core::arch::asm;
use core::cell::Cell;
use core::ptr;
use twz_abi::ErrorCode;
use twz_abi::thread::ThreadProperty;

/// A number's bits that are the thread's place in the kernel's table; above is a serial number.
const INDEX_BITS: u32 = 20;
/// Serial numbers that [`id`] tells apart.
const SERIALS: u64 = (1 << 10) - 1;

/// A thread's block.
#[derive(Debug)]
#[repr(C)]
pub struct ThreadBlock {
    this: Cell<*const Self>,
    id: Cell<u32>,
}

impl ThreadBlock {
    /// A block that belongs to nobody yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { this: Cell::new(ptr::null()), id: Cell::new(0) }
    }

    /// Puts a new block at `place`, for a thread that will be started with FS as returned.
    ///
    /// # Safety
    /// The place is big enough, and the thread's alone as long as it runs (I1).
    pub unsafe fn put(place: *mut Self) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { place.write(Self { this: Cell::new(place), id: Cell::new(0) }) };
        place as u64
    }

    /// Makes it the calling thread's.
    ///
    /// # Errors
    /// None today.
    ///
    /// # Safety
    /// It must stay where it is as long as the thread runs (I1), and be no other thread's.
    pub unsafe fn install(&self) -> Result<(), ErrorCode> {
        self.this.set(self);
        syscall::thread_set(0, ThreadProperty::Tls, ptr::from_ref(self) as u64)
    }
}

impl Default for ThreadBlock {
    fn default() -> Self {
        Self::new()
    }
}

/// The calling thread's block.
fn current() -> &'static ThreadBlock {
    let block: *const ThreadBlock;
    // SAFETY: reads the first word of the block (I1); without a block this is the null page, and a fault.
    unsafe { asm!("mov {}, fs:[0]", out(reg) block, options(nostack, preserves_flags, readonly, pure)) };
    // SAFETY: I1. The block outlives every use by its own thread.
    unsafe { &*block }
}

/// A number from 1 to 2^30 - 1 that no two threads running now share.
#[must_use]
pub fn id() -> u32 {
    let block = current();
    match block.id.get() {
        0 => {
            let id = syscall::thread_self().map_or(1, |(number, _)| short_id(number));
            block.id.set(id);
            id
        }
        id => id,
    }
}

/// Two threads that run at the same time differ in the index; the serial number tells a thread from those before it.
#[allow(clippy::cast_possible_truncation, reason = "20 + 10 bits")]
fn short_id(number: u64) -> u32 {
    let index = number & ((1 << INDEX_BITS) - 1);
    let serial = (number >> INDEX_BITS) % SERIALS + 1;
    (serial << INDEX_BITS | index) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_are_not_zero_fit_and_differ() {
        let of = |serial: u64, index: u64| short_id(serial << INDEX_BITS | index);
        assert!(of(0, 0) > 0 && of(SERIALS, 0) > 0);
        assert!(of(SERIALS - 1, (1 << INDEX_BITS) - 1) < 1 << 30);
        assert_ne!(of(1, 5), of(1, 6));
        assert_ne!(of(1, 5), of(2, 5));
    }
}
