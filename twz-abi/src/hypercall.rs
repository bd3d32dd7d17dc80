//! Hypercalls: what the guest kernel asks of `twzvmm`.
//!
//! The kernel fills its hart's [`Mailbox`], writes any byte to [`PORT`], and finds the answer in the mailbox when
//! the `out` completes. That is one exit and no register ioctl. A mailbox is used by its hart alone, so it needs no lock.
//! `twzvmm` reads each field once, with volatile loads, and validates what it read.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The I/O port; one byte wide, the value does not matter.
pub const PORT: u8 = 0x54;
/// Bytes of [`Mailbox::data`].
pub const DATA_SIZE: usize = 3072;
/// Places of [`Mailbox::events`].
pub const EVENTS: usize = 28;

/// The page that a hart and its host thread talk through.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mailbox {
    /// In: an [`Op`].
    pub op: u32,
    /// Out: 0, or an [`crate::error::ErrorCode`].
    pub status: u32,
    /// In: arguments as the [`Op`] says.
    pub args: [u64; 8],
    /// Out: results as the [`Op`] says.
    pub rets: [u64; 4],
    /// Out, at any time: raised whenever a right that was asked for earlier may be gone. Answers to [`Op::Gate`] hold for one value.
    pub revision: u64,
    /// In: events that the kernel has recorded on this hart since the start; event number n, from 0 on, stands at n modulo [`EVENTS`].
    /// `twzvmm` looks whenever the hart exits.
    pub event_count: u64,
    /// In: the last events.
    pub events: [KernelEvent; EVENTS],
    /// Reserved, zero.
    pub reserved: u64,
    /// Both ways: bytes as the [`Op`] says.
    pub data: [u8; DATA_SIZE],
}
crate::assert_layout!(
    Mailbox,
    size = 4096,
    op = 0,
    status = 4,
    args = 8,
    rets = 72,
    revision = 104,
    event_count = 112,
    events = 120,
    reserved = 1016,
    data = 1024
);

/// Something that happened in the kernel, for `twzvmm trace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KernelEvent {
    /// A [`Happening`].
    pub what: u32,
    /// As the [`Happening`] says.
    pub detail: u32,
    /// The thread's number; 0 where it does not matter.
    pub thread: u64,
    /// As the [`Happening`] says.
    pub first: u64,
    /// As the [`Happening`] says.
    pub second: u64,
}
crate::assert_layout!(KernelEvent, size = 32, what = 0, detail = 4, thread = 8, first = 16, second = 24);

