//! What `twzvmm` tells the guest kernel before its first instruction, and where things are in guest memory.
//!
//! ```text
//! guest-physical                          virtual
//! 0x0000_1000  BootInfo                   DIRECT_MAP + gpa: all RAM, read-write, no execute
//! 0x0001_0000  mailboxes, a page a hart   KERNEL_BASE + gpa: the kernel image, W^X by page
//! 0x0010_0000  kernel image               STACK_BASE + hart * STACK_STRIDE: hart stacks, guard page below each
//! free_start   free frames …
//! ram_bytes    end of RAM
//! window_base  object space
//! ```
//! `twzvmm` builds the kernel half of the page tables, since it can do so natively where ring 0 is interpreted.

use crate::id::ObjectId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `BootInfo::magic`: "TWZBOOT1" in memory order.
pub const BOOT_MAGIC: u64 = u64::from_le_bytes(*b"TWZBOOT1");
/// Guest-physical address of [`BootInfo`].
pub const BOOT_INFO_GPA: u64 = 0x1000;
/// Guest-physical address of hart 0's mailbox; hart n's is n pages on.
pub const MAILBOX_GPA: u64 = 0x1_0000;
/// Most harts a machine may have.
pub const MAX_HARTS: u32 = 32;
/// Guest-physical address of the kernel image, as its linker script says.
pub const KERNEL_GPA: u64 = 0x10_0000;
/// Virtual address of guest-physical 0 in the kernel image's mapping.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Virtual address of guest-physical 0 in the map of all RAM.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Virtual address of hart 0's stack area: a guard page, then the stack, which grows down to it.
pub const STACK_BASE: u64 = 0xffff_ff00_0000_0000;
/// Bytes from one hart's stack area to the next.
pub const STACK_STRIDE: u64 = 0x1_0000;
/// Bytes of each hart's stack, at the top of its area.
pub const STACK_SIZE: u64 = 0x8000;
/// First index of the kernel half in the top-level table.
pub const KERNEL_HALF: usize = 256;
/// Name of the ELF section that holds the [`KernelStamp`].
pub const STAMP_SECTION: &str = ".twz_stamp";
/// `KernelStamp::magic`: "TWZKERN1" in memory order.
pub const STAMP_MAGIC: u64 = u64::from_le_bytes(*b"TWZKERN1");

/// First bytes of the kernel image; `twzvmm` refuses an image whose stamp does not match.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KernelStamp {
    /// [`STAMP_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`] that the kernel was built with.
    pub abi_version: u32,
    /// Reserved, zero.
    pub reserved: u32,
}
crate::assert_layout!(KernelStamp, size = 16, magic = 0, abi_version = 8, reserved = 12);

/// Bits of [`BootInfo::flags`].
pub mod boot_flags {
    /// Ring 0 runs on the CPU; XSAVE, PCID, SMAP and other instructions work there if CPUID has them. Without it
    /// KVM interprets ring 0 and gives up on most of them, whatever CPUID says.
    pub const RING0_NATIVE: u32 = 1 << 0;
    /// Ring 0 cannot execute XSAVE, but programs have vector registers that FXSAVE does not know: the kernel exchanges them by
    /// [`Op::Vectors`](crate::hypercall::Op::Vectors). CR4.OSXSAVE and XCR0 are set already.
    pub const VECTORS_BY_CALL: u32 = 1 << 1;
    /// Somebody wants to read the kernel's lines of level [`LogLevel::Info`](crate::hypercall::LogLevel::Info).
    pub const VERBOSE: u32 = 1 << 2;
}

/// The kernel's view of the machine; written once by `twzvmm`, trusted by the kernel.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootInfo {
    /// [`BOOT_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// [`boot_flags`].
    pub flags: u32,
    /// Harts that will start, 1 to [`MAX_HARTS`].
    pub hart_count: u32,
    /// Reserved, zero.
    pub reserved: u32,
    /// Bytes of RAM from guest-physical 0.
    pub ram_bytes: u64,
    /// First guest-physical byte that nothing uses; page aligned. Frames from here on hold zeros.
    pub free_start: u64,
    /// First guest-physical byte of object space.
    pub window_base: u64,
    /// Bytes of object space.
    pub window_bytes: u64,
    /// What the first thread runs; with a null view there is none, and the machine ends with the last resumed thread.
    pub init: ThreadStart,
}
crate::assert_layout!(
    BootInfo,
    size = 120,
    magic = 0,
    abi_version = 8,
    flags = 12,
    hart_count = 16,
    ram_bytes = 24,
    free_start = 32,
    window_base = 40,
    window_bytes = 48,
    init = 56
);

/// What a thread needs to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadStart {
    /// The view that it runs in.
    pub view: ObjectId,
    /// Security context, by its object ID.
    pub context: ObjectId,
    /// First instruction, a virtual address.
    pub entry: u64,
    /// Initial stack pointer.
    pub stack: u64,
    /// First argument (RDI).
    pub argument: u64,
    /// FS base, for thread-local data; 0 for none.
    pub tls: u64,
}
crate::assert_layout!(
    ThreadStart,
    size = 64,
    view = 0,
    context = 16,
    entry = 32,
    stack = 40,
    argument = 48,
    tls = 56
);
