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
        /// Start a thread. a0: address of a [`ThreadSpec`](crate::thread::ThreadSpec). v0: its number.
        ThreadSpawn = 0x1002,
        /// v0: this thread's number; v1: the hart it runs on in the lower half, the number of harts in the upper.
        ThreadSelf = 0x1003,
        /// Change a property of a thread. a0: its number, 0 for this one; a1: a
        /// [`ThreadProperty`](crate::thread::ThreadProperty); a2: the value.
        ThreadSet = 0x1004,
        /// Sleep on words and wake sleepers. a0: address, a1: number (at most 64) of [`SyncOp`](crate::sync::SyncOp)s;
        /// a2: nanoseconds to sleep at most, `u64::MAX` for ever. v0: threads woken. Returns when any word that it slept on was woken or has
        /// another value.
        ThreadSync = 0x1005,
        /// Go back from a fault handler. a0: address of the [`FaultFrame`](crate::fault::FaultFrame), whose registers are loaded: the
        /// instruction is repeated, or skipped if the handler moved `rip`.
        FaultReturn = 0x1006,
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
        /// Copy the kernel's counters to a0, at most a1 bytes. v0: bytes copied.
        Counters = 0x1015,
        /// How typed input is to come. a0: a [`ConsoleMode`]. v0: 1 if people type at a terminal (else there is no mode to change), 0 if
        /// not; v1: columns of the terminal, 0 if unknown.
        ConsoleMode = 0x1016,
        /// Create an object. a0: address of a [`CreateSpec`]. v0, v1: its ID.
        ObjectCreate = 0x1020,
        /// Delete an object, once its last use has ended. a0, a1: ID. Needs [`Rights::DELETE`].
        ObjectDelete = 0x1021,
        /// a0, a1: ID; a2: address for an [`ObjectStat`]. Needs any right to it.
        ObjectStat = 0x1022,
        /// Copy a range of an object, shared until written. a0: address of a [`CopySpec`]. Needs [`Rights::READ`] to the source and
        /// [`Rights::WRITE`] to the target.
        ObjectCopy = 0x1023,
        /// Make an object live as long as another. a0, a1: ID; a2, a3: ID of the one that keeps it. Needs [`Rights::WRITE`] to the latter.
        ObjectTie = 0x1024,
        /// Give back the pages of a range of an object, which then reads as zeros. a0, a1: ID; a2: first byte; a3: bytes, both multiples
        /// of the pool's granule. Needs [`Rights::WRITE`].
        ObjectTrim = 0x1025,
        /// Go on in another view. a0, a1: the view's ID; a2: the next instruction; a3: the stack pointer there; a4: passed on in RDI.
        ViewSet = 0x1028,
        /// Drop what is mapped by changed or deleted entries of this view, on every hart. a0: address, a1: number (at most 64) of
        /// [`SlotRange`](crate::view::SlotRange)s.
        ViewInvalidate = 0x1029,
        /// Look a name up. a0: address, a1: bytes of the name. v0, v1: the ID.
        NameGet = 0x1030,
        /// Name an object. a0, a1: ID; a2: address, a3: bytes of the name.
        NameSet = 0x1031,
        /// Take a name away. a0: address, a1: bytes of the name.
        NameRemove = 0x1032,
        /// The first name behind another in the order of bytes. a0: address, a1: bytes of that other (0: begin with the first of all); a2:
        /// address of [`NAME_MAX`] bytes for the name. v0: its bytes. Names are no secrets: whoever has the ID has no right by it.
        NameNext = 0x1033,
        /// Tell all programs that an FOT entry or a name was changed, which they may have translated: raises the machine's shared word
        /// ([`crate::program::SHARED_SLOT`]).
        TranslationsChanged = 0x1034,
        /// Let this thread hold a security context. a0, a1: its ID. Needs [`Rights::USE`] to it. v0: its
        /// [`context_flags`](crate::sec::context_flags).
        ContextAttach = 0x1040,
        /// Let this thread hold a context no more. a0, a1: its ID. Not the one that it runs in, and none that is undetachable.
        ContextDetach = 0x1041,
        /// Go on, at the next instruction of the same view, in a context that this thread holds. a0, a1: its ID.
        ContextActivate = 0x1042,
        /// Call a gate. a0, a1: the callee's context; a2: the gate's number; a3, a4, a5: passed on. v0, v1: what the callee returns.
        /// The callee begins at the gate's entry, on one of its stacks, with a3, a4, a5 in RDI, RSI, RDX, the caller's context in RCX (low
        /// half) and R8, the gate's number in R9, and zero in all other registers, vector registers included. The caller gets all of its
        /// registers back but those that every call changes.
        GateCall = 0x1043,
        /// Return from a gate. a0, a1: v0 and v1 of the caller. Does not return.
        GateReturn = 0x1044,
        /// Take rights back. a0: address of a [`RawRevocation`](crate::sec::RawRevocation); a1: address of the
        /// [`RawCap`](crate::sec::RawCap) that ends, if its signer takes it back and not the object's key; else 0.
        Revoke = 0x1045,
        /// Make the object of a key. a0: address of a [`PublicKeyObject`](crate::sec::PublicKeyObject). v0, v1: its ID.
        KeyCreate = 0x1046,
        /// v0, v1: ID of the context that this thread runs in.
        ContextSelf = 0x1047,
        /// Inside of a gate: what the caller's context may do with an object, so that the callee does nothing for its caller that the
        /// caller may not do itself. a0, a1: the object's ID. v0: [`Rights`] bits, 0 for none.
        CallerRights = 0x1048,
        /// Let a thread like this one begin again at the next start of the machine, should this one not have ended by then. a0: address of a
        /// [`ResumeSpec`](crate::resume::ResumeSpec). Needs read and write rights to this thread's view. A second call replaces the first.
        /// One thread of a view can be resumable, or several that keep their memory.
        /// v0: 0; 1 for a thread that was resumed with [`KEEP_REGISTERS`](crate::resume::resume_flags::KEEP_REGISTERS).
        ResumeSet = 0x1050,
        /// This thread is not to be resumed any more.
        ResumeClear = 0x1051,
        /// This thread, which was resumed, has recovered. Without it the try counts as failed; after three in a row it is set aside.
        ResumeConfirm = 0x1052,
        /// Tell a machine that runs for crash tests of a flush or a fence. a0: 0 for a flush of a2 bytes at a1, 1 for a fence; a3: address,
        /// a4: bytes of the name of the source file that did it, a5: its line there. Other machines have no such call.
        PmemTrace = 0x1060,
    }
}

