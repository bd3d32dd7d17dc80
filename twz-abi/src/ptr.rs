//! Persistent pointers: 64 bits that mean the same in every program and after every reboot (paper §3.3).
//!
//! ```text
//!  63              32 31               0
//! +------------------+------------------+
//! |    FOT index     |      offset      |
//! +------------------+------------------+
//! ```
//! Index 0 is the object that holds the pointer; the pointer 0 is null. Decoding is one shift and one 32-bit
//! move.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A persistent pointer in its stored form. Any bit pattern is a value of this type; whether it leads anywhere
/// is known only after the FOT entry and the offset were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct PersistentPtr(pub u64);
crate::assert_layout!(PersistentPtr, size = 8);

impl PersistentPtr {
    /// The pointer to nothing.
    pub const NULL: Self = Self(0);

    /// Makes a pointer to `offset` bytes into the object that FOT entry `index` names (0: this object).
    #[must_use]
    pub const fn new(index: u32, offset: u32) -> Self {
        Self((index as u64) << 32 | offset as u64)
    }

    /// The FOT index; 0 for the object itself.
    #[must_use]
    pub const fn index(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bytes from the start of the target object.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is the offset")]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// Whether this is [`PersistentPtr::NULL`].
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}
