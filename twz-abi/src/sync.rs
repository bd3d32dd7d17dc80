//! Sleeping on words in objects, and waking (paper §3: the kernel provides synchronization primitives).
//!
//! A word is known by its object and offset, not by its address: threads in different views meet on it, and it stays the same after
//! remapping.

use crate::hypercall::numbered;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most operations in one call.
pub const SYNC_OPS_MAX: usize = 64;

numbered! {
    /// Kinds of [`SyncOp`].
    pub enum SyncKind: u32 {
        /// Sleep while the 32-bit word at `address` is `value`.
        Sleep32 = 1,
        /// Sleep while the 64-bit word at `address` is `value`.
        Sleep64 = 2,
        /// Wake at most `value` threads that sleep on the word at `address`.
        Wake = 3,
    }
}

/// One word to sleep on or to wake. All wakes of a call happen before its sleeps.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyncOp {
    /// Virtual address of the word, aligned to its size.
    pub address: u64,
    /// The value to sleep on, or the number to wake.
    pub value: u64,
    /// A [`SyncKind`].
    pub kind: u32,
    /// Reserved, zero.
    pub reserved: u32,
}
crate::assert_layout!(SyncOp, size = 24, address = 0, value = 8, kind = 16, reserved = 20);
