//! Programs as objects, and where a program finds its parts.
//!
//! A program object holds what never changes and is shared by all that run it:
//! ```text
//! 0x1000  ProgramHeader
//! 0x2000  constants and code, mapped read and execute in slot 1
//! …       template of the initialised data, copied to the start of a new object in slot 2
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `ProgramHeader::magic`: "TWZPROG1" in memory order.
pub const PROGRAM_MAGIC: u64 = u64::from_le_bytes(*b"TWZPROG1");
/// Slot of the program object.
pub const TEXT_SLOT: u64 = 1;
/// Slot of the program's own writable data.
pub const DATA_SLOT: u64 = 2;
/// Slot of the first thread's stack.
pub const STACK_SLOT: u64 = 3;
/// Slot of the arguments ([`ArgsHeader`]), read-only.
pub const ARGS_SLOT: u64 = 4;
/// Slot of the heap.
pub const HEAP_SLOT: u64 = 5;
/// Slot of the object that all programs of the machine share, read-only: a word at offset 0x1000 that grows whenever a program said
/// ([`crate::syscall::Syscall::TranslationsChanged`]) that it changed an FOT entry or a name that others may have translated.
pub const SHARED_SLOT: u64 = 6;
/// Offset in the heap object at which the heap ends; `libtwz` keeps its volatile tables above.
pub const HEAP_END: u64 = 0x3000_0000;
/// Slots of a resumed program's former data, stack and heap, as they were when the power failed.
pub const FORMER_DATA_SLOT: u64 = 7;
/// See [`FORMER_DATA_SLOT`].
pub const FORMER_STACK_SLOT: u64 = 8;
/// See [`FORMER_DATA_SLOT`].
pub const FORMER_HEAP_SLOT: u64 = 9;
/// Slot of a resumed program's state object.
pub const STATE_SLOT: u64 = 10;
/// First slot that `libtwz` hands out.
pub const FREE_SLOT: u64 = 16;
/// Slot of the view itself. Not the very last slot: no instruction may end at the end of the canonical half.
pub const VIEW_SLOT: u64 = crate::view::SLOT_COUNT - 2;
/// Offset in the stack object at which the first thread's stack begins; it grows down to [`crate::object::DATA_OFFSET`].
pub const STACK_TOP: u64 = 0x80_0000;
/// Offset of the first instruction or constant in a program object.
pub const TEXT_OFFSET: u64 = 0x2000;

/// Start of a program object, at offset 0x1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProgramHeader {
    /// [`PROGRAM_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`] that it was built with.
    pub abi_version: u32,
    /// Reserved, zero.
    pub reserved: u32,
    /// Virtual address of the first instruction.
    pub entry: u64,
    /// Offset in this object of the data template.
    pub data_offset: u64,
    /// Bytes of the template; it goes to offset 0x1000 of the data object.
    pub data_bytes: u64,
    /// Bytes of data in all; what the template does not cover is zero.
    pub data_total: u64,
}
crate::assert_layout!(
    ProgramHeader,
    size = 48,
    magic = 0,
    abi_version = 8,
    reserved = 12,
    entry = 16,
    data_offset = 24,
    data_bytes = 32,
    data_total = 40
);

/// Name of the pool's record that counts its boots, in the guest or by hosted `libtwz`: locks of earlier boots are free.
pub const BOOTS_RECORD: &str = "libtwz.boots";
/// Record of the pool's root that holds the ID of the machine's session, which keeps volatile objects.
pub const SESSION_RECORD: &str = "session";
/// Record of the pool's root that holds the ID of the context that the first program runs in.
pub const INIT_CONTEXT_RECORD: &str = "context/init";

/// Start of the arguments object, at offset 0x1000: then `count + environment_count` pairs of words (offset in this object, bytes),
/// then text. Variables of the environment look like `NAME=VALUE`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArgsHeader {
    /// Arguments, the program's name first.
    pub count: u64,
    /// Durability of the pool: 0 none beyond a crash of the guest, 1 after the VMM's sync, 2 stores that are flushed are durable; plus
    /// [`TRACED`].
    pub durability: u64,
    /// Variables of the environment.
    pub environment_count: u64,
    /// Number of this boot of the pool ([`BOOTS_RECORD`]), at least 1.
    pub boot: u64,
}
crate::assert_layout!(ArgsHeader, size = 32, count = 0, durability = 8, environment_count = 16, boot = 24);

/// In [`ArgsHeader::durability`]: the machine must be told of flushes and fences ([`crate::syscall::Syscall::PmemTrace`]).
pub const TRACED: u64 = 1 << 32;