numbered! {
    /// How what is typed at a terminal comes to programs.
    pub enum ConsoleMode: u64 {
        /// Line by line: the terminal shows, edits and ends lines, and turns Ctrl-C into the end of the machine.
        Lines = 0,
        /// Key by key and unseen: every key goes to the program, but for `twzvmm`'s own (Ctrl-] x, the end of the machine).
        Keys = 1,
    }
}

/// Calls of the test kernel that was taken over (feature `hostile` of `guest-kernel`); every other kernel refuses them.
pub mod hostile {
    /// Load through a table entry of the kernel's. a0: guest-physical address, a multiple of 8. v0: the word.
    pub const PEEK: u64 = 0x1f00;
    /// Store likewise. a0: guest-physical address, a multiple of 8; a1: the word.
    pub const POKE: u64 = 0x1f01;
    /// Set all entries on the way to a virtual address to allow everything. a0: the address.
    pub const WRITABLE: u64 = 0x1f02;
    /// Make any hypercall. a0: address of nine words, the operation and its arguments; a1: address, a2: bytes of what goes into the data
    /// area. v0, v1: the first two results.
    pub const CALL: u64 = 0x1f03;
    /// Among the words of [`CALL`]: the guest-physical address of a frame that nobody uses.
    pub const SCRATCH: u64 = 0xf4ee_f4ae_f4ee_f4ae;
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

/// A range of an object to become a copy-on-write copy of a range of another.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopySpec {
    /// Copied from.
    pub source: ObjectId,
    /// Copied to.
    pub target: ObjectId,
    /// First byte in the source, a multiple of the pool's granule.
    pub source_offset: u64,
    /// First byte in the target, likewise.
    pub target_offset: u64,
    /// Bytes, likewise.
    pub bytes: u64,
}
crate::assert_layout!(
    CopySpec,
    size = 56,
    source = 0,
    target = 16,
    source_offset = 32,
    target_offset = 40,
    bytes = 48
);

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
    /// Its revocation epoch: the one that new capabilities to it must name.
    pub epoch: u64,
}
crate::assert_layout!(
    ObjectStat,
    size = 64,
    id = 0,
    key = 16,
    default_rights = 32,
    flags = 36,
    allocated_bytes = 40,
    granted = 48,
    references = 52,
    epoch = 56
);

impl ObjectStat {
    /// Rights that the asking context has.
    #[must_use]
    pub const fn granted(&self) -> Rights {
        Rights::from_bits_truncate(self.granted)
    }
}

impl CreateSpec {
    /// The default rights asked for; `None` if a bit has no meaning.
    #[must_use]
    pub const fn rights(&self) -> Option<Rights> {
        Rights::from_bits(self.default_rights)
    }
}
