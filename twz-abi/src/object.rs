//! What stands where in an object.
//!
//! ```text
//! 0x0000_0000  page 0: never mapped, so that a null pointer faults
//! 0x0000_1000  data, grows up
//!              …
//!              FOT: entry i stands at META_OFFSET - i * 32, so it grows down; entry 0 is the object itself
//!              and takes no room
//! 0x3fff_f000  metadata page: ObjectMeta
//! 0x4000_0000  end
//! ```
//! ID, key object, nonce and default rights are *not* here: they are the monitor's and stand in the pool's
//! directory. Everything in this file belongs to the object's program; readers treat it as a claim.

use crate::id::ObjectId;
use crate::rights::Rights;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest object and size of a slot, in bytes: 1 GiB.
pub const MAX_SIZE: u64 = 1 << 30;
/// Where data starts; the page before is never mapped.
pub const DATA_OFFSET: u64 = 0x1000;
/// Where the metadata page starts.
pub const META_OFFSET: u64 = MAX_SIZE - crate::PAGE_SIZE;
/// Most entries that an FOT may have; bounds every scan of one (32 MiB of entries).
pub const FOT_MAX_ENTRIES: u32 = 1 << 20;
/// First byte that data may never reach, whatever the size of the FOT.
pub const DATA_END: u64 = META_OFFSET - (FOT_MAX_ENTRIES as u64) * FOT_ENTRY_SIZE;
/// Bytes in an FOT entry.
pub const FOT_ENTRY_SIZE: u64 = 32;
/// `ObjectMeta::magic`: "TWZOBJ01" in memory order.
pub const META_MAGIC: u64 = u64::from_le_bytes(*b"TWZOBJ01");
/// Version of [`ObjectMeta`] and [`FotEntry`].
pub const META_VERSION: u32 = 1;

/// Start of the metadata page; the program's own description of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ObjectMeta {
    /// [`META_MAGIC`]; anything else means that the object was never initialised by `libtwz`.
    pub magic: u64,
    /// [`META_VERSION`].
    pub version: u32,
    /// FOT entries ever used, entry 0 included; every used index is below it. At least 1.
    pub fot_len: u32,
    /// Fingerprint of the type at `root_offset`; 0 for untyped bytes.
    pub type_fingerprint: u64,
    /// Offset of the undo log's first block; 0 for none.
    pub log_offset: u64,
    /// Offset of the arena allocator's header; 0 for none.
    pub arena_offset: u64,
    /// Offset of the typed root, which `libtwz` moves by object so that roots do not share cache sets; 0 for
    /// [`DATA_OFFSET`].
    pub root_offset: u64,
    /// Reserved, zero.
    pub reserved: [u64; 2],
}
crate::assert_layout!(
    ObjectMeta,
    size = 64,
    magic = 0,
    version = 8,
    fot_len = 12,
    type_fingerprint = 16,
    log_offset = 24,
    arena_offset = 32,
    root_offset = 40,
    reserved = 48
);

/// One entry of the foreign object table (paper §3.3): an ID or a name, and the access wanted.
///
/// The entry exists when `flags` has [`fot_flags::VALID`]; that word is stored last, after the rest is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FotEntry {
    /// The target's ID; with [`fot_flags::NAME`], `lo` is the offset of the name (a length word, then bytes) in
    /// this object and `hi` is a persistent pointer to the resolver (0: the default, UNIX-like paths).
    pub target: ObjectId,
    /// [`fot_flags`].
    pub flags: u32,
    /// Requested [`Rights`]; grants nothing.
    pub rights: u32,
    /// Raised by each change, so that cached translations can be told stale.
    pub generation: u64,
}
crate::assert_layout!(FotEntry, size = 32, target = 0, flags = 16, rights = 20, generation = 24);

/// Bits of [`FotEntry::flags`].
pub mod fot_flags {
    /// The entry is complete and in use.
    pub const VALID: u32 = 1 << 0;
    /// The target is named, not numbered: resolve late.
    pub const NAME: u32 = 1 << 1;
}

/// Where FOT entry `index` starts, in bytes from the start of the object; `None` for entry 0 and past the limit.
#[must_use]
pub const fn fot_entry_offset(index: u32) -> Option<u64> {
    if index == 0 || index >= FOT_MAX_ENTRIES {
        return None;
    }
    Some(META_OFFSET - index as u64 * FOT_ENTRY_SIZE)
}

impl FotEntry {
    /// The access that the entry asks for; unknown bits are dropped.
    #[must_use]
    pub const fn requested(&self) -> Rights {
        Rights::from_bits_truncate(self.rights)
    }
}
