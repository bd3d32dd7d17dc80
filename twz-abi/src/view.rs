//! Views: address spaces that programs edit with plain stores (paper §3.2).
//!
//! A view is an object whose data is a [`ViewHeader`] page followed by one [`ViewEntry`] per 1 GiB slot:
//!
//! ```text
//! 0x0000_1000  ViewHeader, one page
//! 0x0000_2000  ViewEntry[131072], 32 bytes each: entry i says what is mapped at virtual i * 1 GiB
//! 0x0040_2000  end
//! ```
//! A new entry needs no call. The program stores `target` first and `flags` with [`entry_flags::VALID`] last;
//! the kernel reads the entry until it reads the same twice, `user` left out, and else treats it as "not there yet". A changed
//! or deleted entry must be followed by `ViewInvalidate`.

use crate::id::ObjectId;
use crate::object::{DATA_OFFSET, MAX_SIZE};
use crate::rights::Rights;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots in a view: 47 bits of user addresses in pieces of 1 GiB.
pub const SLOT_COUNT: u64 = 131_072;
/// Bytes in a slot.
pub const SLOT_SIZE: u64 = MAX_SIZE;
/// `ViewHeader::magic`: "TWZVIEW1" in memory order.
pub const VIEW_MAGIC: u64 = u64::from_le_bytes(*b"TWZVIEW1");
/// Version of the view's layout.
pub const VIEW_VERSION: u32 = 1;
/// Offset of [`ViewHeader`] in a view object.
pub const HEADER_OFFSET: u64 = DATA_OFFSET;
/// Offset of entry 0 in a view object.
pub const ENTRIES_OFFSET: u64 = DATA_OFFSET + crate::PAGE_SIZE;
/// Bytes in a view entry.
pub const ENTRY_SIZE: u64 = 32;

/// What the whole view has in common.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ViewHeader {
    /// [`VIEW_MAGIC`].
    pub magic: u64,
    /// [`VIEW_VERSION`].
    pub version: u32,
    /// Reserved, zero.
    pub flags: u32,
    /// Virtual address that faults are delivered to; 0: a fault ends the thread.
    pub fault_handler: u64,
    /// Virtual address that system calls below [`crate::syscall::FIRST`] are delivered to, with all registers as they were, RCX
    /// holding where to go back to and R11 the flags; 0: such a call is a fault.
    pub low_syscall_handler: u64,
    /// Virtual address at which a resumable thread begins after a power failure; 0: none.
    pub resume_entry: u64,
    /// Reserved, zero.
    pub reserved: [u64; 3],
}
crate::assert_layout!(
    ViewHeader,
    size = 64,
    magic = 0,
    version = 8,
    flags = 12,
    fault_handler = 16,
    low_syscall_handler = 24,
    resume_entry = 32,
    reserved = 40
);

/// What one slot maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ViewEntry {
    /// The object.
    pub target: ObjectId,
    /// [`entry_flags`]; stored last.
    pub flags: u32,
    /// Requested [`Rights`]; what is granted is the monitor's to say.
    pub rights: u32,
    /// Free for the program's use; the kernel ignores it.
    pub user: u64,
}
crate::assert_layout!(ViewEntry, size = 32, target = 0, flags = 16, rights = 20, user = 24);

/// Bits of [`ViewEntry::flags`].
pub mod entry_flags {
    /// The slot maps `target`.
    pub const VALID: u32 = 1 << 0;
    /// The slot is the program's to fill when touched: a fault on it goes to the handler as "on demand".
    pub const ON_DEMAND: u32 = 1 << 1;
}

impl ViewEntry {
    /// The access that the entry asks for; unknown bits are dropped.
    #[must_use]
    pub const fn requested(&self) -> Rights {
        Rights::from_bits_truncate(self.rights)
    }
}

/// Offset in a view object of the entry for `slot`; `None` past the last slot.
#[must_use]
pub const fn entry_offset(slot: u64) -> Option<u64> {
    if slot < SLOT_COUNT { Some(ENTRIES_OFFSET + slot * ENTRY_SIZE) } else { None }
}

/// Slots whose entries were changed or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SlotRange {
    /// First slot.
    pub first: u64,
    /// Number of slots.
    pub count: u64,
}
crate::assert_layout!(SlotRange, size = 16, first = 0, count = 8);

/// Most ranges in one `ViewInvalidate`.
pub const RANGES_MAX: usize = 64;
