//! System calls: what programs ask of the guest kernel.
//!
//! Number in RAX, arguments in RDI, RSI, RDX, R10, R8, R9; RAX returns 0 or an [`crate::error::ErrorCode`], RDX and
//! R8 return values. RCX and R11 are lost to the SYSCALL instruction; all other registers are kept.

use crate::hypercall::numbered;
use crate::id::ObjectId;
use crate::rights::Rights;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first number that is ours; lower ones are Linux's and go to the view's handler.
pub const FIRST: u64 = 0x1000;

numbered! {
    /// The calls. `aN` are arguments, `vN` the two returned values.
    pub enum Syscall: u64 {
        /// End this thread. a0: status, 0–255. Does not return.
        ThreadExit = 0x1000,
        /// Let another thread run.
        ThreadYield = 0x1001,
        /// Print a1 bytes at a0. v0: bytes printed.
        ConsoleWrite = 0x1010,
        /// Wait for typed input and take up to a1 bytes to a0. v0: bytes, 0 at the end of the input.
        ConsoleRead = 0x1011,
        /// v0: nanoseconds since the machine started; v1: since 1970.
        Clock = 0x1012,
        /// a1 (at most 256) random bytes to a0.
        Random = 0x1013,
        /// End the machine. a0: exit status, 0–255.
        Shutdown = 0x1014,
        /// Create an object. a0: address of a [`CreateSpec`]. v0, v1: its ID.
        ObjectCreate = 0x1020,
        /// Delete an object, once its last use has ended. a0, a1: ID. Needs [`Rights::DELETE`].
        ObjectDelete = 0x1021,
        /// a0, a1: ID; a2: address for an [`ObjectStat`]. Needs any right to it.
        ObjectStat = 0x1022,
        /// Look a name up. a0: address, a1: bytes of the name. v0, v1: the ID.
        NameGet = 0x1030,
        /// Name an object. a0, a1: ID; a2: address, a3: bytes of the name.
        NameSet = 0x1031,
        /// Take a name away. a0: address, a1: bytes of the name.
        NameRemove = 0x1032,
    }
}

/// Longest name, in bytes of UTF-8.
pub const NAME_MAX: usize = 255;

/// What kind of object to create.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateSpec {
    /// Object to start as a copy-on-write copy of; null for an empty one.
    pub source: ObjectId,
    /// Key object that may grant rights to it; null for none.
    pub key: ObjectId,
    /// Rights that everybody has ([`Rights`] bits).
    pub default_rights: u32,
    /// [`create_flags`].
    pub flags: u32,
    /// Reserved, zero.
    pub reserved: u64,
}
crate::assert_layout!(
    CreateSpec,
    size = 48,
    source = 0,
    key = 16,
    default_rights = 32,
    flags = 36,
    reserved = 40
);

/// Bits of [`CreateSpec::flags`].
pub mod create_flags {
    /// Gone after the next start of the machine: stacks, heaps, scratch.
    pub const VOLATILE: u32 = 1 << 0;
    /// All that are defined.
    pub const ALL: u32 = VOLATILE;
}

/// What the monitor knows of an object.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ObjectStat {
    /// Its ID.
    pub id: ObjectId,
    /// Its key object; null for none.
    pub key: ObjectId,
    /// Rights that everybody has.
    pub default_rights: u32,
    /// [`create_flags`] it was made with.
    pub flags: u32,
    /// Bytes of the pool that it occupies.
    pub allocated_bytes: u64,
    /// Rights that the asking context has.
    pub granted: u32,
    /// Uses: mappings and ties.
    pub references: u32,
}
crate::assert_layout!(
    ObjectStat,
    size = 56,
    id = 0,
    key = 16,
    default_rights = 32,
    flags = 36,
    allocated_bytes = 40,
    granted = 48,
    references = 52
);

impl CreateSpec {
    /// The default rights asked for; `None` if a bit has no meaning.
    #[must_use]
    pub const fn rights(&self) -> Option<Rights> {
        Rights::from_bits(self.default_rights)
    }
}
