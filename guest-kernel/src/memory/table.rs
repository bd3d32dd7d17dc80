//! Page tables: 512 words in a frame.

use super::frames::{Frame, Frames};

/// Bits of a table entry (AMD64 manual vol. 2, §5.3).
pub(crate) mod bits {
    /// The entry is in use.
    pub(crate) const PRESENT: u64 = 1 << 0;
    /// Stores are allowed.
    pub(crate) const WRITE: u64 = 1 << 1;
    /// Ring 3 may use it.
    pub(crate) const USER: u64 = 1 << 2;
    /// Set from the start, so that the CPU need not.
    pub(crate) const ACCESSED: u64 = 1 << 5;
    /// Likewise, in leaves.
    pub(crate) const DIRTY: u64 = 1 << 6;
    /// A large page.
    pub(crate) const LARGE: u64 = 1 << 7;
    /// Instructions may not be fetched.
    pub(crate) const NO_EXECUTE: u64 = 1 << 63;
    /// The address.
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// A table at any level.
#[derive(Clone, Copy)]
pub(crate) struct Table(Frame);

impl Table {
    /// An empty table.
    pub(crate) fn allocate(frames: &mut Frames) -> Option<Self> {
        frames.allocate().map(Self)
    }

    /// The table that a present, not large `entry` leads to.
    pub(crate) fn of_entry(entry: u64) -> Option<Self> {
        if entry & bits::PRESENT == 0 || entry & bits::LARGE != 0 {
            return None;
        }
        // SAFETY: the kernel writes only addresses of tables that it allocated into entries that are not leaves.
        unsafe { Frame::from_address(entry & bits::ADDRESS) }.map(Self)
    }

    /// Guest-physical address.
    pub(crate) const fn address(self) -> u64 {
        self.0.address()
    }

    /// Reads entry `index`.
    pub(crate) fn get(self, index: u64) -> u64 {
        debug_assert!(index < 512);
        // SAFETY: the word lies in the table's frame; volatile, because the CPU sets accessed and dirty bits.
        unsafe { self.word(index).read_volatile() }
    }

    /// Writes entry `index`.
    pub(crate) fn set(self, index: u64, entry: u64) {
        debug_assert!(index < 512);
        // SAFETY: as in `get`; an aligned 8-byte store is seen whole by the table walker.
        unsafe { self.word(index).write_volatile(entry) };
    }

    #[allow(clippy::cast_possible_truncation, reason = "masked to 9 bits")]
    fn word(self, index: u64) -> *mut u64 {
        self.0.pointer::<u64>().wrapping_add((index & 511) as usize)
    }

    /// Makes this table, to which nothing leads any more, the head of a list. Other harts may still be walking it: they find nothing in the
    /// entry that is used for it.
    pub(crate) fn chain(self, next: Option<Self>) {
        self.set(0, next.map_or(0, Self::address));
    }

    /// The next table of such a list.
    pub(crate) fn chained(self) -> Option<Self> {
        // SAFETY: [`Table::chain`] wrote the address of a table there that is not free, or nothing.
        unsafe { Frame::from_address(self.get(0)) }.map(Self)
    }

    /// Gives the table's frame back; nothing may lead to it any more.
    pub(crate) fn free(self, frames: &mut Frames) {
        frames.free(self.0);
    }
}

/// Index into the table of `level` (4: top) for a virtual address.
pub(crate) const fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * (level - 1)) & 511
}