macro_rules! numbered {
    ($(#[$meta:meta])* pub enum $name:ident : $repr:ty { $($(#[$doc:meta])* $variant:ident = $value:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $name { $($(#[$doc])* $variant = $value,)* }

        impl TryFrom<$repr> for $name {
            type Error = $repr;
            fn try_from(value: $repr) -> Result<Self, $repr> {
                match value {
                    $(x if x == $value => Ok(Self::$variant),)*
                    _ => Err(value),
                }
            }
        }

        impl $name {
            /// Every member, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The member's name, for messages.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }
    };
}
pub(crate) use numbered;

numbered! {
    /// How much a line of the kernel's own matters.
    pub enum LogLevel: u64 {
        /// A thread, or more, was lost.
        Error = 1,
        /// What the kernel found and chose; only if [`crate::boot::boot_flags::VERBOSE`] asks for it.
        Info = 2,
    }
}

numbered! {
    /// What [`KernelEvent`]s are about.
    pub enum Happening: u32 {
        /// A thread was started. detail: its priority; first: its first instruction.
        ThreadStarted = 1,
        /// A thread ended. detail: its status.
        ThreadEnded = 2,
        /// The hart goes on with this thread.
        Switched = 3,
        /// A fault went to the view's handler. detail: the cause; first: the address; second: the instruction.
        FaultHandled = 4,
        /// A fault that nobody handled. As above.
        FaultFatal = 5,
        /// A slot was mapped. detail: rights; first: the slot.
        SlotMapped = 6,
        /// Slots were invalidated. first: the first one; second: how many were asked for.
        Invalidated = 7,
        /// The second stage refused an access that the tables allowed. first: the instruction.
        Refused = 8,
        /// A gate was called. detail: depth of the call; first: the callee's first instruction.
        GateCalled = 9,
        /// A call of a gate ended. detail: 1 if without a return.
        GateLeft = 10,
        /// The thread goes on in another context.
        ContextSwitched = 11,
    }
}

numbered! {
    /// What is asked. `aN` are arguments, `rN` results; "context" is the ID of a security context object, low half first.
    pub enum Op: u32 {
        /// A hart's kernel is ready. a0: virtual address at which a vCPU of another root starts; a1, a2: first and
        /// end address of the user-copy routines; a3: their fix-up address; a4: guest-physical address of the page with the
        /// [`Counters`](crate::counters::Counters).
        Ready = 1,
        /// The first instruction of ring 3 is about to run; ends the start-up time.
        FirstUser = 2,
        /// End the machine. a0: exit status, 0–255.
        Shutdown = 3,
        /// The kernel cannot go on. data: the reason, a0 bytes.
        Panic = 4,
        /// Print. data: a0 bytes; a1: 0 a program's output, a [`LogLevel`] for the kernel's own line. The former fails with
        /// [`WouldBlock`](crate::ErrorCode::WouldBlock) when its reader is slow; all harts are kicked when there is room again.
        ConsoleWrite = 5,
        /// Take up to a0 typed bytes. r0: how many stand in data; 0 and r1 = 1 when the input has ended.
        ConsoleRead = 6,
        /// r0: nanoseconds since the machine started; r1: since 1970.
        Clock = 7,
        /// Interrupt this hart in a0 nanoseconds; `u64::MAX` for never.
        SetTimer = 8,
        /// Interrupt, or wake from HLT, the harts of the bit mask a0.
        Kick = 9,
        /// Let other host threads run; used while spinning.
        Relax = 10,
        /// data: a0 random bytes.
        Random = 11,
        /// Kick hart 0 when the time is a0 (nanoseconds since the start), in place of an earlier alarm; `u64::MAX` for never.
        SetAlarm = 12,
        /// How typed input is to come. a0: a [`crate::syscall::ConsoleMode`]. r0: 1 if people type at a terminal, else 0; r1: its columns.
        ConsoleMode = 13,
        /// Make an object reachable in a context. a0, a1: context; a2, a3: object. r0: binding; r1: rights granted.
        Bind = 16,
        /// Back part of a bound object. a0: binding; a1: offset; a2: access ([`crate::Rights`] bits); a3:
        /// guest-physical address of the page table for the 2 MiB around the offset, which `twzvmm` fills in.
        /// r0: guest-physical address for a large page instead, or 0; r1: the rights that the binding has now.
        Touch = 17,
        /// Drop a binding. a0: binding.
        Unbind = 18,
        /// Create an object. a0, a1: context; data: [`crate::syscall::CreateSpec`], then a2 [`crate::syscall::CopyRange`]s. r0, r1: its ID.
        Create = 19,
        /// Delete. a0, a1: context; a2, a3: object.
        Delete = 20,
        /// a0, a1: context; a2, a3: object. data: [`crate::syscall::ObjectStat`].
        Stat = 21,
        /// Copy a range of an object. a0, a1: context; data: [`crate::syscall::CopySpec`].
        Copy = 22,
        /// a0, a1: context; a2, a3: object; a4, a5: the one that keeps it.
        Tie = 23,
        /// Look a name up. a0, a1: context; data: the name, a2 bytes. r0, r1: the ID.
        NameGet = 24,
        /// Give a name. a0, a1: context; a2, a3: object; data: the name, a4 bytes.
        NameSet = 25,
        /// Take a name away. a0, a1: context; data: the name, a2 bytes.
        NameRemove = 26,
        /// Give back pages or have them. a0, a1: context; a2, a3: object; a4: first byte; a5: bytes; a6: a [`crate::syscall::Resize`].
        Resize = 27,
        /// The first name behind another. a0, a1: context; data: that other, a2 bytes (0: the first of all). r0: bytes of the name, which
        /// then stands in data.
        NameNext = 28,
        /// Raise the word in [`crate::program::SHARED_SLOT`]. a0, a1: context.
        TranslationsChanged = 29,
        /// Make a context usable. a0, a1: the context of the thread that asks; a2, a3: the one to enter, to which the former must have
        /// [`crate::Rights::USE`], unless they are the same. r0: the context's number; r1: the number of its root; r2: its
        /// [`crate::sec::context_flags`].
        Enter = 32,
        /// No thread holds a context any more, and nothing is bound in it. a0: its number.
        Leave = 33,
        /// Go on in the root of an entered context: the next instruction of this hart is that behind its last exit from that root, or
        /// the entry that [`Op::Ready`] named, with the general registers as they are now. a0: the context's number.
        Switch = 34,
        /// Ask for a gate. a0, a1: the context of the thread that asks; a2, a3: the callee's; a4: the gate's number. data: a
        /// [`crate::sec::GateEntry`]. The callee's context is entered as by [`Op::Enter`], with the same results.
        Gate = 35,
        /// Take rights back. a0, a1: context; data: a [`crate::sec::RawRevocation`] and, if a2 is 1, a [`crate::sec::RawCap`].
        Revoke = 36,
        /// Create a key object. a0, a1: context; data: a [`crate::sec::PublicKeyObject`]. r0, r1: its ID.
        KeyCreate = 37,
        /// Take every chunk of a context's window back, because it is full; the kernel has forgotten their addresses. a0: its number.
        Hide = 38,
        /// How often harts left the guest. data: a [`crate::counters::ExitCounters`].
        Exits = 39,
        /// Make a thread resumable. a0, a1: its context; a2, a3: its view; a4: its number in the list, 0 for none yet. data: a
        /// [`crate::resume::ResumeSpec`]. r0: its number from now on.
        ResumeSet = 48,
        /// a0: number in the list of resumable threads; a1: a [`ResumeNote`](crate::resume::ResumeNote).
        ResumeNote = 49,
        /// Take the next thread that is to be resumed. r0: 0 if there is none; else 1, with a [`crate::resume::ResumeStart`] in data; its context
        /// is entered as by [`Op::Enter`], whose results stand in r1, r2 and r3. The monitor skips threads that cannot begin, and says why.
        ResumeNext = 50,
        /// Exchange the vector and floating-point state of this hart. a0: guest-physical address of a page for the state that it has, 0 to drop
        /// it; a1: page with the state that it gets, 0 to keep it. Pages are XSAVE areas in the standard format.
        Vectors = 51,
        /// A flush or a fence, on a machine for crash tests. a0, a1: context; a2, a3: object; a4: offset; a5: bytes, 0 for a fence; a6: number of the
        /// thread; a7: line in the source file, whose name of up to 255 bytes stands in data behind a word with its length.
        PmemTrace = 56,
    }
}
