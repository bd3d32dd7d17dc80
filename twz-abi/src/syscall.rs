//! System calls: what programs ask of the guest kernel, in one table from which both sides' code follows.
//!
//! Number in RAX, arguments in RDI, RSI, RDX, R10, R8, R9; RAX returns 0 or an [`crate::error::ErrorCode`], RDX and
//! R8 return values. RCX and R11 are lost to the SYSCALL instruction; all other registers are kept.

use crate::call::{
    ARGUMENT_WORDS, Argument, ArgumentInfo, Call, In, InSlice, Out, OutSlice, Returned, Words,
};
use crate::error::ErrorCode;
use crate::fault::FaultFrame;
use crate::hypercall::numbered;
use crate::id::ObjectId;
use crate::resume::ResumeSpec;
use crate::rights::Rights;
use crate::sec::{PublicKeyObject, RawCap, RawRevocation};
use crate::sync::SyncOp;
use crate::thread::{ThreadProperty, ThreadSpec};
use crate::view::SlotRange;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first number that is ours; lower ones are Linux's and go to the view's handler.
pub const FIRST: u64 = 0x1000;

/// Declares the calls. Each is written once, `Name = number: function(argument: Kind, …) -> Result;`, and becomes: a member of [`Syscall`], a
/// function in [`calls`] that encodes it for the program, a member of [`Request`] that it is decoded to for the kernel, and what
/// [`Syscall::arguments`] says.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $number:literal: $function:ident
        ($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        numbered! {
            /// The calls. `vN` are the returned words; a pointer is an address in the caller's view.
            pub enum Syscall: u64 { $($(#[$doc])* $name = $number,)* }
        }

        /// A call as the kernel finds it: its arguments by name, numbers checked to mean something, pointers as addresses.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, reason = "the arguments are described at the calls")]
        pub enum Request { $($(#[$doc])* $name { $($argument: $kind,)* },)* }

        impl Request {
            /// Decodes what stood in the registers.
            ///
            /// # Errors
            /// [`ErrorCode::NoSuchCall`], [`ErrorCode::BadArgument`].
            #[inline(always)]
            pub fn decode(number: u64, words: [u64; ARGUMENT_WORDS]) -> Result<Self, ErrorCode> {
                #[allow(unused_mut, unused_variables, reason = "not every call has arguments")]
                let mut words = Words::of(words);
                Ok(match number {
                    $($number => Self::$name { $($argument: <$kind as Argument>::take(&mut words)?,)* },)*
                    _ => return Err(ErrorCode::NoSuchCall),
                })
            }
        }

        impl Syscall {
            /// The arguments, in the order of their registers.
            #[must_use]
            pub const fn arguments(self) -> &'static [ArgumentInfo] {
                match self {
                    $(Self::$name => &[$(ArgumentInfo {
                        name: stringify!($argument),
                        kind: stringify!($kind),
                        words: <$kind as Argument>::WORDS,
                    },)*],)*
                }
            }

            /// Words that it returns.
            #[must_use]
            pub const fn returned_words(self) -> usize {
                match self { $(Self::$name => <calls!(@result $($result)?) as Returned>::WORDS,)* }
            }
        }

        /// The calls as a program prepares them. What makes them, and what is safe, is `twz-rt`'s to say.
        pub mod calls {
            use super::*;

            $($(#[$doc])*
            #[inline]
            pub fn $function<'a>($($argument: <$kind as Argument>::Given<'a>),*) -> Call<'a, calls!(@result $($result)?)> {
                #[allow(unused_mut, reason = "not every call has arguments")]
                let mut words = Words::default();
                $(<$kind as Argument>::put($argument, &mut words);)*
                Call::new(Syscall::$name, words)
            })*
        }

        $(const _: () = assert!(0 $(+ <$kind as Argument>::WORDS)* < ARGUMENT_WORDS + 1);)*
    };
    (@result) => { () };
    (@result $result:ty) => { $result };
}

calls! {
    /// End this thread with a status, 0–255. Does not return.
    ThreadExit = 0x1000: thread_exit(status: u8);
    /// Let another thread run.
    ThreadYield = 0x1001: thread_yield();
    /// Start a thread. v0: its number.
    ThreadSpawn = 0x1002: thread_spawn(spec: In<ThreadSpec>) -> u64;
    /// v0: this thread's number; v1: the hart it runs on in the lower half, the number of harts in the upper.
    ThreadSelf = 0x1003: thread_self() -> (u64, u64);
    /// Change a property of a thread, 0 for this one.
    ThreadSet = 0x1004: thread_set(thread: u64, property: ThreadProperty, value: u64);
    /// Sleep on words and wake sleepers, with at most [`SYNC_OPS_MAX`](crate::sync::SYNC_OPS_MAX) operations, for at most so many nanoseconds,
    /// `u64::MAX` for ever. v0: threads woken; v1: 1 if a word had another value. Returns when any word that it slept on was woken or has
    /// another value.
    ThreadSync = 0x1005: thread_sync(operations: InSlice<SyncOp>, nanoseconds: u64) -> (u64, u64);
    /// Go back from a fault handler with the registers of the frame: the instruction is repeated, or skipped if the handler moved `rip`.
    FaultReturn = 0x1006: fault_return(frame: In<FaultFrame>);
    /// Find the thread whose number ends in these [`THREAD_INDEX_BITS`](crate::thread::THREAD_INDEX_BITS). v0: its number.
    ThreadFind = 0x1007: thread_find(index: u64) -> u64;
    /// Print. v0: bytes printed.
    ConsoleWrite = 0x1010: console_write(bytes: InSlice<u8>) -> u64;
    /// Wait for typed input and take what there is room for. v0: bytes, 0 at the end of the input.
    ConsoleRead = 0x1011: console_read(buffer: OutSlice<u8>) -> u64;
    /// v0: nanoseconds since the machine started; v1: since 1970.
    Clock = 0x1012: clock() -> (u64, u64);
    /// Fill a buffer of at most [`RANDOM_MAX`] bytes with random ones.
    Random = 0x1013: random(buffer: OutSlice<u8>);
    /// End the machine with an exit status, 0–255.
    Shutdown = 0x1014: shutdown(status: u8);
    /// Copy the machine's [`AllCounters`](crate::counters::AllCounters), as many bytes of them as there is room for. v0: bytes copied.
    Counters = 0x1015: counters(buffer: OutSlice<u8>) -> u64;
    /// How typed input is to come. v0: 1 if people type at a terminal (else there is no mode to change), 0 if not; v1: columns of the
    /// terminal, 0 if unknown.
    ConsoleMode = 0x1016: console_mode(mode: ConsoleMode) -> (u64, u64);
    /// Create an object, which begins with at most [`CREATE_RANGES_MAX`] ranges of others. Needs [`Rights::READ`] to what it copies. All of it
    /// is there or, after an error or a power failure, no object.
    ObjectCreate = 0x1020: object_create(spec: In<CreateSpec>, ranges: InSlice<CopyRange>) -> ObjectId;
    /// Delete an object, once its last use has ended. Needs [`Rights::DELETE`].
    ObjectDelete = 0x1021: object_delete(object: ObjectId);
    /// Tell what the monitor knows of an object. Needs any right to it.
    ObjectStat = 0x1022: object_stat(object: ObjectId, stat: Out<ObjectStat>);
    /// Copy a range of an object, shared until written. Needs [`Rights::READ`] to the source and [`Rights::WRITE`] to the target.
    ObjectCopy = 0x1023: object_copy(spec: In<CopySpec>);
    /// Make an object live as long as another. Needs [`Rights::WRITE`] to the latter. With itself: a volatile object stays from now on;
    /// needs any right.
    ObjectTie = 0x1024: object_tie(object: ObjectId, keeper: ObjectId);
    /// Give back the pages of a range of an object, which then reads as zeros, or have pages for all of it: the first byte and how many, both
    /// multiples of the pool's granule. Needs [`Rights::WRITE`].
    ObjectResize = 0x1025: object_resize(object: ObjectId, first: u64, bytes: u64, resize: Resize);
    /// Go on in another view, at an instruction, with a stack pointer and a word in RDI.
    ViewSet = 0x1028: view_set(view: ObjectId, entry: u64, stack: u64, argument: u64);
    /// Drop what is mapped by changed or deleted entries of this view, on every hart, in at most
    /// [`RANGES_MAX`](crate::view::RANGES_MAX) ranges.
    ViewInvalidate = 0x1029: view_invalidate(ranges: InSlice<SlotRange>);
    /// Look a name up.
    NameGet = 0x1030: name_get(name: InSlice<u8>) -> ObjectId;
    /// Name an object. A volatile one stays from then on, and takes only a name that is free ([`ErrorCode::Exists`]): both or neither, whenever
    /// the power fails.
    NameSet = 0x1031: name_set(object: ObjectId, name: InSlice<u8>);
    /// Take a name away.
    NameRemove = 0x1032: name_remove(name: InSlice<u8>);
    /// The first name behind another, which may be empty, in the order of bytes. v0: its bytes. Names are no secrets: whoever has the ID has
    /// no right by it.
    NameNext = 0x1033: name_next(after: InSlice<u8>, name: Out<[u8; NAME_MAX]>) -> u64;
    /// Tell all programs that an FOT entry or a name was changed, which they may have translated: raises the machine's shared word
    /// ([`crate::program::SHARED_SLOT`]).
    TranslationsChanged = 0x1034: translations_changed();
    /// Let this thread hold a security context. Needs [`Rights::USE`] to it. v0: its [`context_flags`](crate::sec::context_flags).
    ContextAttach = 0x1040: context_attach(context: ObjectId) -> u64;
    /// Let this thread hold a context no more. Not the one that it runs in, and none that is undetachable.
    ContextDetach = 0x1041: context_detach(context: ObjectId);
    /// Go on, at the next instruction of the same view, in a context that this thread holds.
    ContextActivate = 0x1042: context_activate(context: ObjectId);
    /// Call a gate of a context with three words. v0, v1: what the callee returns. The callee begins at the gate's entry, on one of its stacks,
    /// with the three in RDI, RSI, RDX, the caller's context in RCX (low half) and R8, the gate's number in R9, and zero in all other
    /// registers, vector registers included. The caller gets all of its registers back but those that every call changes.
    GateCall = 0x1043: gate_call(callee: ObjectId, gate: u64, first: u64, second: u64, third: u64) -> (u64, u64);
    /// Return from a gate, with v0 and v1 of the caller. Does not return.
    GateReturn = 0x1044: gate_return(first: u64, second: u64);
    /// Take rights back. The capability is the one that ends, if its signer takes it back and not the object's key.
    Revoke = 0x1045: revoke(revocation: In<RawRevocation>, capability: Option<In<RawCap>>);
    /// Make the object of a key.
    KeyCreate = 0x1046: key_create(public: In<PublicKeyObject>) -> ObjectId;
    /// The context that this thread runs in.
    ContextSelf = 0x1047: context_self() -> ObjectId;
    /// Inside of a gate: what the caller's context may do with an object, so that the callee does nothing for its caller that the
    /// caller may not do itself.
    CallerRights = 0x1048: caller_rights(object: ObjectId) -> Rights;
    /// Let a thread like this one begin again at the next start of the machine, should this one not have ended by then. Needs read and
    /// write rights to this thread's view. A second call replaces the first. One thread of a view can be resumable, or several that keep
    /// their memory. v0: 0; 1 for a thread that was resumed with [`KEEP_REGISTERS`](crate::resume::resume_flags::KEEP_REGISTERS).
    ResumeSet = 0x1050: resume_set(spec: In<ResumeSpec>) -> u64;
    /// This thread is not to be resumed any more.
    ResumeClear = 0x1051: resume_clear();
    /// This thread, which was resumed, has recovered. Without it the try counts as failed; after three in a row it is set aside.
    ResumeConfirm = 0x1052: resume_confirm();
    /// Tell a machine that runs for crash tests of a flush or a fence by a line of a source file. Other machines have no such call.
    PmemTrace = 0x1060: pmem_trace(kind: TracedKind, address: u64, bytes: u64, file: InSlice<u8>, line: u64);
}

numbered! {
    /// What [`Syscall::PmemTrace`] tells of.
    pub enum TracedKind: u64 {
        /// A flush of a range.
        Flush = 0,
        /// A fence; it has no range.
        Fence = 1,
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

numbered! {
    /// What becomes of a range of an object.
    pub enum Resize: u64 {
        /// Its pages go back to the pool.
        Trim = 0,
        /// It gets zeroed pages wherever it has none, all or none of them, so that touching them meets no full pool. Pages that are shared
        /// with another object stay so: writing to one takes a page then.
        Reserve = 1,
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

/// Most bytes of one [`Syscall::Random`].
pub const RANDOM_MAX: usize = 256;
/// Longest name, in bytes of UTF-8.
pub const NAME_MAX: usize = 255;

/// What kind of object to create.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateSpec {
    /// Object to start as a copy-on-write copy of, with no ranges beside; null for none.
    pub source: ObjectId,
    /// Key object that may grant rights to it; null for none.
    pub key: ObjectId,
    /// Rights that everybody has ([`Rights`] bits).
    pub default_rights: u32,
    /// [`create_flags`].
    pub flags: u32,
    /// Bytes from its start on that get pages at once, as by [`Resize::Reserve`]; rounded up to whole granules of the pool, 0 for none.
    pub bytes: u64,
}
crate::assert_layout!(
    CreateSpec,
    size = 48,
    source = 0,
    key = 16,
    default_rights = 32,
    flags = 36,
    bytes = 40
);

/// Most ranges that an object begins with.
pub const CREATE_RANGES_MAX: usize = 16;

/// A range of an object that a new one begins with as a copy-on-write copy. Ranges of one object do not overlap in it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyRange {
    /// Copied from.
    pub source: ObjectId,
    /// First byte in the source, a multiple of the pool's granule.
    pub source_offset: u64,
    /// First byte in the new object, likewise.
    pub target_offset: u64,
    /// Bytes, likewise.
    pub bytes: u64,
}
crate::assert_layout!(CopyRange, size = 40, source = 0, source_offset = 16, target_offset = 24, bytes = 32);

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
